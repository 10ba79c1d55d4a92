"""How soon untied models reach the loss of the dense one: documents of text, images and speech, several seeds.

Used by benchmarks/mot.py. All models have the same width, blocks and active FLOPs for a token, read the same contexts in the
same order, and are asked on the same held-out documents every few updates. The learning rate is constant after its rise, so
an update late in the training of one model is not worth more than the same update of another.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_lm import Contexts, Shuffled, packed

from mixloom.pipeline.config import read_yaml, validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.demo.corpus import write_corpus
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings
from mixloom.pipeline.storage import resolve
from mixloom.tokenizers.fitted import Codecs
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.recipe import RunConfig, run_stages, stages_of
from mixloom.trainers.trainer import train

CONF = Path(__file__).parents[1] / "conf"
SOURCES = (
    "d2l",
    "based-cooking",
    "openstax-sociology",
    "legendland",
    "coco",
    "ljspeech",
    "kerstin-de",
    "fsdd",
)
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"untie": ()},
    "feed-forward untied": {"untie": ("ffn",)},
    "mixture of transformers": {"untie": ("attention", "ffn", "norm")},
    "MoMa, 2 experts each": {"untie": (), "experts": {"counts": (2, 2, 2)}},
    "6 experts for all": {"untie": (), "experts": {"counts": (6,), "groups": "all"}},
}
# Slopes of the training loss over updates, 37M model on text and images; speech at 443M (arXiv 2411.04996, figures 6 and 10).
PUBLISHED = {"text": 0.546, "image": 0.260, "speech": 0.151}
Curve = list[tuple[int, dict[str, float]]]


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    dim: int = 96
    layers: int = 3
    length: int = 384
    batch: int = 8
    steps: int = 200
    every: int = 25
    seeds: int = 3
    codec_steps: int = 400
    held_out: int = 48  # contexts

    @classmethod
    def quick(cls) -> Size:
        return cls(dim=64, layers=2, length=256, steps=160, every=16, seeds=1, codec_steps=150, held_out=48)


def run_config(data: Path, folder: Path, size: Size) -> RunConfig:
    """The real sets with pictures or speech, and the demo's own corpus, with small codecs."""
    write_corpus(folder / "demo", 7)
    tree = read_yaml((CONF / "real/shared.yaml").read_text(encoding="utf-8"), "shared.yaml")
    made = read_yaml((CONF / "demo/demo.yaml").read_text(encoding="utf-8"), "demo.yaml")
    sources = [s for s in tree["sources"] if s["name"] in SOURCES]
    for source in made["sources"]:
        path = str(folder / "demo" / source["path"])
        sources.append({**source, "name": f"demo-{source['name']}", "path": path})
    tokenizer = {
        "text": {"vocab_size": 2048},
        "image": {**made["tokenizer"]["image"], "steps": size.codec_steps},
        "speech": {"units": 100},
    }
    return validate(
        RunConfig,
        {
            "run_dir": str(folder / "run"),
            "data_root": str(data),
            "sources": sources,
            "seed": 1,
            "max_failed_share": 0.2,
            "cluster": {"k": 8},
            "tokenizer": tokenizer,
        },
        "benchmarks/mot_learning.py",
    )


def documents(data: Path, folder: Path, size: Size) -> tuple[list[np.ndarray], list[str], dict[str, Any]]:
    """Tokens and id of every document that survives curation, and the serialised vocabulary."""
    config = run_config(data, folder, size)
    roots = {s.name: resolve(config.data_root, s.path) for s in config.sources}
    run = RunDirectory(config.run_dir)
    stages = stages_of(config, roots)
    until = [s.name for s in stages].index("tokenize") + 1
    run_stages(stages[:until], run, RunSettings(1, 2, (), config.max_failed_share), Console(quiet=True))
    reader = run.stage("tokenize").reader()
    ids: list[np.ndarray] = []
    names: list[str] = []
    for part in sorted(reader.parts):
        table = reader.read(part, ["doc_id", "input_ids"])
        names += table["doc_id"].to_pylist()
        ids += [np.asarray(x.values, np.uint16) for x in table["input_ids"]]
    return ids, names, Codecs.load(run.stage("tokenizer").store).vocabulary.to_json()


