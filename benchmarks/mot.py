"""What does an update of a Mixture-of-Transformers cost against the dense model of equal active FLOPs, and what is it worth?

    python benchmarks/mot.py [--data ROOT] [--quick] [--threads 1] [--only demo] [--workers 2] [--json FILE]

Cost: Both models are settings of the same code, see the same batches, and take turns in one process, so what else
the machine does falls on both; the figure is the median of the ratios of neighbouring updates. An update is
forward, backward, clipping and AdamW, with the batch made beforehand. The goal of the design is a ratio of
at most 1.03 on one GPU. Rows for a device that is not there say "not measured".

Worth (with --data): dense, untied and mixture models learn from the same contexts of real documents with pictures and speech
and of the demo's corpus; told are the updates that each needs to the final held-out loss of the dense one, as a share of the
updates of the dense one, by modality: the slope that the papers publish. Losses of models with experts are those without a
look at later tokens. The models are tiny and read a few million tokens, so order and direction are comparable, sizes are not.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import options_parser, save

from mixloom.trainers.attention import Kind
from mixloom.trainers.config import DENSE, MOT, ModelConfig, TrainConfig
from mixloom.trainers.data import Batch, make_batch
from mixloom.trainers.flops import attended, peak, work
from mixloom.trainers.step import Run, Totals

IMAGE_CODES, SPEECH_UNITS = 1024, 512


@dataclass(frozen=True)
class Case:
    """One comparison: a size of model and batch on a device."""

    name: str
    device: str
    dim: int
    layers: int
    heads: int
    vocab: int
    contexts: int
    length: int


CASES = [
    Case("demo", "cpu", 128, 4, 4, 8192, 8, 512),
    Case("demo wide", "cpu", 192, 4, 6, 8192, 8, 512),
    Case("94M of the paper", "cuda", 512, 8, 8, 65536, 6, 4096),
    Case("443M of the paper", "cuda", 1024, 24, 16, 65536, 6, 4096),
    Case("1.5B of the paper", "cuda", 2048, 24, 16, 65536, 4, 4096),
]
QUICK = [Case("tiny", "cpu", 64, 2, 2, 2560, 4, 256), CASES[2]]
VARIANTS: dict[str, dict[str, Any]] = {
    "mot": {"untie": MOT},
    "ffn only": {"untie": ("ffn",)},
    "moma 2t2i2s": {"untie": (), "experts": {"counts": (2, 2, 2)}},
}


def vocabulary(size: int) -> dict[str, Any]:
    """A vocabulary of `size` ids with its last blocks given to image codes and speech units."""
    image, speech = size - IMAGE_CODES - SPEECH_UNITS, size - SPEECH_UNITS
    spans = [("special", 0, 256, 0), ("text", 256, image - 256, 0), ("image", image, IMAGE_CODES, 1)]
    spans.append(("speech", speech, SPEECH_UNITS, 2))
    ranges = [{"name": n, "start": a, "size": s, "used": s, "modality": m} for n, a, s, m in spans]
    return {"size": size, "ranges": ranges}


def batch_of(case: Case, seed: int) -> Batch:
    """Packed documents of log-normal length (median about 120 tokens), each about half text, 30% image, 20% speech."""
    rng = np.random.Generator(np.random.PCG64(seed))
    table = np.zeros(case.vocab, dtype=np.uint8)
    image, speech = case.vocab - IMAGE_CODES - SPEECH_UNITS, case.vocab - SPEECH_UNITS
    table[image:speech], table[speech:] = 1, 2
    ids = np.zeros((case.contexts, case.length), dtype=np.uint32)
    lengths = []
    for row in ids:
        at, pieces = 0, []
        while at < case.length:
            size = min(case.length - at, 16 + int(rng.lognormal(4.8, 0.6)))
            first, second = at + size // 2, at + size * 4 // 5
            row[at:first] = rng.integers(256, image, first - at)
            row[first:second] = rng.integers(image, speech, second - first)
            row[second : at + size] = rng.integers(speech, case.vocab, at + size - second)
            pieces.append(size)
            at += size
        lengths.append(np.array(pieces))
    return make_batch(ids, lengths, table)


def build(case: Case, parts: dict[str, Any], kind: Kind | None = None) -> Run:
    model = ModelConfig(
        dim=case.dim,
        layers=case.layers,
        heads=case.heads,
        **parts,
        vocab_size=case.vocab,
        seq_len=case.length,
    )
    run = Run(model, TrainConfig(device=case.device), vocabulary(case.vocab))  # type: ignore[arg-type]
    if kind is not None:
        run.kind = kind
    return run


def timed(run: Run, batch: Batch, step: int) -> float:
    """Seconds of one update."""
    totals = Totals(3)
    start = time.perf_counter()
    run.update([batch], step, totals)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(base: Run, other: Run, batches: list[Batch], rounds: int, warm: int) -> dict[str, float]:
    """Medians of both, and of the ratio other / base of neighbouring updates; who goes first alternates."""
    times: list[tuple[float, float]] = []
    for i in range(warm + rounds):
        batch = batches[i % len(batches)]
        if i % 2:
            b, a = timed(other, batch, i), timed(base, batch, i)
        else:
            a, b = timed(base, batch, i), timed(other, batch, i)
        if i >= warm:
            times.append((a, b))
    ratios = sorted(b / a for a, b in times)
    return {
        "base_seconds": statistics.median(a for a, _ in times),
        "other_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
        "rounds": rounds,
    }


def used(run: Run, seconds: float, batches: list[Batch], name: str) -> dict[str, float]:
    """MFU of a model by both definitions of `flops`, where the peak of the device is known."""
    most = peak(run.device, run.dtype)
    if most is None:
        return {}
    done = []
    for batch in batches:
        tokens, pairs = attended(batch)
        places = batch.shape[0] * batch.shape[1]
        done.append(work(run.model.config, tokens=tokens, pairs=pairs, places=places))
    useful, full = (statistics.mean(w[i] for w in done) / seconds / most for i in (0, 1))
    return {f"{name}_mfu": useful, f"{name}_mfu_full": full}


def rows_of(case: Case, rounds: int, warm: int) -> list[dict[str, Any]]:
    batches = [batch_of(case, seed) for seed in range(4)]
    tokens = case.contexts * case.length
    rows = []
    dense = build(case, {"untie": DENSE})
    pairs: list[tuple[str, str, Run]] = [
        ("dense", name, build(case, parts)) for name, parts in VARIANTS.items()
    ]
    if case.device == "cpu":
        pairs.append(("dense, buckets", "dense, mask", build(case, {"untie": DENSE}, "mask")))
    for base_name, name, other in pairs:
        made = compare(dense, other, batches, rounds, warm)
        rows.append(
            {
                "case": case.name,
                "device": case.device,
                "base": base_name,
                "other": name,
                "parameters": sum(p.numel() for p in other.model.parameters()),
                "active": other.model.config.parameters(active=True),
                "base_tokens_per_second": tokens / made["base_seconds"],
                "other_tokens_per_second": tokens / made["other_seconds"],
                **made,
                **used(dense, made["base_seconds"], batches, "base"),
                **used(other, made["other_seconds"], batches, "other"),
            }
        )
    gc.collect()
    return rows


def seconds_of(case: Case, models: dict[str, dict[str, Any]], rounds: int) -> dict[str, float]:
    """Seconds of an update of each model, times that of the first."""
    batches = [batch_of(case, seed) for seed in range(4)]
    first, *others = models
    dense, out = build(case, models[first]), {first: 1.0}
    for name in others:
        out[name] = compare(dense, build(case, models[name]), batches, rounds, 2)["ratio"]
    return out


def main() -> None:
    parser = options_parser(__doc__ or "", data=False)
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="folder of the real data sets; without it nothing learns"
    )
    parser.add_argument("--workers", type=int, default=2, help="models that learn at a time (2)")
    parser.add_argument("--rounds", type=int, help="updates of each model that count (7, on a GPU 21)")
    parser.add_argument("--threads", type=int, help="CPU threads; 1 is the steadier figure on a busy machine")
    parser.add_argument("--only", help="only the case of this name")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warm = 2 if options.quick else 4
    rounds = {"cpu": options.rounds or 7, "cuda": options.rounds or (7 if options.quick else 21)}
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    print(json.dumps(machine))
    print(f"{'case':<20}{'device':<8}{'compared':<30}{'base':>10}{'other':>10}{'ratio':>8}   middle half")
    results: list[dict[str, Any]] = []
    cases = QUICK if options.quick else CASES
    for case in (c for c in cases if options.only in (None, c.name)):
        if case.device == "cuda" and not torch.cuda.is_available():
            print(f"{case.name:<20}{case.device:<8}{'mot / dense':<30}not measured: no CUDA device")
            results.append({"case": case.name, "device": case.device, "not_measured": "no CUDA device"})
            continue
        try:
            rows = rows_of(case, rounds[case.device], warm)
        except torch.OutOfMemoryError:
            print(f"{case.name:<20}{case.device:<8}{'mot / dense':<30}not measured: not enough memory")
            results.append({"case": case.name, "device": case.device, "not_measured": "not enough memory"})
            torch.cuda.empty_cache()
            continue
        for row in rows:
            results.append(row)
            compared = f"{row['other']} / {row['base']}"
            print(
                f"{case.name:<20}{case.device:<8}{compared:<30}{row['base_seconds'] * 1e3:>8.0f}ms"
                f"{row['other_seconds'] * 1e3:>8.0f}ms{row['ratio']:>8.3f}   {row['ratio_low']:.3f} to {row['ratio_high']:.3f}"
            )
    figures = {"threads": machine["threads"], "gpu": machine["gpu"], "rows": results}
    if options.data is not None:
        # Curation, which it needs, is not there on every machine with a GPU.
        from mot_learning import MODELS, Size, learning

        size = Size.quick() if options.quick else Size()
        case = Case("learning", "cpu", size.dim, size.layers, size.dim // 32, 4096, size.batch, size.length)
        figures |= learning(
            options.data, size, options.workers, seconds_of(case, MODELS, rounds[case.device])
        )
        for row in figures["learning"]:
            print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    save(options.json, options.quick, figures, ("mixloom", "numpy", "torch"))


if __name__ == "__main__":
    main()
