"""Settings of the stage `order`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class QuestionsConfig(BaseModel):
    """Question documents that belong to another document (pre-instruction-tuning: questions before what they ask about)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field(
        "answers",
        min_length=1,
        description="key of `meta` that makes a document a question, and names its document",
    )
    names: str = Field(
        "doc_id",
        min_length=1,
        description="what the field names a document by: doc_id, locator, or a key of the `meta` of that document",
    )
    place: Literal["before", "after"] = Field(
        "before", description="where questions stand: directly before their document, or after it"
    )


class LongConfig(BaseModel):
    """Long documents repeated inside their cells, so that the mixture of domains stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_characters: int = Field(ge=1, description="documents with so many characters of text are repeated")
    factor: int = Field(2, ge=2, le=64, description="how often each stands in the order in all")
    apart: int = Field(
        256,
        ge=1,
        description="documents between two copies, at least; more than `shards.window` keeps them out of one context",
    )


class OrderConfig(BaseModel):
    """Settings of the document order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["path", "linking", "cluster_sorted", "random"] = Field(
        "path",
        description="path: a greedy walk; linking: heaviest pairs first; cluster_sorted and random: controls",
    )
    neighbours: int = Field(10, ge=1, le=1000, description="nearest neighbours a document is linked to")
    near_duplicate: float = Field(
        0.95,
        gt=0,
        le=1.01,
        description="documents with a higher cosine are kept apart; above 1 keeps none apart",
    )
    join: bool = Field(
        True,
        description="put pieces of the path between two jumps next to each other where their ends are alike",
    )
    relocate: int = Field(
        5,
        ge=0,
        le=100,
        description="rounds in which single documents move beside a neighbour where that is better",
    )
    cluster_size: int = Field(50, ge=1, description="documents in a cluster of the control cluster_sorted")
    keep_vectors: bool = Field(
        True, description="also write the vectors in path order (half precision), to measure contexts by"
    )
    questions: QuestionsConfig | None = Field(
        None,
        description="put documents that ask about another one beside it; left out: they are like any other",
    )
    upsample_long: LongConfig | None = Field(
        None,
        description="repeat long documents (long-context training); left out: every document stands once",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the controls")
