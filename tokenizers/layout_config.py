"""What can be declared about the order in which the segments of a document are written. Imports nothing heavy."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MODEL = ConfigDict(extra="forbid", frozen=True)

ImageOrder = Literal["reading", "caption_before", "caption_after"]
SpeechOrder = Literal["reading", "speech_first", "transcript_first", "alternate", "word_switch"]


class SourceLayout(BaseModel):
    """In which order the documents of a source are written. Nothing is left out but by `stretches: either`."""

    model_config = _MODEL

    images: ImageOrder = Field(
        default="reading",
        description="Where the captions of an image stand: as in the document, before it, or after it.",
    )
    speech: SpeechOrder = Field(
        default="reading",
        description="A recording and its transcript: as in the document; in one order; in either, by a hash of the document; "
        "or switching between the two at words.",
    )
    adjacent: bool = Field(
        default=False,
        description="A text without a role beside an image or recording that has no caption or transcript is its own: "
        "the one after it, else the one before.",
    )
    alt: bool = Field(
        default=False,
        description="Write the `caption` attribute of an image, else its `alt`, where no text is its caption. Rules and "
        "masks do not see attributes: see `alt_text` of the source.",
    )
    stretches: Literal["either", "speech_first", "transcript_first"] = Field(
        default="either",
        description="With word_switch: stretches of words alternate between speech and text; or each is written as both, "
        "in this order.",
    )
    words: tuple[int, int] = Field(
        default=(3, 8), description="Fewest and most words of a stretch (word_switch)."
    )
    untimed: Literal["whole", "proportional"] = Field(
        default="whole",
        description="word_switch where it is not known when words are said: the whole recording beside the whole "
        "transcript, or words guessed to last as long as they have letters.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.words
        if not 1 <= low <= high:
            raise ValueError(f"words {list(self.words)}: give the fewest, at least 1, and then the most")
        if self.alt and self.images == "reading":
            raise ValueError("alt writes captions: set images to caption_before or caption_after")
        return self

    @property
    def reading(self) -> bool:
        """Whether this is the order of the document."""
        return self.images == "reading" and self.speech == "reading"


READING = SourceLayout()


class LayoutConfig(BaseModel):
    """The order in which segments are written, by source; sources that are not named keep the order of the document."""

    model_config = _MODEL

    by_source: dict[str, SourceLayout] = Field(
        default={},
        description="By name of the source; * stands for any characters, and the first name that fits holds.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of what is chosen by a hash of the document.")

    def of(self, source: str) -> SourceLayout:
        """The layout of a source."""
        fits = (own for like, own in self.by_source.items() if fnmatchcase(source, like))
        return next(fits, READING)

    def unknown(self, sources: list[str]) -> list[str]:
        """Names in `by_source` that fit none of the sources, sorted."""
        return sorted(n for n in self.by_source if not any(fnmatchcase(s, n) for s in sources))

    @property
    def switching(self) -> list[str]:
        """Names in `by_source` whose recordings are cut at words, sorted."""
        return sorted(name for name, own in self.by_source.items() if own.speech == "word_switch")

    def settings(self) -> dict[str, Any]:
        """What of this decides the tokens: empty where every document keeps its order."""
        if all(own.reading for own in self.by_source.values()):
            return {}
        return {"layout": self.model_dump(mode="json")}


READING_ORDER = LayoutConfig()
