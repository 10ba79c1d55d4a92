"""The order in which the segments of a document are written: captions beside their images, speech beside its transcript.

Pure: from segments and a declared layout to pieces, each of which says which segment it is of and where it lies in it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

from mixloom.tokenizers.layout_config import SourceLayout
from mixloom.tokenizers.pairs import CAPTIONS, TRANSCRIPTS, Pair, Part, Piece, pairs_of, whole
from mixloom.tokenizers.word_switch import Choose, switched


def choice(seed: int, doc_id: str, *of: object) -> int:
    """A number of 64 bits for a document and what is to be chosen; the same always, whatever else is chosen."""
    name = "/".join((str(seed), doc_id, *map(str, of)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def arrange(
    parts: Sequence[Part], layout: SourceLayout, seed: int, doc_id: str, counts: Counter[str] | None = None
) -> list[Piece]:
    """The pieces of a document in the order of its layout.

    Every segment is in it once, whole or cut into pieces that follow each other. Only word_switch with
    `stretches: either` leaves out of a recording what it writes of the transcript, and the other way round. A caption
    from the attributes of an image is one piece more.

    Args:
        counts: what was met on the way is added up here.

    Raises:
        UserError: the `word_times` of a recording are no word times.
    """
    counts = Counter() if counts is None else counts
    blocks: dict[int, list[Piece]] = {}  # by their first segment
    inside: set[int] = set()
    taken: set[int] = set()
    choose = partial(choice, seed, doc_id)
    for pair in _image_pairs(parts, layout, taken, counts):
        blocks[pair.members[0]] = _captioned(parts, pair, layout)
        inside.update(pair.members)
    for pair in _speech_pairs(parts, layout, taken, counts):
        blocks[pair.members[0]] = _spoken(parts, pair, layout, choose, counts)
        inside.update(pair.members)
    pieces: list[Piece] = []
    for i in range(len(parts)):
        pieces += blocks.get(i, [] if i in inside else [whole(parts, i)])
    return pieces


def _image_pairs(
    parts: Sequence[Part], layout: SourceLayout, taken: set[int], counts: Counter[str]
) -> list[Pair]:
    if layout.images == "reading":
        return []
    pairs = pairs_of(parts, "image", CAPTIONS, layout.adjacent, taken)
    bare = {i for i, p in enumerate(parts) if p.kind == "image"} - {p.medium for p in pairs}
    said = {i for i in bare if layout.alt and _attribute(parts[i])}
    counts["images_with_caption"] += len(pairs)
    counts["images_with_attribute"] += len(said)
    counts["images_without_caption"] += len(bare - said)
    return [*pairs, *(Pair(i, ()) for i in said)]


def _attribute(part: Part) -> str:
    """The caption in the attributes of an image; "" without one."""
    return part.attrs.get("caption", "").strip() or part.attrs.get("alt", "").strip()


def _captioned(parts: Sequence[Part], pair: Pair, layout: SourceLayout) -> list[Piece]:
    texts = [whole(parts, i) for i in pair.texts]
    if not texts:
        said = _attribute(parts[pair.medium])
        texts = [Piece(pair.medium, "text", 0, len(said), said)]
    image = [whole(parts, pair.medium)]
    return texts + image if layout.images == "caption_before" else image + texts


def _speech_pairs(
    parts: Sequence[Part], layout: SourceLayout, taken: set[int], counts: Counter[str]
) -> list[Pair]:
    if layout.speech == "reading":
        return []
    pairs = pairs_of(parts, "speech", TRANSCRIPTS, layout.adjacent, taken)
    counts["recordings_with_transcript"] += len(pairs)
    counts["recordings_without_transcript"] += sum(p.kind == "speech" for p in parts) - len(pairs)
    return pairs


def _spoken(
    parts: Sequence[Part], pair: Pair, layout: SourceLayout, choose: Choose, counts: Counter[str]
) -> list[Piece]:
    order = layout.speech
    if order == "word_switch":
        pieces = switched(parts, pair, layout, choose, counts)
        if pieces:
            return pieces
        order = "alternate"
    if order == "alternate":
        order = ("speech_first", "transcript_first")[choose("order") % 2]
    counts[order] += 1
    speech, texts = [whole(parts, pair.medium)], [whole(parts, i) for i in pair.texts]
    return speech + texts if order == "speech_first" else texts + speech
