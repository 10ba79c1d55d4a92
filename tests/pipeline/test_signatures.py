"""Shingle sets and MinHash signatures: exact against plain definitions, and unbiased as estimates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.signatures import MinHashConfig, jaccard, permutations, shingle_sets, signatures

WORDS = ["one", "two", "three", "Four", "five,", "sÍx", "日本", "e\u0301t", "7"]
documents = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=6)


def plain_shingles(text: str, n: int) -> list[tuple[str, ...]]:
    """Shingles of texts made of WORDS, by plain Python."""
    terms = [
        t for word in text.lower().replace(",", "").split() for t in (word if word == "日本" else [word])
    ]
    return [tuple(terms[i : i + n]) for i in range(len(terms) - n + 1)]


def splitmix(seed: int, count: int) -> list[int]:
    out = []
    for k in range(1, count + 1):
        z = (seed + k * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        out.append(z ^ (z >> 31))
    return out


def sets(texts: list[str], n: int = 5) -> list[np.ndarray]:
    return [np.asarray(x.values, np.uint64) for x in shingle_sets(pa.array(texts, pa.large_string()), n)]


def signed(texts: list[str], config: MinHashConfig) -> list[list[int] | None]:
    return signatures(pa.array(texts, pa.large_string()), config).to_pylist()


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(1, 6))
def test_shingle_sets_are_sorted_and_distinct_and_equal_exactly_where_the_words_are(
    texts: list[str], n: int
) -> None:
    found = sets(texts, n)
    for values, text in zip(found, texts):
        expected = set(plain_shingles(text, n))
        assert len(values) == len(expected)
        assert np.all(values[1:] > values[:-1])
    for a, x in zip(found, texts):
        for b, y in zip(found, texts):
            s, t = set(plain_shingles(x, n)), set(plain_shingles(y, n))
            assert jaccard(a, b) == (len(s & t) / len(s | t) if s | t else 0.0)


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(1, 6), st.integers(0, 2**63 - 1))
def test_a_signature_is_the_least_hash_per_permutation_over_the_shingles(
    texts: list[str], n: int, seed: int
) -> None:
    config = MinHashConfig(ngram=n, bands=3, rows=2, seed=seed)
    drawn = splitmix(seed, 12)
    for values, signature in zip(sets(texts, n), signed(texts, config)):
        if len(values) == 0:
            assert signature is None
            continue
        keys = [int(v) >> 32 for v in values]
        expected = [
            min(((a >> 32 | 1) * x + (b >> 32)) % 2**32 for x in keys) % 2**16
            for a, b in zip(drawn[:6], drawn[6:])
        ]
        assert signature == expected


def test_a_long_document_is_signed_as_the_whole_of_its_shingles() -> None:
    text = " ".join(f"w{i}" for i in range(3000))
    config = MinHashConfig(bands=2, rows=2, seed=9)
    a, b = permutations(4, 9)
    keys = (sets([text])[0] >> np.uint64(32)).astype(np.uint32)
    with np.errstate(over="ignore"):
        expected = [int((keys * x + y).min() & np.uint32(0xFFFF)) for x, y in zip(a, b)]
    assert signed([text], config) == [expected]


def test_documents_with_fewer_words_than_a_shingle_have_no_signature_and_share_nothing() -> None:
    texts = ["", "one two three four", "...", "one two three four five"]
    result = signatures(pa.array(texts), MinHashConfig())
    assert result.type == pa.list_(pa.uint16(), 112)
    assert result.is_null().to_pylist() == [True, True, True, False]
    found = sets(texts)
    assert [len(s) for s in found] == [0, 0, 0, 1]
    assert jaccard(found[0], found[2]) == 0.0
    assert jaccard(found[3], found[3]) == 1.0
    assert signatures(pa.array([None, "a"], pa.string()), MinHashConfig()).null_count == 2
    assert len(signatures(pa.array([], pa.string()), MinHashConfig())) == 0


def test_case_punctuation_and_spacing_do_not_change_a_signature_but_word_order_and_seed_do() -> None:
    config = MinHashConfig()
    one, same, other = signed(
        ["The cat, it sat: on mats!", "the  cat\nit -- SAT on mats", "mats on sat it cat the"], config
    )
    assert one == same
    assert one != other
    assert one is not None
    assert one != signed(["the cat it sat on mats"], MinHashConfig(seed=2))[0]


def test_a_signature_does_not_depend_on_the_batch_it_is_computed_in() -> None:
    texts = [" ".join(f"{i}x{j}" for j in range(i)) for i in range(40)]
    whole = signed(texts, MinHashConfig())
    assert [signed([t], MinHashConfig())[0] for t in texts] == whole
    assert signatures(pa.array(texts).slice(17), MinHashConfig()).to_pylist() == whole[17:]


@pytest.mark.parametrize("similarity", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_the_share_of_equal_values_is_an_unbiased_estimate_of_the_jaccard_similarity(
    similarity: float,
) -> None:
    rng = np.random.Generator(np.random.PCG64(7))
    pairs, size = 60, 400
    texts: list[str] = []
    for p in range(pairs):
        # n consecutive distinct words make n shingles (ngram 1), so the exact similarity can be chosen.
        common = round(2 * size * similarity / (1 + similarity))
        base = [f"{p}c{i}" for i in range(common)]
        for side in "ab":
            words = base + [f"{p}{side}{i}" for i in range(size - common)]
            texts.append(" ".join(words[i] for i in rng.permutation(size)))
    config = MinHashConfig(ngram=1, seed=3)
    found = sets(texts, 1)
    matrix = np.array(signed(texts, config), np.uint16).reshape(pairs, 2, config.num_perm)
    exact = np.array([jaccard(found[2 * p], found[2 * p + 1]) for p in range(pairs)])
    assert abs(exact.mean() - similarity) < 0.01
    estimate = (matrix[:, 0] == matrix[:, 1]).mean(axis=1)
    sigma = np.sqrt(exact * (1 - exact) / config.num_perm)
    assert abs((estimate - exact).mean()) < 4 * sigma.mean() / np.sqrt(pairs)
    # The values of one signature must also vary as independent draws do, or bands would not behave as computed.
    spread = ((estimate - exact) / sigma).std(ddof=1)
    assert abs(spread - 1) < 4 / np.sqrt(2 * pairs)


def test_the_chance_that_a_band_agrees_is_the_similarity_to_the_power_of_its_rows() -> None:
    pairs, common, own = 400, 160, 40  # Jaccard 160 / 240
    texts = [
        " ".join([f"{p}c{i}" for i in range(common)] + [f"{p}{side}{i}" for i in range(own)])
        for p in range(pairs)
        for side in "ab"
    ]
    config = MinHashConfig(ngram=1, bands=14, rows=4, seed=11)
    matrix = np.array(signed(texts, config), np.uint16).reshape(pairs, 2, config.bands, config.rows)
    agree = (matrix[:, 0] == matrix[:, 1]).all(axis=2)
    expected = (common / (common + 2 * own)) ** config.rows
    sigma = np.sqrt(expected * (1 - expected) / agree.size)
    assert abs(agree.mean() - expected) < 4 * sigma


def test_a_shingle_of_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match="ngram is 0"):
        shingle_sets(pa.array(["x"]), 0)


@pytest.mark.parametrize("words", [4, 5, 6, 7, 300, 5_000, 70_000, 1_200_000])
def test_the_shingle_set_of_a_document_of_any_length_is_sorted_whole_and_without_repetitions(
    words: int,
) -> None:
    drawn = np.random.default_rng(words).integers(0, 20, words)
    windows = sum(20**k * drawn[k : max(k, words - 4 + k)] for k in range(5))
    found = sets([" ".join(map(str, drawn)), "a b c d e f a b c d e f", ""])
    assert (found[0][1:] > found[0][:-1]).all()
    assert [len(s) for s in found] == [len(np.unique(windows)), 6, 0]
