"""Settings of exact and near deduplication (no Beam here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BANDS = 256


class NearConfig(BaseModel):
    """Near deduplication: MinHash-LSH candidates, verified by the true Jaccard similarity of word n-grams.

    Words per shingle and the number of values in a signature belong to `annotate.minhash`; how the values are
    cut into bands is decided here, so the threshold may change without annotating again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="Jaccard similarity of word n-gram sets from which two are duplicates",
    )
    recall: float = Field(
        default=0.98,
        gt=0.0,
        lt=1.0,
        description="least probability with which a pair at the threshold shall become a candidate, "
        "where bands and rows are left to be chosen",
    )
    bands: int | None = Field(
        default=None,
        ge=1,
        le=MOST_BANDS,
        description="bands of a signature; documents that agree in one whole band are candidates; "
        "by default as many as rows allows",
    )
    rows: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="values in one band; by default the most that serve the threshold with this recall",
    )
    media: Literal["equal", "ignore"] = Field(
        default="equal",
        description="equal: only documents with the same images and recordings can be near duplicates; "
        "ignore: text alone decides",
    )
    bucket_cap: int = Field(
        default=16,
        ge=2,
        le=256,
        description="all pairs are compared in an LSH bucket of at most this many documents",
    )
    leaders: int = Field(
        default=4,
        ge=1,
        le=64,
        description="in a larger bucket, the best documents every other one is compared with",
    )
    neighbours: int = Field(
        default=16,
        ge=0,
        le=256,
        description="in a larger bucket, the documents next in rank (so of like length) each one is compared with",
    )
    bucket_warn: int = Field(
        default=1000, ge=2, description="a bucket of more documents than this is named in a warning"
    )
    compare_cap: int = Field(
        default=1024,
        ge=2,
        le=16_384,
        description="components of at most this many documents are compared in full",
    )
    max_shingles: int = Field(
        default=20_000, ge=256, description="larger shingle sets are estimated from this many smallest hashes"
    )
    components: Literal["distributed", "local"] = Field(
        default="distributed",
        description="connected components in Beam rounds, or in one process over all edges",
    )
    local_edges: int = Field(
        default=1_000_000,
        ge=0,
        description="so few edges (32 bytes each) are joined in one process in any case, which spares the pipelines of the rounds; "
        "0: never",
    )
    merge: Literal["greedy", "components"] = Field(
        default="greedy",
        description="greedy: drop a document only if it is a duplicate of a kept one; "
        "components: keep one document of each connected component",
    )
    max_rounds: int = Field(
        default=50, ge=1, description="rounds after which distributed components give up with an error"
    )

    @model_validator(mode="after")
    def _rows_with_bands(self) -> Self:
        if self.bands is not None and self.rows is None:
            raise ValueError(
                f"bands is {self.bands} and rows is not stated; state both, or only rows, or neither to have "
                "them chosen from the threshold"
            )
        return self

    def banding(self, num_perm: int) -> tuple[int, int]:
        """(bands, rows) over signatures of `num_perm` values: as stated, else chosen from the threshold.

        Raises:
            ValueError: the signatures are too short for what is stated.
        """
        if self.rows is None:
            return choose_banding(self.threshold, num_perm, self.recall)
        bands = min(num_perm // self.rows, MOST_BANDS) if self.bands is None else self.bands
        if bands * self.rows > num_perm or not bands:
            raise ValueError(
                f"{self.bands or 'any'} bands of {self.rows} rows need {(self.bands or 1) * self.rows} values"
            )
        return bands, self.rows


class IndexConfig(BaseModel):
    """What a run leaves behind so that later runs can be deduplicated against it without its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hashes: int = Field(
        default=1024,
        ge=64,
        le=65_536,
        description="shingle hashes stored of a document, 4 bytes each; one of no more shingles is compared exactly, "
        "a longer one is estimated from its smallest",
    )


class DedupConfig(BaseModel):
    """Which duplicates are removed, and which of several equal documents is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="remove documents whose content is equal byte for byte")
    near: NearConfig | None = Field(
        default_factory=lambda: NearConfig(), description="settings of near deduplication; null turns it off"
    )
    against: tuple[str, ...] = Field(
        default=(),
        description="run directories of earlier runs: what is a duplicate of a document they kept is dropped here; "
        "their text is not read",
    )
    against_margin: float = Field(
        default=3.0,
        ge=0.0,
        le=10.0,
        description="standard errors by which an estimated similarity to a document of an earlier run must exceed "
        "the threshold",
    )
    index: IndexConfig | None = Field(
        default=None, description="leave an index of what was kept, for later runs; null leaves none"
    )
    partitions: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="pieces of a shuffle, at least; there is one per 50,000 documents or more. Changes memory and "
        "time, never the result",
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


def choose_banding(threshold: float, num_perm: int, recall: float) -> tuple[int, int]:
    """(bands, rows): the most rows, so the fewest candidates, that find a pair at `threshold` with probability `recall`.

    As many bands as `num_perm` values allow (at most 256). Where not even one row per band does, one row.
    """
    for rows in range(num_perm, 1, -1):
        bands = min(num_perm // rows, MOST_BANDS)
        if candidate_probability(threshold, bands, rows) >= recall:
            return bands, rows
    return min(num_perm, MOST_BANDS), 1
