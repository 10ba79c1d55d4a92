"""Loading for a training: our stream with mixture, packing and masks, against MosaicML Streaming, LitData and WebDataset.

    python benchmarks/loading.py --peer-python PYTHON [--contexts 32768] [--rounds 5] [--quick] [--json FILE]

PYTHON is the interpreter of an environment of its own with `mosaicml-streaming`, `litdata` and `webdataset`. All sides serve the
same contexts of 2048 tokens, packed with documents of text, image and speech codes from four domains, in an order of
their own, as batches of 64 contexts. Files are in the page cache. Every side runs in a process of its own; sides take
turns, round by round, and the median is told. All sides must come to the same sum of tokens.

What a side gives is told in every row. "ids": token ids and nothing else. "ids and lengths": ours, the ids drawn by the mixture
with the lengths of the documents that masks are made of. "batches": what a training eats, seven arrays as long as the tokens
(ids, targets, positions, documents, the modality-major order, its inverse, the modality of every target) and the counts by
modality; ours by `trainers.data.Prefetcher`, as narrow as torch takes them, the peers' ids by array arithmetic, in int64 as
numpy gives it (`usual_batch` in peer_reading.py).

The goal, at least 2 times the fastest peer, is read from the row that holds our whole batches against bare ids of the peers,
both shuffled by context: everything is counted that we do, and nothing of it that they would still have to do.

Every side is at its best: reading in the process that trains (0), with threads ahead (ours, 1 or 2), or with 2 worker processes.
How the peers are set up: as in reading.py, a sample being a context, which is shuffled as such. "Blocks" are sides whose sample
is a whole batch of contexts, which then stays together for ever: WebDataset on our tars, and the same of the other two. They
are told apart, for such an order is not that of a training; they do little but copy, so whole batches cannot be twice as fast.

Then a small model trains on the same shards, and the share of its time spent waiting for data is told.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from reading import BATCH, NAMES, SEQ_LEN, add_peer_options, peer_versions, side, written_by_peers
from recording import options_parser, save

from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

MODALITIES = (6000, 1500, 692)  # ids of text (with specials), image and speech
END = 1
DOMAINS = {"web": 4, "code": 2, "papers": 1, "images": 1}  # eighths of the contexts
CONTEXTS = ("webdataset_contexts", "mosaic", "litdata")
BLOCKS = ("webdataset", "mosaic_blocks", "litdata_blocks")
TOKENS = ("mixloom_stream", "mixloom_thread", *CONTEXTS, *BLOCKS)
BATCHES = ("mixloom_batches", "webdataset_batches", "mosaic_batches", "litdata_batches")
ALL_NAMES = {
    **NAMES,
    "webdataset": "WebDataset on our tars, blocks",
    "webdataset_contexts": "WebDataset",
    "mixloom_batches": "mixloom stream and batches",
    "webdataset_batches": "WebDataset and batches",
    "mosaic_batches": "MosaicML Streaming and batches",
    "litdata_batches": "LitData and batches",
}


def vocabulary() -> dict[str, Any]:
    """Text, image and speech ids in ranges of their own."""
    starts = np.cumsum((0, *MODALITIES))
    ranges = [
        {"name": n, "start": int(s), "size": k, "used": k, "modality": m, "fingerprint": n}
        for m, (n, s, k) in enumerate(zip(("text", "image", "speech"), starts, MODALITIES))
    ]
    size = int(starts[-1])
    return {"version": 1, "size": size, "pad": 0, "dtype": "uint16", "ranges": ranges, "fingerprint": "v"}


def context(rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """A full context of documents: text, with runs of 64 to 256 codes here and there; each ends with END."""
    ids = rng.integers(2, MODALITIES[0], SEQ_LEN, dtype=np.uint16)
    starts = np.cumsum((0, *MODALITIES))
    for at in rng.integers(0, SEQ_LEN, 6).tolist():
        kind, length = int(rng.integers(1, 3)), int(rng.integers(64, 256))
        part = ids[at : at + length]
        part[:] = rng.integers(starts[kind], starts[kind + 1], len(part), dtype=np.uint16)
    cuts = np.unique(np.minimum(np.cumsum(rng.lognormal(5.8, 0.9, 40).astype(np.int64) + 8), SEQ_LEN))
    ids[cuts - 1] = END
    return ids, np.diff(np.append(0, cuts)).tolist()


def write(folder: Path, contexts: int) -> None:
    """The flat file of all contexts, and our tars of the same, by domain."""
    rng = np.random.Generator(np.random.PCG64(1))
    about = {"seq_len": SEQ_LEN, "contexts": contexts, "batch": BATCH, "end": END, "modalities": MODALITIES}
    (folder / "about.json").write_text(json.dumps(about))
    entries, singles = [], []
    with (folder / "flat.bin").open("wb") as flat:
        for d, (domain, eighths) in enumerate(DOMAINS.items()):
            rows = []
            for _ in range(contexts * eighths // 8):
                ids, lengths = context(rng)
                flat.write(ids.tobytes())
                names = [f"{rng.integers(1 << 32):032x}" for _ in lengths]
                rows.append(Context(ids, lengths, names, [domain] * len(lengths), [0] * len(lengths)))
            common = {"seq_len": SEQ_LEN, "vocabulary": vocabulary(), "prefix": key_prefix(d, 0)}
            name = shard_name(domain, 0, 1)
            entries.append(write_shard(folder / "tars", name, domain, rows, block=BATCH, **common))
            singles.append(write_shard(folder / "single", name, domain, rows, block=1, **common))
    build_manifest(entries, vocabulary(), seq_len=SEQ_LEN).save(folder / "tars")


def given(name: str) -> str:
    """What a side hands on."""
    if name in BATCHES:
        return "batches"
    return "ids and lengths" if name in TOKENS[:2] else "ids"


def measure(
    folder: Path, peer: str, rounds: int, total: int, contexts: int, quick: bool
) -> list[dict[str, Any]]:
    """Tokens per second of every side, taking turns; workers are left out of a quick run, for they are slower."""
    turns = [*((name, 0) for name in (*TOKENS, *BATCHES)), (BATCHES[0], 1)]
    if not quick:
        left_out = (*TOKENS[:2], "webdataset_contexts")
        turns += [(name, 2) for name in (*TOKENS, *BATCHES) if name not in left_out]
    wall: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    cpu: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    for _ in range(rounds):
        for name, workers in turns:
            python = sys.executable if name.startswith("mixloom") else peer
            found = side(python, "read", name, folder, "shuffled", workers)
            if (found["contexts"], found["sum"]) != (contexts, total):
                sys.exit(f"{name} ({workers} workers) served other tokens: {found}")
            wall[name, workers].append(found["tokens"] / found["seconds"] / 1e6)
            cpu[name, workers].append(found["tokens"] / found["cpu_seconds"] / 1e6)
            print(ALL_NAMES[name], workers, round(wall[name, workers][-1], 1), sep="\t", flush=True)
    return [
        {
            "gives": given(name),
            "side": ALL_NAMES[name],
            "workers_or_threads": workers,
            "mtokens_per_s": round(statistics.median(found), 1),
            # Worker processes have time of their own, which is not counted here; our threads are of this process.
            "mtokens_per_cpu_second": (
                None if workers and name != BATCHES[0] else round(statistics.median(cpu[name, workers]), 1)
            ),
        }
        for (name, workers), found in wall.items()
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the fastest peer, each at its best: by the clock, and by processor time without workers."""
    groups = (
        (BATCHES[:1], CONTEXTS, "ids", True),
        (BATCHES[:1], BATCHES[1:], "batches", False),
        (TOKENS[:2], CONTEXTS, "ids", False),
        (TOKENS[:2], BLOCKS, "ids by whole blocks", False),
        (BATCHES[:1], BLOCKS, "ids by whole blocks", False),
    )
    out = []
    for ours, theirs, give, goal in groups:
        told: dict[str, Any] = {"ours_gives": given(ours[0]), "peers_give": give, "goal_is_read_here": goal}
        for column, times in (
            ("mtokens_per_s", "times_as_fast"),
            ("mtokens_per_cpu_second", "times_per_cpu_second"),
        ):
            mine, peer = (
                max(
                    (r for r in rows if r["side"] in {ALL_NAMES[n] for n in names} and r[column]),
                    key=lambda r: r[column],
                )
                for names in (ours, theirs)
            )
            if column == "mtokens_per_s":
                told["our_threads"] = mine["workers_or_threads"]
                told["fastest_peer"] = f"{peer['side']}, {peer['workers_or_threads']} workers"
                told["ours_mtokens_per_s"], told["peer_mtokens_per_s"] = mine[column], peer[column]
            told[times] = round(mine[column] / peer[column], 2)
        out.append(told)
    return out


