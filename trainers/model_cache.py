"""Small trained models and their losses on held-out sets, kept by what they were made of.

    <cache>/<key of training>/trained.json      what it was trained with, and the hash of its weights; written last
                              model.safetensors, config.json
                              losses-<key of skill>.json
                              training/         checkpoints of a training that was interrupted; gone when it is done

The key of a training is a hash over the tokens it may read, the shares it reads them in, the model, the settings that
change updates, and the weights it began with; that of a loss, over the tokens of the held-out set. So a source more
costs its own training, a skill more costs evaluations, and nothing is ever trained twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import canonical_json, sha256_hex
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.export import export_model, load_checkpoint_model, load_exported
from mixloom.trainers.metrics import OnRecord
from mixloom.trainers.model import Model
from mixloom.trainers.skills import SkillSet, context_nats
from mixloom.trainers.subset import Subset
from mixloom.trainers.trainer import train

VERSION = 1  # of what a training or an evaluation computes
_DONE = "trained.json"


@dataclass(frozen=True)
class Small:
    """A small training: what it reads, in which shares, and how.

    Attributes:
        subset: the contexts. weights: shares of tokens by domain of the subset.
        start: weights to begin with; None: fresh ones, by the seed of `train`.
    """

    subset: Subset
    weights: Mapping[str, float]
    model: ModelConfig
    train: TrainConfig
    start: Mapping[str, torch.Tensor] | None = None

    @property
    def key(self) -> str:
        """Hash of everything that decides the weights: 32 hexadecimal digits."""
        config = self.train.model_dump(mode="json", exclude=set(self.train.free_to_change()))
        parts = [
            VERSION,
            self.subset.fingerprint,
            sorted(self.weights.items()),
            self.subset.manifest.vocabulary["fingerprint"],
            self.model.model_dump(mode="json"),
            config,
            None if self.start is None else weights_hash(self.start),
        ]
        return sha256_hex(canonical_json(parts))[:32]


class ModelCache:
    """The folder. Two processes may share it as long as they do not train the same model at once."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.trained = 0  # models trained by this object, not found
        self.evaluated = 0

    def has(self, small: Small) -> bool:
        return (self.folder / small.key / _DONE).is_file()

    def model(
        self,
        small: Small,
        *,
        progress: Callable[[int, int], None] | None = None,
        on_record: OnRecord | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Model:
        """The trained model, on the CPU: loaded, or trained now; an interrupted training goes on.

        Raises:
            UserError: the training was stopped, its loss is not finite, or the files of a trained model were changed.
        """
        folder = self.folder / small.key
        if not (folder / _DONE).is_file():
            self._train(small, folder, progress, on_record or _quiet, should_stop)
        return _loaded(folder)

    def nats(
        self, small: Small, skill: SkillSet, model: Callable[[], Model] | None = None
    ) -> NDArray[np.float64]:
        """Loss of a trained model on each context of a held-out set, in nats: float64 [C]; remembered.

        Args:
            model: where it comes from when it is needed; default: `self.model(small)`.
        """
        file = self.folder / small.key / f"losses-{skill.fingerprint[:32]}.json"
        if file.is_file():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))
                if kept["version"] == VERSION and len(kept["nats"]) == len(skill.ids):
                    return np.array(kept["nats"], np.float64)
            except (ValueError, KeyError, TypeError):
                pass  # cut short by a crash: evaluated again
        made = model() if model is not None else self.model(small)
        nats = context_nats(made, skill, small.subset.manifest.vocabulary)
        self.evaluated += 1
        _write_json(file, {"version": VERSION, "nats": nats.tolist()})
        return nats

    def _train(
        self,
        small: Small,
        folder: Path,
        progress: Callable[[int, int], None] | None,
        on_record: OnRecord,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        config = small.train
        stream = small.subset.stream(
            small.weights,
            seed=config.seed,
            batch_contexts=config.batch_contexts,
            steps=config.steps,
            patches=small.model.speech_patches is not None,
        )
        vocabulary = small.subset.manifest.vocabulary
        result = train(
            stream,
            vocabulary,
            small.model,
            config,
            folder / "training",
            start=small.start,
            progress=progress,
            on_record=on_record,
            should_stop=should_stop,
        )
        if result.stopped_early:
            raise UserError(
                f"a small training was stopped after {result.steps} of {config.steps} steps; a checkpoint is saved",
                fix="run the same command again to go on from it",
            )
        model = load_checkpoint_model(result.checkpoint)
        export_model(model, vocabulary, folder)
        about = {
            "version": VERSION,
            "sha256": _file_hash(folder / "model.safetensors"),
            "weights": dict(small.weights),
            "contexts": {d.name: d.contexts for d in small.subset.manifest.domains},
            "train": config.model_dump(mode="json"),
            "loss_last": result.loss_last,
        }
        _write_json(folder / _DONE, about)
        shutil.rmtree(folder / "training")
        self.trained += 1


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and values of a `state_dict`."""
    h = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().float().contiguous().numpy()
        h.update(f"{name} {value.shape} ".encode() + value.astype("<f4").tobytes())
    return h.hexdigest()


def bits(nats: Sequence[NDArray[np.float64]], skills: Sequence[SkillSet]) -> NDArray[np.float64]:
    """Bits per byte (or token) of each skill from the losses of its contexts: float64 [k]."""
    return np.array([skill.bits(float(own.sum())) for own, skill in zip(nats, skills)])


def _loaded(folder: Path) -> Model:
    known = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    if not weights.is_file() or _file_hash(weights) != known.get("sha256"):
        raise UserError(
            f"{weights} is missing or not what was trained", fix=f"remove {folder}; it is trained again"
        )
    return load_exported(folder)[0]


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _quiet(record: dict[str, Any]) -> None:
    """Small trainings say nothing by themselves."""
