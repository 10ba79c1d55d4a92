"""The vocabulary: one id space for all modalities, in disjoint blocks that never move.

    0..255    specials (fixed numbers)
    256..     text, then image codes, then speech units: each block starts and ends on a multiple of 256

A block reserves more ids than it uses, so a codec can be replaced by a somewhat larger one in place; a block
that is missing is appended after the last one when its codec arrives. Ids given out once keep their meaning.
The modality of a token is a pure function of its id, so it is never stored.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError

VERSION = 1
ALIGN = 256

PAD, DOC, END_DOC, IMAGE, END_IMAGE, SPEECH, END_SPEECH, BREAK = range(8)
MASK_START, MASK_COUNT = 32, 64  # <mask:0> .. <mask:63>, for causal masking in the trainer's stream
SPECIALS: dict[str, int] = {
    "<pad>": PAD,
    "<doc>": DOC,
    "</doc>": END_DOC,
    "<image>": IMAGE,
    "</image>": END_IMAGE,
    "<speech>": SPEECH,
    "</speech>": END_SPEECH,
    "<break>": BREAK,
    **{f"<mask:{k}>": MASK_START + k for k in range(MASK_COUNT)},
}

TEXT_MODALITY, IMAGE_MODALITY, SPEECH_MODALITY = 0, 1, 2
MODALITIES: dict[str, int] = {"text": TEXT_MODALITY, "image": IMAGE_MODALITY, "speech": SPEECH_MODALITY}
BLOCKS: dict[str, int] = {"special": TEXT_MODALITY, **MODALITIES}  # block name -> modality, in listing order

# Ids set aside for a codec even when it uses fewer: room to replace it without renumbering the rest.
RESERVE = {"text": 0, "image": 1024, "speech": 512}


def _digest(value: object) -> str:
    raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(raw.encode()).hexdigest()


def _aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


SPECIAL_FINGERPRINT = _digest(SPECIALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of ids: `size` reserved from `start`, the first `used` of them given out."""

    name: str
    start: int
    size: int
    used: int
    modality: int
    fingerprint: str

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Vocabulary:
    """The blocks of the id space, always listed as special, text, image, speech; an absent one has size 0.

    Build with `Vocabulary.build`, extend with `with_block`, compare with `require_same`.

    Raises:
        UserError: blocks that overlap, are not aligned or use more ids than they reserve.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        problem = _problem(self.blocks)
        if problem:
            raise UserError(
                f"vocabulary: {problem}", fix="take the vocab.json that the tokenizer stage wrote"
            )

    @classmethod
    def build(
        cls,
        text_size: int,
        text_fingerprint: str,
        *,
        image_size: int = 0,
        image_fingerprint: str = "",
        speech_size: int = 0,
        speech_fingerprint: str = "",
        reserve: dict[str, int] | None = None,
    ) -> Vocabulary:
        """Lay out the blocks for the given numbers of local ids.

        Args:
            text_size: ids of the text tokenizer; image_size, speech_size: codebook sizes, 0 when there is none.
            text_fingerprint (and the others): sha256 of what gives the local ids their meaning.
            reserve: ids to set aside at least, by block name (default `RESERVE`); of no effect on an absent one.
        """
        special = Block(
            name="special",
            start=0,
            size=ALIGN,
            used=MASK_START + MASK_COUNT,
            modality=TEXT_MODALITY,
            fingerprint=SPECIAL_FINGERPRINT,
        )
        empty = (
            Block(name=name, start=ALIGN, size=0, used=0, modality=modality, fingerprint="")
            for name, modality in MODALITIES.items()
        )
        vocab = cls((special, *empty))
        given = (
            ("text", text_size, text_fingerprint),
            ("image", image_size, image_fingerprint),
            ("speech", speech_size, speech_fingerprint),
        )
        for name, size, fingerprint in given:
            if size:
                at_least = (RESERVE | (reserve or {}))[name]
                vocab = vocab.with_block(name, size, fingerprint, reserve=at_least)
        return vocab

    def with_block(self, name: str, used: int, fingerprint: str, *, reserve: int | None = None) -> Vocabulary:
        """This vocabulary with a codec's block added at the end, or replaced in place if it fits its reservation.

        No id of another block changes. Replacing a codec changes the meaning of the ids of its own block, and
        with it the fingerprint.

        Raises:
            UserError: an unknown block, or a replacement larger than the reservation.
        """
        if name not in MODALITIES or used < 1:
            raise UserError(
                f"vocabulary: cannot add a block '{name}' of {used} ids; blocks are {', '.join(MODALITIES)}"
            )
        old = self.block(name)
        if old.size and used > old.size:
            raise UserError(
                f"vocabulary: the {name} block reserves {old.size} ids and the new codec needs {used}",
                fix="tokenize into a new run with a larger reservation; existing shards would have to be renumbered",
            )
        if old.size:
            new = replace(old, used=used, fingerprint=fingerprint)
        else:
            room = _aligned(max(used, RESERVE[name] if reserve is None else reserve))
            new = replace(old, start=self.size, size=room, used=used, fingerprint=fingerprint)
        return Vocabulary(tuple(new if b.name == name else b for b in self.blocks))

    def block(self, name: str) -> Block:
        return self.blocks[list(BLOCKS).index(name)]

    @property
    def text(self) -> Block:
        return self.block("text")

    @property
    def image(self) -> Block:
        return self.block("image")

    @property
    def speech(self) -> Block:
        return self.block("speech")

    @cached_property
    def size(self) -> int:
        """Rows of an embedding table for this vocabulary; a multiple of 256."""
        return max(b.stop for b in self.blocks)

    @property
    def pad(self) -> int:
        return PAD

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """The dtype ids are stored with: uint16 up to a size of 65535, else uint32."""
        return np.dtype(np.uint16) if self.size <= 65535 else np.dtype(np.uint32)

    def modality_table(self) -> npt.NDArray[np.uint8]:
        """uint8 [size]: the modality (0 text, 1 image, 2 speech) of every id; read-only. Specials are text."""
        return self._table

    def modality(self, ids: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """uint8, shaped like `ids`: the modality of each id.

        Raises:
            ValueError: an id outside 0..size-1.
        """
        array = np.asarray(ids)
        if array.size and (int(array.max()) >= self.size or int(array.min()) < 0):
            raise ValueError(f"ids {array.min()}..{array.max()} do not fit a vocabulary of {self.size} ids")
        return self._table[array.astype(np.int64, copy=False)]

    @cached_property
    def _table(self) -> npt.NDArray[np.uint8]:
        table = np.zeros(self.size, np.uint8)
        for b in self.blocks:
            table[b.start : b.stop] = b.modality
        table.setflags(write=False)
        return table

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the whole serialised vocabulary: equal exactly when every id means the same."""
        return _digest(self._content())

    def require_same(self, other: Vocabulary, *, what: str = "the data") -> None:
        """Raise UserError, naming both fingerprints and the blocks that differ, unless `other` equals this one."""
        if self.fingerprint == other.fingerprint:
            return
        differ = [b.name for b in self.blocks if b != other.block(b.name)]
        raise UserError(
            f"vocabulary {self.fingerprint[:16]} does not match vocabulary {other.fingerprint[:16]} of {what}: "
            f"they differ in {', '.join(differ)}",
            fix="tokenize again with one vocabulary, or use the checkpoint and the shards of the same run",
        )

    def _content(self) -> dict[str, Any]:
        keys = ("name", "start", "size", "used", "modality", "fingerprint")
        ranges = [{k: getattr(b, k) for k in keys} for b in self.blocks]
        return {"version": VERSION, "size": self.size, "pad": PAD, "dtype": self.dtype.name, "ranges": ranges}

    def to_json(self) -> dict[str, Any]:
        """The vocabulary as plain JSON values, with its fingerprint."""
        return self._content() | {"fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Vocabulary:
        """The vocabulary that `to_json` wrote.

        Raises:
            UserError: another version, missing or malformed fields, or a fingerprint that does not match.
        """
        fix = "take the vocab.json that the tokenizer stage wrote, unedited"
        if not isinstance(value, dict) or value.get("version") != VERSION:
            got = value.get("version") if isinstance(value, dict) else type(value).__name__
            raise UserError(f"vocabulary: version {got!r}, expected {VERSION}", fix=fix)
        try:
            vocab = cls(tuple(Block(**r) for r in value["ranges"]))
            stated = str(value["fingerprint"])
        except (KeyError, TypeError) as error:
            raise UserError(f"vocabulary: malformed ({error})", fix=fix) from error
        if vocab.fingerprint != stated or vocab.to_json() != value:
            raise UserError(
                f"vocabulary: states fingerprint {stated[:16]} but its content gives {vocab.fingerprint[:16]}",
                fix=fix,
            )
        return vocab

    def save(self, path: Path | str) -> None:
        """Write vocab.json (to a temporary name, then renamed)."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path | str) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is not a valid vocabulary.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read the vocabulary {path}: {error}", fix="run the tokenizer stage first"
            ) from error
        return cls.from_json(value)


def modality_table(vocabulary: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Modality of every id, uint8 [V], from a serialised vocabulary; ids outside all ranges are text (0)."""
    table = np.zeros(int(vocabulary["size"]), dtype=np.uint8)
    for item in vocabulary["ranges"]:
        start = int(item["start"])
        table[start : start + int(item["size"])] = int(item["modality"])
    return table


def require_same_vocabulary(model: dict[str, Any], shards: dict[str, Any], *, what: str) -> Vocabulary:
    """The vocabulary that a model and shards share, from its serialised forms (`Vocabulary.to_json`).

    Args:
        model: the vocabulary a model was trained with. shards: that in the manifest of shards.
        what: the shards, as the message shall name them.

    Raises:
        UserError: they differ, naming both fingerprints and the blocks that do; or one of them is damaged.
    """
    ours = Vocabulary.from_json(model)
    ours.require_same(Vocabulary.from_json(shards), what=what)
    return ours


def _problem(blocks: tuple[Block, ...]) -> str:
    """What is wrong with a list of blocks, in words; "" when nothing is."""
    if [b.name for b in blocks] != list(BLOCKS):
        return f"ranges are {[b.name for b in blocks]}, expected {list(BLOCKS)}"
    end = 0
    for b in sorted(blocks, key=lambda b: (b.start, b.stop)):
        numbers = (b.start, b.size, b.used, b.modality)
        if any(type(n) is not int for n in numbers):
            return f"range '{b.name}' has a value that is not an integer: {numbers}"
        if b.start % ALIGN or b.size % ALIGN:
            return f"range '{b.name}' at {b.start} of {b.size} ids is not aligned to {ALIGN}"
        if not 0 <= b.used <= b.size:
            return f"range '{b.name}' uses {b.used} of {b.size} ids"
        if b.modality != BLOCKS[b.name]:
            return f"range '{b.name}' has modality {b.modality}, expected {BLOCKS[b.name]}"
        if b.size and b.start < end:
            return f"range '{b.name}' starts at {b.start}, inside the range before it (which ends at {end})"
        end = max(end, b.stop)
    return ""
