"""The accelerator gives the ids of `tokenizers` on any text, or stands aside."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer
from mixloom.tokenizers.text_fast import FastBytePairs, byte_alphabet

CORPUS = [
    "The weaver threads the warp; it's what they'd woven, 1234567890 times, aaaaaaa banana bandana.",
    "def weave(warp, weft):\n    return [w for w in warp if w in weft]\n\n\n        # indented\n",
    "Der Webstuhl klappert. 織機は布を織る。糸は細い。 \U0001f9f5\U0001f9f5 e\u0301e\u0301",
] * 10


def plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """What `tokenizers` itself gives, one text at a time."""
    return [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return train_text_tokenizer(CORPUS, TextTokenizerConfig(vocab_size=700))


@pytest.fixture(scope="module")
def reference(trained, tmp_path_factory) -> Tokenizer:
    """`tokenizers` alone, reading the file that ours wrote."""
    return Tokenizer.from_file(str(trained.save(tmp_path_factory.mktemp("text"))))


def changed(trained: TextTokenizer, tmp_path, change) -> TextTokenizer:
    """The trained tokenizer with its JSON changed."""
    content = json.loads(trained.save(tmp_path).read_text())
    change(content)
    return TextTokenizer(json.dumps(content).encode())


def any_text() -> st.SearchStrategy[str]:
    characters = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    dense = st.text("ab n\t\n'sd1\u00a0\u0085\u200dé織", max_size=40)
    pieces = st.sampled_from(["<doc>", "</s>", "<|endoftext|>", "'ll", "\r\n", "   ", "banana", "\U0001f9f5"])
    return st.lists(characters | dense | pieces, max_size=6).map("".join)


@given(st.lists(any_text(), max_size=4))
@example(["aaaaaaaaaaaaaaaaaaaaa", "bandanana", " \n\n  x", ""])
def test_ids_are_those_of_tokenizers_on_any_text(trained, reference, texts):
    assert trained.accelerated
    assert [ids.tolist() for ids in trained.encode_batch(texts)] == plain(reference, texts)


def test_every_character_is_classed_alike(trained, reference):
    """Letters, digits, blanks and the rest: one character classed otherwise would cut words elsewhere."""
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]
    few = [c for i, c in enumerate(assigned) if unicodedata.category(c) != "Lo" or i % 25 == 0]
    texts = ["".join(f"a{c}1{c}!{c} " for c in few[i : i + 500]) for i in range(0, len(few), 500)]
    ours = trained.encode_batch(texts)
    assert all(a.tolist() == b for a, b in zip(ours, plain(reference, texts), strict=True))


def test_one_thread_and_several_give_the_same_in_order(trained):
    texts = [f"{i} " + "the warp and the weft " * (i % 50) for i in range(3000)]
    one, three = (trained.encode_batch(texts, threads=n) for n in (1, 3))
    assert len(one) == len(three) == 3000
    assert all((a == b).all() for a, b in zip(one, three, strict=True))


def test_a_text_of_blanks_too_long_for_its_regular_expressions_is_encoded_all_the_same(trained):
    text = "a" + " " * 700_000 + "b"
    (ids,) = trained.encode_batch([text])
    assert ids.dtype == np.uint32
    assert trained.decode(ids) == text


def test_strings_of_specials_stay_text_in_a_foreign_file(trained, tmp_path):
    theirs = Tokenizer.from_file(str(trained.save(tmp_path)))
    theirs.add_special_tokens(["</s>", "<|endoftext|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.accelerated
    assert loaded.size == trained.size + 2
    texts = ["a</s>b<|endoftext|>"]
    assert (loaded.encode_batch(texts)[0] == trained.encode_batch(texts)[0]).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(normalizer={"type": "NFC"}),
        lambda c: c["pre_tokenizer"].update(add_prefix_space=True),
        lambda c: c["pre_tokenizer"].update(use_regex=False),
        lambda c: c["model"].update(dropout=0.5),
        lambda c: c["model"]["merges"].reverse(),
        lambda c: c.update(pre_tokenizer=None),
        lambda c: c["model"]["merges"].pop(),  # its token is in the vocabulary and nothing makes it
    ],
)
def test_what_is_not_plain_byte_level_bpe_is_left_to_tokenizers(trained, tmp_path, change):
    other = changed(trained, tmp_path, change)
    assert not other.accelerated


def test_added_tokens_that_are_not_special_are_left_to_tokenizers(trained, tmp_path):
    theirs = Tokenizer.from_file(str(trained.save(tmp_path)))
    theirs.add_tokens(["warpweft"])
    loaded = TextTokenizer(theirs.to_str().encode())
    assert not loaded.accelerated
    assert loaded.size - 1 in loaded.encode_batch(["a warpweft"])[0]


def test_a_token_reached_by_no_merge_of_its_own_spelling_is_found_out(trained):
    """'ab' then 'c' makes 'abc', but 'bc' comes first: tiktoken would merge what `tokenizers` leaves apart."""
    content = json.loads(trained._tokenizer.to_str())
    letters = sorted(byte_alphabet())
    vocab = {c: i for i, c in enumerate(letters)}
    vocab |= {"bc": 256, "ab": 257, "abc": 258}
    content["model"].update(vocab=vocab, merges=[["b", "c"], ["a", "b"], ["ab", "c"]])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    assert tokenizer.encode("abc").ids == [vocab["a"], 256]
    assert FastBytePairs.like(tokenizer) is None
    content["model"]["merges"] = [["b", "c"], ["a", "b"], ["a", "bc"]]
    assert FastBytePairs.like(Tokenizer.from_str(json.dumps(content))) is not None


def test_the_byte_alphabet_is_that_of_tokenizers():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(byte_alphabet()) == sorted(ByteLevel.alphabet())
    cut = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("é \n\x7f\xad", "".join(map(chr, range(256)))):
        ((spelled, _),) = cut.pre_tokenize_str(text)
        assert bytes(byte_alphabet()[c] for c in spelled) == text.encode()
