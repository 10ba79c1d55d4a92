"""Counting a sample for tf-idf: pieces merge to the whole in any order, and terms are those of a plain count."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.term_tokens import slow_tokens
from mixloom.pipeline.tfidf import TfidfSvd
from mixloom.pipeline.tfidf_counts import (
    FREQUENCIES,
    candidates,
    choose_terms,
    count_matrix,
    count_texts,
    merge_frequencies,
)

WORDS = ["apple", "pear", "plum", "kiwi", "lemon", "the", "fig", "Quince", "and", "1999"]
corpora = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), max_size=12)


def counted(texts, first=0):
    ids = pa.array([f"{first + i:04d}" for i in range(len(texts))], pa.string())
    return count_texts(ids, pa.array(texts, pa.large_string()), 1000)


def plain_terms(texts, config):
    """Terms and their document frequencies, by the definition."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    df = Counter(w for t in texts for w in set(slow_tokens(t)))
    if config.stop_words == "english":
        df = Counter({w: n for w, n in df.items() if w not in ENGLISH_STOP_WORDS})
    within = {w: n for w, n in df.items() if config.min_df <= n <= config.max_df * len(texts)}
    best = sorted((within or df).items(), key=lambda x: (-x[1], x[0]))[: config.vocabulary]
    return sorted(best)


@given(corpora, st.lists(st.integers(0, 12), max_size=3), st.randoms(use_true_random=False))
def test_pieces_merge_to_the_frequencies_of_the_whole_in_any_order_and_grouping(texts, cuts, shuffle):
    whole = counted(texts)[1]
    bounds = [0, *sorted(min(c, len(texts)) for c in cuts), len(texts)]
    pieces = [counted(texts[a:b])[1] for a, b in pairwise(bounds)]
    shuffle.shuffle(pieces)
    assert merge_frequencies(pieces).equals(merge_frequencies([whole]))
    nested = merge_frequencies([merge_frequencies(pieces[:2]), *pieces[2:]])
    assert nested.equals(merge_frequencies([whole]))
    assert merge_frequencies([]).equals(FREQUENCIES.empty_table())


@given(
    corpora,
    st.integers(1, 3),
    st.sampled_from([0.3, 0.5, 1.0]),
    st.integers(1, 6),
    st.sampled_from(["english", "none"]),
)
def test_terms_are_those_of_a_plain_count_however_words_are_sharded(texts, least, most, vocabulary, stops):
    config = TfidfConfig(dim=2, min_df=least, max_df=most, vocabulary=vocabulary, stop_words=stops)
    merged = merge_frequencies([counted(texts)[1]])
    shard = np.asarray(merged["hash"]) % 3
    shards = [merged.filter(pa.array(shard == s)) for s in range(3)]
    chosen = choose_terms([candidates(s, len(texts), config) for s in shards], config)
    if not chosen.num_rows:
        chosen = choose_terms([candidates(s, len(texts), config, limits=False) for s in shards], config)
    assert list(zip(chosen["word"].to_pylist(), chosen["df"].to_pylist())) == plain_terms(texts, config)
    assert TfidfSvd.fit(texts, config).terms == tuple(chosen["word"].to_pylist())


@given(corpora)
def test_the_matrix_holds_how_often_each_term_stands_in_each_document(texts):
    rows, frequencies = counted(texts)
    config = TfidfConfig(min_df=1, max_df=1.0)
    terms = choose_terms([candidates(merge_frequencies([frequencies]), len(texts), config)], config)
    names = terms["word"].to_pylist()
    columns, counts, starts = count_matrix(rows, terms)
    assert starts[-1] == len(columns) == len(counts)
    for i, text in enumerate(texts):
        own = slice(starts[i], starts[i + 1])
        expected = Counter(w for w in slow_tokens(text) if w in names)
        assert [(names[c], int(n)) for c, n in zip(columns[own], counts[own])] == sorted(expected.items())
