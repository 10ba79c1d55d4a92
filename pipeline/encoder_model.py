"""Models of `transformers` in a folder on this machine: read whole, checked, and placed on a device.

Nothing is downloaded and no pickle is read. transformers fills tensors that a checkpoint lacks with random numbers and
only logs it; here that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixloom.pipeline.errors import UserError

_POOLER = ("pooler.", "text_model.pooler.", "encoder.pooler.")  # heads that are not used


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no tables of tensors on the console: what is wrong with a checkpoint is told once, by us."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def choose_device(wanted: str) -> str:
    """'cpu' or 'cuda' for a setting of auto, cpu or cuda.

    Raises:
        UserError: cuda is asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError(
            "embed: device is 'cuda', and torch finds no GPU here", fix="set device to auto or cpu"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def read_network(folder: Path, device: str, dtype: str) -> Any:
    """The model of a checkpoint, every tensor of it from the folder, on its device, for inference.

    Raises:
        UserError: the folder holds no checkpoint that can be read whole.
    """
    import torch
    import transformers

    fix = "give the folder of a checkpoint with config.json and .safetensors files"
    try:
        with quiet():
            network, told = transformers.AutoModel.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,  # left out, it is asked for on the console
                output_loading_info=True,
                dtype=getattr(torch, dtype),
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise UserError(f"embed: cannot load the model in {folder}: {error}", fix=fix) from error
    lacking = sorted(k for k in told["missing_keys"] if not k.startswith(_POOLER))
    if lacking:
        raise UserError(
            f"embed: the model in {folder} lacks {len(lacking)} tensors, among them {', '.join(lacking[:3])}",
            fix=fix,
        )
    return network.to(device).requires_grad_(False).eval()
