"""An update made again, exactly as it was, to see what its documents did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.trainers.checkpoint import list_checkpoints, step_of
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Batch, StreamLike
from mixloom.trainers.diagnostics import look
from mixloom.trainers.flow import with_flow_setting
from mixloom.trainers.incidents import Naming
from mixloom.trainers.spikes import locate, shares
from mixloom.trainers.step import Run, Totals, token_losses
from mixloom.trainers.trainer import fitted, resume

if TYPE_CHECKING:
    from mixloom.trainers.recipe import TrainRecipe


def replay(
    stream: StreamLike,
    vocabulary: dict[str, Any],
    model_config: ModelConfig,
    config: TrainConfig,
    out_dir: Path | str,
    step: int,
    *,
    image_vectors: np.ndarray | None = None,
) -> dict[str, Any]:
    """Go from the checkpoint before update `step` (from 1) up to it, make it, and say what each document did.

    On a CPU with the same number of threads the weights it meets are those it met in training, bit for bit. Nothing of
    the run is changed; the answer is also written to `out_dir/replay-STEP.json`.

    Returns:
        step, checkpoint, loss, loss_expected, grad_norm, skipped (whether training left it out), contexts_at_fault
        (numbers), contexts: loss, loss_expected, targets, grad_norm (each alone) and share of the excess loss; documents:
        context, doc_id, targets, loss, loss_expected, share, largest excess first; and what `diagnostics.look` sees.

    Raises:
        UserError: a step outside the run, or settings that are not those of the run.
    """
    out_dir = Path(out_dir)
    if not 1 <= step <= config.steps:
        raise UserError(
            f"there is no update {step} in a run of {config.steps}", fix=f"give one from 1 to {config.steps}"
        )
    model_config = fitted(stream, vocabulary, model_config, config)
    model_config = with_flow_setting(model_config, vocabulary, image_vectors)
    run = Run(model_config, config, vocabulary, image_vectors=image_vectors)
    before = [c for c in list_checkpoints(out_dir / "checkpoints") if step_of(c) < step]
    at, _ = resume(out_dir / "checkpoints", run, stream, before[-1]) if before else (0, {})
    for n in range(at, step - 1):
        made = run.batches(stream.batch_arrays(n), config.grad_accumulation)
        run.update(made, n, Totals(model_config.modalities))
    found = _examine(run, stream, step - 1)
    report = {"step": step, "checkpoint": before[-1].name if before else None, **found}
    path = out_dir / f"replay-{step:08d}.json"
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _examine(run: Run, stream: StreamLike, step: int) -> dict[str, Any]:
    """Every context and document of an update, then the update itself."""
    arrays = stream.batch_arrays(step)
    names = stream.context_documents(step) if isinstance(stream, Naming) else None
    level = run.watch.level()
    base = np.where(np.isnan(level.by_modality), 0.0, level.by_modality)
    contexts, documents = [], []
    singles = run.batches(arrays, arrays[0].shape[0])
    for row, batch in enumerate(singles):
        pieces, sums, counts = _pieces(run, batch)
        expected = counts @ base
        for i, name in enumerate(_named(names, row, len(pieces), stream, step)):
            if counts[i].sum():
                documents.append(_line(row, name, sums[i].sum(), expected[i], int(counts[i].sum())))
        contexts.append(_line(row, None, sums.sum(), expected.sum(), int(counts.sum())))
        contexts[-1]["grad_norm"] = _gradient_norm(run, batch)
    documents.sort(key=lambda x: -x["excess"])
    for group in (contexts, documents):
        for line, share in zip(group, shares([x.pop("excess") for x in group])):
            line["share"] = share
    totals = Totals(run.model.config.modalities)
    seen = look(run.model, singles[0].to(run.device), run.kind, run.dtype)
    parts = run.batches(arrays, run.config.grad_accumulation)
    update = run.update(parts, step, totals)
    sums, counts = totals.contexts(0)
    return {
        "loss": totals.loss(0),
        "loss_expected": float(counts.sum(0) @ base / max(1, counts.sum())),
        "grad_norm": float(update.norm),
        "grad_norm_usual": level.norm,
        "skipped": bool(update.skipped),
        "contexts_at_fault": locate(sums, counts, level),
        "contexts": contexts,
        "documents": documents,
        **seen,
    }


def _line(context: int, name: str | None, loss: float, expected: float, targets: int) -> dict[str, Any]:
    own = {} if name is None else {"doc_id": name}
    per = max(1, targets)
    return {
        "context": context,
        **own,
        "targets": targets,
        "loss": float(loss) / per,
        "loss_expected": float(expected) / per,
        "excess": float(loss - expected),
    }


def _named(names: list[list[str]] | None, row: int, pieces: int, stream: StreamLike, step: int) -> list[str]:
    """A name for each piece of a context: its document where the stream knows it, else its place."""
    own = names[row] if names is not None else []
    return [own[i] if i < len(own) else f"padding or piece {i}" for i in range(pieces)]


def _pieces(run: Run, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each piece of one context: its length, nats and targets by modality of the target, [P] and [P, K]."""
    moved = batch.to(run.device)
    losses = token_losses(run.model, moved, run.kind, run.dtype, run.chunk).double().cpu().numpy()
    valid = batch.targets.numpy() >= 0
    pieces = batch.piece_lengths
    where = np.repeat(np.arange(len(pieces)), pieces) * len(run.names) + batch.target_modality.numpy()
    shape = (len(pieces), len(run.names))
    sums = np.bincount(where[valid], losses[valid], len(pieces) * len(run.names)).reshape(shape)
    counts = np.bincount(where[valid], minlength=len(pieces) * len(run.names)).reshape(shape)
    return pieces, sums, counts


