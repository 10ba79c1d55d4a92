"""The training loop: from a stream of packed contexts to checkpoints and metrics."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.trainers.attention import choose
from mixloom.trainers.checkpoint import (
    latest_checkpoint,
    load_optimizer,
    load_weights,
    read_state,
    save_checkpoint,
)
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import (
    Arrays,
    Batch,
    Prefetcher,
    StreamLike,
    micro_batches,
    modality_names,
    modality_table,
)
from mixloom.trainers.loss import Losses, chunked_cross_entropy
from mixloom.trainers.metrics import MetricsLog, OnRecord, Record, ends, plain_lines, read_metrics
from mixloom.trainers.model import Model, compile_blocks
from mixloom.trainers.optim import build_optimizer, learning_rate, skip_absent


@dataclass(frozen=True)
class TrainResult:
    """Outcome of `train`. Losses are nats per target; see `metrics.ends` for what first and last mean.

    steps: updates made in all. stopped_early: a signal or `should_stop` ended the run before `config.steps`.
    tokens: targets trained on in this call. eval_loss: on the held-out contexts, by modality and "all"; else {}.
    """

    steps: int
    stopped_early: bool
    loss_first: float
    loss_last: float
    loss_first_by_modality: dict[str, float | None]
    loss_last_by_modality: dict[str, float | None]
    eval_loss: dict[str, float | None]
    tokens: int
    seconds: float
    checkpoint: Path
    metrics: Path

    def to_json(self) -> dict[str, Any]:
        """Everything but the time, as JSON values; paths as the names inside the folder of the run."""
        fields = {k: v for k, v in asdict(self).items() if k != "seconds"}
        return {**fields, "checkpoint": f"checkpoints/{self.checkpoint.name}", "metrics": self.metrics.name}


class _Totals:
    """Sums since the last record, kept on the device so that only a record waits for it."""

    def __init__(self, modalities: int) -> None:
        self._modalities = modalities
        self.reset()

    def reset(self) -> None:
        self.sums: list[Tensor] = []
        self.counts = np.zeros(self._modalities, dtype=np.int64)
        self.contexts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.wait = 0.0
        self.began = time.perf_counter()

    def add(self, batch: Batch, losses: Losses, order: Tensor | None) -> None:
        self.sums.append(losses.sums)
        self.counts += np.asarray(batch.target_counts)
        per_token = losses.per_token if order is None else losses.per_token[batch.inverse]
        valid = (batch.targets >= 0).view(batch.shape).sum(1)
        self.contexts.append((batch.domains, per_token.view(batch.shape).sum(1), valid))

    def record(self, names: Sequence[str]) -> Record:
        """Losses by modality and domain; waits for the device."""
        seconds = time.perf_counter() - self.began
        sums = torch.stack(self.sums).double().sum(0).tolist()
        tokens = int(self.counts.sum())
        domains, domain_sums, domain_counts = (torch.cat(part).cpu().numpy() for part in zip(*self.contexts))
        weights = np.bincount(domains, domain_sums.astype(np.float64))
        counted = np.bincount(domains, domain_counts).astype(np.int64)
        seen = np.flatnonzero(counted)
        return {
            "loss": sum(sums) / max(1, tokens),
            "loss_by_modality": {n: s / int(c) if c else None for n, s, c in zip(names, sums, self.counts)},
            "targets_by_modality": {n: int(c) for n, c in zip(names, self.counts)},
            "loss_by_domain": {str(d): float(weights[d] / counted[d]) for d in seen},
            "targets_by_domain": {str(d): int(counted[d]) for d in seen},
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / seconds, 1),
            "data_wait": round(self.wait / seconds, 4),
        }


class _Run:
    """State of one call of `train`: the model on its device and how to compute with it."""

    def __init__(self, model_config: ModelConfig, config: TrainConfig, vocabulary: dict[str, Any]) -> None:
        self.config = config
        self.device = _device(config)
        auto = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = auto if config.dtype == "auto" else getattr(torch, config.dtype)
        self.chunk = config.loss_chunk or (4096 if self.device.type == "cuda" else 256)
        self.table = modality_table(vocabulary)
        self.names = [*modality_names(vocabulary), *(f"modality{m}" for m in range(model_config.modalities))]
        self.names = self.names[: model_config.modalities]
        self.kind = choose(self.device, model_config.head_dim)
        self.model = Model(model_config, seed=config.seed).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        if self.device.type == "cuda" if config.compile == "auto" else config.compile:
            compile_blocks(self.model)

    def losses(self, batch: Batch) -> Losses:
        """Losses of one batch that is on the device."""
        hidden = self.model(self.model.rows(batch, self.kind, self.dtype), self.dtype)
        order = self.model.order(batch)
        targets, modality = batch.targets, batch.target_modality
        if order is not None:
            targets, modality = targets[order], modality[order]
        return chunked_cross_entropy(
            hidden,
            self.model.head_weight,
            targets,
            modality,
            modalities=self.model.config.modalities,
            chunk=self.chunk,
        )

    def update(self, batches: list[Batch], step: int, totals: _Totals) -> tuple[float, Tensor]:
        """One update; returns its learning rate and the norm of its gradient before clipping."""
        targets = max(1, sum(batch.targets_total for batch in batches))
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            on_device = batch.to(self.device)
            losses = self.losses(on_device)
            (losses.total / targets).backward()
            totals.add(on_device, losses, self.model.order(on_device))
        skip_absent(self.model, np.sum([batch.sizes for batch in batches], axis=0).tolist())
        limit = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Where looking is free, a poisoned gradient never reaches the weights.
        if self.device.type == "cuda" or math.isfinite(float(norm)):
            self.optimizer.step()
        return rate, norm

    @torch.no_grad()
    def evaluate(self, arrays: Arrays) -> dict[str, float | None]:
        """Loss per target on fixed contexts, by name of modality and "all"."""
        height = max(1, self.config.batch_contexts // self.config.grad_accumulation)
        sums = np.zeros(len(self.names))
        counts = np.zeros(len(self.names), dtype=np.int64)
        for start in range(0, arrays[0].shape[0], height):
            part = tuple(a[start : start + height] for a in arrays)
            for batch in micro_batches(part, 1, self.table, len(self.names)):  # type: ignore[arg-type]
                sums += self.losses(batch.to(self.device)).sums.double().cpu().numpy()
                counts += np.asarray(batch.target_counts)
        result: dict[str, float | None] = {
            n: float(s / c) if c else None for n, s, c in zip(self.names, sums, counts)
        }
        result["all"] = float(sums.sum() / counts.sum()) if counts.sum() else None
        return result


def train(
    stream: StreamLike,
    vocabulary: dict[str, Any],
    model_config: ModelConfig,
    config: TrainConfig,
    out_dir: Path | str,
    *,
    held_out: Arrays | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_record: OnRecord | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train, or go on with the run that stands in `out_dir`.

    Resuming gives the same weights, bit for bit, as never having stopped (on a CPU with the same number of
    threads). SIGTERM ends the run after the current update, with a checkpoint.

    Args:
        stream: contexts of every update. vocabulary: serialised, see `data.modality_table`.
        model_config: `vocab_size` 0 is taken from the vocabulary, `seq_len` from the contexts.
        out_dir: gets metrics.jsonl, checkpoints/ and, where the loss fails, nonfinite.json.
        held_out: contexts to evaluate on, never trained on: `(input_ids, doc_lengths, domains)`.
        progress: called with (updates made, updates in all) after every update. on_record: called with every
            record; where neither is given, plain lines are printed. should_stop: asked after every update.

    Raises:
        UserError: a loss that is not finite; settings or data that differ from those of the run in `out_dir`;
            cuda asked for where there is none.
    """
    out_dir = Path(out_dir)
    if progress is None and on_record is None:
        on_record = plain_lines()
    if config.threads:
        torch.set_num_threads(config.threads)
    model_config = _fitted(stream, vocabulary, model_config, config)
    run = _Run(model_config, config, vocabulary)
    out_dir.mkdir(parents=True, exist_ok=True)
    folder = out_dir / "checkpoints"
    start = _resume(folder, run, stream)
    log = MetricsLog(out_dir / "metrics.jsonl", last_step=start)
    configs = {"model": model_config.model_dump(mode="json"), "train": config.model_dump(mode="json")}
    checkpoint = latest_checkpoint(folder)
    began, tokens, step, eval_loss = time.perf_counter(), 0, start, {}
    totals = _Totals(model_config.modalities)

    def save() -> Path:
        return save_checkpoint(
            folder,
            model=run.model,
            optimizer=run.optimizer,
            step=step,
            stream=stream.state(step),
            configs=configs,
            keep_last=config.keep_last,
        )

    batches = iter(
        Prefetcher(
            stream,
            start,
            config.steps,
            parts=config.grad_accumulation,
            modality=run.table,
            modalities=model_config.modalities,
        )
    )
    stopped = False
    with _termination() as terminated:
        try:
            while step < config.steps and not stopped:
                waiting = time.perf_counter()
                made = next(batches)
                totals.wait += time.perf_counter() - waiting
                rate, norm = run.update(made, step, totals)
                step += 1
                stopped = terminated.is_set() or (should_stop is not None and should_stop())
                last = step == config.steps or stopped
                save_now = last or bool(config.checkpoint_every and step % config.checkpoint_every == 0)
                if step % config.log_every == 0 or save_now:
                    record = {
                        **totals.record(run.names),
                        "step": step,
                        "steps": config.steps,
                        "lr": rate,
                        "grad_norm": float(norm),
                    }
                    _require_finite(record, stream, config, out_dir)
                    if held_out is not None and (
                        last or (config.eval_every and step % config.eval_every == 0)
                    ):
                        eval_loss = run.evaluate(held_out)
                        record["eval_loss"] = eval_loss
                    log.write(record)
                    tokens += record["tokens"]
                    if on_record is not None:
                        on_record(record)
                    totals.reset()
                if save_now:
                    checkpoint = save()
                if progress is not None:
                    progress(step, config.steps)
        finally:
            log.close()
            batches.close()  # type: ignore[attr-defined]
    if checkpoint is None:
        raise AssertionError("a finished run has a checkpoint")
    return _result(
        out_dir,
        run.names,
        step,
        step < config.steps,
        eval_loss,
        tokens,
        time.perf_counter() - began,
        checkpoint,
    )


