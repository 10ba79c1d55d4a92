"""Settings of the model and of a training run. Reads no torch, so the command line can load it at no cost."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.trainers.watch_config import SpikeConfig, WandbConfig

Untied = Literal["attention", "ffn", "norm"]
DENSE: tuple[Untied, ...] = ()
MOT: tuple[Untied, ...] = ("attention", "ffn", "norm")


class ModelConfig(BaseModel):
    """One decoder-only transformer; `untie` chooses between a dense model and a Mixture-of-Transformers.

    Source: Liang et al., Mixture-of-Transformers (arXiv 2411.04996), Algorithm 1 and Table 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(default=128, ge=8, le=16384, description="Width D of the residual stream.")
    layers: int = Field(default=4, ge=1, le=256, description="Number of blocks.")
    heads: int = Field(
        default=4, ge=1, le=256, description="Attention heads; dim / heads must be an even number."
    )
    ffn_hidden: int | None = Field(
        default=None,
        ge=8,
        description="Hidden width of the SwiGLU. Empty: int(8 * dim / 3) rounded up to a multiple of 256 "
        "(the paper's rule), or of 64 where dim is under 256.",
    )
    vocab_size: int = Field(
        default=0,
        ge=0,
        description="Rows of the embedding and of the head. 0: taken from the vocabulary of the shards.",
    )
    modalities: int = Field(
        default=3, ge=1, le=64, description="Number of modalities K: text, image, speech."
    )
    untie: tuple[Untied, ...] = Field(
        default=MOT,
        description="Parts that every modality has for itself. All three: Mixture-of-Transformers. "
        "Empty: a dense model. Only ffn: one expert per modality (the 1t1i setting of MoMa).",
    )
    norm: Literal["pre", "swin"] = Field(
        default="pre",
        description="pre: x + f(norm(x)). swin: x + norm(f(x)), the placement of the paper (equations 1 and 2).",
    )
    qk_norm: bool = Field(default=False, description="RMSNorm over each head of the queries and keys.")
    rope_theta: float = Field(default=10000.0, gt=1.0, description="Base of the rotary position frequencies.")
    document_mask: bool = Field(
        default=True,
        description="Attend within documents only. False: a document also sees those before it in its context, "
        "and positions count on through the context, as in-context pretraining needs it.",
    )
    tie_embeddings: bool = Field(default=False, description="Use the embedding table as the output head.")
    init_std: float = Field(
        default=0.02, gt=0.0, le=1.0, description="Standard deviation of the weights at the start."
    )
    init: Literal["independent", "copy"] = Field(
        default="independent",
        description="independent: every modality draws its own weights. copy: all start from the same ones, "
        "so that the model starts as the dense one.",
    )
    seq_len: int = Field(
        default=512,
        ge=2,
        le=1 << 20,
        description="Longest position; training takes it from the shards, sampling stops at it.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads={self.heads} must divide dim={self.dim}")
        if (self.dim // self.heads) % 2:
            raise ValueError(
                f"dim / heads is {self.dim // self.heads}; rotary positions turn pairs, so it must be even"
            )
        if len(set(self.untie)) != len(self.untie):
            raise ValueError(f"untie names a part twice: {list(self.untie)}")
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def hidden(self) -> int:
        """Width of the SwiGLU after the default has been filled in."""
        if self.ffn_hidden is not None:
            return self.ffn_hidden
        multiple = 256 if self.dim >= 256 else 64
        return -(-int(8 * self.dim / 3) // multiple) * multiple

    @property
    def streams(self) -> int:
        """Number of contiguous slices of the residual stream: 1 for a dense model, else one per modality."""
        return self.modalities if self.untie else 1

    def parameters(self, *, active: bool = False) -> int:
        """Number of weights without embedding, head and norms; `active` counts those that one token meets."""
        attention = 4 * self.dim * self.dim
        ffn = 3 * self.dim * self.hidden
        copies = 1 if active else self.modalities
        return self.layers * (
            attention * (copies if "attention" in self.untie else 1)
            + ffn * (copies if "ffn" in self.untie else 1)
        )

    def filled(self, *, vocab_size: int, seq_len: int) -> ModelConfig:
        """The same configuration with the sizes that the data decides."""
        return self.model_validate({**self.model_dump(), "vocab_size": vocab_size, "seq_len": seq_len})


class TrainConfig(BaseModel):
    """How long, how fast and on what to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=200, ge=1, description="Updates to make in all.")
    batch_contexts: int = Field(
        default=8, ge=1, description="Contexts in one update, over all accumulation steps."
    )
    grad_accumulation: int = Field(
        default=1, ge=1, description="Split each update into this many parts; must divide batch_contexts."
    )
    lr: float = Field(default=2e-3, gt=0.0, le=1.0, description="Peak learning rate.")
    min_lr: float = Field(default=2e-4, ge=0.0, le=1.0, description="Learning rate at the last step.")
    warmup: int = Field(default=20, ge=0, description="Steps over which the rate rises from zero.")
    schedule: Literal["cosine", "wsd"] = Field(
        default="cosine",
        description="cosine, or wsd: level until the last tenth of the steps, then linear to min_lr.",
    )
    weight_decay: float = Field(
        default=0.1, ge=0.0, le=1.0, description="Decoupled decay of the matrices (not embeddings)."
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Averaging factors of AdamW.")
    grad_clip: float = Field(
        default=1.0, ge=0.0, description="Largest norm of the whole gradient. 0: do not clip."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type of the arithmetic; weights stay float32. auto: bfloat16 on cuda, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: cuda where there is one."
    )
    compile: Literal["auto"] | bool = Field(
        default="auto", description="torch.compile every block. auto: only on cuda."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of torch. Empty: leave as they are."
    )
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="Seed of the initial weights.")
    loss_chunk: int | None = Field(
        default=None,
        ge=1,
        description="Tokens whose logits exist at one time. Empty: 256 on cpu, 4096 on cuda.",
    )
    log_every: int = Field(default=1, ge=1, description="Steps between two lines of metrics.jsonl.")
    checkpoint_every: int = Field(
        default=100, ge=0, description="Steps between two checkpoints. 0: only at the end."
    )
    keep_last: int = Field(default=2, ge=1, description="Newest checkpoints to keep.")
    keep_every: int = Field(
        default=0,
        ge=0,
        description="Keep for good the checkpoints at multiples of this step too. 0: only the newest.",
    )
    async_checkpoint: bool = Field(
        default=True, description="Write checkpoints in a thread while training goes on."
    )
    activation_checkpointing: Literal["none", "selective", "block"] = Field(
        default="none",
        description="What the backward pass computes again to save memory. block: all of every block; selective: "
        "all but matrix products and attention.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        description="Whole copies of the weights over all ranks, when there are several: 1 shards them over all "
        "ranks (FSDP), the number of ranks keeps one on each (data parallel), between them is HSDP.",
    )
    reshard_after_forward: bool = Field(
        default=True,
        description="Give the gathered weights of a block back after its forward pass: less memory, more traffic.",
    )
    spike: SpikeConfig = Field(default=SpikeConfig(), description="Spikes of the loss, and what to do.")
    tensorboard: bool = Field(
        default=False, description="Write records for TensorBoard too. Needs the extra tensorboard."
    )
    wandb: WandbConfig | None = Field(
        default=None, description="Send records to Weights & Biases too; left out: not."
    )
    verify: bool = Field(
        default=False,
        description="Compare every block of the shards with its checksum when it is first read; damage stops the "
        "training, naming shard and sample.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_contexts % self.grad_accumulation:
            raise ValueError(
                f"grad_accumulation={self.grad_accumulation} must divide batch_contexts={self.batch_contexts}"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} is above lr={self.lr}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must lie in [0, 1)")
        return self

    def free_to_change(self) -> frozenset[str]:
        """Fields that a resumed run may change: none of them alters an update already made."""
        return frozenset(
            {
                *("log_every", "checkpoint_every", "keep_last", "keep_every", "async_checkpoint"),
                *("verify", "threads", "compile", "device", "tensorboard", "wandb", "spike"),
                *("activation_checkpointing", "replicas", "reshard_after_forward"),
            }
        )

    def differences(self, other: dict[str, Any]) -> list[str]:
        """One line for each field that a resumed run may not change but has changed."""
        mine = self.model_dump(mode="json")
        return [
            f"{name}: was {other.get(name)!r}, is {value!r}"
            for name, value in mine.items()
            if name not in self.free_to_change() and other.get(name) != value
        ]


class RoutingConfig(BaseModel):
    """Which experts speak for a text at inference (c-BTM, Gururangan et al., arXiv 2303.14177, equation 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(
        default=0.1,
        ge=0.0,
        description="T of exp(-distance^2 / T). 0: the nearest expert alone. inf: all of the top_k alike.",
    )
    top_k: int | None = Field(
        default=None, ge=1, description="Only so many of the nearest experts speak. Empty: all."
    )
    every: int = Field(
        default=64,
        ge=1,
        description="Tokens by which a text grows before it is embedded again; less at its beginning.",
    )