def waiting(folder: Path, steps: int) -> dict[str, Any]:
    """A small model on the shards: the share of the time that updates waited for data."""
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream
    from mixloom.pipeline.shard_reader import ShardReader
    from mixloom.trainers.config import ModelConfig, TrainConfig
    from mixloom.trainers.stage import StreamSource
    from mixloom.trainers.trainer import train

    reader = ShardReader(folder / "tars")
    mixture = weigh(reader.manifest, MixtureConfig(), steps * 2)
    config = TrainConfig(steps=steps, batch_contexts=2, log_every=5, warmup=2, checkpoint_every=steps)
    stream = Stream(reader, mixture, seed=0, batch_contexts=2, steps=steps)
    model = ModelConfig(dim=64, layers=2, heads=2)
    train(StreamSource(stream), reader.manifest.vocabulary, model, config, folder / "train")
    lines = (folder / "train" / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "data_wait" in r]
    shares = [r["data_wait"] for r in records[1:]]  # the first one opens the files
    speed = statistics.median(r["tokens_per_second"] for r in records[1:])
    return {
        "updates": steps,
        "trained_tokens_per_s": round(speed),
        "largest_wait_share": round(max(shares), 5),
        "mean_wait_share": round(statistics.mean(shares), 5),
    }


def main() -> None:
    parser = options_parser(__doc__ or "", data=False)
    add_peer_options(parser, 512)
    options = parser.parse_args()
    contexts, rounds = (4096, 2) if options.quick else (options.contexts, options.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, contexts)
        total = written_by_peers(folder, options.peer_python)
        rows = measure(folder, options.peer_python, rounds, total, contexts, options.quick)
        wait = waiting(folder, 20 if options.quick else 60)
    told = summary(rows)
    for row in (*told, wait):
        print(*row.values(), sep="\t")
    figures = {
        "tokens": contexts * SEQ_LEN,
        "rounds": rounds,
        "peer_versions": peer_versions(options.peer_python),
        "summary": told,
        "training": wait,
        "sides": rows,
    }
    save(options.json, options.quick, figures, ("numpy", "torch", "numba"))


if __name__ == "__main__":
    main()