def _result(
    out_dir: Path,
    names: Sequence[str],
    step: int,
    stopped: bool,
    eval_loss: dict[str, float | None],
    tokens: int,
    seconds: float,
    checkpoint: Path,
) -> TrainResult:
    path = out_dir / "metrics.jsonl"
    both = ends(read_metrics(path), names)
    return TrainResult(
        steps=step,
        stopped_early=stopped,
        loss_first=both.first,
        loss_last=both.last,
        loss_first_by_modality=both.first_by_modality,
        loss_last_by_modality=both.last_by_modality,
        eval_loss=eval_loss,
        tokens=tokens,
        seconds=seconds,
        checkpoint=checkpoint,
        metrics=path,
    )


def _fitted(
    stream: StreamLike, vocabulary: dict[str, Any], model_config: ModelConfig, config: TrainConfig
) -> ModelConfig:
    """The model configuration with the sizes of the data, checked against them."""
    size = int(vocabulary["size"])
    if model_config.vocab_size not in (0, size):
        raise UserError(
            f"model.vocab_size is {model_config.vocab_size}, but the vocabulary has {size} ids",
            fix="leave vocab_size out; it is taken from the shards",
        )
    needed = max(int(item["modality"]) for item in vocabulary["ranges"]) + 1
    if model_config.modalities < needed:
        raise UserError(
            f"model.modalities is {model_config.modalities}, but the vocabulary has {needed} modalities",
            fix=f"set model.modalities to {needed}",
        )
    contexts, seq_len = stream.batch_arrays(0)[0].shape
    if contexts != config.batch_contexts:
        raise UserError(
            f"the stream gives {contexts} contexts a step, but train.batch_contexts is {config.batch_contexts}",
            fix="build the stream with the same number",
        )
    return model_config.filled(vocab_size=size, seq_len=seq_len)


