"""What a layout sees of a document and what it gives; and which texts are the caption or transcript of a medium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.schema import Kind

CAPTIONS = frozenset(("caption", "alt"))  # roles of texts that belong to an image
TRANSCRIPTS = frozenset(("transcript",))  # and to a recording


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Units:
    """The units of a recording: their durations int32 [n] in steps, of which there are `rate` in a second.

    Units come in frames of `frame` (one of each codebook), inside which nothing may be cut.
    """

    durations: npt.NDArray[np.int32]
    rate: float
    frame: int = 1

    @property
    def count(self) -> int:
        return len(self.durations)


class Part(NamedTuple):
    """A segment as a layout sees it. `units`: those of a recording."""

    kind: Kind
    text: str = ""
    attrs: Mapping[str, str] = {}
    units: Units | None = None


class Piece(NamedTuple):
    """What is written next: `start..stop` of a segment, stop not included; in characters of a text, units of a recording.

    `text` is what is written of a text; also where the segment is an image, whose attribute it then is.
    """

    segment: int
    kind: Kind
    start: int
    stop: int
    text: str = ""


class Pair(NamedTuple):
    """An image or a recording, and the texts that are its own, in order; all of them neighbours."""

    medium: int
    texts: tuple[int, ...]

    @property
    def members(self) -> list[int]:
        return sorted((self.medium, *self.texts))


def whole(parts: Sequence[Part], i: int) -> Piece:
    """All of a segment."""
    part = parts[i]
    size = len(part.text) if part.kind == "text" else part.units.count if part.units else 0
    return Piece(i, part.kind, 0, size, part.text)


def pairs_of(
    parts: Sequence[Part], kind: Kind, roles: frozenset[str], adjacent: bool, taken: set[int]
) -> list[Pair]:
    """Images or recordings with the texts that belong to them, in order; those without any are left out.

    Texts of such a role and media stand in runs of neighbours. In a run that begins with a medium a text belongs to the
    medium before it, in one that begins with a text to the medium after it, or to the last where none comes after. A text
    of role alt always belongs to the medium before it. With
    `adjacent` a medium without texts then takes the text without a role after it, else before it.

    Args:
        taken: texts that are spoken for; those found are added.
    """
    own: dict[int, list[int]] = {i: [] for i, p in enumerate(parts) if p.kind == kind}
    for run in _runs(parts, own, roles):
        media = [i for i in run if i in own]
        for i in (i for i in run if i not in own and media):
            before = max((m for m in media if m < i), default=media[0])
            after = min((m for m in media if m > i), default=media[-1])
            # Ingest writes an alternative text right after its image, on whichever side captions stand.
            own[before if run[0] in own or parts[i].attrs.get("role") == "alt" else after].append(i)
            taken.add(i)
    for medium, texts in own.items() if adjacent else ():
        for i in (medium + 1, medium - 1):
            if not texts and 0 <= i < len(parts) and i not in taken and _plain(parts[i]):
                texts.append(i)
                taken.add(i)
    return [Pair(medium, tuple(texts)) for medium, texts in own.items() if texts]


def _runs(parts: Sequence[Part], media: Mapping[int, list[int]], roles: frozenset[str]) -> list[list[int]]:
    """Neighbours that are media, or texts of these roles: their numbers, run by run."""
    out: list[list[int]] = []
    last = -2
    for i, part in enumerate(parts):
        if i in media or (part.kind == "text" and part.attrs.get("role") in roles):
            if i - 1 != last:
                out.append([])
            out[-1].append(i)
            last = i
    return out


def _plain(part: Part) -> bool:
    return part.kind == "text" and not part.attrs.get("role")
