"""Checkpoints: everything a run needs to go on as if it had never stopped.

    checkpoints/step-00000200/model.safetensors   weights
                              optimizer.pt        moments and the state of the random generators
                              state.json          step, state of the stream, both configurations; written last
    checkpoints/latest                            name of the newest one

A checkpoint is written to a hidden folder and renamed, so one that can be seen is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import require_same_vocabulary
from mixloom.trainers.model import Model

VERSION = 1
_NAME = re.compile(r"^step-(\d{8,})$")


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
    """Write the checkpoint before update `step`, then remove all but the `keep_last` newest.

    Args:
        stream: JSON value to give back to the stream. configs: JSON value, read back as `state["configs"]`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:08d}"
    temporary, final = folder / f".{name}.tmp", folder / name
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary / "model.safetensors")
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    torch.save({"optimizer": optimizer.state_dict(), "random": random}, temporary / "optimizer.pt")
    state = {"version": VERSION, "step": step, "stream": stream, "configs": configs}
    (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
    for path in sorted(temporary.iterdir()):
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    pointer = folder / "latest.tmp"
    pointer.write_text(name + "\n", encoding="utf-8")
    _sync(pointer)
    os.replace(pointer, folder / "latest")
    for old in list_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.match(p.name) and (p / "state.json").exists()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


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
    if state.get("version") != VERSION:
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
    """Weights of a checkpoint into a model of the same configuration."""
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"checkpoint {checkpoint}: the weights do not fit the model: {e}",
            fix="use the model settings it was trained with, or another folder",
        ) from None


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments and random generators; read without unpickling code."""
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu")
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"]["cpu"])
    if "cuda" in saved["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["random"]["cuda"])
