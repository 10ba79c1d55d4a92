"""The training loop: from a stream of packed contexts to checkpoints and metrics."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.trainers.checkpoint import (
    Saver,
    latest_checkpoint,
    load_optimizer,
    load_weights,
    read_state,
    same_vocabulary,
)
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays, Batch, Prefetcher, StreamLike
from mixloom.trainers.diagnostics import Watchman, look
from mixloom.trainers.distributed import World, forget_gathered, join
from mixloom.trainers.flops import peak
from mixloom.trainers.flow import with_flow_setting
from mixloom.trainers.incidents import Incidents
from mixloom.trainers.metrics import MetricsLog, OnRecord, ends, plain_lines, read_metrics
from mixloom.trainers.online_mixing import OnlineMixing
from mixloom.trainers.sinks import open_sinks
from mixloom.trainers.step import Run, Totals, Update


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
    world: World | None = None,
    image_vectors: np.ndarray | None = None,
) -> TrainResult:
    """Train, or go on with the run that stands in `out_dir`.

    Under `torchrun` every rank calls this with the same arguments; each asks `stream.batch_arrays(step, rank, world)` for
    its own rows, rank 0 writes, and all get the same result. Resuming gives the same weights, bit for bit, as never having stopped (on a CPU with the same number of
    threads). SIGTERM ends the run after the current update, with a checkpoint.

    Args:
        stream: contexts of every update. vocabulary: serialised, see `data.modality_table`.
        model_config: `vocab_size` 0 is taken from the vocabulary, `seq_len` from the contexts.
        out_dir: gets metrics.jsonl, checkpoints/ and, where updates are left out, spikes.jsonl.
        start: weights to begin with (a `state_dict` of such a model) in place of fresh ones; a run that goes on has
            its own.
        held_out: contexts to evaluate on, never trained on: `(input_ids, doc_lengths, domains)`.
        eval_every: updates between two evaluations of them; 0: only at the end.
        progress: called with (updates made, updates in all) after every update. on_record: called with every
            record; where neither is given, plain lines are printed. should_stop: asked after every update.
        world: the ranks that train together; None: those that torchrun started.
        image_vectors: float32 [codes, C], what the image codec decodes each code from; `model.flow` needs them.

    Raises:
        UserError: spikes that stop the run (`train.spike`); settings or data that differ from those of the run in `out_dir`;
            cuda asked for where there is none.
    """
    world = world or join(config)
    out_dir = Path(out_dir)
    if progress is None and on_record is None and world.first:
        on_record = plain_lines()
    if config.threads:
        torch.set_num_threads(config.threads)
    model_config = with_flow_setting(
        fitted(stream, vocabulary, model_config, config), vocabulary, image_vectors
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    run = Run(model_config, config, vocabulary, world=world, start=start, image_vectors=image_vectors)
    loop = _Loop(stream, run, config, out_dir, held_out, eval_every, on_record)
    began = time.perf_counter()
    with _termination() as terminated, _collected():
        loop.go(progress, lambda: terminated.is_set() or (should_stop is not None and should_stop()))
    return loop.result(time.perf_counter() - began)


class _Own:
    """The rows of a stream that belong to one rank."""

    def __init__(self, stream: Any, world: World) -> None:
        self._stream, self._world = stream, world

    def batch_arrays(self, step: int) -> Arrays:
        world = self._world
        own: Arrays = self._stream.batch_arrays(step, *((world.rank, world.size) if world.size > 1 else ()))
        return own


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
        self.world = run.world
        self.held_out, self.eval_every, self.on_record = held_out, eval_every, on_record
        self.folder = out_dir / "checkpoints"
        self.step, kept = resume(self.folder, run, stream)
        self.incidents = Incidents(
            *(config.spike, stream, out_dir, self.world), last_step=self.step, state=kept.get("incidents")
        )
        self.watchman = Watchman(kept.get("watchman"))
        self.mixing = OnlineMixing(
            config.online_mixing, stream, self.world, config.steps, kept.get("online_mixing")
        )
        self.world.wait()  # all have read before anything is written
        self.log = MetricsLog(out_dir / "metrics.jsonl", last_step=self.step) if self.world.first else None
        self.sinks = open_sinks(config, out_dir) if self.world.first else []
        self.saver = Saver(
            self.folder,
            world=self.world,
            keep_last=config.keep_last,
            keep_every=config.keep_every,
            background=config.async_checkpoint,
        )
        self.totals = Totals(run.model.config.modalities, self.world)
        one = peak(run.device, run.dtype)
        self.peak = one * self.world.size if one else None
        self.tokens = 0
        self.eval_loss: dict[str, float | None] = {}

    def go(self, progress: Callable[[int, int], None] | None, ended: Callable[[], bool]) -> None:
        """Update until all steps are made or `ended` says so; the last thing done is a checkpoint."""
        config = self.config
        batches = self._batches()
        stop = False
        try:
            while self.step < config.steps and not stop:
                waiting = time.perf_counter()
                made = batches.next()
                self.totals.wait += time.perf_counter() - waiting
                update = self.run.update(made, self.step, self.totals)
                self.step += 1
                stop = self.world.any(ended())
                last = stop or self.step == config.steps
                save = last or self._due(config.checkpoint_every)
                evaluate = self.held_out is not None and (last or self._due(self.eval_every))
                probe = self._due(config.spike.probe_every)
                failed = self.run.device.type == "cpu" and bool(update.skipped)
                remix = self.mixing.due(self.step)
                if save or evaluate or probe or failed or remix or self._due(config.log_every):
                    seen = self._look(made[0]) if probe else {}
                    changed = self._record(update, evaluate, seen)
                    if remix:
                        changed |= self.mixing.change(self.step)
                    if changed:
                        batches.close()
                        batches = self._batches()
                if save:
                    self._save()
                if progress is not None and self.world.first:
                    progress(self.step, config.steps)
            self.saver.wait()
        finally:
            batches.close()
            self.saver.close()
            for sink in (self.log, *self.sinks):
                if sink is not None:
                    sink.close()

    def _batches(self) -> Prefetcher:
        return Prefetcher(
            _Own(self.stream, self.world),  # type: ignore[arg-type]  # a prefetcher asks for arrays only
            self.step,
            self.config.steps,
            parts=self.config.grad_accumulation,
            modality=self.run.table,
            modalities=self.run.model.config.modalities,
            document_mask=self.run.model.config.document_mask,
            config=self.run.model.config,
        )

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _look(self, batch: Batch) -> dict[str, Any]:
        """Activations of one part of a batch, and the size of the update just made."""
        run = self.run
        moved = self.world.sum_on_device(run.towers.moved(run.optimizer).to(run.device))
        ratios = (moved[0] / moved[1].clamp(min=1e-30)).sqrt().tolist()
        names = ["shared", *run.names]
        seen = look(run.model, batch.to(run.device), run.kind, run.dtype)
        forget_gathered(run.model)
        return {**seen, "update_to_weight": {n: r for n, r, w in zip(names, ratios, moved[1].tolist()) if w}}

    def _record(self, update: Update, evaluate: bool, seen: dict[str, Any]) -> bool:
        """Write what has happened since the last record; returns whether later batches have changed."""
        run = self.run
        left_out = self.totals.left_out()
        changed = bool(left_out) and self.incidents.deal(
            left_out, run.watch.level(), self.step, self.watchman.caution()
        )
        record = self.totals.record(run.names, run.model.config, self.peak)
        if evaluate and self.held_out is not None:
            self.eval_loss = run.evaluate(self.held_out)
        if record is not None:
            record |= {"step": self.step, "steps": self.config.steps, "lr": update.rate, **seen}
            self.mixing.see(record)
            cause = self.watchman.see(record)
            if cause is not None:
                record["caution"] = cause
            if evaluate and self.held_out is not None:
                record["eval_loss"] = self.eval_loss
            self.tokens += record["tokens"]
            for sink in (self.log, *self.sinks):
                if sink is not None:
                    sink.write(record)
            if self.on_record is not None and self.world.first:
                self.on_record(record)
        self.totals.reset()
        return changed

    def _save(self) -> None:
        self.saver.save(
            model=self.run.model,
            optimizer=self.run.optimizer,
            step=self.step,
            stream=self.stream.state(self.step),
            configs={
                "model": self.run.model.config.model_dump(mode="json"),
                "train": self.config.model_dump(mode="json"),
                "vocabulary": self.run.vocabulary,
            },
            extra={
                "watch": self.run.watch.state(),
                "incidents": self.incidents.state(),
                "watchman": self.watchman.state(),
                "online_mixing": self.mixing.state(),
            },
        )

    def result(self, seconds: float) -> TrainResult:
        checkpoint = latest_checkpoint(self.folder)
        assert checkpoint is not None, "a run that has ended has a checkpoint"
        metrics = self.out_dir / "metrics.jsonl"
        self.world.wait()  # for rank 0 to have written them
        records = read_metrics(metrics)
        if not records:
            raise UserError(
                f"none of the {self.step} updates could be applied: every one was left out (see {self.incidents.path})",
                fix="look at the documents named there and at the weights the run began with, and train in a new folder",
            )
        both = ends(records, self.run.names)
        # A run that had ended before this call has evaluated already.
        told = [r["eval_loss"] for r in records if "eval_loss" in r]
        evaluated = self.eval_loss or (told[-1] if told and self.held_out is not None else {})
        return TrainResult(
            steps=self.step,
            stopped_early=self.step < self.config.steps,
            loss_first=both.first,
            loss_last=both.last,
            loss_first_by_modality=both.first_by_modality,
            loss_last_by_modality=both.last_by_modality,
            eval_loss=evaluated,
            tokens=self.tokens,
            seconds=seconds,
            checkpoint=checkpoint,
            metrics=metrics,
        )


def fitted(
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
    served = getattr(stream, "steps", None)
    if served is not None and served < config.steps:
        raise UserError(
            f"the stream has {served:,} steps, but train.steps is {config.steps:,}: it would end before the training",
            fix="build the stream with the same number",
        )
    return model_config.filled(vocab_size=size, seq_len=seq_len)


def resume(
    folder: Path, run: Run, stream: StreamLike, checkpoint: Path | None = None
) -> tuple[int, dict[str, Any]]:
    """Load a checkpoint into a run, and return the update to go on with and what else was kept; (0, {}) without one.

    Args:
        folder: of the checkpoints; its newest is taken unless `checkpoint` is given.

    Raises:
        UserError: it was made with other settings, data or vocabulary.
    """
    checkpoint = checkpoint or latest_checkpoint(folder)
    if checkpoint is None:
        return 0, {}
    state = read_state(checkpoint)
    same_vocabulary(state, run.vocabulary, what="these shards")
    # Settings that are younger than the checkpoint had their default then.
    was = {**ModelConfig().model_dump(mode="json"), **state["configs"]["model"]}
    now = run.model.config.model_dump(mode="json")
    changed = [f"model.{k}: was {was.get(k)!r}, is {v!r}" for k, v in now.items() if was.get(k) != v]
    trained = {**TrainConfig().model_dump(mode="json"), **state["configs"]["train"]}
    changed += [f"train.{line}" for line in run.config.differences(trained)]
    if changed:
        raise UserError(
            f"{checkpoint} was made with other settings: " + "; ".join(changed),
            fix="put the settings back to go on, or train in a new folder",
        )
    stream.check(state["stream"])
    load_weights(checkpoint, run.model)
    load_optimizer(checkpoint, run.model, run.optimizer)
    extra = state.get("extra", {})
    if "watch" in extra:
        run.watch.load(extra["watch"])
    return int(state["step"]), extra


@contextmanager
def _collected() -> Iterator[None]:
    """Python's collector leaves what exists now alone while inside: its pauses grow with the number of objects."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
