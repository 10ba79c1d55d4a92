"""Settings of training objectives other than plain next-token prediction, and the special ids they write.

An objective rearranges documents when they are served; shards never hold these ids. They lie in the block of
specials, among ids that were always reserved, so no vocabulary and no fingerprint changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mixloom.tokenizers.vocab import MASK_COUNT, MASK_START

FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE, END_SPAN, DENOISE_R, DENOISE_S, DENOISE_X = range(8, 15)
OBJECTIVE_SPECIALS: dict[str, int] = {
    "<fim:prefix>": FIM_PREFIX,
    "<fim:suffix>": FIM_SUFFIX,
    "<fim:middle>": FIM_MIDDLE,
    "<eom>": END_SPAN,
    "<denoise:r>": DENOISE_R,
    "<denoise:s>": DENOISE_S,
    "<denoise:x>": DENOISE_X,
    **{f"<mask:{k}>": MASK_START + k for k in range(MASK_COUNT)},
}
"""Every id an objective writes, by name; <mask:i> are also in `vocab.SPECIALS`."""

ROOM = 64  # tokens by which contexts are served wider, where nothing else is said
_VERSION = 1  # part of the fingerprint: raised when the same settings and seed give other tokens


class _Selection(BaseModel):
    """Which documents an objective is for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="Share of the documents to rearrange; the rest stays as it is.",
    )
    domains: tuple[str, ...] | None = Field(
        default=None, description="Only documents of these domains. Empty: of all."
    )
    sources: tuple[str, ...] | None = Field(
        default=None, description="Only documents of these sources. Empty: of all."
    )


class CausalMask(_Selection):
    """Spans go to the end and leave a sentinel: CM3 (Aghajanyan et al. 2022, arXiv 2201.07520, section 3).

    With InCoder's end of a span (Fried et al. 2022, arXiv 2204.05999, section 2.1), which also trains this on code.
    """

    kind: Literal["cm3"] = "cm3"
    mean_spans: float = Field(
        default=1.0, gt=0.0, le=16.0, description="Mean of the Poisson distribution of the number of spans."
    )
    max_spans: int = Field(
        default=16, ge=1, le=MASK_COUNT, description="Most spans of a document; there is always one."
    )


class FillMiddle(_Selection):
    """A document is cut in three and its middle comes last (Bavarian et al. 2022, arXiv 2207.14255, section 3)."""

    kind: Literal["fim"] = "fim"
    spm: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="Share written suffix-prefix-middle; the others are prefix-suffix-middle.",
    )


class Denoiser(BaseModel):
    """One corruption of a mixture of denoisers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["r", "s", "x"] = Field(
        description="Token it announces itself with. s: one span, the end of the document; r and x: spans anywhere."
    )
    rate: float = Field(
        gt=0.0, lt=1.0, description="Share of the document that is corrupted, for s on average."
    )
    span: float = Field(default=3.0, ge=1.0, description="Mean length of a span; of no effect for s.")


UL2_MIXTURE: tuple[Denoiser, ...] = (
    Denoiser(mode="r", span=3, rate=0.15),
    Denoiser(mode="r", span=8, rate=0.15),
    Denoiser(mode="s", rate=0.25),
    Denoiser(mode="x", span=3, rate=0.5),
    Denoiser(mode="x", span=8, rate=0.5),
    Denoiser(mode="x", span=64, rate=0.15),
    Denoiser(mode="x", span=64, rate=0.5),
)
"""Table 1 of the UL2 paper (Tay et al. 2022, arXiv 2205.05131)."""


class MixtureOfDenoisers(_Selection):
    """Spans are replaced by sentinels and asked for after the document: UL2 for a decoder (section 3.1 of the paper)."""

    kind: Literal["ul2"] = "ul2"
    denoisers: tuple[Denoiser, ...] = Field(
        default=UL2_MIXTURE, min_length=1, max_length=64, description="Each is taken equally often."
    )
    loss: Literal["answers", "all"] = Field(
        default="answers",
        description="answers: only the corrupted spans are targets, as in the paper. all: what stands before them "
        "too, which a causal model can also learn from.",
    )


Objective = Annotated[CausalMask | FillMiddle | MixtureOfDenoisers, Field(discriminator="kind")]


def default_room(objectives: Sequence[Objective], seq_len: int) -> int:
    """Tokens by which contexts are served wider than they are stored, when the user has not said.

    Causal masks and filled-in middles add a handful of tokens to a document. Denoisers add two for each span, a
    twelfth of a document on average, so theirs grows with the context.
    """
    if not objectives:
        return 0
    return max(ROOM, seq_len // 8) if any(o.kind == "ul2" for o in objectives) else ROOM


def objectives_fingerprint(objectives: Sequence[Objective], room: int) -> str:
    """sha256 of everything that decides what is served, the seed apart."""
    value = {"version": _VERSION, "room": room, "objectives": [o.model_dump(mode="json") for o in objectives]}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
