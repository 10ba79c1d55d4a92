"""Settings of semantic deduplication (no kernels here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SemanticConfig(BaseModel):
    """Semantic deduplication inside the cells of the domains (SemDeDup, Abbas et al. 2023, arXiv 2303.09540).

    As good as the vectors it compares: see docs/dedup.md before using it on the vectors of tf-idf.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    eps: float = Field(
        default=0.001,
        gt=0.0,
        lt=1.0,
        description="a document whose cosine to a kept one of its cell is greater than 1 - eps is dropped",
    )
    keep: Literal["preferred", "far", "near"] = Field(
        default="preferred",
        description="who is kept first. preferred: by dedup.priority, quality and length, as of near duplicates; "
        "far: farthest from the centre of the domain (SemDeDup); near: nearest to it",
    )
    media: Literal["equal", "ignore"] = Field(
        default="equal",
        description="equal: only documents with the same images and recordings can be duplicates; "
        "ignore: the vectors of their text alone decide",
    )
