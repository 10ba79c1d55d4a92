"""An exported model read by transformers, in a process that never hears of mixloom's own model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.vocab import DOC, END_DOC, Vocabulary
from mixloom.trainers.config import DENSE, ExpertsConfig, ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.export import LOADER_FILE, export_folder, export_model, load_exported
from mixloom.trainers.export_tokenizer import write_tokenizer
from mixloom.trainers.model import Model
from mixloom.trainers.trained import Trained, load_trained

transformers = pytest.importorskip("transformers")

OPTIONS = [
    {},
    {"untie": DENSE, "tie_embeddings": True},
    {"untie": ("ffn",), "qk_norm": True},
    {"untie": ("attention", "norm"), "norm": "swin", "qk_norm": True},
]


def model_of(**options) -> Model:
    model = Model(
        ModelConfig(dim=32, layers=2, heads=4, vocab_size=1024, seq_len=64, init_std=0.1, **options)
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # norms that are not all ones, so that a mistake in their names shows
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.rand(parameter.shape, generator=generator))
    return model


def read(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32
    ).eval()


@pytest.fixture
def document(make_contexts):
    """One document of text, images and speech, int64 [1, n]."""
    ids, lengths, _ = make_contexts(contexts=1, length=64, kinds=("tits",))
    return torch.from_numpy(ids[:, : int(lengths[0][0])].astype(np.int64))


def ours(model, ids, vocabulary):
    batch = make_batch(ids.numpy().astype(np.uint16), [[ids.shape[1]]] * len(ids), modality_table(vocabulary))
    hidden = model(model.rows(batch, "mask", torch.float32))
    order = model.order(batch)
    logits = (hidden if order is None else hidden[batch.inverse]) @ model.head_weight.t()
    return logits.view(*ids.shape, -1)


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_logits_are_the_same_in_transformers(tmp_path, vocabulary, document, options):
    model = model_of(**options)
    export_model(model, vocabulary, tmp_path)
    theirs = read(tmp_path)
    torch.testing.assert_close(
        theirs(document).logits, ours(model, document, vocabulary), rtol=1e-5, atol=1e-5
    )
    loaded, _ = load_exported(tmp_path)
    assert torch.equal(ours(loaded, document, vocabulary), ours(model, document, vocabulary))


@torch.no_grad()
def test_cached_decoding_and_padding_on_either_side_change_no_logits(tmp_path, vocabulary, document):
    export_model(model_of(), vocabulary, tmp_path)
    model, n = read(tmp_path), document.shape[1]
    whole = model(document).logits
    first = model(document[:, : n - 5], use_cache=True)
    rest = model(document[:, n - 5 :], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(rest.logits, whole[:, n - 5 :], rtol=1e-4, atol=1e-4)
    pads = torch.zeros(1, 3, dtype=torch.int64)
    for left in (True, False):
        ids = torch.cat([pads, document] if left else [document, pads], 1)
        mask = torch.ones_like(ids)
        mask[:, :3] = mask[:, :3] * (not left)
        mask[:, n:] = mask[:, n:] * left
        got = model(ids, attention_mask=mask).logits
        got = got[:, 3:] if left else got[:, :n]
        torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_generate_of_transformers_runs_and_the_loss_is_that_of_the_next_token(tmp_path, vocabulary, document):
    export_model(model_of(), vocabulary, tmp_path)
    model = read(tmp_path)
    out = model.generate(document[:, :6], max_new_tokens=8, do_sample=False, eos_token_id=None)
    again = document[:, :6]
    for _ in range(8):
        again = torch.cat([again, model(again).logits[:, -1:].argmax(-1)], 1)
    assert out.tolist() == again.tolist()
    logits = model(document).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], document[0, 1:])
    torch.testing.assert_close(model(document, labels=document).loss, expected)


def test_the_loader_needs_nothing_of_mixloom(tmp_path, vocabulary):
    export_model(model_of(), vocabulary, tmp_path)
    text = (tmp_path / LOADER_FILE).read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports
    assert not any("mixloom" in line for line in imports)


def test_a_model_the_loader_cannot_run_is_written_without_it(tmp_path, vocabulary):
    model = model_of(experts=ExpertsConfig(counts=(2, 2, 1)))
    export_model(model, vocabulary, tmp_path)
    assert not (tmp_path / LOADER_FILE).exists()
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    loaded, _ = load_exported(tmp_path)
    assert loaded.config == model.config


def test_weights_can_be_stored_in_half_the_bytes(tmp_path, vocabulary):
    model = model_of()
    export_model(model, vocabulary, tmp_path / "whole")
    export_model(model, vocabulary, tmp_path / "half", "bfloat16")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded, _ = load_exported(tmp_path / "half")
    assert torch.equal(loaded.embedding, model.embedding.bfloat16().float())
    with pytest.raises(UserError, match="'int8'; allowed: float32, bfloat16"):
        export_model(model, vocabulary, tmp_path / "no", "int8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder of tokenizers with text alone, and the tokenizer."""
    root = tmp_path_factory.mktemp("tokenizer")
    text = train_text_tokenizer(
        ["the turtle walks <doc> over a hill and home again"] * 20, TextTokenizerConfig(vocab_size=300)
    )
    text.save(root / "text")
    Vocabulary.build(text.size, text.fingerprint).save(root / "vocab.json")
    return root, text


def test_the_tokenizer_of_transformers_gives_the_ids_of_the_model(tmp_path, tokenizer):
    root, text = tokenizer
    vocabulary = Vocabulary.load(root / "vocab.json")
    assert write_tokenizer(root / "text", vocabulary.to_json(), tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for words in ("the turtle walks home", "a hill\n\nand  again", "\u00e4\u00f6\u00fc \u4e2d\u6587"):
        wanted = text.encode_batch([words])[0] + vocabulary.text.start
        assert theirs(words).input_ids == wanted.tolist()
        assert theirs.decode(wanted.tolist()) == words
    assert theirs("<doc>").input_ids == [DOC]
    assert DOC not in theirs("<doc>", split_special_tokens=True).input_ids
    assert (theirs.bos_token_id, theirs.eos_token_id) == (DOC, END_DOC)


def test_a_folder_holds_the_tokenizers_and_is_read_back_with_them(tmp_path, tokenizer):
    root, text = tokenizer
    vocabulary = Vocabulary.load(root / "vocab.json").to_json()
    model = Model(ModelConfig(dim=16, layers=1, heads=2, vocab_size=vocabulary["size"], seq_len=32))
    trained = Trained(model, vocabulary, tmp_path, 3, root)
    written = export_folder(trained, tmp_path / "out")
    assert {"config.json", "model.safetensors", LOADER_FILE, "tokenizer", "tokenizer.json"} <= set(written)
    back = load_trained(tmp_path / "out", "cpu")
    decoders = back.decoders()
    assert decoders.text is not None
    assert decoders.text.fingerprint == text.fingerprint
    assert torch.equal(back.model.embedding, model.embedding)
