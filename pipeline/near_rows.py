"""What near deduplication reads of a part: signatures, survivor order and media, from annotations and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.candidates import ROWS, signature_matrix
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.doc_ids import I64, U64, distinct_rows, mix, pack_ids
from mixloom.pipeline.engine import one_batch, read_part, with_part
from mixloom.pipeline.graph import Given, each
from mixloom.pipeline.preference import preference, source_priority
from mixloom.pipeline.run import PartReader
from mixloom.pipeline.sieve import listed

RowsOf = Callable[[str], pa.RecordBatch]
"""The columns `candidates.ROWS` of a part. Must be picklable."""

_SHA256 = "^[0-9a-fA-F]{64}$"
_DIGESTS = "segments.list.element.media.sha256"
_TEXTS = ("segments.list.element.kind", "segments.list.element.text")


def media_keys(doc_ids: U64, owner: npt.NDArray[np.int64], sha256: pa.StringArray) -> U64:
    """A number per document that is equal for equal sets of images and recordings; 0 for none.

    Args:
        doc_ids: uint64 [n, 2].
        owner: int64 [m], the document each media item belongs to.
        sha256: of each item, 64 hex digits; a document with an item of unknown digest equals no other.

    Returns:
        uint64 [n].
    """
    known = pc.fill_null(pc.match_substring_regex(sha256, _SHA256), False).to_numpy(zero_copy_only=False)
    prefix = pack_ids(pc.utf8_lower(pc.utf8_slice_codeunits(sha256.filter(pa.array(known)), 0, 32)))
    item = np.empty((len(owner), 2), dtype=np.uint64)
    item[known] = prefix
    item[~known] = doc_ids[owner[~known]]
    items = distinct_rows(np.concatenate([owner[:, None].astype(np.uint64), item], axis=1))
    keys = np.zeros(len(doc_ids), dtype=np.uint64)
    np.add.at(keys, items[:, 0].astype(np.int64), mix(items[:, 1] ^ mix(items[:, 2])))
    return keys


def _media_of(documents: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], pa.StringArray]:
    """(document of each media item, its sha256) from a column `segments` with media.sha256."""
    lists = documents.column("segments")
    owner = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    media = pc.struct_field(lists.flatten(), "media")
    # Read alone, a null struct and a struct of nulls look the same: an item without a digest is text.
    sha = pc.struct_field(media, "sha256")
    there = sha.is_valid()
    return owner[there.to_numpy(zero_copy_only=False)], sha.filter(there)


def near_rows(annotations: pa.RecordBatch, media_key: U64, config: DedupConfig) -> pa.RecordBatch:
    """Columns `candidates.ROWS` of n documents.

    Args:
        annotations: doc_id, source, row (int32), minhash, and what `config` names as quality and length.
        media_key: uint64 [n], see `media_keys`.
    """
    rank = source_priority(annotations.column("source"), config.priority)
    quality = None
    if config.quality is not None:
        quality = annotations.column(config.quality).cast(pa.float32()).to_numpy(zero_copy_only=False)
    length = pc.fill_null(annotations.column(config.length), 0).to_numpy(zero_copy_only=False)
    order = preference(rank, quality, length)
    columns = [
        annotations.column("doc_id"),
        annotations.column("row"),
        pa.array(order),
        pa.array(media_key),
        annotations.column("minhash"),
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(ROWS))


class ReadTextsOf:
    """Reads the text of some rows of a part of documents (`verify.ReadTexts`); only their row groups are read."""

    def __init__(self, documents: PartReader) -> None:
        self._documents = documents

    def __call__(self, part: str, rows: npt.NDArray[np.int32]) -> pa.LargeStringArray:
        return document_text(one_batch(self._documents.read_rows(part, rows, list(_TEXTS))))


class ReadSignaturesOf:
    """Reads the signatures of some rows of a part of annotations, none of them null, for the sieve (`verify.ReadLists`)."""

    def __init__(self, annotations: PartReader) -> None:
        self._annotations = annotations

    def __call__(self, part: str, rows: npt.NDArray[np.int32]) -> tuple[pa.LargeListArray, I64]:
        found = one_batch(self._annotations.read_rows(part, rows, ["minhash"]))
        return listed(signature_matrix(found.column("minhash"))[0])


def part_media_keys(part: str, annotations: pa.RecordBatch, documents: PartReader) -> U64:
    """`media_keys` of some rows of a part: uint64 [n]; only digests of media are read, and only where there are any.

    Args:
        annotations: doc_id, row, images and speech_clips of those rows.
    """
    items = [pc.sum(annotations.column(c)).as_py() or 0 for c in ("images", "speech_clips")]
    if not sum(items):
        return np.zeros(annotations.num_rows, dtype=np.uint64)
    media = documents.read_rows(part, np.asarray(annotations.column("row")), [_DIGESTS])
    return media_keys(pack_ids(annotations.column("doc_id")), *_media_of(one_batch(media)))


class NearRowsOf:
    """Reads what near deduplication needs of a part: a batch with the columns `candidates.ROWS`, of survivors only.

    Args:
        documents, annotations, survivors: the stages it is read from.
        config: names the columns and sources that rank duplicates.
    """

    def __init__(
        self, documents: PartReader, annotations: PartReader, survivors: PartReader, config: DedupConfig
    ) -> None:
        self._documents, self._annotations, self._survivors = documents, annotations, survivors
        self._config = config
        names = ["doc_id", "source", config.length, *([config.quality] if config.quality else [])]
        self._columns = list(dict.fromkeys([*names, "minhash", "images", "speech_clips"]))

    def __call__(self, part: str) -> pa.RecordBatch:
        annotations = read_part(part, self._annotations, self._columns, self._survivors)
        assert self._config.near is not None
        keys = np.zeros(annotations.num_rows, dtype=np.uint64)
        if self._config.near.media == "equal":
            keys = part_media_keys(part, annotations, self._documents)
        return with_part(near_rows(annotations, keys, self._config), part)


class ReadNearRows(beam.PTransform):
    """Pipeline root -> one batch per part with the columns `candidates.ROWS`.

    Args:
        parts: names of the parts to read.
        rows_of: reads one.
    """

    def __init__(self, parts: Sequence[str], rows_of: RowsOf) -> None:
        super().__init__()
        self._parts, self._rows_of = list(parts), rows_of

    def expand(self, root: Any) -> Any:
        names = root | "Parts" >> Given(self._parts)
        return names | "Read" >> each(self._rows_of).with_output_types(pa.RecordBatch)
