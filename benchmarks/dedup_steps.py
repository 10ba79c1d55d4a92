"""The steps of near deduplication called one after the other, with the time of each; `dedup.py` shows them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.candidates import band_keys, bucket_pairs, sorted_buckets
from mixloom.pipeline.components import components_local
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.signatures import shingle_sets, signatures
from mixloom.pipeline.verify import SKETCHES, Sets, sketch, verified_edges


def timed_steps(texts: pa.LargeStringArray) -> list[dict[str, Any]]:
    """Documents per CPU second of each step over these texts, one row each."""
    n = len(texts)
    near, config = NearConfig(), MinHashConfig()
    bands, rows = near.banding(config.num_perm)
    taken: list[tuple[str, float]] = []

    def timed(name: str, began: float) -> None:
        taken.append((name, time.process_time() - began))

    began = time.process_time()
    found = signatures(texts, config)
    matrix = found.drop_null().flatten().to_numpy().reshape(-1, config.num_perm)
    alive = np.flatnonzero(np.asarray(found.is_valid()))
    timed("signatures (cut, shingles, 112 values)", began)
    ids = np.stack([np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64)], axis=1)
    began = time.process_time()
    buckets = np.empty((len(alive), bands, 5), dtype=np.uint64)
    buckets[:, :, 0] = band_keys(matrix, bands, rows)
    buckets[:, :, 1] = 0
    buckets[:, :, 2:4] = ids[alive, None, :]
    buckets[:, :, 4] = alive[:, None]
    pairs = bucket_pairs(
        sorted_buckets(buckets.reshape(-1, 5)), near.bucket_cap, near.leaders, near.neighbours
    )
    timed("banding (keys, buckets, candidate pairs)", began)
    wanted = np.unique(pairs[:, [1, 4]].astype(np.int64))
    began = time.process_time()
    hashes, sizes = sketch(shingle_sets(texts.take(pa.array(wanted))), near.max_shingles)
    arrays = [pa.array(ids[wanted, 0]), pa.array(ids[wanted, 1]), pa.array(sizes), hashes]
    sets = Sets(pa.RecordBatch.from_arrays(arrays, schema=SKETCHES))
    edges, _ = verified_edges(pairs[:, [0, 1, 3, 4]], sets, near.threshold)
    timed("verification (shingle sets, exact similarity)", began)
    began = time.process_time()
    components_local(edges)
    timed("components", began)
    return [
        {
            "step": name,
            "documents per CPU s": round(n / seconds) if seconds else None,
            "of all": f"{len(wanted)} documents read, {len(pairs)} candidates, {len(edges)} edges"
            if i == 2
            else "",
        }
        for i, (name, seconds) in enumerate(taken)
    ]
