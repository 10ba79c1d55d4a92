"""The compiled cut of tokens against its definition, a regular expression on text in lower case."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.term_token_kernel import count_tokens, known_terms, term_table
from mixloom.pipeline.term_tokens import cut_tokens, slow_tokens

# What makes lower case depend on its surroundings, or long; what ends words; scripts without spaces; digits of others.
HARD = [
    *"ΣσςİIıẞßǅΑα'’.:·-_ \n09²٣๓ก็京あーＡａ々한e\u0301\u00ad\u0307\u200d\u0345ⱥȺ𐐀𝟘𠀀ﬁⅣ①",
    "Σ",
    "ΑΣ",
    "mp3",
]
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(HARD), max_size=40).map("".join),
    st.text(st.sampled_from("abcXYZ 019_.,'"), max_size=60),
)


def cut(some, most=10**6):
    tokens = cut_tokens(pa.array(some, pa.large_string()), most)
    words = tokens.words().to_pylist()
    return [words[a:b] for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:])]


@settings(max_examples=400)
@given(st.lists(texts, max_size=4))
def test_tokens_are_those_of_the_regular_expression(some):
    assert cut(some) == [slow_tokens(t) for t in some]


@given(texts, st.integers(1, 20))
def test_only_the_first_characters_are_read(text, most):
    assert cut([text, "next words"], most) == [slow_tokens(text[:most]), slow_tokens("next words"[:most])]


def test_every_character_alone_and_inside_a_word_is_what_the_definition_says():
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(every), 4096):
        some = [f"{c} a{c} {c}b a{c}b 1{c} a{c}Σ" for c in every[start : start + 4096]]
        joined = "\n".join(some)
        assert cut([joined]) == [slow_tokens(joined)], hex(ord(every[start]))


def test_a_token_cut_again_is_one_token_and_itself():
    words = ["mp3", "σοφός", "naïve", "京", "_x", "ⱥa", "i̇"]
    once = [w for found in cut(words) for w in found]
    assert cut(once) == [[w] for w in once]


def test_nulls_and_slices_are_read_as_they_are():
    array = pa.array(["zero one", None, "two three", ""])
    assert cut(array.slice(1, 2)) == [[], ["two", "three"]]
    assert cut([]) == []


@given(st.lists(st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "xy"]), max_size=12), max_size=6))
def test_counts_and_numbers_of_terms_are_those_of_a_plain_count(documents):
    tokens = cut_tokens(pa.array([" ".join(d) for d in documents], pa.large_string()), 1000)
    hashes, counts, starts = count_tokens(tokens.hashes, tokens.offsets)
    names = dict(zip(tokens.hashes.tolist(), tokens.words().to_pylist()))
    for i, document in enumerate(documents):
        own = slice(starts[i], starts[i + 1])
        assert (np.diff(hashes[own].astype(object)) > 0).all()
        found = {names[h]: int(n) for h, n in zip(hashes[own].tolist(), counts[own])}
        assert found == {w: document.count(w) for w in document}
    terms = ["gh", "ab", "ef"]
    table = term_table(cut_tokens(pa.array(terms, pa.large_string()), 1000).hashes)
    ids, bounds = known_terms(tokens.hashes, tokens.offsets, *table)
    for i, document in enumerate(documents):
        expected = sorted(terms.index(w) for w in document if w in terms)
        assert ids[bounds[i] : bounds[i + 1]].tolist() == expected
