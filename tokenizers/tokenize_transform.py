"""Beam transform of stage `tokenize`: documents -> token ids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils import shared

from mixloom.pipeline.engine import part_of
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.stage import UnitOutput
from mixloom.pipeline.storage import Store
from mixloom.tokenizers.arranged import check_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.layout_config import READING_ORDER, LayoutConfig
from mixloom.tokenizers.settings import NO_PATCHES, WHOLE_PART, MicroBatchConfig, SpeechPatchConfig
from mixloom.tokenizers.transform import tokenize, tokens_output


class _Options(NamedTuple):
    layout: LayoutConfig
    speech_patches: SpeechPatchConfig
    micro_batch: MicroBatchConfig


class _TokenizeDoFn(beam.DoFn):
    def __init__(
        self, tokenizer: Store, assignments: PartReader, roots: dict[str, str], options: _Options
    ) -> None:
        self._store, self._assignments, self._roots, self._options = tokenizer, assignments, roots, options
        self._handle = (
            shared.Shared()
        )  # one set of codecs for all threads of a worker: a model may fill a GPU
        self._codecs: Codecs | None = None

    def setup(self) -> None:
        self._codecs = self._handle.acquire(lambda: Codecs.load(self._store))
        check_codec(self._options.layout, self._codecs.speech)

    def process(self, documents: pa.RecordBatch) -> Iterator[UnitOutput]:
        assert self._codecs is not None
        started = time.perf_counter()
        part = part_of(documents)
        assigned = self._assignments.read(part, ["domain", "cell"])
        for name in ("domain", "cell"):
            documents = documents.append_column(name, assigned[name].combine_chunks())
        encoded, failures = tokenize(documents, self._codecs, self._roots, *self._options)
        output = tokens_output(part, documents, encoded, failures)
        yield replace(output, seconds=time.perf_counter() - started)


class Tokenize(beam.PTransform):
    """Documents -> `UnitOutput` with rows of `TOKENS`. The codecs are loaded once per process.

    Args:
        tokenizer: folder of the fitted tokenizers (`run/tokenizer`).
        assignments: domain and cell of every document, part by part, in the order of the documents.
        roots: where each source lies, by name.
        layout: in which order the segments of a document are written, by source.
        speech_patches: how units of speech are grouped.
        micro_batch: how much of the media of a part is encoded at a time; it changes no id.
    """

    def __init__(
        self,
        tokenizer: Store,
        assignments: PartReader,
        roots: dict[str, str],
        layout: LayoutConfig = READING_ORDER,
        speech_patches: SpeechPatchConfig = NO_PATCHES,
        micro_batch: MicroBatchConfig = WHOLE_PART,
    ) -> None:
        super().__init__()
        self._args = (tokenizer, assignments, roots, _Options(layout, speech_patches, micro_batch))

    def expand(self, pcoll: Any) -> Any:
        return pcoll | beam.ParDo(_TokenizeDoFn(*self._args))
