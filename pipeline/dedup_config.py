"""Settings of exact and near deduplication (no Beam here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class NearConfig(BaseModel):
    """Near deduplication: MinHash-LSH candidates, verified by the true Jaccard similarity of word n-grams.

    Words per shingle and the banding are those of the signatures, `annotate.minhash`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="Jaccard similarity of word n-gram sets from which two are duplicates",
    )
    media: Literal["equal", "ignore"] = Field(
        default="equal",
        description="equal: only documents with the same images and recordings can be near duplicates; "
        "ignore: text alone decides",
    )
    bucket_cap: int = Field(
        default=8,
        ge=2,
        le=256,
        description="all pairs are compared in an LSH bucket of at most this many documents",
    )
    leaders: int = Field(
        default=3,
        ge=1,
        le=64,
        description="in a larger bucket, the best documents every other one is compared with",
    )
    compare_cap: int = Field(
        default=256,
        ge=2,
        le=4096,
        description="components of at most this many documents are compared in full",
    )
    max_shingles: int = Field(
        default=20_000, ge=256, description="larger shingle sets are estimated from this many smallest hashes"
    )
    components: Literal["distributed", "local"] = Field(
        default="distributed",
        description="connected components in Beam rounds, or in one process over all edges",
    )
    merge: Literal["greedy", "components"] = Field(
        default="greedy",
        description="greedy: drop a document only if it is a duplicate of a kept one; "
        "components: keep one document of each connected component",
    )
    max_rounds: int = Field(
        default=50, ge=1, description="rounds after which distributed components give up with an error"
    )


class DedupConfig(BaseModel):
    """Which duplicates are removed, and which of several equal documents is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="remove documents whose content is equal byte for byte")
    near: NearConfig | None = Field(
        default_factory=lambda: NearConfig(), description="settings of near deduplication; null turns it off"
    )
    partitions: int = Field(
        default=16, ge=1, le=1_000_000, description="keys of each shuffle; about one per 100,000 documents"
    )
    quality: str | None = Field(
        default=None, description="annotation by which near duplicates are ranked, greater is better"
    )
    length: str = Field(
        default="words", description="annotation by which near duplicates of equal quality are ranked"
    )
    priority: tuple[str, ...] = Field(
        default=(), description="source names, preferred first; the rest come after these and rank equally"
    )


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents of a Jaccard similarity share an LSH band: 1 - (1 - s**rows)**bands."""
    return float(1.0 - (1.0 - similarity**rows) ** bands)