def _device(config: TrainConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "train.device is cuda, but torch finds no CUDA device", fix="set train.device to auto or cpu"
        )
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _resume(folder: Path, run: _Run, stream: StreamLike) -> int:
    """Load the newest checkpoint, if any, and return the update to go on with."""
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return 0
    state = read_state(checkpoint)
    was, now = state["configs"]["model"], run.model.config.model_dump(mode="json")
    changed = [f"model.{k}: was {was.get(k)!r}, is {v!r}" for k, v in now.items() if was.get(k) != v]
    changed += [f"train.{line}" for line in run.config.differences(state["configs"]["train"])]
    if changed:
        raise UserError(
            f"{checkpoint} was made with other settings: " + "; ".join(changed),
            fix="put the settings back to go on, or train in a new folder",
        )
    stream.check(state["stream"])
    load_weights(checkpoint, run.model)
    load_optimizer(checkpoint, run.optimizer)
    return int(state["step"])


def _require_finite(record: Record, stream: StreamLike, config: TrainConfig, out_dir: Path) -> None:
    """Stop at a loss or gradient that is not finite, naming the documents of the updates since the last record."""
    if math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]):
        return
    stop = record["step"]
    steps = range(max(0, stop - config.log_every), stop)
    documents = {str(step + 1): stream.documents(step) for step in steps}
    report = out_dir / "nonfinite.json"
    report.write_text(json.dumps({"record": record, "documents": documents}, indent=1), encoding="utf-8")
    named = documents[str(stop)]
    shown = ", ".join(named[:20]) + (f" and {len(named) - 20} more" if len(named) > 20 else "")
    raise UserError(
        f"the loss ({record['loss']}) or gradient norm ({record['grad_norm']}) is not finite at step {stop}; "
        f"documents in that step: {shown} (all of them in {report})",
        fix="look at those documents with 'mixloom explain'; lower train.lr or raise train.warmup if they are sound; "
        "the last checkpoint is from before",
    )


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, while inside; outside the main thread signals are left alone."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
