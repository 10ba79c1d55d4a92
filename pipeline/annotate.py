"""Annotate: one row of numbers per document, computed once; what to drop is decided later, by rules over these rows.

A part is measured per call, two megabytes of text at a time. Text is joined and measured without any Python per document (but for
one call of the content hash); the kernels release the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.edits import flat_segments
from mixloom.pipeline.measures import DIFFERENCES, MEASURES, MEDIA_MEASURES, family_of, needs
from mixloom.pipeline.noise_measures import NOISE_MEASURES
from mixloom.pipeline.repetition import REPEATS, repetition
from mixloom.pipeline.signatures import cut_signatures
from mixloom.pipeline.words import COUNTS, Cuts, cut

if TYPE_CHECKING:
    from mixloom.pipeline.language import LanguageModel
    from mixloom.pipeline.quality.classifier import Classifier

__all__ = [
    "ANNOTATIONS",
    "AnnotateConfig",
    "Annotator",
    "annotate",
    "annotations_schema",
    "content_hashes",
    "document_text",
    "media_measures",
    "text_measures",
]


def _scores(config: AnnotateConfig) -> dict[str, pa.DataType]:
    """The columns that models add."""
    language = {"language": pa.string(), "language_score": pa.float32()} if config.language else {}
    noise = {name: kind for name, (kind, _) in NOISE_MEASURES.items()} if config.noise else {}
    return {**language, **{f"quality_{name}": pa.float32() for name in sorted(config.quality)}, **noise}


def measured(config: AnnotateConfig) -> list[str]:
    """The names of the text measures this config asks for, in the order of `MEASURES`."""
    if config.measures is not None:
        return [name for name in MEASURES if name in config.measures]
    return [name for name in MEASURES if (family := family_of(name)) is None or family in config.families]


def annotations_schema(config: AnnotateConfig) -> pa.Schema:
    """Schema of what `annotate` returns under this config (the length of a signature is part of it)."""
    return pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            *(pa.field(name, MEASURES[name].type, nullable=False) for name in measured(config)),
            *(pa.field(name, kind) for name, (kind, _) in MEDIA_MEASURES.items()),
            *(pa.field(name, kind) for name, kind in _scores(config).items()),
            pa.field("content_hash", pa.binary(16), nullable=False),
            pa.field(
                "minhash", pa.binary(2 * config.minhash.num_perm)
            ),  # little-endian uint16; null: no shingle
        ]
    )


# What the kernels make of so many bytes stays near the processor, in memory that is used again: of four times as many
# the system's new pages alone took a sixth of the time.
_PIECE = 2 << 20

ALL = AnnotateConfig()
ANNOTATIONS = annotations_schema(ALL)


def cut_for(texts: pa.Array, config: AnnotateConfig, terms: bool = True) -> Cuts:
    """Cut n texts as the measures of this config need it; terms: also where no measure asks them, for signatures."""
    need = needs(tuple(measured(config)))
    return cut(
        texts,
        stop_words=config.stop_words,
        short_line_chars=config.short_line_chars,
        terms=terms or need.terms,
        words=need.words,
        lines=need.lines,
        tokens=need.tokens,
        segments=need.segments,
        paragraphs=need.paragraphs,
    )


_COLUMNS = {name: k for k, name in enumerate((*COUNTS, *REPEATS))}


@cache
def _places(names: tuple[str, ...]) -> dict[str, int]:
    """The counts that these measures take, numbered; a difference after the two it is made of."""
    taken = [c for name in names for c in (MEASURES[name].count, MEASURES[name].over) if c is not None]
    made_of = [part for c in taken if c in DIFFERENCES for part in DIFFERENCES[c]]
    return {name: k for k, name in enumerate(dict.fromkeys([*made_of, *taken]))}


def text_measures(cuts: Cuts, config: AnnotateConfig = ALL) -> dict[str, pa.Array]:
    """The measures of n documents that `config` asks for: int64, int32 or float32 arrays of length n, without nulls."""
    names = measured(config)
    repeats = repetition(cuts, needs(tuple(names)))
    place = _places(tuple(names))
    counts = np.empty((len(place), len(repeats)), np.int64)  # a row for each count that is asked for
    for name, k in place.items():
        if name in DIFFERENCES:
            a, b = DIFFERENCES[name]
            counts[k] = counts[place[a]] - counts[place[b]]
        else:
            column = _COLUMNS[name]
            counts[k] = cuts.counts[:, column] if column < len(COUNTS) else repeats[:, column - len(COUNTS)]
    shares = [(name, m.count, m.over) for name in names if (m := MEASURES[name]).over is not None]
    over = counts[[place[c] for _, _, c in shares]]
    part = counts[[place[c] for _, c, _ in shares]] / np.maximum(over, 1)
    part[over <= 0] = 0.0
    out = dict(zip((name for name, _, _ in shares), part.astype(np.float32)))
    small = counts.astype(np.int32)
    for name in names:
        if name not in out:
            wide = MEASURES[name].type == pa.int64()
            out[name] = (counts if wide else small)[place[MEASURES[name].count]]
    return {name: pa.array(out[name]) for name in names}


def _before(mask: NDArray[np.bool_], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many selected segments lie before each bound, int64 [n+1]."""
    return np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])[bounds]


