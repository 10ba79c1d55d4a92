"""A judge that is a model in a folder: tiny checkpoints, saved and read again."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixloom import cli
from mixloom.mixers.judge_local import LocalJudge
from mixloom.mixers.medu_config import LocalConfig
from mixloom.mixers.medu_prompts import Request
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError

WORDS = [
    "<pad>",
    "<unk>",
    "<end>",
    "<user>",
    "<model>",
    "Label",
    ":",
    "Great",
    "Good",
    "Okay",
    "Poor",
    "Useless",
]
WORDS += [f"w{i}" for i in range(20)]
AT = {w: i for i, w in enumerate(WORDS)}
TEMPLATE = "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<model>{% endif %}"


def tokenizer(template=TEMPLATE):
    made = Tokenizer(models.WordLevel(AT, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    out = PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<model>"],
    )
    out.chat_template = template
    return out


def network(seed=0):
    torch.manual_seed(seed)
    n = len(WORDS)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=n,
            hidden_size=n,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            eos_token_id=AT["<end>"],
            pad_token_id=AT["<pad>"],
            bos_token_id=None,
        )
    )


def chain(model, *words):
    """Make the model say these words after any prompt that ends in <model>: each word leads to the next."""
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS)))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for a, b in zip(("<model>", *words), (*words, "<end>")):
            model.lm_head.weight[AT[b], AT[a]] = 1.0
    return model


def save(folder, model, template=TEMPLATE):
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("random"), network())


@pytest.fixture(scope="module")
def good_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("good"), chain(network(), "w3", "Label", ":", "Good"))


@pytest.fixture(scope="module")
def labelling_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("labelling"), chain(network(), "Label", ":", "Good"))


REQUESTS = [Request("w0", " ".join(f"w{(i * k) % 20}" for k in range(1, 4 + i)), 6) for i in range(7)]


def ask(folder, requests=REQUESTS, **settings):
    found = dict(LocalJudge(LocalConfig(path=folder, device="cpu", **settings)).answers(requests))
    return [found[i] for i in range(len(requests))]


def test_what_the_model_says_is_the_answer_up_to_its_end(good_model):
    answers = ask(good_model)
    assert [a.text for a in answers] == ["w3 Label : Good"] * len(REQUESTS)
    assert {a.answer_tokens for a in answers} == {4}
    assert all(a.prompt_tokens > 4 for a in answers)


def test_greedy_answers_are_the_same_alone_in_batches_and_again(random_model):
    alone = [a.text for a in ask(random_model)]
    assert len(set(alone)) > 1
    assert [a.text for a in ask(random_model, batch=3)] == alone
    assert [a.text for a in ask(random_model, list(REQUESTS[::-1]))] == alone[::-1]


def test_an_answer_is_no_longer_than_asked_for(random_model):
    (answer,) = ask(random_model, [Request("w0", "w1", 2)])
    assert answer.answer_tokens <= 2


def test_a_prompt_that_is_too_long_is_an_error_of_that_call_alone(good_model):
    long, short = ask(good_model, [Request("w0", "w1 " * 5000, 6), REQUESTS[0]])
    assert long.text is None
    assert "more than the model reads (4096)" in long.error
    assert short.text is not None


def test_a_text_cannot_bring_special_tokens_of_the_model(good_model):
    judge = LocalJudge(LocalConfig(path=good_model, device="cpu"))
    ids = judge._prompt(Request("w0", "w1 <end> <user> w2 <model> w3", 5))
    assert AT["<end>"] not in ids
    assert ids.count(AT["<user>"]) == 2
    assert ids.count(AT["<model>"]) == 1


def test_a_template_that_knows_no_system_message_gets_one_message(tmp_path):
    refuses = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    )
    folder = save(tmp_path / "m", chain(network(), "Label", ":", "Poor"), refuses)
    judge = LocalJudge(LocalConfig(path=folder, device="cpu"))
    ids = judge._prompt(Request("w0", "w1", 5))
    assert ids == [AT[w] for w in ("<user>", "w0", "w1", "<model>")]


def test_a_model_without_a_template_is_given_the_text(tmp_path):
    folder = save(tmp_path / "m", network(), None)
    judge = LocalJudge(LocalConfig(path=folder, device="cpu"))
    assert judge._prompt(Request("w0", "w1", 5)) == [AT["w0"], AT["w1"]]


def test_another_checkpoint_or_other_settings_are_another_judge_wherever_it_lies(
    random_model, good_model, tmp_path
):
    def identity(folder, **settings):
        return LocalJudge(LocalConfig(path=folder, device="cpu", **settings)).identity

    copy = save(tmp_path / "copy", network())
    assert identity(copy) == identity(random_model)
    assert identity(good_model) != identity(random_model)
    assert identity(random_model, batch=4) != identity(random_model)


def test_tokens_are_counted_as_the_model_cuts_them(good_model):
    assert LocalJudge(LocalConfig(path=good_model)).count_tokens("w1 w2 w3") == 3


def test_folders_that_hold_no_model_say_so(tmp_path, good_model):
    with pytest.raises(UserError, match="no such folder"):
        LocalJudge(LocalConfig(path=str(tmp_path / "nothing")))
    network().save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="there is no tokenizer"):
        LocalJudge(LocalConfig(path=str(tmp_path / "bare")))
    tokenizer().save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="cannot load the model"):
        dict(LocalJudge(LocalConfig(path=str(tmp_path / "words"), device="cpu")).answers(REQUESTS))


def test_a_checkpoint_that_lacks_tensors_is_refused_instead_of_judging_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "m", network())
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 tensors, among them lm_head\.weight"):
        dict(LocalJudge(LocalConfig(path=folder, device="cpu")).answers(REQUESTS))


def corpus(tmp_path):
    rows = [{"text": f"w{i} w{i + 1}", "source": s} for s in ("a", "b") for i in range(5)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "skill.jsonl").write_text("".join(json.dumps({"text": f"w{i}"}) + "\n" for i in range(10)))
    return ["mix", "judge", str(tmp_path / "docs.jsonl"), "--skill", f"k={tmp_path}/skill.jsonl", "--judge", "local",
            "--out", str(tmp_path / "u.yaml"), "judge.device=cpu", "answer_tokens=8", "description_tokens=16"]  # fmt: skip


def test_the_command_labels_with_a_model_of_this_machine_and_asks_nobody_for_leave(tmp_path, labelling_model):
    assert cli.main([*corpus(tmp_path), f"judge.path={labelling_model}"]) == 0
    table = Utilities.load(tmp_path / "u.yaml")
    assert table.method == "medu"
    assert table.values.tolist() == [[0.75], [0.75]]
    assert table.details["descriptions"] == {"k": "Label : Good"}
    first = (tmp_path / "u.yaml").read_bytes()
    assert cli.main([*corpus(tmp_path), f"judge.path={labelling_model}"]) == 0
    assert (tmp_path / "u.yaml").read_bytes() == first


def test_a_model_that_follows_no_instructions_ends_in_an_error(tmp_path, random_model, capsys):
    assert cli.main([*corpus(tmp_path), f"judge.path={random_model}"]) == 2
    assert "held no label" in capsys.readouterr().err
    assert not (tmp_path / "u.yaml").exists()
