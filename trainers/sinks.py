"""Other places for the records of a training: TensorBoard and Weights & Biases. Neither is imported unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import TrainConfig
from mixloom.trainers.metrics import Record
from mixloom.trainers.watch_config import WandbConfig


class Sink(Protocol):
    """Takes records as they are made."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def open_sinks(config: TrainConfig, out_dir: Path) -> list[Sink]:
    """The sinks that the settings ask for.

    Raises:
        UserError: a library that is not installed, naming the extra that brings it.
    """
    sinks: list[Sink] = []
    if config.tensorboard:
        sinks.append(_TensorBoard(out_dir / "tensorboard"))
    if config.wandb is not None:
        sinks.append(_Wandb(config.wandb, config, out_dir))
    return sinks


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Every number of a record by name; parts of a mapping are named `loss_by_modality/text`."""
    for name, value in record.items():
        if name in ("step", "steps"):
            continue
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield f"{name}/{part}" if part else name, float(number)


class _TensorBoard:
    """Event files in `tensorboard/`; a resumed run adds a file, and TensorBoard drops the steps that are redone."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "train.tensorboard is set, but the library tensorboard is not installed",
                fix="pip install 'mixloom[tensorboard]', or leave train.tensorboard out",
            ) from None
        self._folder, self._make = folder, SummaryWriter
        self._writer: Any = None

    def write(self, record: Record) -> None:
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=record["step"])
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Wandb:
    """One run in the folder of the training."""

    def __init__(self, wanted: WandbConfig, config: TrainConfig, out_dir: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "train.wandb is set, but the library wandb is not installed",
                fix="pip install 'mixloom[wandb]', or leave train.wandb out",
            ) from None
        self._run = wandb.init(
            project=wanted.project,
            mode=wanted.mode,
            dir=str(out_dir),
            config=config.model_dump(mode="json"),
        )

    def write(self, record: Record) -> None:
        self._run.log(dict(scalars(record)), step=record["step"])

    def close(self) -> None:
        self._run.finish()