def document_text(documents: pa.RecordBatch) -> pa.LargeStringArray:
    """The text of each of n documents: its text segments in order, joined by an empty line ("\\n\\n").

    Returns a large_string array of length n without nulls; "" where a document has no text segment.
    """
    bounds, segments = flat_segments(documents)
    chosen = pc.equal(pc.struct_field(segments, "kind"), "text")
    texts = pc.struct_field(segments, "text")
    if chosen.false_count:
        texts = texts.filter(chosen)
    texts = pc.fill_null(texts.cast(pa.large_string()), "")
    offsets = _before(chosen.to_numpy(zero_copy_only=False), bounds)
    if len(texts) == len(documents) and (np.diff(offsets) == 1).all():
        return texts  # one text each, as most of the web has: nothing to join or to copy
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), texts)
    return pc.binary_join(lists, pa.scalar("\n\n", pa.large_string()))


def _length_prefixed(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The byte lengths as 8 little-endian bytes each, and the values, both large_binary."""
    raw = pc.fill_null(values.cast(pa.large_binary()), b"")
    lengths = np.ascontiguousarray(pc.binary_length(raw).to_numpy(zero_copy_only=False).astype("<u8"))
    fixed = pa.Array.from_buffers(pa.binary(8), len(raw), [None, pa.py_buffer(lengths)])
    return fixed.cast(pa.large_binary()), raw


def content_hashes(documents: pa.RecordBatch) -> pa.FixedSizeBinaryArray:
    """`schema.content_id` of each of n documents as 16 bytes: equal for exact duplicates, whatever their source."""
    bounds, segments = flat_segments(documents)
    parts = [
        column
        for values in (
            pc.struct_field(segments, "kind"),
            pc.struct_field(segments, "text"),
            pc.struct_field(segments, ["media", "sha256"]),
        )
        for column in _length_prefixed(values)
    ]
    encoded = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    _, starts, data = encoded.buffers()
    ends = (
        np.frombuffer(starts, np.int64)[encoded.offset :][bounds] if len(encoded) else np.zeros_like(bounds)
    )
    view = memoryview(data) if data is not None else memoryview(b"")
    digests = [xxhash.xxh3_128_digest(view[a:b]) for a, b in pairwise(ends.tolist())]
    return pa.array(digests, pa.binary(16))


def _packed(signatures: pa.FixedSizeListArray) -> pa.FixedSizeBinaryArray:
    """Signatures as fixed-size binary, without a copy: Parquet cannot read back a null fixed-size list."""
    width, n = signatures.type.list_size, len(signatures)
    values = signatures.values.slice(signatures.offset * width, n * width)
    bits = pa.array(signatures.is_valid()).buffers()[1]
    data = pa.py_buffer(np.ascontiguousarray(values.to_numpy(), dtype="<u2").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * width), n, [bits, data])


def _reduced(values: pa.Array, owner: NDArray[np.int64], n: int, how: str, kind: pa.DataType) -> pa.Array:
    """min, max or sum of the known values of each document's segments; null where there is none."""
    known = pc.is_valid(values).to_numpy(zero_copy_only=False)
    number = values.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    at = owner[known]
    out = np.full(n, {"min": np.inf, "max": -np.inf, "sum": 0.0}[how])
    {"min": np.minimum, "max": np.maximum, "sum": np.add}[how].at(out, at, number)
    seen = np.zeros(n, np.bool_)
    seen[at] = True
    return pa.array(np.where(seen, out, 0.0), mask=~seen).cast(kind)


def media_measures(documents: pa.RecordBatch) -> dict[str, pa.Array]:
    """`MEDIA_MEASURES` of n documents, by name, from what the segments say of their media."""
    bounds, segments = flat_segments(documents)
    n = len(documents)
    kind = pc.struct_field(segments, "kind")
    if pc.all(pc.equal(kind, "text")).as_py():
        none = pa.array(np.zeros(n, np.int32))  # what follows takes longer than the text of a small batch
        return {
            name: none if name in ("images", "speech_clips") else pa.nulls(n, stored)
            for name, (stored, _) in MEDIA_MEASURES.items()
        }
    owner = np.repeat(np.arange(n, dtype=np.int64), np.diff(bounds))
    image, speech = pc.equal(kind, "image"), pc.equal(kind, "speech")
    width, height = (
        pc.if_else(image, pc.struct_field(segments, ["media", side]), None) for side in ("width", "height")
    )
    seconds = pc.if_else(speech, pc.struct_field(segments, ["media", "seconds"]), None)
    short = pc.min_element_wise(width, height, skip_nulls=False)
    long = pc.max_element_wise(width, height, skip_nulls=False)
    aspect = pc.divide(long.cast(pa.float64()), pc.max_element_wise(short, 1).cast(pa.float64()))
    aspect = pc.if_else(pc.is_valid(short), aspect, None)
    counts = {
        name: pa.array(np.diff(_before(mask.to_numpy(zero_copy_only=False), bounds)), pa.int32())
        for name, mask in (("images", image), ("speech_clips", speech))
    }
    return counts | {
        "min_image_side": _reduced(short, owner, n, "min", pa.int32()),
        "max_image_aspect": _reduced(aspect, owner, n, "max", pa.float32()),
        "speech_seconds": _reduced(seconds, owner, n, "sum", pa.float32()),
        "min_clip_seconds": _reduced(seconds, owner, n, "min", pa.float32()),
        "max_clip_seconds": _reduced(seconds, owner, n, "max", pa.float32()),
    }


def pieces(texts: pa.LargeStringArray) -> list[pa.LargeStringArray]:
    """Texts in runs of about `_PIECE` bytes each; one run at least."""
    n = len(texts)
    count = max(1, min(n, -(-texts.nbytes // _PIECE)))
    return [texts.slice(n * k // count, n * (k + 1) // count - n * k // count) for k in range(count)]


def _joined(arrays: list[pa.Array]) -> pa.Array:
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


@dataclass
class Annotator:
    """Measures documents by one configuration; fitted models are loaded once, when first used.

    Small and picklable as long as nothing was measured with it.
    """

    config: AnnotateConfig
    _language: LanguageModel | None = field(default=None, repr=False)
    _quality: dict[str, Classifier] = field(default_factory=dict, repr=False)

    def annotate(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """Measure n documents: one row each, in order, of `annotations_schema(config)`.

        The metadata of the input's schema (which part it is) is kept on the output's.
        """
        config, texts = self.config, document_text(documents)
        measured = [self._of_texts(piece) for piece in pieces(texts)]
        columns: dict[str, pa.Array] = {
            "doc_id": documents.column("doc_id"),
            "source": documents.column("source"),
            **{name: _joined([found[name] for found in measured]) for name in measured[0]},
            **media_measures(documents),
            "content_hash": content_hashes(documents),
        }
        schema = annotations_schema(config)
        output = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        return output.replace_schema_metadata(documents.schema.metadata)

    def _of_texts(self, texts: pa.LargeStringArray) -> dict[str, pa.Array]:
        """What is measured of n texts, by name."""
        cuts = cut_for(texts, self.config)
        return {
            **text_measures(cuts, self.config),
            **self._language_columns(texts),
            **self._quality_columns(texts),
            **self._noise_columns(texts),
            "minhash": _packed(cut_signatures(cuts, self.config.minhash)),
        }

    def lines(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """Measure every line of n documents (`lines.LINES`); `row` is the place in this batch."""
        from mixloom.pipeline.lines import segment_lines

        return segment_lines(documents)

    def _language_columns(self, texts: pa.Array) -> dict[str, pa.Array]:
        if self.config.language is None:
            return {}
        from mixloom.pipeline.language import LanguageModel, language_columns

        if self._language is None:
            self._language = LanguageModel.load(self.config.language.model, self.config.language.max_chars)
        language, score = language_columns(texts, self._language, self.config.language)
        return {"language": language, "language_score": score}

    def _noise_columns(self, texts: pa.Array) -> dict[str, pa.Array]:
        if self.config.noise is None:
            return {}
        from mixloom.pipeline.noise import noise_measures

        return noise_measures(texts, self.config.noise)

    def _quality_columns(self, texts: pa.Array) -> dict[str, pa.Array]:
        from mixloom.pipeline.quality.classifier import load_configured, quality_column

        out: dict[str, pa.Array] = {}
        for name, config in sorted(self.config.quality.items()):
            if name not in self._quality:
                self._quality[name] = load_configured(config)
            out[f"quality_{name}"] = quality_column(texts, self._quality[name], config.calibrated)
        return out


def annotate(documents: pa.RecordBatch, config: AnnotateConfig) -> pa.RecordBatch:
    """Measure n documents once (`Annotator.annotate`)."""
    return Annotator(config).annotate(documents)
