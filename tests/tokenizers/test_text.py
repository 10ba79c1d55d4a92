import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer

CORPUS = [
    "The weaver threads the warp, and the shuttle carries the weft across the loom.",
    "def weave(warp, weft):\n    return [w for w in warp if w in weft]\n",
    "Der Webstuhl klappert; die Weberin singt. Ein Faden nach dem anderen.",
    "織機は布を織る。糸は細い。",
    "$x^2 + y^2 = z^2$ --- an old identity, 1234567890 times",
] * 20
SPECIAL_LOOKING = "<doc></doc><pad><image></s><unk><|endoftext|><mask:3>[Hu12]"

SNIPPET = """
import sys
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
texts = [f"{i % 97} threads cross {i % 13} and {i % 7} {chr(97 + i % 26) * (i % 9)}" for i in range(3000)]
print(train_text_tokenizer(texts, TextTokenizerConfig(vocab_size=700)).fingerprint)
"""


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_text_tokenizer(CORPUS, TextTokenizerConfig(vocab_size=500))


def weird_text() -> st.SearchStrategy[str]:
    anything = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
    pieces = st.sampled_from(
        ["<doc>", "</s>", "<pad>", "\r\n", "\t  ", "e\u0301", "\u200d", "\U0001f9f5", "\x00", "\ufffd"]
    )
    return st.lists(anything | pieces, max_size=6).map("".join)


@given(st.lists(weird_text(), max_size=5))
@example([SPECIAL_LOOKING, "", " leading and trailing  "])
def test_every_text_comes_back_exactly(tokenizer, texts):
    ids = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(i) for i in ids] == texts
    assert all(i.dtype == np.uint32 and (i < tokenizer.size).all() for i in ids)


def test_training_learns_words_beyond_the_bytes(tokenizer):
    assert 256 < tokenizer.size <= 500
    (ids,) = tokenizer.encode_batch([CORPUS[0]])
    assert len(ids) < len(CORPUS[0]) / 2


def test_a_loaded_tokenizer_never_makes_a_special_from_text(tmp_path):
    from tokenizers import Tokenizer

    train_text_tokenizer(CORPUS, TextTokenizerConfig(vocab_size=400)).save(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.add_special_tokens(["</s>", "<doc>"])
    theirs.enable_truncation(4)
    theirs.enable_padding(length=50)
    theirs.save(str(tmp_path / "theirs.json"))
    special = theirs.token_to_id("</s>")
    assert special in theirs.encode("a</s>b").ids, "the trap is set"
    ours = TextTokenizer.load(tmp_path / "theirs.json")
    (ids,) = ours.encode_batch(["a</s>b<doc> and so on"])
    assert special not in ids.tolist()
    assert ours.decode(ids) == "a</s>b<doc> and so on"
    assert ours.size == special + 2


def test_training_gives_the_same_bytes_in_any_order_of_texts():
    config = TextTokenizerConfig(vocab_size=400)
    assert (
        train_text_tokenizer(CORPUS, config).fingerprint
        == train_text_tokenizer(CORPUS[::-1], config).fingerprint
    )


def test_training_gives_the_same_bytes_in_any_process_and_number_of_threads():
    prints = set()
    for threads, seed in (("1", "1"), ("2", "2")):
        env = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SNIPPET], env=env, capture_output=True, text=True, check=True
        )
        prints.add(done.stdout)
    assert len(prints) == 1


def test_saved_tokenizer_loads_as_the_same_from_file_and_directory(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "text")
    for place in (path, path.parent):
        loaded = TextTokenizer.load(place)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode_batch(["weave"])[0].tolist() == tokenizer.encode_batch(["weave"])[0].tolist()


def test_the_sample_caps_are_kept():
    seen = []

    def texts():
        for i in range(100):
            seen.append(i)
            yield "warp and weft " * 10

    train_text_tokenizer(texts(), TextTokenizerConfig(vocab_size=300, sample_documents=7))
    assert len(seen) <= 8
    few = train_text_tokenizer(
        ["aaaa" * 50, "bcbc" * 50], TextTokenizerConfig(vocab_size=300, sample_characters=100)
    )
    only = train_text_tokenizer(["a" * 100], TextTokenizerConfig(vocab_size=300))
    assert few.fingerprint == only.fingerprint


@pytest.mark.parametrize("run", ["acgt" * 50_000, "0123456789" * 20_000, "_-=" * 70_000, " \t" * 100_000])
def test_one_endless_word_does_not_stop_the_training(run):
    """The trainer's time grows with the square of the longest word: 200,000 letters took 12 s, a million minutes."""
    texts = ["the sea and the sky " * 20, f"before {run} after"]
    tokenizer = train_text_tokenizer(texts, TextTokenizerConfig(vocab_size=300))
    assert len(tokenizer.encode_batch(["the"])[0]) == 1
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_a_long_line_without_blanks_is_learnt_from_to_its_end():
    line = "ab1." * 1000 + "zebra." * 50
    tokenizer = train_text_tokenizer([line], TextTokenizerConfig(vocab_size=300))
    assert len(tokenizer.encode_batch(["zebra"])[0]) == 1


def test_no_text_is_an_error_the_user_can_act_on():
    with pytest.raises(UserError, match="no text to train on"):
        train_text_tokenizer([], TextTokenizerConfig())


def test_a_broken_or_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable"):
        TextTokenizer.load(tmp_path)


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match="UTF-8"):
        tokenizer.encode_batch(["\ud800"])
