"""A batch whose speech is grouped into patches: what the trunk of the model reads, and the way back to the tokens.

The trunk reads one row for every patch of speech units and one for every other token, so its sequence is shorter. Whole
contexts move together, so that what is saved is saved: several short ones stand side by side where one stood.
Integer bookkeeping in numpy on the CPU, like `data.make_batch`.

    T tokens of a batch of B contexts   G rows of the trunk   P patches of up to M units   K modalities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixloom.tokenizers.vocab import PAD, SPEECH_MODALITY
from mixloom.trainers.data import IGNORE, Batch
from mixloom.trainers.model_config import ModelConfig, SpeechPatchesConfig

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Entering:
    """Patches and the rows of the residual stream they stand in.

    units: int64 [P, M], ids, 0 behind the end of a patch. lengths, rows: int64 [P].
    """

    units: Tensor
    lengths: Tensor
    rows: Tensor

    def in_order(self, order: Int64) -> Entering:
        """The same where row i of the residual stream is the `order[i]`-th in sequence, as `rows` are now."""
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return replace(self, rows=_tensor(back)[self.rows])

    def to(self, device: torch.device) -> Entering:
        """The same on `device`."""
        moved: Entering = _moved(self, device)
        return moved


@dataclass(frozen=True)
class Leaving:
    """Where the state of every token lies, and where patches may end.

    A slot is a place of the local decoder: slot p * (M + 1) + 1 + j has read unit j of patch p, slot p * (M + 1) the state of
    the trunk alone.

    before: int64 [P], row of the trunk before each patch in its document, -1 where there is none.
    source: int64 [T], a row of the trunk, or G + the slot of a unit that has another behind it in its patch.
    slots, tokens: int64 [N], units after which the patch may end: that have a target and are not the `longest`-th.
    last: float32 [N], 1 where it does end.
    """

    before: Tensor
    source: Tensor
    slots: Tensor
    tokens: Tensor
    last: Tensor


@dataclass(frozen=True)
class Patched:
    """What a model with patches needs beside the batch.

    trunk: the batch of the trunk, its contexts being several of the batch's, with domain 0; where there is no speech, the
    batch itself. first: int64 [G], the (first) token of each row of the trunk, in sequence order; -1 in padding.
    """

    trunk: Batch
    entering: Entering
    leaving: Leaving
    first: Tensor

    def to(self, device: torch.device) -> Patched:
        """The same on `device`; what is there already is not copied."""
        trunk = self.trunk if self.trunk.input_ids.device == device else self.trunk.to(device)
        first = self.first.to(device, non_blocking=True)
        return Patched(trunk, _moved(self.entering, device), _moved(self.leaving, device), first)


def _moved(part: Any, device: torch.device) -> Any:
    tensors = {f.name: getattr(part, f.name) for f in fields(part)}
    if all(t.device == device for t in tensors.values()):
        return part
    pinned = {k: t.pin_memory() if t.device.type == "cpu" else t for k, t in tensors.items()}
    return replace(part, **{k: t.to(device, non_blocking=True) for k, t in pinned.items()})


def patched(batch: Batch, config: ModelConfig, lengths: Sequence[NDArray[Any] | None] | None = None) -> Batch:
    """The batch with its speech in patches, if the model wants them and it has none yet.

    Args:
        lengths: for each context, integers [p]: tokens of each patch, which together are the real tokens of the context;
            only what lies in a run of speech is looked at. Patches of `size` units are made where it is None, and in a context in
            which every unit would be a patch.

    Raises:
        ValueError: lengths of another number of contexts, or longer than their context.
    """
    setting = config.speech_patches
    if setting is None or batch.speech is not None:
        return batch
    if batch.sizes[SPEECH_MODALITY] == 0:
        return replace(batch, speech=_without_speech(batch))
    return replace(batch, speech=_Shortening(batch, config, lengths).result())


def saving(batch: Batch) -> float:
    """Share of the real tokens of a batch that the trunk need not read."""
    if batch.speech is None:
        return 0.0
    lengths = batch.speech.entering.lengths
    real = int((batch.input_ids != PAD).sum())
    return int(lengths.sum() - lengths.shape[0]) / max(1, real)


def cut_speech(unit: Bool, fresh: Bool, edges: Bool, setting: SpeechPatchesConfig) -> tuple[Bool, Int64]:
    """Where patches begin, bool [T], and the place of every unit in its patch, int64 [T] (elsewhere without meaning).

    Args:
        unit: bool [T], which tokens are speech. fresh: bool [T], first tokens of documents.
        edges: bool [T], where patches were recorded to begin. A run of speech begins one as well, and so does every unit
            that would be beyond the longest patch.
    """
    here = np.arange(unit.shape[0])
    begin = unit & (fresh | edges | ~np.concatenate([[False], unit[:-1]]))
    place = here - np.maximum.accumulate(np.where(begin, here, 0))
    begin |= unit & (place % setting.longest == 0)
    return begin, here - np.maximum.accumulate(np.where(begin, here, 0))


def fixed_edges(unit: Bool, fresh: Bool, size: int) -> Bool:
    """Every `size`-th unit of a run of speech, bool [T]."""
    here = np.arange(unit.shape[0])
    begin = unit & (fresh | ~np.concatenate([[False], unit[:-1]]))
    return np.asarray(unit & ((here - np.maximum.accumulate(np.where(begin, here, 0))) % size == 0))


def units_of(
    ids: NDArray[np.integer[Any]], unit: Bool, begin: Bool, place: Int64
) -> tuple[Int64, Int64, Int64]:
    """Patches as rows: units int64 [P, M], lengths int64 [P], and the number of the patch of every token int64 [T]."""
    number = np.cumsum(begin) - 1
    lengths = np.bincount(number[unit], minlength=int(begin.sum()))
    units = np.zeros((len(lengths), int(lengths.max(initial=1))), np.int64)
    units[number[unit], place[unit]] = ids[unit]
    return units, lengths, number


class _Shortening:
    """The steps from a batch with speech to what the trunk reads of it."""

    def __init__(
        self, batch: Batch, config: ModelConfig, lengths: Sequence[NDArray[Any] | None] | None
    ) -> None:
        assert config.speech_patches is not None
        self.batch, self.setting = batch, config.speech_patches
        self.by_modality = config.streams > 1
        self.modalities = len(batch.sizes)
        self.ids = _host(batch.input_ids)
        self.targets = _host(batch.targets)
        self.kind = np.empty(len(self.ids), np.int64)
        self.kind[_host(batch.perm)] = np.repeat(np.arange(self.modalities), batch.sizes)
        self.unit = self.kind == SPEECH_MODALITY
        self.piece = _host(batch.documents).reshape(-1)
        self.fresh = np.diff(self.piece, prepend=-1) != 0
        self.begin, self.place = cut_speech(self.unit, self.fresh, self._edges(lengths), self.setting)

    def _edges(self, lengths: Sequence[NDArray[Any] | None] | None) -> Bool:
        contexts, length = self.batch.shape
        edges = fixed_edges(self.unit, self.fresh, self.setting.size)
        if lengths is None:
            return edges
        if len(lengths) != contexts:
            raise ValueError(f"{len(lengths)} lists of patch lengths for {contexts} contexts")
        speech = self.unit.reshape(contexts, length)
        for row, unit, own in zip(edges.reshape(contexts, length), speech, lengths):
            if own is None:
                continue
            ends = np.cumsum(own, dtype=np.int64)
            if len(ends) and ends[-1] > length:
                raise ValueError(f"patches of {ends[-1]} tokens in a context of {length}")
            begins = np.zeros(length, np.bool_)
            begins[ends[ends < length]] = True
            # Where text alone has patches, every unit is recorded as one: nothing is known of speech then.
            if not begins[unit].all():
                row[:] = begins
        return edges

    def result(self) -> Patched:
        here, (contexts, length) = np.arange(len(self.ids)), self.batch.shape
        opening = np.maximum.accumulate(np.where(self.fresh, here, 0))
        real = self.ids[opening] != PAD  # a document never begins with padding
        keep = real & (self.begin | ~self.unit)
        counts = keep.reshape(contexts, length).sum(1)
        shelf, offset, width = shelves(counts, length)
        shift = shelf * width + offset - (np.cumsum(counts) - counts)
        row = np.cumsum(keep) - 1 + np.repeat(shift, length)  # of the trunk, in sequence order; where real
        height = int(shelf.max(initial=0)) + 1
        trunk = self._trunk(height, width, keep, real, row)
        row_of = _host(trunk.inverse).astype(np.int64) if self.by_modality else np.arange(height * width)
        units, lengths, number = units_of(self.ids, self.unit, self.begin, self.place)
        first = np.flatnonzero(self.begin)
        before = np.where(self.fresh[first], -1, row_of[row[first] - 1])
        inside = self.unit & np.append(self.unit[1:] & ~self.begin[1:], False)
        slot = number * (units.shape[1] + 1) + 1 + self.place
        source = np.where(inside, height * width + slot, row_of[np.where(real, row, 0)])
        may_end = self.unit & (self.targets != IGNORE) & (self.place + 1 < self.setting.longest)
        tokens = np.flatnonzero(may_end)
        last = (~inside[tokens]).astype(np.float32)
        entering = Entering(*map(_tensor, (units, lengths, row_of[row[first]])))
        leaving = (before, np.where(real, source, 0), slot[tokens], tokens, last)
        starts = np.full(height * width, -1, np.int64)
        starts[row[keep]] = here[keep]
        return Patched(trunk, entering, Leaving(*map(_tensor, leaving)), _tensor(starts))

    def _trunk(self, height: int, width: int, keep: Bool, real: Bool, row: Int64) -> Batch:
        """The batch of the trunk; a row's id is that of its first token, its target that of its last."""
        size, tokens = height * width, np.flatnonzero(keep)
        ids, kind = np.zeros(size, np.int64), np.zeros(size, np.int64)
        targets, towards = np.full(size, IGNORE, np.int64), np.zeros(size, np.int64)
        # Padding at the end of a row of contexts is a document of its own.
        piece = -1 - np.repeat(np.arange(height), width)
        at = row[tokens]
        ids[at], kind[at], piece[at] = self.ids[tokens], self.kind[tokens], self.piece[tokens]
        # Of several tokens in one row the last one counts: assignments are made in order.
        targets[row[real]] = self.targets[real]
        towards[row[real]] = _host(self.batch.target_modality)[real]
        starts = np.flatnonzero(np.diff(piece, prepend=piece[0] + 1))
        lengths = np.diff(np.append(starts, size))
        perm = np.argsort(kind, kind="stable")
        inverse = np.empty(size, np.int64)
        inverse[perm] = np.arange(size)
        known = np.bincount(towards[targets != IGNORE], minlength=self.modalities)
        piece_of = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        return Batch(
            shape=(height, width),
            input_ids=_tensor(ids.astype(np.int32)),
            targets=_tensor(targets.astype(np.int32)),
            positions=_tensor((np.arange(size) - np.repeat(starts, lengths)).astype(np.int32)),
            documents=_tensor(piece_of.reshape(height, width)),
            perm=_tensor(perm.astype(np.int32)),
            inverse=_tensor(inverse.astype(np.int32)),
            target_modality=_tensor(towards.astype(np.uint8)),
            domains=torch.zeros(height, dtype=torch.int64),
            sizes=np.bincount(kind, minlength=self.modalities).tolist(),
            target_counts=known.tolist(),
            piece_lengths=lengths,
        )


