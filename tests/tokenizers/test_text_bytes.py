"""Raw bytes as ids, and one door for all text tokenizers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.settings import PatchConfig, TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer
from mixloom.tokenizers.text_bytes import ByteTokenizer, load_text_tokenizer, make_text_tokenizer

TEXTS = ["The weaver threads the warp.", "Der Webstuhl klappert.", "織機は布を織る。"] * 20
BYTES = TextTokenizerConfig(kind="bytes", patches=PatchConfig(contexts=1000))


@pytest.fixture(scope="module")
def tokenizer() -> ByteTokenizer:
    made, _ = make_text_tokenizer(BYTES, TEXTS)
    assert isinstance(made, ByteTokenizer)
    return made


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=50), max_size=4))
def test_ids_are_the_bytes_and_every_text_comes_back(tokenizer, texts):
    ids = tokenizer.encode_batch(texts)
    assert [i.astype(np.uint8).tobytes() for i in ids] == [t.encode() for t in texts]
    assert [tokenizer.decode(i) for i in ids] == texts
    for i in ids:
        assert int(tokenizer.patch_lengths(i).sum(dtype=np.int64)) == len(i)


def test_a_cut_character_is_shown_as_such_and_a_surrogate_refused(tokenizer):
    (ids,) = tokenizer.encode_batch(["織"])
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    with pytest.raises(ValueError, match="UTF-8"):
        tokenizer.encode_batch(["\ud800"])


def test_both_kinds_are_made_saved_and_loaded_by_what_lies_there(tokenizer, tmp_path):
    bpe, facts = make_text_tokenizer(TextTokenizerConfig(vocab_size=300), TEXTS)
    assert (facts["kind"], bpe.kind, bpe.patch_lengths([1, 2])) == ("bpe", "bpe", None)
    for name, made in (("bpe", bpe), ("bytes", tokenizer)):
        made.save(tmp_path / name)
        loaded = load_text_tokenizer(tmp_path / name)
        assert (loaded.kind, loaded.size, loaded.fingerprint) == (name, made.size, made.fingerprint)
        again, _ = make_text_tokenizer(TextTokenizerConfig(path=str(tmp_path / name)), [])
        assert again.fingerprint == made.fingerprint
    (ids,) = tokenizer.encode_batch(["The warp"])
    assert (load_text_tokenizer(tmp_path / "bytes").patch_lengths(ids) == tokenizer.patch_lengths(ids)).all()


def test_another_threshold_is_another_tokenizer(tokenizer):
    other, facts = make_text_tokenizer(
        TextTokenizerConfig(kind="bytes", patches=PatchConfig(contexts=1000, bytes=8)), TEXTS
    )
    assert other.fingerprint != tokenizer.fingerprint
    assert facts["patches"] == "entropy"
    assert facts["bytes_per_patch"] >= 8


def test_a_patch_model_of_another_fit_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "patches.json").read_text())
    content["threshold"] += 1
    (tmp_path / "patches.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"not the one bytes\.json describes"):
        load_text_tokenizer(tmp_path)


def test_an_older_format_of_transformers_is_converted(tmp_path):
    content = json.loads(train_text_tokenizer(TEXTS, TextTokenizerConfig(vocab_size=300))._raw)
    merges = [" ".join(m) for m in content["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    loaded = load_text_tokenizer(tmp_path)
    ours = TextTokenizer(json.dumps(content).encode())
    assert loaded.encode_batch(TEXTS)[0].tolist() == ours.encode_batch(TEXTS)[0].tolist()


def test_a_sentencepiece_model_that_cannot_be_converted_says_what_to_do(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(UserError, match=r"has tokenizer\.model but no tokenizer\.json") as error:
        load_text_tokenizer(tmp_path)
    assert "save_pretrained" in str(error.value)
