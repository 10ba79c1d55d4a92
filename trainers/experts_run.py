"""Branch, train, merge on a run: an expert per domain, one model made of them, and all of them compared.

RUN/<name>/<domain>/     the training of an expert, with its checkpoints
RUN/<name>/merged/       the experts as one model, as `mixloom export` writes one
RUN/<name>/experts.json  steps, weights and losses
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.tokenizers.vocab import require_same_vocabulary
from mixloom.trainers.attention import choose
from mixloom.trainers.averaging import average, fisher, fisher_average
from mixloom.trainers.data import Batch, modality_names
from mixloom.trainers.evaluate import batch_of, spread
from mixloom.trainers.experts import Ensemble, branch, domain_stream, text_embedder, text_reader
from mixloom.trainers.experts_config import ExpertsRecipe
from mixloom.trainers.export import export_folder, load_checkpoint_model
from mixloom.trainers.metrics import said
from mixloom.trainers.model import Model
from mixloom.trainers.step import token_losses
from mixloom.trainers.trained import Trained, load_trained, pick

FILE = "experts.json"
Reads = Callable[[Batch], np.ndarray]  # a batch -> log probability of every target, float64 [T]


def experts_recipe(config: ExpertsRecipe, console: Console) -> dict[str, Any]:
    """Train, merge and compare; experts that are done are not trained again. Returns what experts.json holds.

    Raises:
        UserError: no such run, model or domain; a model of another vocabulary.
    """
    run = RunDirectory.existing(config.run_dir)
    root = Path(run.store.root)
    reader = ShardReader(run.stage("shards").store.root, verify=config.train.verify)
    inside = root / config.start
    seed = load_trained(inside if inside.is_dir() else config.start, "cpu")
    if seed.vocabulary.get("fingerprint") != reader.manifest.vocabulary.get("fingerprint"):
        require_same_vocabulary(seed.vocabulary, reader.manifest.vocabulary, what=f"the shards of {root}")
    with run.lock():
        steps = _steps(config, reader)
        models = _trained(config, console, reader, seed, root / config.name, steps)
        console.say(f"experts: {len(models)} are done; merging by {config.merge}")
        weights = _weights(config, reader, steps)
        merged = _merged(config, reader, seed, models, weights)
        whole = Trained(merged, seed.vocabulary, root, None, seed.tokenizers)
        export_folder(whole, root / config.name / "merged", replace=True)
        held_out = ShardReader(config.held_out) if config.held_out else reader
        losses = _compared(config, console, held_out, seed, merged, models, weights, root)
        about = {
            "start": str(seed.folder),
            "merge": config.merge,
            "experts": {n: {"steps": steps[n], "weight": round(w, 6)} for n, w in weights.items()},
            "compared_on": held_out.manifest.fingerprint,
            "held_out": config.held_out is not None,
            "losses": losses,
        }
        (root / config.name / FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _steps(config: ExpertsRecipe, reader: ShardReader) -> dict[str, int]:
    """Updates of each expert, by its domain: what is asked for, or as many as the domain holds contexts for."""
    for name in config.domains or ():
        if name not in reader.domains:
            raise UserError(
                f"experts.domains names '{name}', and the shards have no such domain{nearest(name, reader.domains)}",
                fix=f"domains are: {', '.join(reader.domains)}",
            )
    most = config.train
    return {
        name: min(most.steps, int(config.max_epochs * reader.contexts(name) + 1e-9) // most.batch_contexts)
        for name in config.domains or reader.domains
    }


def _trained(
    config: ExpertsRecipe,
    console: Console,
    reader: ShardReader,
    seed: Trained,
    folder: Path,
    steps: dict[str, int],
) -> dict[str, Model]:
    """The experts, on the CPU, by domain."""
    out: dict[str, Model] = {}
    start = seed.model.state_dict()
    model_config = seed.model.config.filled(
        vocab_size=seed.model.config.vocab_size, seq_len=reader.manifest.seq_len
    )
    for i, (name, count) in enumerate(steps.items(), 1):
        if not count:
            console.say(f"experts: {name} is too small for one update and keeps the weights of the start")
            out[name] = seed.model
            continue
        console.say(f"experts: {name}, {i} of {len(steps)}, {count} updates")
        train = config.train.model_copy(update={"steps": count})
        stream = domain_stream(
            reader,
            name,
            seed=train.seed,
            batch_contexts=train.batch_contexts,
            steps=count,
            max_epochs=config.max_epochs,
            patches=model_config.speech_patches is not None,
        )
        done = branch(
            start,
            {name: stream},
            seed.vocabulary,
            model_config,
            train,
            folder,
            on_record=said(console),
        )[name]
        if done.stopped_early:
            raise UserError(
                f"experts: {name} was stopped after {done.steps} of {count} updates; a checkpoint is saved",
                fix="run the same command again to go on from it",
            )
        out[name] = load_checkpoint_model(done.checkpoint)
    return out


def _weights(config: ExpertsRecipe, reader: ShardReader, steps: dict[str, int]) -> dict[str, float]:
    """Shares of the experts, summing to 1."""
    entries = {d.name: d.tokens / max(d.contexts, 1) for d in reader.manifest.domains}
    tokens = {n: count * config.train.batch_contexts * entries[n] for n, count in steps.items()}
    total = sum(tokens.values())
    if config.weigh == "even" or not total:
        return {n: 1 / len(steps) for n in steps}
    return {n: t / total for n, t in tokens.items()}


def _merged(
    config: ExpertsRecipe,
    reader: ShardReader,
    seed: Trained,
    models: dict[str, Model],
    weights: dict[str, float],
) -> Model:
    """One model of all experts, on the CPU."""
    states = [m.state_dict() for m in models.values()]
    shares = list(weights.values())
    if config.merge == "fisher":
        kind = choose(torch.device("cpu"), seed.model.config.head_dim, compiled=False)
        found = []
        for name, model in models.items():
            numbers = spread(reader.contexts(name), config.fisher_contexts)
            batches = [_batch(seed, reader, name, [i]) for i in numbers]
            found.append(fisher(model, batches, kind))
        state = fisher_average(states, found, shares)
    else:
        state = average(states, shares)
    merged = Model(seed.model.config)
    merged.load_state_dict(state)
    return merged.eval()


def _batch(seed: Trained, reader: ShardReader, domain: str, numbers: list[int]) -> Batch:
    return batch_of(seed.model.config, seed.vocabulary, reader, domain, numbers)


def _compared(
    config: ExpertsRecipe,
    console: Console,
    held_out: ShardReader,
    seed: Trained,
    merged: Model,
    models: dict[str, Model],
    weights: dict[str, float],
    root: Path,
) -> dict[str, dict[str, float]]:
    """Nats per target of the start, of the merged model and of the ensemble, by modality and "all"."""
    device = pick(config.train.device)
    readers = {"start": _alone(seed.model, device), "merged": _alone(merged, device)}
    ensemble = _ensemble(config, console, seed, models, weights, root, device)
    if ensemble is not None:
        readers["ensemble"] = ensemble.log_probs
    names = modality_names(seed.vocabulary)
    sums = {name: np.zeros(len(names)) for name in readers}
    counts = np.zeros(len(names), np.int64)
    chosen = [d for d in held_out.domains if config.domains is None or d in config.domains or config.held_out]
    with console.progress("compare") as advance:
        for done, domain in enumerate(chosen, 1):
            for number in spread(held_out.contexts(domain), config.contexts or None):
                batch = _batch(seed, held_out, domain, [number])
                counted = batch.targets.numpy() >= 0
                kinds = batch.target_modality.numpy()[counted]
                counts += np.bincount(kinds, minlength=len(names))
                for name, read in readers.items():
                    sums[name] -= np.bincount(kinds, read(batch)[counted], len(names))
            advance(done, len(chosen))
    out: dict[str, dict[str, float]] = {}
    for name, own in sums.items():
        out[name] = {n: float(s / c) for n, s, c in zip(names, own, counts, strict=True) if c}
        out[name]["all"] = float(own.sum() / max(1, counts.sum()))
    return out


def _alone(model: Model, device: torch.device) -> Reads:
    """Log probability of every target of a batch under one model, float64 [T]."""
    model = model.to(device).eval()
    kind = choose(device, model.config.head_dim, compiled=False)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def read(batch: Batch) -> np.ndarray:
        return -token_losses(model, batch.to(device), kind, dtype, 1024).double().cpu().numpy()

    return read


def _ensemble(
    config: ExpertsRecipe,
    console: Console,
    seed: Trained,
    models: dict[str, Model],
    weights: dict[str, float],
    root: Path,
    device: torch.device,
) -> Ensemble | None:
    """All experts that have a centre, routed by the run's embedder; None, with the reason said, where that cannot be."""
    from mixloom.pipeline.cluster import Domains
    from mixloom.pipeline.embedder import load_embedder
    from mixloom.tokenizers.stages import domain_name

    try:
        domains = Domains.load(root / "cluster" / "model")
        embedder = load_embedder(root / "embed" / "model")
        text = seed.decoders().text
    except UserError as error:
        console.say(f"experts: no ensemble is compared: {error.what}")
        return None
    centred = [(domain_name(j), j) for j in range(domains.k) if domain_name(j) in models]
    if not centred or text is None:
        console.say("experts: no ensemble is compared: no expert has a centre, or there is no text tokenizer")
        return None
    prior = np.array([weights[n] for n, _ in centred])
    return Ensemble(
        [models[n].to(device) for n, _ in centred],
        domains.centres[[j for _, j in centred]],
        text_embedder(embedder),
        text_reader(seed.vocabulary, text),
        config.routing,
        prior if prior.sum() > 0 else None,
    )
