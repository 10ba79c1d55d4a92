"""Settings of paragraph and line deduplication (no Beam and no kernels here)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ParagraphConfig(BaseModel):
    """Which paragraphs or lines that stand in several places of the corpus are removed, and where one is kept.

    The smallest unit and the share of a document follow the Bloom filter of DCLM (Li et al. 2024, arXiv 2406.11794:
    13 words, 0.8); here equal text is found exactly, and what is kept does not depend on the order of documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Literal["paragraph", "line"] = Field(
        default="paragraph",
        description="paragraph: lines with no empty line between them; line: what ends with a newline",
    )
    min_words: int = Field(
        default=13,
        ge=1,
        description="a unit of fewer words is never removed (each Han or Kana character is one)",
    )
    max_copies: int = Field(
        default=1, ge=1, description="occurrences of a text that are kept (with within=false: documents)"
    )
    within: bool = Field(
        default=True, description="repeats inside one document are removed too; false: only across documents"
    )
    fold_digits: bool = Field(default=False, description="all digits are equal when units are compared")
    fold_punctuation: bool = Field(
        default=False, description="punctuation is passed over when units are compared"
    )
    max_removed_share: float = Field(
        default=0.8,
        gt=0.0,
        lt=1.0,
        description="a document that would lose more of its text than this share (in bytes) is dropped",
    )
    media: Literal["leave", "edit"] = Field(
        default="leave",
        description="leave: documents with images or recordings lose nothing (a caption stays with its picture) "
        "and come first as owners; edit: they are treated as all others",
    )
    priority: tuple[str, ...] = Field(
        default=(), description="source names, preferred first, as owners; the rest come after these, equally"
    )
    partitions: int = Field(
        default=16, ge=1, le=1_000_000, description="keys of each shuffle; changes memory, never the result"
    )
    units_per_pass: int = Field(
        default=4_000_000,
        ge=1000,
        description="units compared in one pipeline (at most 16 pipelines): bounds the memory of a local runner at "
        "about 300 bytes each; changes memory, never the result",
    )
