"""A sample of a run counted for tf-idf where it lies, and the counts merged: in Beam, or here when they are few.

Per part, `sample/<part>` holds the counts of its sampled documents and `words/<part>` in how many of them each word
stands. Words are merged in 16 shards, by the first bits of their hashes, so that no worker holds those of the whole sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa

from mixloom.pipeline.embed import text_column
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.engine import Commit, one_batch, part_of, seconds_since_start
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.sample_parts import draw_sample, unit_parts
from mixloom.pipeline.sampling import sampled
from mixloom.pipeline.shuffle import Keyed, keyed
from mixloom.pipeline.stage import OutputTable, StageContext, UnitOutput
from mixloom.pipeline.tfidf import TfidfSvd
from mixloom.pipeline.tfidf_counts import (
    COUNTED,
    FREQUENCIES,
    candidates,
    choose_terms,
    count_texts,
    merge_frequencies,
)

FEW = 2_000_000  # rows of word counts merged in this process: a pipeline would take longer to set up


def counts_output(batch: pa.RecordBatch, bound: str, max_characters: int) -> UnitOutput:
    """The counts of the sampled documents of a part (columns doc_id and segments), as a unit `sample-<part>`."""
    part = part_of(batch)
    some = batch.filter(sampled(batch.column("doc_id"), bound))
    counted, frequencies = count_texts(some.column("doc_id"), text_column(some), max_characters)
    named = ((f"sample/{part}", counted), (f"words/{part}", frequencies))
    # Of a large corpus most parts hold no document of the sample: for them there is nothing to write.
    tables = tuple(OutputTable(name, table) for name, table in named if table.num_rows)
    return UnitOutput(f"sample-{part}", tables, seconds=seconds_since_start(batch))


def fit_on_sample(
    ctx: StageContext, config: TfidfConfig, seed: int, survivors: str, few: int = FEW
) -> tuple[TfidfSvd, int]:
    """Fit tf-idf and SVD on a sample of the survivors, whose texts stay where they lie.

    Args:
        few: rows of word counts up to which they are merged in this process; changes time, not the model.

    Returns:
        The model, the same for any parts, workers and `few`, and the number of documents in the sample.
    """
    output = partial(counts_output, max_characters=config.max_characters)
    reader = draw_sample(ctx, ["doc_id", "segments"], config.sample_documents, survivors, output)
    counted = [reader.read(n).cast(COUNTED) for n in sorted(reader.parts) if n.startswith("sample/")]
    documents = sum(t.num_rows for t in counted)
    words = sorted(n for n in reader.parts if n.startswith("words/"))
    here = sum(reader.parts[n].rows for n in words) <= few
    merged = [merge_frequencies([reader.read(n).cast(FREQUENCIES) for n in words])] if here else []

    def terms(limits: bool) -> pa.Table:
        judge = partial(candidates, documents=documents, config=config, limits=limits)
        pieces = map(judge, merged) if here else _candidates_by_beam(ctx, reader, words, judge, limits)
        return choose_terms(pieces, config)

    chosen = terms(limits=True)
    if not chosen.num_rows:  # a tiny corpus still gets vectors
        chosen = terms(limits=False)
    rows = pa.concat_tables([COUNTED.empty_table(), *counted]).sort_by("doc_id")
    return TfidfSvd.fit_counts(rows, chosen, config, seed), documents


class MergeFrequencies(beam.CombineFn):
    """Batches of `FREQUENCIES` -> one, by `merge_frequencies`; what is held is bounded by the distinct words."""

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, accumulator: list[pa.Table], element: pa.RecordBatch) -> list[pa.Table]:
        accumulator.append(pa.Table.from_batches([element], schema=FREQUENCIES))
        # The first is what was merged so far: it is merged again when as much has come on top of it.
        if len(accumulator) > 1 and sum(t.num_rows for t in accumulator[1:]) > accumulator[0].num_rows:
            return self.compact(accumulator)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        merged: list[pa.Table] = []
        for accumulator in accumulators:
            merged = self.compact([*merged, *accumulator])
        return merged

    def compact(self, accumulator: list[pa.Table]) -> list[pa.Table]:
        return [merge_frequencies(accumulator)]

    def extract_output(self, accumulator: list[pa.Table]) -> pa.RecordBatch:
        return one_batch(merge_frequencies(accumulator))


class _ReadWordsDoFn(beam.DoFn):
    """The name of a part of words -> its rows by shard."""

    def __init__(self, reader: PartReader) -> None:
        self._reader = reader

    def process(self, name: str) -> Iterator[Keyed]:
        words = one_batch(self._reader.read(name).cast(FREQUENCIES))
        yield from keyed(words, (np.asarray(words.column("hash")) >> np.uint64(60)).astype(np.int64))


def _terms_output(element: Keyed, judge: Callable[[pa.Table], pa.Table], prefix: str) -> UnitOutput:
    shard, batch = element
    name = f"{prefix}-{shard:02d}"
    return UnitOutput(name, (OutputTable(f"{prefix}/{shard:02d}", judge(pa.Table.from_batches([batch]))),))


def _candidates_by_beam(
    ctx: StageContext,
    reader: PartReader,
    words: list[str],
    judge: Callable[[pa.Table], pa.Table],
    limits: bool,
) -> list[pa.Table]:
    """The candidates among the words of every shard, merged and judged by Beam, and written as parts of their own."""
    prefix = "terms" if limits else "lifted"
    done = f"{prefix}-all"  # there is a unit for each shard that has words; this one says that they are all there
    if ctx.todo([done]):
        ctx.beam(
            lambda p: (
                p
                | beam.Create(words)
                | "Read" >> beam.ParDo(_ReadWordsDoFn(reader)).with_output_types(Keyed)
                | "Merge" >> beam.CombinePerKey(MergeFrequencies()).with_output_types(Keyed)
                | "Judge" >> beam.Map(_terms_output, judge=judge, prefix=prefix)
                | Commit(ctx.directory)
            )
        )
        ctx.commit(UnitOutput(done))
    found = unit_parts(ctx, f"{prefix}-")
    return [found.read(n).cast(FREQUENCIES) for n in sorted(found.parts)]
