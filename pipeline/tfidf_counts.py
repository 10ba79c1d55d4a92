"""What tf-idf counts in a sample of documents: the terms of each, and in how many each term stands.

Counts of parts are tables that merge in any order and grouping to the same table, so they can be counted where the
sample lies and merged by Beam (`tfidf_sample`); nothing here knows of parts or workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.run import one_batch
from mixloom.pipeline.term_token_kernel import count_tokens
from mixloom.pipeline.term_tokens import cut_tokens

# A sampled document: its distinct tokens (hashes, ascending) and how often each stands in it.
COUNTED = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("hashes", pa.large_list(pa.field("item", pa.uint64(), nullable=False)), nullable=False),
        pa.field("counts", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)

# In how many documents a word stands, by ascending hash.
FREQUENCIES = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("word", pa.large_string(), nullable=False),
        pa.field("df", pa.int64(), nullable=False),
    ]
)


def count_texts(doc_ids: pa.Array, texts: pa.Array, max_characters: int) -> tuple[pa.Table, pa.Table]:
    """The rows `COUNTED` of n documents (ids and texts, string [n]), and their `FREQUENCIES`."""
    tokens = cut_tokens(texts, max_characters)
    hashes, counts, starts = count_tokens(tokens.hashes, tokens.offsets)
    bounds = pa.array(starts, pa.int64())
    lists = [
        pa.LargeListArray.from_arrays(bounds, pa.array(values), type=COUNTED.field(name).type)
        for name, values in (("hashes", hashes), ("counts", counts))
    ]
    counted = pa.Table.from_arrays([doc_ids.cast(pa.string()), *lists], schema=COUNTED)
    distinct, df = np.unique(hashes, return_counts=True)
    first = np.unique(tokens.hashes, return_index=True)[1]  # of the same hashes, in the same order
    words = tokens.words().take(pa.array(first))
    frequencies = pa.Table.from_arrays(
        [pa.array(distinct), words, pa.array(df.astype(np.int64))], schema=FREQUENCIES
    )
    return counted, frequencies


def merge_frequencies(tables: Sequence[pa.Table]) -> pa.Table:
    """One table `FREQUENCIES` of several: associative and commutative, to the byte."""
    rows = pa.concat_tables([FREQUENCIES.empty_table(), *tables])
    sums = rows.group_by("hash", use_threads=False).aggregate([("word", "min"), ("df", "sum")])
    return (
        sums.rename_columns(["hash", "word", "df"])
        .select(FREQUENCIES.names)
        .cast(FREQUENCIES)
        .sort_by("hash")
    )


def candidates(frequencies: pa.Table, documents: int, config: TfidfConfig, limits: bool = True) -> pa.Table:
    """The words of a table `FREQUENCIES` that can be terms, most frequent first, ties by the word; `vocabulary` at most.

    The candidates of the whole are among those of its pieces, so pieces can be judged where they lie.

    Args:
        documents: documents in the sample.
        limits: False lifts `min_df` and `max_df`.
    """
    if config.stop_words == "english":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        stops = pa.array(sorted(ENGLISH_STOP_WORDS), pa.large_string())
        frequencies = frequencies.filter(pc.invert(pc.is_in(frequencies["word"], value_set=stops)))
    if limits:
        df = np.asarray(frequencies["df"])
        frequencies = frequencies.filter(pa.array((df >= config.min_df) & (df <= config.max_df * documents)))
    return frequencies.sort_by([("df", "descending"), ("word", "ascending")]).slice(0, config.vocabulary)


def choose_terms(pieces: Iterable[pa.Table], config: TfidfConfig) -> pa.Table:
    """The terms among the `candidates` of all the pieces, as `FREQUENCIES` in alphabetical order."""
    rows = pa.concat_tables([FREQUENCIES.empty_table(), *pieces])
    best = rows.sort_by([("df", "descending"), ("word", "ascending")]).slice(0, config.vocabulary)
    return best.sort_by("word").combine_chunks()


def count_matrix(counted: pa.Table, terms: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of terms in documents as compressed rows: columns int32 [m], counts int32 [m], row starts int64 [n+1].

    Documents (`COUNTED`) keep their order; columns are numbers of terms (`FREQUENCIES`), ascending in each row.
    """
    hashes = np.asarray(terms["hash"])
    order = np.argsort(hashes)
    rows = one_batch(counted)
    found = rows.column("hashes")
    lengths = pc.list_value_length(found).to_numpy(zero_copy_only=False).astype(np.int64)
    values = found.flatten().to_numpy(zero_copy_only=False)
    counts = rows.column("counts").flatten().to_numpy(zero_copy_only=False)
    at = np.minimum(np.searchsorted(hashes, values, sorter=order), max(len(hashes) - 1, 0))
    known = np.zeros(len(values), bool) if not len(hashes) else hashes[order[at]] == values
    row = np.repeat(np.arange(len(lengths)), lengths)[known]
    column = order[at[known]]
    sort = np.lexsort((column, row))
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(lengths)), out=starts[1:])
    return column[sort].astype(np.int32), counts[known][sort], starts
