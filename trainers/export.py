"""A trained model as a folder of safetensors and JSON, and a dense one as a Llama or Qwen3 checkpoint.

    config.json           every setting of the model, its architecture and the vocabulary
    model.safetensors     weights by their names in `model.Model`
    modeling_mixloom.py   the model for transformers, in a file of its own (`hf_model`)
    tokenizer.json        text alone, with the ids of the model; tokenizer/ holds the tokenizers of all modalities

A dense model with norms before its parts is, weight for weight, a Llama (with qk_norm: a Qwen3), so any
program that reads those can run it: `export_transformers`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import DOC, END_DOC, PAD, Vocabulary
from mixloom.trainers.checkpoint import load_weights, read_state
from mixloom.trainers.config import ModelConfig
from mixloom.trainers.export_tokenizer import write_tokenizer
from mixloom.trainers.model import Model

if TYPE_CHECKING:
    from mixloom.trainers.trained import Trained

MODEL_TYPE = "mixloom"
LOADER_FILE = "modeling_mixloom.py"


def load_checkpoint_model(checkpoint: Path) -> Model:
    """The model of a training checkpoint, on the CPU, in float32.

    Raises:
        UserError: not a checkpoint, or of another version.
    """
    state = read_state(checkpoint)
    model = Model(ModelConfig.model_validate(state["configs"]["model"]))
    load_weights(checkpoint, model)
    return model.eval()


def export_model(model: Model, vocabulary: dict[str, Any], folder: Path, dtype: str = "float32") -> None:
    """Write config.json and model.safetensors, and the loader for transformers where it can run the model.

    The config is written last.

    Args:
        dtype: of the stored weights, float32 or bfloat16.

    Raises:
        UserError: another dtype.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype is '{dtype}'; allowed: float32, bfloat16", fix="leave it out for float32")
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(torch, dtype)
    _save_weights({k: v.detach().cpu().to(kind) for k, v in model.state_dict().items()}, folder)
    config: dict[str, Any] = {
        "architectures": ["MixloomForCausalLM"],
        "model_type": MODEL_TYPE,
        "model": model.config.model_dump(mode="json"),
        "vocabulary": vocabulary,
    }
    if runs_in_transformers(model.config):
        shutil.copyfile(Path(__file__).with_name("hf_model.py"), folder / LOADER_FILE)
        config |= _transformers_config(model.config, vocabulary, dtype)
    _save_json(config, folder)


def runs_in_transformers(config: ModelConfig) -> bool:
    """Whether the loader that is written beside the weights can run such a model."""
    return config.experts is None and config.flow is None and config.speech_patches is None


def _transformers_config(config: ModelConfig, vocabulary: dict[str, Any], dtype: str) -> dict[str, Any]:
    """What `hf_model.MixloomConfig` reads, and where transformers finds it."""
    module = LOADER_FILE.removesuffix(".py")
    ranges = [
        [r["start"], r["start"] + r["size"], r["modality"]]
        for r in vocabulary["ranges"]
        if r["modality"] != 0
    ]
    return {
        "auto_map": {
            "AutoConfig": f"{module}.MixloomConfig",
            "AutoModelForCausalLM": f"{module}.MixloomForCausalLM",
        },
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.seq_len,
        "modalities": config.modalities,
        "modality_ranges": ranges,
        "untie": list(config.untie),
        "norm_placement": config.norm,
        "qk_norm": config.qk_norm,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": DOC,
        "eos_token_id": END_DOC,
        "pad_token_id": PAD,
        "dtype": dtype,
    }


def export_folder(
    trained: Trained,
    folder: Path,
    *,
    llama: bool = False,
    dtype: str = "float32",
    tokenizer: str = "",
    replace: bool = False,
) -> list[str]:
    """Write a model with its tokenizers; returns the names of what was written.

    Args:
        llama: as a Llama or Qwen3, see `export_transformers`. tokenizer: a folder of tokenizers, or a run, to use
            instead of those beside the model. replace: delete what is in the folder before.

    Raises:
        UserError: tokenizers of another vocabulary, a model that is no Llama where one is asked for, or a folder that
            holds something already.
    """
    source = _tokenizers(trained, tokenizer)
    if replace:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists already" + (" and is not empty" if folder.is_dir() else ", and is no folder"),
            fix="name a folder that does not exist yet, or delete this one",
        )
    if llama:
        export_transformers(trained.model, folder)
    else:
        export_model(trained.model, trained.vocabulary, folder, dtype)
    if source is not None:
        shutil.copytree(
            source, folder / "tokenizer", dirs_exist_ok=True, ignore=shutil.ignore_patterns("sample")
        )
        write_tokenizer(source / "text", trained.vocabulary, folder)
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def _tokenizers(trained: Trained, given: str) -> Path | None:
    """The folder of the tokenizers of a model, checked against its vocabulary; None where there is none."""
    if not given:
        return trained.tokenizers
    folder = Path(given)
    folder = folder if (folder / "vocab.json").is_file() else folder / "tokenizer"
    Vocabulary.from_json(trained.vocabulary).require_same(
        Vocabulary.load(folder / "vocab.json"), what=f"the tokenizers in {folder}"
    )
    return folder


