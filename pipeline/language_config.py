"""Settings of language identification (no compiled code here: configurations are read by light commands too)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LanguageConfig(BaseModel):
    """Which model tells the language of a document, and how sure it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None,
        description="a fastText model whose labels are languages, such as lid.176.bin or lid.176.ftz (path or URL); "
        "left out: the model that is shipped with the package",
    )
    max_chars: int = Field(
        4_000,
        ge=50,
        le=1_000_000_000,
        description="only so many characters of a document, from its start, are looked at",
    )
    min_score: float = Field(
        0.0, ge=0, le=1, description="below this score the language is null; the score is kept"
    )
