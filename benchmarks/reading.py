"""Reading tokens: our reader on our tars, against WebDataset, MosaicML Streaming, LitData and a flat file, in one run.

    python benchmarks/reading.py --peer-python PYTHON [--contexts 32768] [--rounds 5] [--quick] [--json FILE]

PYTHON is the interpreter of an environment of its own with `mosaicml-streaming`, `litdata` and `webdataset`. All sides read
the same contexts of 2048 tokens (uint16), in order and shuffled, in one process and with two DataLoader workers, and hand
them on as batches of 64 contexts in memory of their own. Every side reads in a process of its own; sides take turns, round
by round, and the median is told. Files are in the page cache: this measures what reading costs beside the disk.
With workers all sides, a flat file too, do little but hand tensors from process to process; ours needs none, so the last row is
the stream with a thread that reads ahead. The summary takes every side at its best, with or without workers.

How the peers are set up. WebDataset: on our own tars, whose samples are blocks of 64 contexts, members other than the
tokens skipped by `select_files`; shuffled by tar and by a buffer of blocks, never by context. MosaicML Streaming: local,
uncompressed, a sample is a context. LitData: its TokensLoader, which maps its chunks into memory, an item is a context. The rows
"blocks" give the last two what our tars give WebDataset: a sample is a whole batch, which then cannot be shuffled by context.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from recording import options_parser, save

from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SCRIPT = Path(__file__).with_name("peer_reading.py")
SEQ_LEN, BATCH, SHARDS = 2048, 64, 4
OURS = ("flat", "mixloom", "mixloom_checked", "mixloom_stream", "mixloom_thread")
PEERS = ("webdataset", "mosaic", "litdata", "mosaic_blocks", "litdata_blocks")
NAMES = {
    "flat": "flat file, memory-mapped",
    "mixloom": "mixloom reader",
    "mixloom_checked": "mixloom reader, verify on",
    "mixloom_stream": "mixloom stream",
    "mixloom_thread": "mixloom stream, a thread ahead",
    "webdataset": "WebDataset on our tars",
    "mosaic": "MosaicML Streaming",
    "litdata": "LitData tokens",
    "mosaic_blocks": "MosaicML Streaming, blocks",
    "litdata_blocks": "LitData tokens, blocks",
}
VOCABULARY = {
    "version": 1,
    "size": 65536,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [{"name": "text", "start": 0, "size": 65536, "used": 65536, "modality": 0, "fingerprint": "t"}],
    "fingerprint": "v",
}


def write(folder: Path, contexts: int) -> None:
    """The flat file, and our tars of the same contexts."""
    ids = np.random.Generator(np.random.PCG64(1)).integers(1, 65536, (contexts, SEQ_LEN), dtype=np.uint16)
    ids.tofile(folder / "flat.bin")
    (folder / "about.json").write_text(json.dumps({"seq_len": SEQ_LEN, "contexts": contexts, "batch": BATCH}))
    entries, each = [], contexts // SHARDS
    for s in range(SHARDS):
        rows = (
            Context(ids[i], [SEQ_LEN // 2, SEQ_LEN // 2], ["a" * 32, "b" * 32], ["web", "web"], [0, 0])
            for i in range(s * each, (s + 1) * each)
        )
        common = {"prefix": key_prefix(0, s), "seq_len": SEQ_LEN, "vocabulary": VOCABULARY, "block": BATCH}
        entries.append(write_shard(folder / "tars", shard_name("d", s, SHARDS), "d", rows, **common))
    build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN).save(folder / "tars")


def side(python: str, what: str, name: str, folder: Path, mode: str, workers: int) -> dict[str, Any]:
    """Let one side write or read in a process of its own."""
    arguments = [python, str(SCRIPT), what, name, str(folder), mode, str(workers)]
    environment = {**os.environ, "LITDATA_CACHE_DIR": str(folder / "litdata-cache")}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{name} failed ({what}):\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def add_peer_options(parser: argparse.ArgumentParser, multiple: int) -> None:
    """Options of a script that reads the same contexts as the peers do; --contexts must be a multiple of `multiple`."""
    told = "Python of the peers' environment"
    parser.add_argument("--peer-python", required=True, metavar="PYTHON", help=told)
    told = f"contexts of {SEQ_LEN} tokens (a multiple of {multiple})"
    parser.add_argument("--contexts", type=int, default=32768, help=told)
    parser.add_argument("--rounds", type=int, default=5)


def written_by_peers(folder: Path, peer: str) -> int:
    """Let the peers write their copies of `flat.bin`; the sum of all its tokens, to which all sides must come."""
    for name in ("mosaic", "litdata"):
        side(peer, "write", name, folder, "sequential", 0)
    return int(np.fromfile(folder / "flat.bin", np.uint16).sum(dtype=np.int64))


def sides(mode: str, workers: int) -> list[str]:
    """Who takes part: checking is timed alone; a block of contexts cannot be shuffled as contexts are."""
    some = [*OURS, *PEERS]
    if workers:
        some.remove("mixloom_checked")
    if mode == "sequential":
        some.remove("mixloom_stream")  # a stream is an order of its own
    if mode == "sequential" or not workers:
        some.remove("mixloom_thread")
    return some


def measure(
    folder: Path, peer: str, rounds: int, mode: str, workers: int, total: int
) -> list[dict[str, Any]]:
    speeds: dict[str, list[float]] = {name: [] for name in sides(mode, workers)}
    contexts = json.loads((folder / "about.json").read_text())["contexts"]
    for _ in range(rounds):
        for name in speeds:
            found = side(sys.executable if name in OURS else peer, "read", name, folder, mode, workers)
            if (found["contexts"], found["sum"]) != (contexts, total):
                sys.exit(f"{name} ({mode}, {workers} workers) read other tokens: {found}")
            speeds[name].append(found["tokens"] / found["seconds"])
    middle = {name: statistics.median(x) for name, x in speeds.items()}
    return [
        {
            "read": mode,
            "workers": workers,
            "side": NAMES[name],
            "mtokens_per_s": round(middle[name] / 1e6, 1),
            "reader_times_as_fast": round(middle["mixloom"] / middle[name], 2),
        }
        for name in speeds
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our reader against the fastest peer and a flat file: each at its best, with or without worker processes."""
    out = []
    for mode in dict.fromkeys(r["read"] for r in rows):
        best: dict[str, tuple[float, int]] = {}
        for r in rows:
            if r["read"] == mode:
                best[r["side"]] = max(best.get(r["side"], (0.0, 0)), (r["mtokens_per_s"], r["workers"]))
        told: dict[str, Any] = {"read": mode}
        ours = best[NAMES["mixloom"]][0]
        for what, peers in (("peer", PEERS[:3]), ("peer_or_blocks", PEERS)):
            fastest = max((NAMES[p] for p in peers), key=lambda name: best[name])
            told[f"fastest_{what}"] = f"{fastest}, {best[fastest][1]} workers"
            told[f"times_fastest_{what}"] = round(ours / best[fastest][0], 2)
        out.append({**told, "flat_over_ours": round(best[NAMES["flat"]][0] / ours, 2)})
    return out


