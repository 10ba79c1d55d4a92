"""Codecs that are published models, read by `transformers`: what those of pictures and of speech share.

A directory may hold the codec alone or a whole language model with the codec inside it. transformers fills tensors
that a checkpoint lacks with random numbers and only logs it; here that is an error.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codebook import weights_fingerprint
from mixloom.tokenizers.devices import placed, settled
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig

POINTER_FILE = "config.json"
# Where Chameleon, Emu3, Janus and their kin keep the codec inside the language model.
_INNER = {r"^model\.vqmodel\.": ""}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# What the codes depend on beside the weights.
_DECIDES = {
    "kind",
    "size",
    "resize",
    "collapse",
    "device",
    "codebooks",
    "layout",
    "layer",
    "chunk_seconds",
    "context_seconds",
}
_HUB_FILES = ("*.json", "*.safetensors")


def model_directory(path: str, download: bool = False) -> Path:
    """The directory of a checkpoint: the path itself, or where the cache of the hub keeps a model of that id.

    Args:
        path: a directory, or an id such as owner/model.
        download: fetch the model when the cache does not hold it.

    Raises:
        UserError: no such directory, and no such model in the cache (or on the hub).
    """
    if Path(path).exists() or not _HUB_ID.fullmatch(path):
        return Path(path).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, local_files_only=not download, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's errors and those of its network library
        where = "on the hub" if download else "in the hub's cache on this machine"
        raise UserError(
            f"codec: {path} is no directory, and no model of that name was found {where}: {error}",
            fix="give a directory, fetch the model first, or set download: true",
        ) from error


def read_model(classname: str, model_type: str, directory: Path | str, device: str) -> Any:
    """A transformers model of the given class in float32, every tensor of it read from the directory.

    Raises:
        UserError: no such checkpoint, one of another type, or one that lacks tensors.
    """
    import transformers
    from transformers.utils import logging as told

    fix = f"give the directory of a {classname} checkpoint (config.json and .safetensors files)"
    device = placed(device, "codec")
    cls = getattr(transformers, classname)
    bars = told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True)
        whole = config.model_type != model_type
        if whole:
            config = getattr(config, "vq_config", None)
        if config is None or config.model_type != model_type:
            raise UserError(f"codec: {directory} holds no '{model_type}' model", fix=fix)
        model, info = cls.from_pretrained(
            str(directory),
            config=config,
            key_mapping=_INNER if whole else None,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"codec: cannot load {directory}: {error}", fix=fix) from error
    finally:
        if bars:
            told.enable_progress_bar()
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(
            f"codec: {directory} lacks {len(info['missing_keys'])} tensors, among them {some}", fix=fix
        )
    return model.to(device).requires_grad_(False).eval()


class Checkpoint:
    """What all of them share: a fingerprint over the weights, and a saved form that points to the directory."""

    def __init__(self, config: ImageCodecConfig | SpeechCodecConfig, classname: str, model_type: str) -> None:
        config = settled(config)
        assert config.path is not None  # declared by the config
        self.path = model_directory(config.path, config.download)
        self.model = read_model(classname, model_type, self.path, config.device)
        names = _DECIDES | ({"micro_batch"} if config.device != "cpu" else set())
        decides = config.model_dump(mode="json", include=names)
        self.fingerprint = weights_fingerprint(decides, self.model.state_dict())

    def _save(self, directory: Path | str, config: ImageCodecConfig | SpeechCodecConfig) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "kind": config.kind,
            "config": config.model_dump(mode="json") | {"path": str(self.path)},
            "fingerprint": self.fingerprint,
        }
        (directory / POINTER_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _require(self, content: dict[str, Any]) -> None:
        if self.fingerprint != content.get("fingerprint"):
            raise UserError(
                f"codec: the checkpoint {self.path} is not the one this run was tokenized with",
                fix="put the former checkpoint back, or tokenize into a new run",
            )
