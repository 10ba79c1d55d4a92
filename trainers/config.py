"""Settings of a training run. Reads no torch, so the command line can load it at no cost."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.tokenizers.objective_settings import Objective
from mixloom.trainers.model_config import DENSE, MOT, ExpertsConfig, ModelConfig, Untied
from mixloom.trainers.watch_config import SpikeConfig, WandbConfig

__all__ = [
    "DENSE",
    "MOT",
    "ExpertsConfig",
    "ModelConfig",
    "OnlineMixingConfig",
    "RoutingConfig",
    "TrainConfig",
    "Untied",
]


class OnlineMixingConfig(BaseModel):
    """Weights of domains that follow the losses while training (Albalak et al., arXiv 2312.02406)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=50, ge=1, description="Updates between two changes of the weights.")
    warmup: float = Field(
        default=0.01, ge=0.0, lt=1.0, description="Share of the updates before the first change."
    )
    smoothing: float = Field(
        default=0.9, ge=0.0, lt=1.0, description="How much of an old reward is kept at a change."
    )
    min_share: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Least share of a domain, where its cap allows it."
    )


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
    objectives: tuple[Objective, ...] = Field(
        default=(),
        max_length=100,
        description="Documents to rearrange when they are served, for example [{kind: fim, rate: 0.5, domains: [code]}]; "
        "kinds are cm3, fim and ul2. Empty: plain next-token prediction.",
    )
    objective_room: int | None = Field(
        default=None,
        ge=0,
        le=1 << 16,
        description="Tokens by which contexts are served wider than stored, for the sentinels of objectives. Empty: 64, "
        "or an eighth of seq_len where ul2 is among them and that is more.",
    )
    spike: SpikeConfig = Field(default=SpikeConfig(), description="Spikes of the loss, and what to do.")
    tensorboard: bool = Field(
        default=False, description="Write records for TensorBoard too. Needs the extra tensorboard."
    )
    wandb: WandbConfig | None = Field(
        default=None, description="Send records to Weights & Biases too; left out: not."
    )
    online_mixing: OnlineMixingConfig | None = Field(
        default=None,
        description="Change the weights of the domains by their losses while training. Empty: the mixture as it is.",
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
        everywhere = sum(o.rate for o in self.objectives if o.domains is None and o.sources is None)
        if everywhere > 1 + 1e-9:
            raise ValueError(
                f"the rates of objectives for all documents add up to {everywhere:g}; a document is rearranged by one at "
                "most, so lower them to a sum of at most 1, or give them domains or sources"
            )
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
