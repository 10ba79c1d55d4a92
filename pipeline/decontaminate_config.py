"""Settings of decontamination (no Beam and no kernels here: configurations are read by light commands too)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EvaluationSet(BaseModel):
    """One evaluation set: where its items are, and which of their fields are text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$", description="name of the set in the ledger and in the report"
    )
    path: str = Field(
        min_length=1,
        description="a file, a glob or a URL; a relative one is looked for below data_root. "
        "Files ending in .gz or .zst are decompressed",
    )
    format: Literal["jsonl", "parquet", "text"] = Field(
        default="jsonl", description="jsonl: an object per line; parquet: a row each; text: see text_items"
    )
    fields: tuple[str, ...] = Field(
        default=(),
        description="fields that hold text (jsonl and parquet); dots go into nested objects, a list of strings is "
        "one text of several lines. Each field is matched by itself",
    )
    join: bool = Field(
        default=False, description="match the fields of an item as one text, in the order given"
    )
    id_field: str | None = Field(
        default=None, description="field that names an item; by default its line or row number, from 1"
    )
    text_items: Literal["lines", "file"] = Field(
        default="lines", description="format text: an item is a line, or the whole file"
    )

    @model_validator(mode="after")
    def _fields_fit_the_format(self) -> EvaluationSet:
        if self.format == "text" and (self.fields or self.join or self.id_field):
            raise ValueError("fields, join and id_field are for jsonl and parquet; format text has no fields")
        if self.format != "text" and not self.fields:
            raise ValueError(
                "fields is empty: name the fields that hold text, for example [question, answer]"
            )
        return self


class DecontaminateConfig(BaseModel):
    """What is evaluated on later, and how much of it a document may share with it.

    The n-gram, the count of documents above which a phrase is common, the margin and the number of cuts follow
    GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C), which counted characters where this counts words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sets: tuple[EvaluationSet, ...] = Field(default=(), description="the evaluation sets")
    action: Literal["drop", "cut"] = Field(
        default="drop", description="drop the document, or cut the matched words with a margin out of it"
    )
    ngram: int = Field(default=13, ge=4, le=64, description="words in a row that make a match")
    min_words: int = Field(
        default=8,
        ge=3,
        le=64,
        description="an item of fewer words than `ngram` must be found whole; below this many words it is skipped",
    )
    min_matches: int = Field(
        default=1, ge=1, description="n-grams of an item that must be found in one document"
    )
    min_coverage: float = Field(
        default=0.0, ge=0.0, le=1.0, description="share of an item's words that must be found in one document"
    )
    min_distinct: int = Field(
        default=5,
        ge=0,
        le=64,
        description="an n-gram with fewer different words of two letters or more is no evidence (rows of numbers, tables)",
    )
    common_items: int = Field(
        default=10,
        ge=1,
        description="an n-gram in more items than this is a template of the set, no evidence",
    )
    common_documents: int | None = Field(
        default=10,
        ge=1,
        description="an n-gram in more documents of the corpus than this is a common phrase: it counts only where "
        "half of the item and two n-grams' worth of words are found; null: every n-gram counts",
    )
    margin: int = Field(
        default=40, ge=0, description="cut: words removed on each side of the matched ones as well"
    )
    max_cuts: int = Field(default=10, ge=1, description="cut: a document with more places to cut is dropped")
    min_kept: int = Field(default=50, ge=0, description="cut: a document with fewer words left is dropped")
    shown_chars: int = Field(
        default=300,
        ge=40,
        le=10_000,
        description="longest text of a match shown in the ledger, in characters",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DecontaminateConfig:
        names = [s.name for s in self.sets]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two sets are called '{twice[0]}': give each a name of its own")
        if self.min_distinct > self.ngram:
            raise ValueError(
                f"min_distinct is {self.min_distinct}, more than the {self.ngram} words of an n-gram: "
                "nothing could ever match"
            )
        return self
