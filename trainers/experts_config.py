"""Settings of `mixloom experts`. Reads no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mixloom.trainers.config import RoutingConfig, TrainConfig


class ExpertsRecipe(BaseModel):
    """A copy of a trained model per domain of a run, trained on that domain alone, and what becomes of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: str = Field(description="the run with the shards; experts are written into it")
    name: str = Field(
        "experts", pattern=r"^[A-Za-z0-9_-]+$", description="folder of the experts inside the run"
    )
    start: str = Field(
        "train",
        description="the model all experts begin as: a folder of a training in the run, or any path that "
        "`mixloom evaluate` takes",
    )
    domains: tuple[str, ...] | None = Field(
        None, description="only experts for these domains; left out: for all that have words"
    )
    train: TrainConfig = Field(TrainConfig(), description="how each expert is trained")
    max_epochs: float = Field(
        4.0,
        gt=0,
        le=1000,
        description="a domain too small for all steps gets as many as serve it so often; one too small for a single "
        "step keeps the weights they all begin with",
    )
    merge: Literal["average", "fisher"] = Field(
        "average",
        description="how the experts become one model: the mean of their weights, or one weighed by Fisher information",
    )
    weigh: Literal["tokens", "even"] = Field(
        "tokens",
        description="weights of the experts in the mean and before routing: tokens they were trained on, or all alike",
    )
    fisher_contexts: int = Field(16, ge=1, description="contexts per domain that Fisher information is from")
    routing: RoutingConfig = Field(RoutingConfig(), description="which experts speak for a text")
    held_out: str | None = Field(
        None,
        description="a run or shards to compare on; left out: the contexts of the run itself, which are no held-out data",
    )
    contexts: int = Field(4, ge=0, description="contexts per domain to compare on; 0: all")
