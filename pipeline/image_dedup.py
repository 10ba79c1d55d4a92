"""Image deduplication: which image stands for which, and what becomes of every place where it is used.

Images with equal pixels are one image. Of the images that show the same picture the largest is kept, and others are
copies of it only when they were compared with it (similarity is not transitive). A picture stays in one document, the
one of the preferred source and, among those, of the smallest id that has the best copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixloom.pipeline.components import components_local
from mixloom.pipeline.doc_ids import I64, U64, concatenate, run_bounds, run_starts, unpack_ids
from mixloom.pipeline.edits import EDITS, WHOLE
from mixloom.pipeline.image_dedup_config import ImageDedupConfig, ImageNearConfig
from mixloom.pipeline.image_pairs import (
    banded,
    confirmed,
    distinct_contents,
    equal_hash_pairs,
    near_hash_pairs,
)
from mixloom.pipeline.near import roots_of
from mixloom.pipeline.survivors import greedy_keepers, sorted_members
from mixloom.pipeline.verify import SKETCHES, Sets

KEEP, REPEATED, OVERUSED = 0, 1, 2
REASONS = {REPEATED: "repeated_image", OVERUSED: "image_used_too_often"}


def _uint64(*names: str) -> pa.Schema:
    return pa.schema([pa.field(n, pa.uint64(), nullable=False) for n in names])


COPIES = _uint64("hi", "lo", "kept_hi", "kept_lo", "distance")
"""An image and the one that is kept for it, and in how many bits their hashes differ."""

FATES = _uint64("place", "row", "segment", "fate", "value", "owner_hi", "owner_lo")
"""A use of an image that does not stay by itself. fate: REPEATED (value: bits between the hashes) or OVERUSED (value:
documents that use it). owner: the document where the picture stays."""


def rooted_edges(edges: U64, stars: U64) -> U64:
    """`IMAGE_EDGES` [n, 7] with the component of each before them: uint64 [n, 9]; all are in one."""
    root, found = roots_of(edges[:, :2], stars)
    root[~found] = edges[~found, :2]  # the smallest of a component stands for itself
    return np.concatenate([root, edges], axis=1)


def copies(rooted: U64) -> U64:
    """Which images are copies of which: whole components of edges uint64 [n, 9] -> `COPIES` uint64 [m, 5].

    In each component, from the best image to the worst, an image is a copy if it was confirmed to show the same picture
    as one already kept (then of the nearest such); otherwise it is kept.
    """
    nothing = np.zeros(len(rooted), np.uint64)
    ends = [np.stack([rooted[:, 0], rooted[:, 1], rooted[:, w], rooted[:, h], rooted[:, h + 1], nothing], axis=1)
            for w, h in ((6, 2), (7, 4))]  # fmt: skip
    members = sorted_members(np.concatenate(ends))
    similarity = 1.0 - rooted[:, 8].astype(np.float64) / 64.0
    sets = Sets(concatenate([], SKETCHES))
    keeper, near = greedy_keepers(members, rooted[:, 2:6], similarity, sets, 0, 0.0)
    gone = np.flatnonzero(keeper != np.arange(len(keeper)))
    distance = np.rint((1.0 - near[gone]) * 64.0).astype(np.uint64)
    return np.concatenate([members[gone, 3:5], members[keeper[gone], 3:5], distance[:, None]], axis=1)


def find_copies(uses: U64, thumbs: pa.RecordBatch, config: ImageNearConfig) -> U64:
    """`COPIES` among all images of `USES` [n, 11], in one process; `thumbs` are those of the candidates' places."""
    candidates = candidate_pairs(uses, config)
    edges = confirmed(candidates, thumbs, config)
    return copies(rooted_edges(edges, components_local(edges[:, :4])))


def candidate_pairs(uses: U64, config: ImageNearConfig) -> U64:
    """`IMAGE_PAIRS` of `USES` [n, 11], all hashes within the distance, in one process."""
    equal, best = equal_hash_pairs(distinct_contents(uses), config.bucket_cap, config.leaders)
    return np.concatenate([equal, near_hash_pairs(banded(best, config.distance), config.distance)])


def kept_images(keys: U64, found: U64) -> tuple[U64, U64]:
    """The image kept for each key, uint64 [n, 2], and the distance to it, uint64 [n], given `COPIES` of these keys."""
    kept, distance = keys.copy(), np.zeros(len(keys), np.uint64)
    target, is_copy = roots_of(keys, found[:, :4])
    kept[is_copy] = target[is_copy]
    by_key = np.concatenate([found[:, :2], found[:, 4:5], found[:, 4:5]], axis=1)
    far, _ = roots_of(keys, by_key)
    distance[is_copy] = far[is_copy, 0]
    return kept, distance


