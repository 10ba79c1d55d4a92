"""Packing: fill, cuts and time by window, on real and on log-normal lengths, and what joining the ends of cells gives.

    python benchmarks/packing.py --data ROOT [--documents 1000000] [--quick] [--json FILE]

Real lengths are those of all documents of conf/real/shared.yaml, in the order of their sources and shuffled: text by a BPE of
8192 words trained on a part of it, 66 tokens for an image, 25 a second for speech. Log-normal lengths have a mean of 739
tokens. "extra" are contexts over the fewest that could hold the tokens; "cut" are documents in more pieces than their length
asks for. CPU seconds of one call, after compiling. Cells: the real documents, shuffled, in cells of a size, alone and with the
emptiest contexts of neighbouring cells packed together (as `shards.join_tails`). Near duplicates: groups of so many of
the log-normal documents, planted at random.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save

from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.packing import pack
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage
from mixloom.pipeline.storage import resolve
from mixloom.tokenizers.pack import tail_contexts, taken
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.stages import ShardsConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.trainers.recipe import RunConfig

SEQ_LENS, WINDOWS = (1024, 2048, 4096), (1, 64, 256, 1024)
TRAINED_ON = 4000  # texts
Rows = list[dict[str, Any]]


def real_lengths(root: Path) -> np.ndarray:
    """Tokens of every document of the real sets, in the order of their sources: int64 [n]."""
    conf = Path(__file__).parents[1] / "conf/real/shared.yaml"
    config = load_config(RunConfig, conf, [f"data_root={root}"])
    roots = {s.name: resolve(config.data_root, s.path) for s in config.sources}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        stage = IngestStage(
            config.sources, roots, config.part_documents, config.part_bytes, config.part_media
        )
        manifest, _ = run_stage(stage, run, RunSettings(), Console(quiet=True), {})
        reader = PartReader(run.stage(stage.name).store, {p.name: p for p in manifest.parts})
        rows = pa.concat_tables([reader.read(n, ["segments"]) for n in sorted(reader.parts)])[
            "segments"
        ].to_pylist()
    texts = ["\n".join(s["text"] for s in r if s["kind"] == "text") for r in rows]
    tokenizer = train_text_tokenizer(texts[:: max(1, len(texts) // TRAINED_ON)], TextTokenizerConfig())
    out = np.array([2 + len(ids) for ids in tokenizer.encode_batch(texts)], np.int64)
    return out + [sum(map(_media_tokens, r)) for r in rows]


def _media_tokens(segment: dict[str, Any]) -> int:
    if segment["kind"] == "image":
        return 66
    return 2 + math.ceil(25 * (segment["media"]["seconds"] or 0)) if segment["kind"] == "speech" else 0


def by_window(name: str, lengths: np.ndarray) -> Iterator[dict[str, Any]]:
    for seq_len in SEQ_LENS:
        for window in (*WINDOWS, len(lengths)):
            started = time.process_time()
            plan = pack(lengths, seq_len, window)
            seconds = time.process_time() - started
            least = -(-int(lengths.sum()) // seq_len)
            needed = -(-lengths // seq_len)
            cut = int((np.bincount(plan.doc, minlength=len(lengths)) > needed).sum())
            yield {
                "lengths": name,
                "documents": len(lengths),
                "seq_len": seq_len,
                "window": "all" if window == len(lengths) else window,
                "fill_percent": round(100 * plan.fill, 3),
                "extra": len(plan) - least,
                "cut": cut,
                "cpu_s": round(seconds, 3),
            }


def in_cells(lengths: np.ndarray, seq_len: int, window: int, size: int) -> dict[str, Any]:
    """Fill of cells by themselves, and with their ends joined."""
    most, alone, kept, left = ShardsConfig().join_tails, 0, 0, []
    for start in range(0, len(lengths), size):
        plan = pack(lengths[start : start + size], seq_len, window)
        aside = tail_contexts(plan, most, window)
        tails = taken(plan, aside)
        order = np.lexsort((tails.start, tails.doc))
        left.append((tails.stop - tails.start)[order])
        alone, kept = alone + len(plan), kept + len(plan) - len(tails)
    joined = kept + len(pack(np.concatenate(left), seq_len, window))
    tokens = 100 * int(lengths.sum()) / seq_len
    return {
        "cell_documents": size,
        "seq_len": seq_len,
        "window": window,
        "fill_percent_alone": round(tokens / alone, 2),
        "fill_percent_joined": round(tokens / joined, 2),
    }


def near_duplicates(
    lengths: np.ndarray, seq_len: int, window: int, group: int, share: float
) -> dict[str, Any]:
    """What keeping near duplicates apart costs; groups lie within a few hundred documents, as on a path."""
    rng = np.random.Generator(np.random.PCG64(5))
    groups = np.full(len(lengths), -1, np.int64)
    for number, at in enumerate(rng.integers(0, len(lengths) - 300, int(share * len(lengths) / group))):
        groups[at + rng.choice(300, group, replace=False)] = number
    started = time.process_time()
    plan = pack(lengths, seq_len, window, groups=groups)
    seconds = time.process_time() - started
    own = groups[plan.doc]
    inside = np.setdiff1d(np.arange(1, len(own)), plan.offsets)
    side_by_side = (
        (own[inside] == own[inside - 1]) & (own[inside] >= 0) & (plan.doc[inside] != plan.doc[inside - 1])
    )
    return {
        "group": group,
        "documents_in_groups": int((groups >= 0).sum()),
        "window": window,
        "fill_percent_without": round(100 * pack(lengths, seq_len, window).fill, 3),
        "fill_percent": round(100 * plan.fill, 3),
        "neighbours_of_a_group": int(side_by_side.sum()),
        "cpu_s": round(seconds, 3),
    }


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--documents", type=int, default=1_000_000, help="log-normal documents")
    options = parser.parse_args()
    documents = 100_000 if options.quick else options.documents
    rng = np.random.Generator(np.random.PCG64(7))
    drawn = np.clip(rng.lognormal(6.0, 1.1, documents), 2, None).astype(np.int64)
    real = real_lengths(options.data)
    mixed = rng.permutation(real)
    for window in (1, 2):
        pack(drawn[:10], 1024, window, groups=np.zeros(10))  # compiles
    rows: Rows = []
    for name, lengths in (("real, by source", real), ("real, shuffled", mixed), ("log-normal", drawn)):
        rows += by_window(name, lengths)
    cells = [in_cells(mixed, 2048, w, n) for n in (20, 100, 1000) for w in (1, 64, 1024)]
    some = drawn[:100_000]
    copies = [near_duplicates(some, 2048, w, g, 0.1) for g in (2, 10, 100) for w in (1, 64, 1024)]
    for table in (rows, cells, copies):
        print(*table[0], sep="\t")
        for row in table:
            print(*row.values(), sep="\t")
    save(
        options.json,
        options.quick,
        {"windows": rows, "cells": cells, "near_duplicates": copies},
        ("numpy", "numba"),
    )


if __name__ == "__main__":
    main()
