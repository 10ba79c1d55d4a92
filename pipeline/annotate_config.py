"""Settings of annotation (no compiled code here: configurations are read by light commands too)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mixloom.pipeline.characters import is_unspaced
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.language_config import LanguageConfig
from mixloom.pipeline.measures import MEASURES
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.quality.config import QualityModelConfig

Family = Literal["tokens", "word_ngrams", "segments"]  # `measures.FAMILIES`
GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SIGNATURES = 2  # how signatures are computed and kept; those of another number do not compare
_MOST_STOP_WORDS = 64  # the kernel remembers which ones it has seen in the bits of one integer


class MinHashConfig(BaseModel):
    """How documents are shingled and sketched. The defaults are those of FineWeb (arXiv 2406.17557, section 3.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ngram: int = Field(default=5, ge=1, le=64, description="consecutive words in one shingle")
    bands: int = Field(
        default=14, ge=1, le=256, description="bands; documents that agree in one whole band are candidates"
    )
    rows: int = Field(default=8, ge=1, le=256, description="values in one band")
    seed: int = Field(
        default=1, ge=0, lt=2**63, description="seed of the permutations; two seeds do not compare"
    )

    @property
    def num_perm(self) -> int:
        """Values in a signature: bands x rows."""
        return self.bands * self.rows


def check_stop_words(stop_words: Sequence[str]) -> None:
    """Raise UserError unless these are at most 64 lower-case words of letters, numbers and marks, one term each."""
    if len(stop_words) > _MOST_STOP_WORDS:
        raise UserError(
            f"stop_words has {len(stop_words)} entries; at most {_MOST_STOP_WORDS} are counted",
            fix="shorten the list",
        )
    for word in stop_words:
        kinds = [unicodedata.category(c)[0] for c in word]
        whole = bool(kinds) and kinds[0] in "LN" and all(k in "LNM" for k in kinds)
        if (
            not whole
            or word != word.lower()
            or (sum(k in "LN" for k in kinds) > 1 and any(map(is_unspaced, word)))
        ):
            raise UserError(
                f"stop_words: {word!r} is not a single word of letters and numbers in lower case",
                fix='write each stop word alone, without capitals and punctuation, for example "the"',
            )


class AnnotateConfig(BaseModel):
    """What is measured. A change here means annotating again; a change of rules does not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minhash: MinHashConfig = Field(default=MinHashConfig(), description="shingles and MinHash signature")
    stop_words: tuple[str, ...] = Field(
        default=GOPHER_STOP_WORDS, description="words counted as stop words; by default Gopher's English list"
    )
    short_line_chars: int = Field(
        default=30, ge=0, le=1_000_000, description="a line of at most so many characters is short"
    )
    families: tuple[Family, ...] = Field(
        default=("tokens", "word_ngrams", "segments"),
        description="measures beside those that are always there: tokens (the rules of datatrove and FineWeb), "
        "word_ngrams (Dolma), segments (DCLM); rules that ask for one left out are told. Fewer take less time",
    )
    measures: tuple[str, ...] | None = Field(
        default=None,
        description="only these of the measures of text, whatever their family; left out: all of the families. What is not "
        "needed for them is neither cut nor counted",
    )
    lines: bool = Field(
        default=True,
        description="measure every line too, which rule sets that edit lines (C4, RefinedWeb) need",
    )
    language: LanguageConfig | None = Field(
        default=None, description="identify the language of every document; left out: not identified"
    )
    quality: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], QualityModelConfig] = Field(
        default={},
        description="quality classifiers by name; the score of each is the annotation quality_<name>",
    )
    noise: NoiseConfig | None = Field(
        default=None,
        description="measure runs of noise (base64, misread encodings, ...); left out: not looked for",
    )
    media: MediaCheckConfig | None = Field(
        default=None, description="decode and measure every image and recording; left out: nothing is opened"
    )

    @field_validator("measures")
    @classmethod
    def _known_measures(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in MEASURES:
                near = get_close_matches(name, MEASURES, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"'{name}' is no measure of text{hint}")
        return names

    @field_validator("stop_words")
    @classmethod
    def _single_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        try:
            check_stop_words(words)
        except UserError as error:
            raise ValueError(f"{error.what}; {error.fix}") from error
        return words
