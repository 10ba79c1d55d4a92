"""CPU seconds of each step inside a piece of work, without counting any twice: functions are timed where they are called."""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

# Step -> the names under which its functions are called. A class is named by its attribute.
STEPS: dict[str, tuple[str, ...]] = {
    "read files": ("storage:Store.read",),
    "write files": ("storage:Store.write",),
    "check sums": ("storage:sha256_hex", "run:sha256_hex"),
    "decode Parquet": ("run:PartReader.read", "run:PartReader.read_rows"),
    "encode Parquet": ("run:parquet_bytes",),
    "join segments": ("annotate:document_text", "near_rows:document_text"),
    "cut terms": ("words:cut_terms", "signatures:cut_terms"),
    "cut chunks": ("words:cut_chunks",),
    "cut lines": ("words:cut_layout",),
    "repetition": ("annotate:repetition",),
    "other measures": ("annotate:text_measures", "annotate:media_measures", "annotate:annotations_schema"),
    "content hash": ("annotate:content_hashes",),
    "signatures": ("annotate:cut_signatures",),
    "line table": ("lines:segment_lines",),
    "judge": ("transforms:decide", "decide:decide", "transforms:survivors_and_rejects"),
    "apply edits": ("overlay:apply_edits", "edits:apply_edits"),
    "duplicates: buckets, pairs": (
        "exact:exact_rows",
        "exact:exact_drops",
        "exact_alone:exact_rows",
        "exact_alone:exact_drops",
        "candidates:signed_rows",
        "candidates:by_partition",
        "candidates:sorted_buckets",
        "candidates:bucket_pairs",
        "near_pairs:signed_rows",
        "near_pairs:sketched",
        "near_pairs:banded_buckets",
        "near_pairs:met_pairs",
        "near_pairs:likely_pairs",
        "near_pairs:ranked_documents",
    ),
    "duplicates: shingles": ("signatures:shingle_sets", "verify:sketch"),
    "duplicates: compare, keep": (
        "verify:verified_edges",
        "near_alone:verified_edges",
        "near_alone:root_edges",
        "near_alone:choose_survivors",
        "components:large_star",
        "components:small_star",
        "components:edge_digest",
        "near:rooted_edges",
        "near:lacking_members",
        "near:choose_survivors",
    ),
    "duplicates: shuffles": (
        "engine:RecordBatchCoder.encode",
        "engine:RecordBatchCoder.decode",
        "doc_ids:split",
        "shuffle:split",
        "settle:settle_part",
    ),
}


class StepTimes:
    """Seconds by step; time spent in a step inside another belongs to the inner one alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._local = threading.local()

    def timed(self, step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its own time added to `step`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            stack = self._local.__dict__.setdefault("stack", [])
            stack.append(0.0)
            began = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent = time.thread_time() - began
                inner = stack.pop()
                self.seconds[step] += spent - inner
                if stack:
                    stack[-1] += spent

        return call


@contextmanager
def measured() -> Iterator[StepTimes]:
    """Time every step of `STEPS` inside."""
    times = StepTimes()
    with ExitStack() as stack:
        for step, names in STEPS.items():
            for name in names:
                module, _, path = name.partition(":")
                owner: Any = importlib.import_module(f"mixloom.pipeline.{module}")
                *outer, last = path.split(".")
                for part in outer:
                    owner = getattr(owner, part)
                stack.enter_context(mock.patch.object(owner, last, times.timed(step, getattr(owner, last))))
        yield times