def contexts(ids: list[np.ndarray], names: list[str], size: Size) -> tuple[Contexts, Contexts]:
    """Contexts trained on and held out, by document: one in ten by its id, as many as are asked for."""
    kept = np.array([int(n[:8], 16) % 10 == 0 for n in names])
    rng = np.random.Generator(np.random.PCG64(0))
    trained, held = (rng.permutation(np.flatnonzero(mask)) for mask in (~kept, kept))
    out = packed(ids, held, size.length, 64)
    few = slice(size.held_out)
    return packed(ids, trained, size.length, 64), Contexts(out.ids[few], out.lengths[few], out.documents[few])


def learn(
    job: tuple[str, int, Size], trained: Contexts, held_out: Contexts, vocabulary: dict[str, Any]
) -> tuple[str, int, Curve]:
    """Train one model; its held-out loss by modality ("text", "image", "speech", "all") every few updates."""
    name, seed, size = job
    torch.set_num_threads(1)
    model = ModelConfig(dim=size.dim, layers=size.layers, heads=size.dim // 32, norm="swin", **MODELS[name])
    rate = 2e-3
    config = TrainConfig(
        steps=size.steps,
        batch_contexts=size.batch,
        lr=rate,
        min_lr=rate,
        warmup=20,
        seed=seed,
        log_every=size.every,
        checkpoint_every=0,
        device="cpu",
    )
    curve: Curve = []

    def note(record: dict[str, Any]) -> None:
        if "eval_loss" in record:
            found = {
                k: v for k, v in record["eval_loss"].items() if k in (*PUBLISHED, "all") and v is not None
            }
            curve.append((record["step"], found))

    with tempfile.TemporaryDirectory() as folder:
        train(
            Shuffled(trained, seed, size.batch),
            vocabulary,
            model,
            config,
            folder,
            held_out=held_out.arrays,
            eval_every=size.every,
            on_record=note,
        )
    return name, seed, curve


def steps_to(curve: Curve, kind: str, loss: float) -> float:
    """Updates after which the loss is first reached, between two askings by a straight line; infinite: never."""
    before: tuple[int, float] | None = None
    for step, found in curve:
        value = found[kind]
        if value <= loss:
            if before is None or before[1] == value:
                return float(step)
            share = (before[1] - loss) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = step, value
    return float("inf")


def rows_of(
    curves: dict[tuple[str, int], Curve], size: Size, seconds: dict[str, float]
) -> list[dict[str, Any]]:
    """For every model and modality: final loss, and its updates and seconds to the final loss of the dense model.

    seconds: of an update of each model, times that of the dense one.
    """
    rows = []
    for name in MODELS:
        for kind in ("text", "image", "speech", "all"):
            own = [curves[name, s] for s in range(size.seeds)]
            dense = [curves["dense", s] for s in range(size.seeds)]
            finals = np.array([c[-1][1][kind] for c in own])
            row: dict[str, Any] = {"model": name, "modality": kind, "final loss": float(finals.mean())}
            if name != "dense":
                ratios = np.array([steps_to(o, kind, d[-1][1][kind]) / d[-1][0] for o, d in zip(own, dense)])
                reached = np.isfinite(ratios)
                row |= {
                    "lower than dense": int((finals < [d[-1][1][kind] for d in dense]).sum()),
                    "seeds": size.seeds,
                    "updates to dense": float(np.median(ratios)) if reached.all() else None,
                    "least": float(ratios.min()) if reached.any() else None,
                    "most": float(ratios.max()) if reached.all() else None,
                    "seconds to dense": float(np.median(ratios) * seconds[name]) if reached.all() else None,
                    "published, MoT": PUBLISHED.get(kind) if name == "mixture of transformers" else None,
                }
            rows.append(row)
    return rows


def learning(data: Path, size: Size, workers: int, seconds: dict[str, float]) -> dict[str, Any]:
    """The table of `rows_of`, and what was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        ids, names, vocabulary = documents(data, Path(folder), size)
    trained, held_out = contexts(ids, names, size)
    print(
        f"{len(ids)} documents, {trained.tokens} tokens to train on, {held_out.tokens} held out", flush=True
    )
    curves: dict[tuple[str, int], Curve] = {}
    jobs = [(name, seed, size) for seed in range(size.seeds) for name in MODELS]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(learn, job, trained, held_out, vocabulary) for job in jobs]
        for future in running:
            name, seed, curve = future.result()
            curves[name, seed] = curve
            print(f"{name}, seed {seed}: {curve[-1][1]}", flush=True)
    return {
        "documents": len(ids),
        "trained tokens": trained.tokens,
        "held-out tokens": held_out.tokens,
        "updates": size.steps,
        "tokens of an update": size.batch * size.length,
        "learning": rows_of(curves, size, seconds),
    }