def load_exported(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model and the serialised vocabulary of an exported folder.

    Raises:
        UserError: no such folder, or another kind of model in it.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as e:
        raise UserError(
            f"{folder} holds no exported model: {e}", fix="name a folder written by the export"
        ) from None
    if config.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"{folder}/config.json: model_type is {config.get('model_type')!r}, not '{MODEL_TYPE}'",
            fix="read that folder with the transformers library",
        )
    model = Model(ModelConfig.model_validate(config["model"]))
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.eval(), config["vocabulary"]


def export_transformers(model: Model, folder: Path) -> None:
    """Write a dense model so that `transformers.AutoModelForCausalLM` loads it as a Llama or Qwen3.

    Raises:
        UserError: untied parts or norms after the parts, which those architectures do not have.
    """
    config = model.config
    for part in ("experts", "flow", "speech_patches"):
        if getattr(config, part) is not None:
            raise UserError(
                f"a model with {part} is no Llama", fix="leave --llama out (in Python: export_model)"
            )
    if config.untie or config.norm != "pre":
        raise UserError(
            f"only a dense model with norm: pre is a Llama; this one has untie: {list(config.untie)}, norm: {config.norm}",
            fix="leave --llama out (in Python: export_model)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(_llama_weights(model), folder)
    _save_json(
        {
            "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
            "model_type": "qwen3" if config.qk_norm else "llama",
            "vocab_size": config.vocab_size,
            "hidden_size": config.dim,
            "intermediate_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": config.seq_len,
            "rms_norm_eps": 1e-6,
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "tie_word_embeddings": config.tie_embeddings,
            "attention_bias": False,
            "bos_token_id": DOC,
            "eos_token_id": END_DOC,
            "pad_token_id": PAD,
            "dtype": "float32",
        },
        folder,
    )


def _llama_weights(model: Model) -> dict[str, Tensor]:
    ours = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    weights = {"model.embed_tokens.weight": ours["embedding"], "model.norm.weight": ours["norm.0"]}
    if "head" in ours:
        weights["lm_head.weight"] = ours["head"]
    for i in range(model.config.layers):
        source, target = f"blocks.{i}", f"model.layers.{i}"
        q, k, v = ours[f"{source}.attention.qkv.0"].chunk(3)
        gate, up = ours[f"{source}.ffn.up.0"].chunk(2)
        weights |= {
            f"{target}.self_attn.q_proj.weight": q,
            f"{target}.self_attn.k_proj.weight": k,
            f"{target}.self_attn.v_proj.weight": v,
            f"{target}.self_attn.o_proj.weight": ours[f"{source}.attention.out.0"],
            f"{target}.mlp.gate_proj.weight": gate,
            f"{target}.mlp.up_proj.weight": up,
            f"{target}.mlp.down_proj.weight": ours[f"{source}.ffn.down.0"],
            f"{target}.input_layernorm.weight": ours[f"{source}.attention_norm.0"],
            f"{target}.post_attention_layernorm.weight": ours[f"{source}.ffn_norm.0"],
        }
        if model.config.qk_norm:
            q_norm, k_norm = ours[f"{source}.attention.qk_norm.0"].flatten(1)
            weights[f"{target}.self_attn.q_norm.weight"] = q_norm
            weights[f"{target}.self_attn.k_norm.weight"] = k_norm
    return weights


def _save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    temporary = folder / ".model.safetensors.tmp"
    copied = {k: v.clone(memory_format=torch.contiguous_format) for k, v in weights.items()}
    save_file(copied, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")


def _save_json(config: dict[str, Any], folder: Path) -> None:
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(temporary, folder / "config.json")
