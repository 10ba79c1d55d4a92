"""Settings of domain discovery. Nothing heavy here: configurations are read by light commands too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ClusterConfig(BaseModel):
    """Settings of domain discovery."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        16, description="number of domains, or 'auto' for the best of `k_grid`"
    )
    k_grid: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (4, 8, 12, 16, 24, 32, 48, 64),
        description="numbers tried when k is 'auto'; the highest mean silhouette wins",
    )
    sample_documents: int = Field(
        50_000, ge=1, description="most vectors the domain centres are estimated from"
    )
    iterations: int = Field(20, ge=1, description="most rounds of balanced k-means")
    restarts: int = Field(
        10, ge=1, description="random starts that compete; none are needed for `capped` and up to 750 domains"
    )
    balance: Literal["capped", "strict"] = Field(
        "capped",
        description="while centres are estimated. capped: no group above `max_share`; strict: equal groups (c-BTM)",
    )
    max_share: float = Field(
        2.0, ge=1, description="most a group may hold while centres are estimated, in equal shares (capped)"
    )
    tolerance: float = Field(
        1e-3, ge=0, description="stop when the squared shift of all centres is below this"
    )
    max_cell: int = Field(50_000, ge=2, description="most documents a cell holds, of this corpus")
    min_cell: int = Field(
        50, ge=0, description="cells expected to hold fewer are merged into their neighbours"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the sample and of the starts")