def shelves(counts: Int64, most: int) -> tuple[Int64, Int64, int]:
    """Contexts side by side: the row int64 [B] and the place in it int64 [B] of each, and the width of all rows.

    Best fit, longest first; equal ones in their order. The width is that of the longest context, rounded up so that few
    widths come up, and never more than `most`.
    """
    step = 128 if most >= 1024 else 8
    width = min(most, -(-max(1, int(counts.max(initial=1))) // step) * step)
    shelf, offset = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    room: list[int] = []
    for c in np.argsort(-counts, kind="stable").tolist():
        n = int(counts[c])
        fits = [(left, i) for i, left in enumerate(room) if left >= n]
        if not fits:
            fits = [(width, len(room))]
            room.append(width)
        left, i = min(fits)
        shelf[c], offset[c] = i, width - left
        room[i] = left - n
    return shelf, offset, width


def _without_speech(batch: Batch) -> Patched:
    """No patch at all: rows of the trunk are the tokens."""
    none = torch.zeros(0, dtype=torch.int64)
    entering = Entering(torch.zeros(0, 1, dtype=torch.int64), none, none)
    every = torch.arange(batch.input_ids.shape[0])
    return Patched(batch, entering, Leaving(none, every, none, none, torch.zeros(0)), every)


def _host(tensor: Tensor) -> NDArray[np.integer[Any]]:
    return np.asarray(tensor.cpu().numpy())


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
