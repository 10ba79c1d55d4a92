"""Settings of how a training run is watched: spikes, probes and where metrics go. Reads no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SpikeConfig(BaseModel):
    """What happens when the loss of an update jumps or is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["off", "stop", "skip"] = Field(
        default="skip",
        description="skip: such an update is not applied, its documents are named in spikes.jsonl, and training "
        "goes on. stop: the run ends there. off: nothing is watched; a loss that is not finite still ends the run.",
    )
    sigmas: float = Field(
        default=6.0,
        gt=0.0,
        description="An update is a spike where its loss lies so many standard deviations (from the median absolute "
        "deviation) above the median of the window.",
    )
    window: int = Field(default=128, ge=4, le=4096, description="Updates that are looked back on.")
    warmup: int | None = Field(
        default=None,
        ge=2,
        description="Updates seen before spikes are looked for; a value that is not finite counts at once. "
        "Empty: half of the window.",
    )
    patience: int = Field(
        default=5,
        ge=1,
        description="Updates in a row that may be left out. More mean that the weights are at fault, not the data, "
        "and the run stops.",
    )
    quarantine: bool = Field(
        default=True,
        description="Exclude the contexts that carried a spike from later updates, by an entry in the mixture log; "
        "only with skip, and only where the spike lies in few contexts.",
    )
    probe_every: int = Field(
        default=100,
        ge=0,
        description="Updates between two looks at activations (attention logits, residual stream) and at the size "
        "of updates beside the weights. 0: never. One look costs about a forward pass of one part of a batch.",
    )


class WandbConfig(BaseModel):
    """Records to Weights & Biases as well. Needs the extra `wandb`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(default="mixloom", min_length=1, description="Project of the run.")
    mode: Literal["offline", "online"] = Field(
        default="offline",
        description="offline: files in the folder of the run, to be sent later with `wandb sync`; no network.",
    )