def fates(uses: U64, kept: U64, distance: U64, config: ImageDedupConfig) -> U64:
    """What becomes of the uses of some pictures: `FATES` uint64 [m, 7] of those that do not stay.

    Args:
        uses: `USES` [n, 11], every use of each picture among them.
        kept, distance: of each use, as `kept_images` tells.
    """
    order = np.lexsort(
        (uses[:, 10], uses[:, 7], uses[:, 6], distance > 0, uses[:, 8], kept[:, 1], kept[:, 0])
    )
    uses, kept, distance = uses[order], kept[order], distance[order]
    starts, stops = run_bounds(run_starts(kept))
    group = np.repeat(np.arange(len(starts)), stops - starts)
    documents = _distinct_documents(group, uses[:, 6:8], len(starts))
    owner = uses[starts[group], 6:8] if len(uses) else uses[:, 6:8]
    fate = np.full(len(uses), KEEP, np.uint64)
    if config.action != "none":
        fate[(uses[:, 6:8] != owner).any(axis=1)] = REPEATED
    if config.max_uses is not None:
        fate[documents[group] > config.max_uses] = OVERUSED
    value = np.where(fate == OVERUSED, documents[group].astype(np.uint64), distance)
    columns = [uses[:, 5], uses[:, 9], uses[:, 10], fate, value, owner[:, 0], owner[:, 1]]
    return np.stack(columns, axis=1)[fate != KEEP]


def _distinct_documents(group: I64, ids: U64, groups: int) -> I64:
    """How many different documents each group has, int64 [groups]."""
    order = np.lexsort((ids[:, 1], ids[:, 0], group))
    rows = np.concatenate([group[order, None].astype(np.uint64), ids[order]], axis=1)
    return np.bincount(group[order][run_starts(rows)], minlength=groups)


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Of every document of a part, before this stage: its id, its words, its clips and its images, [n] each."""

    doc_id: pa.Array
    words: npt.NDArray[np.int64]
    clips: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]


def settle_images(found: U64, facts: PartFacts, config: ImageDedupConfig) -> tuple[pa.Table, pa.Table]:
    """What the fates of images do to the documents of one part.

    Args:
        found: `FATES` [n, 7] of the uses in this part, in any order.

    Returns:
        `EDITS` that remove images from documents that stay; and `edited.DROPPED`: with the action document, those
        whose images are all kept elsewhere (or used too often) and whose text is short enough.
    """
    found = found[np.lexsort((found[:, 2], found[:, 1]))]
    row = found[:, 1].astype(np.int64)
    dropped = np.zeros(len(facts.images), np.bool_)
    if config.action == "document":
        flagged = np.bincount(row, minlength=len(dropped))
        dropped = (flagged == facts.images) & (facts.images > 0) & (facts.clips == 0)
        dropped &= facts.words <= config.document_words
    removed = (found[:, 3] == OVERUSED) | ((found[:, 3] == REPEATED) & (config.action == "segment"))
    first = found[run_starts(found[:, 1:2])]
    return _edits(found[removed & ~dropped[row]], facts, config), _dropped(
        first[dropped[first[:, 1].astype(np.int64)]], config
    )


def _reason(found: U64, config: ImageDedupConfig) -> dict[str, pa.Array]:
    """reason, value and limit of `FATES`."""
    distance = config.near.distance if config.near is not None else 0
    limit = np.where(found[:, 3] == OVERUSED, float(config.max_uses or 0), float(distance))
    reason = pa.array([REASONS[int(f)] for f in found[:, 3]], pa.string())
    return {"reason": reason, "value": pa.array(found[:, 4].astype(np.float64)), "limit": pa.array(limit)}


def _edits(found: U64, facts: PartFacts, config: ImageDedupConfig) -> pa.Table:
    whole = pa.array(np.full(len(found), WHOLE, np.int32))
    columns = {
        "doc_id": facts.doc_id.take(pa.array(found[:, 1].astype(np.int64))),
        "row": pa.array(found[:, 1].astype(np.int32)),
        "segment": pa.array(found[:, 2].astype(np.int32)),
        "start": whole,
        "stop": whole,
        "replacement": pa.array([""] * len(found), pa.string()),
        **_reason(found, config),
    }
    return pa.table(columns, schema=EDITS)


def _dropped(found: U64, config: ImageDedupConfig) -> pa.Table:
    from mixloom.pipeline.edited import DROPPED  # loads the kernels of annotate

    owner = unpack_ids(np.ascontiguousarray(found[:, 5:7]))
    columns = {"row": pa.array(found[:, 1].astype(np.int32)), **_reason(found, config), "detail": owner}
    return pa.table(columns, schema=DROPPED)
