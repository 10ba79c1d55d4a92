"""Checkpoints: everything a run needs to go on as if it had never stopped, on any number of ranks.

    checkpoints/step-00000200/model.safetensors      weights
                              optimizer.safetensors  moments: exp_avg.NAME and exp_avg_sq.NAME
                              random.safetensors     state of the random generators of rank 0
                              state.json             step, state of the stream, configurations; written last
    checkpoints/latest                               name of the newest one

Several ranks write `shard-00001-model-00001-of-00002.safetensors` in place of the first two, each its own rows, by
torch.distributed.checkpoint with its safetensors storage; what a file holds stands in its header. (The usual storage
of that library keeps an index as pickle, which we neither write nor read.) Either form is read on any number of ranks.

A checkpoint is written to a hidden folder and renamed, so one that can be seen is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import require_same_vocabulary
from mixloom.trainers.distributed import World, is_sharded, local
from mixloom.trainers.model import Model

VERSION = 2
_WEIGHTS_READABLE = (1, 2)  # version 1 kept moments in a file of another kind, and its weights as now
_NAME = re.compile(r"^step-(\d{8,})$")
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Saver:
    """Writes checkpoints, one at a time, in a thread unless told not to.

    Args:
        keep_last: newest checkpoints that stay. keep_every: those at multiples of this step stay too; 0: none.
        background: copy what is saved and go on while it is written; else `save` returns when it is on disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        world: World | None = None,
        keep_last: int,
        keep_every: int = 0,
        background: bool,
    ) -> None:
        self.folder, self._world = folder, world or World()
        self._keep_last, self._keep_every, self._background = keep_last, keep_every, background
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def save(
        self,
        *,
        model: Model,
        optimizer: torch.optim.Optimizer,
        step: int,
        stream: dict[str, Any],
        configs: dict[str, Any],
        extra: dict[str, Any] | None = None,
    ) -> Path:
        """Start to write the checkpoint before update `step`; an error of the one before is raised here.

        Every rank calls this at the same step.

        Args:
            stream: JSON value to give back to the stream. configs, extra: JSON values, read back from `read_state`.
        """
        self._finish_running()
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        weights, moments, counts = _tensors(model, optimizer)
        state = {
            "version": VERSION,
            "step": step,
            "ranks": self._world.size,
            "stream": stream,
            "configs": configs,
            "optimizer": counts,
            "extra": extra or {},
        }
        if self._world.first:
            self._prepare(temporary)
        if self._world.size == 1:
            if self._background:
                weights, moments = _copies(weights), _copies(moments)
            self._start(lambda: self._write(temporary, final, weights, moments, state))
        else:
            self._world.wait()
            written = self._write_sharded(temporary, weights, moments)
            self._start(lambda: self._settle(written, temporary, final, state))
        if not self._background:
            self.wait()
        return final

    def wait(self) -> None:
        """Until the last checkpoint can be seen, on every rank."""
        self._finish_running()
        self._world.wait()

    def close(self) -> None:
        """Wait without raising and without the other ranks: the way out of a run that has failed."""
        self._pool.shutdown()

    def _start(self, work: Any) -> None:
        self._running = self._pool.submit(work)

    def _finish_running(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _prepare(self, temporary: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for cut_off in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(cut_off)
        temporary.mkdir()
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        save_file(random, temporary / "random.safetensors")

    def _write(
        self,
        temporary: Path,
        final: Path,
        weights: dict[str, Tensor],
        moments: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        save_file({k: v.contiguous() for k, v in weights.items()}, temporary / "model.safetensors")
        save_file({k: v.contiguous() for k, v in moments.items()}, temporary / "optimizer.safetensors")
        self._publish(temporary, final, state)

    def _write_sharded(
        self, temporary: Path, weights: dict[str, Tensor], moments: dict[str, Tensor]
    ) -> Future[Any] | None:
        import torch.distributed.checkpoint as dcp

        files = dict.fromkeys(weights, 1) | dict.fromkeys(moments, 2)
        writer = dcp.HuggingFaceStorageWriter(
            str(temporary), fqn_to_index_mapping=files, save_distributed=True
        )
        everything, group = {**weights, **moments}, self._world.files
        # The library copies what lies on a device and would write host memory while it changes.
        everything = {k: t.clone() if t.device.type == "cpu" else t for k, t in everything.items()}
        if not self._background:
            dcp.save(everything, storage_writer=writer, process_group=group)
            return None
        started: Any = dcp.async_save(everything, storage_writer=writer, process_group=group)
        return started

    def _settle(
        self, written: Future[Any] | None, temporary: Path, final: Path, state: dict[str, Any]
    ) -> None:
        if written is not None:
            written.result()  # on rank 0 this is after all ranks have written
        if self._world.first:
            self._publish(temporary, final, state)

    def _publish(self, temporary: Path, final: Path, state: dict[str, Any]) -> None:
        (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
        for path in sorted(temporary.iterdir()):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        pointer = self.folder / "latest.tmp"
        pointer.write_text(final.name + "\n", encoding="utf-8")
        _sync(pointer)
        os.replace(pointer, self.folder / "latest")
        for old in list_checkpoints(self.folder)[: -self._keep_last]:
            if not self._keep_every or step_of(old) % self._keep_every:
                shutil.rmtree(old)


def save_checkpoint(
    folder: Path,
    *,
    model: Model,
    optimizer: torch.optim.Optimizer,
    step: int,
    stream: dict[str, Any],
    configs: dict[str, Any],
    keep_last: int,
) -> Path:
    """Write one checkpoint of a model in this process and return its folder (see `Saver.save`)."""
    saver = Saver(folder, keep_last=keep_last, background=False)
    try:
        return saver.save(model=model, optimizer=optimizer, step=step, stream=stream, configs=configs)
    finally:
        saver.close()


def _tensors(
    model: Model, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, int]]:
    """Weights, moments and updates made, each by name; weights of an absent tower have had no update."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    moments: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            kept = optimizer.state[parameter]
            moments |= {f"{moment}.{name}": kept[moment] for moment in _MOMENTS}
            steps[name] = kept["step"]
    counts = torch.stack(list(steps.values())).tolist() if steps else []  # one question to the device
    return weights, moments, {name: int(n) for name, n in zip(steps, counts)}


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.to("cpu", copy=True) for name, t in tensors.items()}


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())


def step_of(checkpoint: Path) -> int:
    """The update that a checkpoint stands before, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.match(p.name) and (p / "state.json").exists()]
    return sorted(found, key=step_of)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `latest` names, or the newest whole one where that file is missing or stale."""
    pointer = folder / "latest"
    if pointer.exists():
        name = pointer.read_text(encoding="utf-8").strip()
        if _NAME.match(name) and (folder / name / "state.json").exists():
            return folder / name
    found = list_checkpoints(folder)
    return found[-1] if found else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint.

    Raises:
        UserError: unreadable, or of another version.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(
            f"checkpoint {checkpoint}: state.json cannot be read ({e})",
            fix="delete that folder; the one before it is used",
        ) from None
    if state.get("version") not in _WEIGHTS_READABLE:
        raise UserError(
            f"checkpoint {checkpoint}: version {state.get('version')!r}, this program reads {VERSION}",
            fix="train in a new folder",
        )
    return state


def same_vocabulary(state: dict[str, Any], vocabulary: dict[str, Any], *, what: str) -> None:
    """Refuse data of another vocabulary than the one a checkpoint's model was trained with.

    Args:
        state: of `read_state`. vocabulary: serialised, of the data. what: the data, as the message shall name them.

    Raises:
        UserError: they differ, naming both fingerprints. A checkpoint that names no vocabulary is let pass.
    """
    trained = state["configs"].get("vocabulary")
    if trained is not None and trained["fingerprint"] != vocabulary["fingerprint"]:
        require_same_vocabulary(trained, vocabulary, what=what)


def load_weights(checkpoint: Path, model: Model) -> None:
    """Weights of a checkpoint into a model of the same configuration, whole or sharded.

    Raises:
        UserError: missing or cut-off files, or weights of another shape.
    """
    try:
        whole = checkpoint / "model.safetensors"
        if whole.exists() and not is_sharded(model):
            model.load_state_dict(load_file(whole))
        else:
            _read(checkpoint, {name: p.detach() for name, p in model.named_parameters()})
    except Exception as e:  # the reader of shards wraps errors of every kind, also those of other ranks
        raise UserError(
            f"checkpoint {checkpoint}: the weights do not fit the model: {e}",
            fix="use the model settings it was trained with, or another folder",
        ) from None


def load_optimizer(checkpoint: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Moments, counts of updates and random generators. Nothing that is read can hold code.

    Raises:
        UserError: a checkpoint of an earlier version, or files that cannot be read.
    """
    state = read_state(checkpoint)
    if state["version"] != VERSION:
        raise UserError(
            f"checkpoint {checkpoint} is of version {state['version']}: its weights can be read, its moments cannot",
            fix="train in a new folder",
        )
    wanted: dict[str, Tensor] = {}
    counts: dict[str, int] = state["optimizer"]
    for name, parameter in model.named_parameters():
        optimizer.state.pop(parameter, None)
        if name in counts:
            moments = {moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS}
            step = torch.tensor(float(counts[name]), device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}
            wanted |= {f"{moment}.{name}": t for moment, t in moments.items()}
    try:
        whole = checkpoint / "optimizer.safetensors"
        if whole.exists() and not is_sharded(model):
            for name, saved in load_file(whole).items():
                wanted[name].copy_(saved)
        elif wanted:
            _read(checkpoint, wanted)
        random = load_file(checkpoint / "random.safetensors")
    except Exception as e:  # see load_weights
        raise UserError(
            f"checkpoint {checkpoint}: the moments of the optimiser cannot be read: {e}",
            fix="delete that folder; the one before it is used",
        ) from None
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


def _read(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, from any form of checkpoint; every rank calls this."""
    import torch.distributed.checkpoint as dcp

    alone = all(local(t) is t for t in tensors.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(checkpoint)), no_dist=alone)
