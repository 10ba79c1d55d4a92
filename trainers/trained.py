"""A trained model by the name of its folder: a run, a training in it, one checkpoint, or an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixloom.pipeline.errors import UserError
from mixloom.trainers.checkpoint import latest_checkpoint, read_state
from mixloom.trainers.export import load_checkpoint_model, load_exported
from mixloom.trainers.model import Model

if TYPE_CHECKING:
    from mixloom.mixers.stream import Stream
    from mixloom.tokenizers.inspect_decoders import Decoders

TOKENIZER = "tokenizer"  # folder of the tokenizers, in a run and in an exported model


@dataclass(frozen=True, eq=False)
class Trained:
    """A model ready to be used.

    Attributes:
        vocabulary: serialised. folder: where its weights lie.
        step: updates it was trained for; None where that is not known.
        tokenizers: folder of the tokenizers its ids belong to; None where there is none beside it.
    """

    model: Model
    vocabulary: dict[str, Any]
    folder: Path
    step: int | None
    tokenizers: Path | None

    def decoders(self, given: str = "") -> Decoders:
        """What turns its ids back into text, pictures and sound; `given`: a folder of tokenizers, or a run, to use instead."""
        from mixloom.tokenizers.inspect_decoders import find_decoders
        from mixloom.tokenizers.vocab import Vocabulary

        beside = str((self.tokenizers or self.folder / TOKENIZER).parent / "shards")
        return find_decoders(Vocabulary.from_json(self.vocabulary), beside, given)


def load_trained(path: str | Path, device: str = "auto") -> Trained:
    """The model in a folder, on a device.

    Args:
        path: a run (its training `train`), a folder of a training (its newest checkpoint), one checkpoint, or what
            `mixloom export` wrote.
        device: cpu, cuda, or auto for cuda where there is one.

    Raises:
        UserError: nothing that was trained is there, or it cannot be read.
    """
    where = pick(device)
    folder = Path(path)
    if (folder / "config.json").is_file():
        model, vocabulary = load_exported(folder)
        own = folder / TOKENIZER
        tokenizers = own if (own / "vocab.json").is_file() else None
        return Trained(model.to(where), vocabulary, folder, None, tokenizers)
    checkpoint = _checkpoint(folder)
    state = read_state(checkpoint)
    run = checkpoint.absolute().parents[2]
    vocabulary = state["configs"].get("vocabulary") or _vocabulary_of(run)
    own = run / TOKENIZER
    model = load_checkpoint_model(checkpoint).to(where)
    tokenizers = own if (own / "vocab.json").is_file() else None
    return Trained(model, vocabulary, checkpoint, int(state["step"]), tokenizers)


def _checkpoint(folder: Path) -> Path:
    if (folder / "state.json").is_file():
        return folder
    for training in (folder, folder / "train"):
        found = latest_checkpoint(training / "checkpoints")
        if found is not None:
            return found
    raise UserError(
        f"{folder} holds no trained model",
        fix="name a run that was trained, the folder of a training (RUN/train), one of its checkpoints, or a folder that "
        "`mixloom export` wrote",
    )


def stream_of(path: str | Path) -> Stream:
    """The stream of a training, with its objectives and its mixture log, from its newest checkpoint.

    Args:
        path: a run (its training `train`), a folder of a training, or one of its checkpoints.

    Raises:
        UserError: nothing that was trained is there, or it was not trained on the shards of a run.
    """
    from mixloom.pipeline.run import RunDirectory
    from mixloom.trainers.config import ModelConfig, TrainConfig
    from mixloom.trainers.stage import TrainStage

    checkpoint = _checkpoint(Path(path))
    folder = checkpoint.absolute().parents[1]
    train = TrainConfig.model_validate(read_state(checkpoint)["configs"]["train"])
    stage = TrainStage(ModelConfig(), train, None, folder.name)
    return stage.source(RunDirectory.existing(str(folder.parent))).stream


def _vocabulary_of(run: Path) -> dict[str, Any]:
    """The vocabulary of a run's shards, for checkpoints that do not hold it."""
    from mixloom.pipeline.manifest import ShardManifest

    return ShardManifest.load(str(run / "shards")).vocabulary


def pick(device: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: not one of auto, cpu and cuda, or cuda where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device is '{device}'; allowed: auto, cpu, cuda", fix="leave it out for auto")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError("--device is cuda, but torch finds no CUDA device", fix="use --device cpu")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and there) else "cpu")