def _gradient_norm(run: Run, batch: Batch) -> float:
    """Norm of the gradient of the mean loss of one context alone."""
    run.optimizer.zero_grad(set_to_none=True)
    (run.losses(batch.to(run.device)).total / max(1, batch.targets_total)).backward()
    norm = float(run.towers.squares().sum().sqrt())
    run.optimizer.zero_grad(set_to_none=True)
    return norm


def replay_recipe(config: TrainRecipe, step: int) -> dict[str, Any]:
    """`replay` for a training of a run directory; reads it only, but for the answer.

    Raises:
        UserError: no such run or training; see `replay`.
    """
    from mixloom.pipeline.manifest import ShardManifest
    from mixloom.pipeline.run import RunDirectory
    from mixloom.trainers.stage import TrainStage

    run = RunDirectory.existing(config.run_dir)
    stage = TrainStage(config.model, config.train, config.mixture, config.name)
    folder = Path(run.stage(stage.name).store.root)
    if not list_checkpoints(folder / "checkpoints"):
        raise UserError(f"{folder} has no checkpoint", fix="train first; name the training with name=NAME")
    manifest = ShardManifest.load(run.stage("shards").store.root)
    return replay(
        stage.source(run),
        manifest.vocabulary,
        config.model,
        config.train,
        folder,
        step,
        image_vectors=stage.image_vectors(run),
    )


def told(report: dict[str, Any], most: int = 10) -> str:
    """A replay as text: the update, then the documents that carry most of its excess loss."""
    at_fault = report["contexts_at_fault"]
    lines = [
        f"update {report['step']}: loss {report['loss']:.4f}, expected {report['loss_expected']:.4f}; gradient norm "
        f"{report['grad_norm']:.4g}, usual {report['grad_norm_usual']:.4g}; "
        + ("left out in training" if report["skipped"] else "applied in training"),
        "all of its contexts are bad: look at the learning rate"
        if at_fault is None
        else f"contexts at fault: {', '.join(map(str, at_fault)) or 'none'}",
        f"{'share':>6}  {'loss':>8}  {'expected':>8}  {'targets':>7}  {'context':>7}  document",
    ]
    for d in report["documents"][:most]:
        lines.append(
            f"{d['share']:6.1%}  {d['loss']:8.3f}  {d['loss_expected']:8.3f}  {d['targets']:7}  {d['context']:7}  "
            f"{d['doc_id']}"
        )
    return "\n".join(lines)
