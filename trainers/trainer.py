"""The training loop: from a stream of packed contexts to checkpoints and metrics."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.trainers.checkpoint import (
    latest_checkpoint,
    load_optimizer,
    load_weights,
    read_state,
    same_vocabulary,
    save_checkpoint,
)
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays, Prefetcher, StreamLike
from mixloom.trainers.metrics import MetricsLog, OnRecord, Record, ends, plain_lines, read_metrics
from mixloom.trainers.step import Run, Totals


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


def train(
    stream: StreamLike,
    vocabulary: dict[str, Any],
    model_config: ModelConfig,
    config: TrainConfig,
    out_dir: Path | str,
    *,
    start: Mapping[str, Tensor] | None = None,
    held_out: Arrays | None = None,
    eval_every: int = 0,
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
        start: weights to begin with (a `state_dict` of such a model) in place of fresh ones; a run that goes on has
            its own.
        held_out: contexts to evaluate on, never trained on: `(input_ids, doc_lengths, domains)`.
        eval_every: updates between two evaluations of them; 0: only at the end.
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
    out_dir.mkdir(parents=True, exist_ok=True)
    run = Run(model_config, config, vocabulary)
    if start is not None:
        run.model.load_state_dict(start)
    loop = _Loop(stream, run, config, out_dir, held_out, eval_every, on_record)
    began = time.perf_counter()
    with _termination() as terminated:
        loop.go(progress, lambda: terminated.is_set() or (should_stop is not None and should_stop()))
    return loop.result(time.perf_counter() - began)


class _Loop:
    """Where one call of `train` stands."""

    def __init__(
        self,
        stream: StreamLike,
        run: Run,
        config: TrainConfig,
        out_dir: Path,
        held_out: Arrays | None,
        eval_every: int,
        on_record: OnRecord | None,
    ) -> None:
        self.stream, self.run, self.config, self.out_dir = stream, run, config, out_dir
        self.held_out, self.eval_every, self.on_record = held_out, eval_every, on_record
        self.folder = out_dir / "checkpoints"
        self.step = _resume(self.folder, run, stream)
        self.log = MetricsLog(out_dir / "metrics.jsonl", last_step=self.step)
        self.totals = Totals(run.model.config.modalities)
        self.tokens = 0
        self.eval_loss: dict[str, float | None] = {}

    def go(self, progress: Callable[[int, int], None] | None, ended: Callable[[], bool]) -> None:
        """Update until all steps are made or `ended` says so; the last thing done is a checkpoint."""
        config = self.config
        batches = Prefetcher(
            self.stream,
            self.step,
            config.steps,
            parts=config.grad_accumulation,
            modality=self.run.table,
            modalities=self.run.model.config.modalities,
            document_mask=self.run.model.config.document_mask,
        )
        stop = False
        try:
            while self.step < config.steps and not stop:
                waiting = time.perf_counter()
                made = batches.next()
                self.totals.wait += time.perf_counter() - waiting
                rate, norm, sound = self.run.update(made, self.step, self.totals)
                self.step += 1
                stop = ended()
                last = stop or self.step == config.steps
                save = last or self._due(config.checkpoint_every)
                evaluate = self.held_out is not None and (last or self._due(self.eval_every))
                if save or evaluate or not sound or self._due(config.log_every):
                    self._record(rate, norm, evaluate)
                if save:
                    self._save()
                if progress is not None:
                    progress(self.step, config.steps)
        finally:
            batches.close()
            self.log.close()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _record(self, rate: float, norm: Tensor, evaluate: bool) -> None:
        record = {
            **self.totals.record(self.run.names),
            "step": self.step,
            "steps": self.config.steps,
            "lr": rate,
            "grad_norm": float(norm),
        }
        _require_finite(record, self.stream, self.totals.updates, self.out_dir)
        if evaluate and self.held_out is not None:
            self.eval_loss = self.run.evaluate(self.held_out)
            record["eval_loss"] = self.eval_loss
        self.log.write(record)
        self.tokens += record["tokens"]
        if self.on_record is not None:
            self.on_record(record)
        self.totals.reset()

    def _save(self) -> None:
        save_checkpoint(
            self.folder,
            model=self.run.model,
            optimizer=self.run.optimizer,
            step=self.step,
            stream=self.stream.state(self.step),
            configs={
                "model": self.run.model.config.model_dump(mode="json"),
                "train": self.config.model_dump(mode="json"),
                "vocabulary": self.run.vocabulary,
            },
            keep_last=self.config.keep_last,
        )

    def result(self, seconds: float) -> TrainResult:
        checkpoint = latest_checkpoint(self.folder)
        assert checkpoint is not None, "a run that has ended has a checkpoint"
        both = ends(read_metrics(self.log.path), self.run.names)
        return TrainResult(
            steps=self.step,
            stopped_early=self.step < self.config.steps,
            loss_first=both.first,
            loss_last=both.last,
            loss_first_by_modality=both.first_by_modality,
            loss_last_by_modality=both.last_by_modality,
            eval_loss=self.eval_loss,
            tokens=self.tokens,
            seconds=seconds,
            checkpoint=checkpoint,
            metrics=self.log.path,
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


def _resume(folder: Path, run: Run, stream: StreamLike) -> int:
    """Load the newest checkpoint, if any, and return the update to go on with."""
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        return 0
    state = read_state(checkpoint)
    same_vocabulary(state, run.vocabulary, what="these shards")
    # Settings that are younger than the checkpoint had their default then.
    was = {**ModelConfig().model_dump(mode="json"), **state["configs"]["model"]}
    now = run.model.config.model_dump(mode="json")
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


def _require_finite(record: Record, stream: StreamLike, updates: int, out_dir: Path) -> None:
    """Stop at a loss or gradient that is not finite, naming the documents of the `updates` since the last record."""
    if math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]):
        return
    stop = record["step"]
    documents = {str(step + 1): stream.documents(step) for step in range(stop - updates, stop)}
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