def peer_versions(python: str) -> dict[str, str]:
    """What is installed in the peers' environment."""
    wanted = ("webdataset", "mosaicml-streaming", "litdata", "torch")
    code = (
        "from importlib.metadata import version as v; import json; print(json.dumps({n: v(n) for n in %r}))"
    )
    done = subprocess.run([python, "-c", code % (wanted,)], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = options_parser(__doc__ or "", data=False)
    add_peer_options(parser, 256)
    options = parser.parse_args()
    contexts, rounds = (16384, 3) if options.quick else (options.contexts, options.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, contexts)
        total = written_by_peers(folder, options.peer_python)
        rows = []
        for workers in (0, 2):
            for mode in ("sequential", "shuffled"):
                rows += measure(folder, options.peer_python, rounds, mode, workers, total)
                for row in rows[-len(sides(mode, workers)) :]:
                    print(*row.values(), sep="\t", flush=True)
    told = summary(rows)
    for row in told:
        print(row)
    figures = {
        "tokens": contexts * SEQ_LEN,
        "rounds": rounds,
        "peer_versions": peer_versions(options.peer_python),
        "summary": told,
        "sides": rows,
    }
    save(options.json, options.quick, figures, ("numpy", "torch", "numba"))


if __name__ == "__main__":
    main()
