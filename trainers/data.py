"""From packed contexts to what the model eats: targets, positions and the modality-major order.

A context is a row of token ids holding whole pieces of documents, then padding. Everything here is integer
bookkeeping in numpy on the CPU, so that the accelerator never has to ask how many tokens a modality has.

    T = B * L   tokens of a batch, context after context ("sequence order")
    P           pieces: the documents of all contexts, and one more for the padding of each context
    K           modalities; V ids of the vocabulary
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mixloom.mixers.blocks import Blocks
from mixloom.mixers.contexts import DocLengths
from mixloom.tokenizers.vocab import modality_table
from mixloom.trainers.batch_kernel import (
    ID_OUTSIDE,
    IGNORE,
    MODALITY_OUTSIDE,
    NEGATIVE,
    TOO_LONG,
    cut_pieces,
    fill,
    find_runs,
    join_pieces,
    number_pieces,
)

if TYPE_CHECKING:
    from mixloom.trainers.model_config import ModelConfig
    from mixloom.trainers.speech_batch import Patched

__all__ = [
    "IGNORE",
    "Arrays",
    "Batch",
    "Prefetcher",
    "StreamLike",
    "make_batch",
    "micro_batches",
    "modality_edges",
    "modality_names",
    "modality_table",
]

Patches = Sequence[np.ndarray | None]
Arrays = (
    tuple[np.ndarray, Sequence[np.ndarray], np.ndarray]
    | tuple[np.ndarray, Sequence[np.ndarray], np.ndarray, np.ndarray]
    | tuple[np.ndarray, Sequence[np.ndarray], np.ndarray, np.ndarray | None, Patches]
)


class StreamLike(Protocol):
    """Where the contexts of a step come from; the answer must depend on the step alone.

    Where it has an attribute `steps`, the updates it can serve, a longer training is refused.
    """

    def batch_arrays(self, step: int) -> Arrays:
        """`(input_ids uint16|uint32 [B, L], doc_lengths: B int arrays, domains int32 [B])` of update `step` from 0.

        Objectives that leave targets out add a fourth array, see `counted` of `make_batch`. For a model that reads speech in
        patches their lengths may be the fifth, see `speech_batch.patched`; the fourth is then None where all targets count.
        """
        ...

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint before update `step` must record to go on with the same data; JSON values only."""
        ...

    def check(self, state: dict[str, Any]) -> None:
        """Raise UserError where a recorded state belongs to other data."""
        ...

    def documents(self, step: int) -> list[str]:
        """Ids of the documents in update `step`, to name them when its loss is not finite."""
        ...


@dataclass(frozen=True)
class Batch:
    """Contexts ready for the model. All tensors are in sequence order unless they say otherwise.

    input_ids, targets, positions: int32 [T]; target_modality: uint8 [T]; `targets` is IGNORE at the last token of a
    piece and in padding. documents: int32 [B, L], one number per piece, padding being a piece of its own;
    without a document mask the pieces of a context count as one, and so do their positions and lengths.
    perm: int32 [T], sequence index of every row of the modality-major order (stable); inverse: the way back.
    sizes: tokens per modality, padding counted as text. piece_lengths: int64 [P], in sequence order, sum T.
    target_counts: targets per modality. domains: int64 [B]. speech: the batch with speech in patches, where a model reads it
    so; see `speech_batch.patched`.
    """

    shape: tuple[int, int]
    input_ids: Tensor
    targets: Tensor
    positions: Tensor
    documents: Tensor
    perm: Tensor
    inverse: Tensor
    target_modality: Tensor
    domains: Tensor
    sizes: list[int]
    target_counts: list[int]
    piece_lengths: np.ndarray
    speech: Patched | None = None

    @property
    def targets_total(self) -> int:
        return sum(self.target_counts)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on `device`, copied without waiting where memory is pinned."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            f.name: value.pin_memory().to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        if self.speech is not None:
            moved["speech"] = self.speech.to(device)
        return replace(self, **moved)


def modality_names(vocabulary: dict[str, Any]) -> list[str]:
    """Name of each modality, by its number; `special` ids are text."""
    names: dict[int, str] = {}
    for item in vocabulary["ranges"]:
        if item["name"] != "special":
            names[int(item["modality"])] = str(item["name"])
    return [names.get(m, f"modality{m}") for m in range(max(names, default=0) + 1)]


def modality_edges(modality: np.ndarray) -> np.ndarray:
    """The ids at which another modality begins, and 0 and V: int64, ascending; modality is uint8 [V]."""
    inside = np.flatnonzero(modality[1:] != modality[:-1]) + 1
    return np.concatenate([[0], inside, [len(modality)]]).astype(np.int64)


def make_batch(
    input_ids: np.ndarray,
    doc_lengths: Sequence[np.ndarray],
    modality: np.ndarray,
    *,
    domains: np.ndarray | None = None,
    modalities: int = 3,
    document_mask: bool = True,
    counted: np.ndarray | None = None,
    edges: np.ndarray | None = None,
    blocks: Blocks | None = None,
) -> Batch:
    """Turn contexts into a Batch.

    Args:
        input_ids: uint16 or uint32 [B, L].
        doc_lengths: for each context the lengths of its pieces in order; zeros are ignored, the rest is padding.
        modality: uint8 [V], see `modality_table`.
        domains: int [B], only carried along.
        modalities: K.
        document_mask: whether documents are read apart (`ModelConfig.document_mask`). Targets are the same
            either way: the last token of a document never has one.
        counted: bool [B, L], False where a token is no target for the one before it; None: all are.
        edges: from `modality_edges`, for those who make many batches.
        blocks: where to take memory from; new memory by default.

    Raises:
        ValueError: pieces longer than their context, an id outside the vocabulary, or 2^31 tokens and more.
    """
    contexts, length = input_ids.shape
    tokens = contexts * length
    if tokens > np.iinfo(np.int32).max:
        raise ValueError(f"{tokens} tokens in a batch; make it of fewer contexts")
    pieces, padding = _pieces(doc_lengths, contexts, length)
    read = pieces if document_mask else _joined(pieces, padding, length)
    flat = np.ascontiguousarray(input_ids).reshape(-1)
    if edges is None:
        edges = modality_edges(modality)
    blocks = blocks or Blocks()
    runs = blocks.take((2, tokens))
    sizes, target_counts = np.empty((2, modalities), dtype=np.int64)
    code, found = find_runs(flat, pieces, padding, modality, edges, runs, sizes, target_counts)
    if code == ID_OUTSIDE:
        raise ValueError(f"token id {found} is outside the vocabulary of {modality.shape[0]}")
    if code == MODALITY_OUTSIDE:
        raise ValueError(f"modality {found} in the data, but the model has {modalities}")
    # All arrays in one block: six of int32, and one of bytes behind them.
    block = blocks.take((6 * tokens + -(-tokens // 4),))
    whole, target_modality = (
        block[: 6 * tokens].reshape(6, tokens),
        block[6 * tokens :].view(np.uint8)[:tokens],
    )
    fill(flat, pieces, padding, runs, found, int(modality[0]), sizes, whole[:4], target_modality)
    number_pieces(read, whole[4], whole[5])
    if counted is not None:
        _leave_out(counted, whole[1], target_modality, target_counts, int(modality[0]))
    ids, targets, perm, inverse, positions, documents = torch.from_numpy(whole).unbind(0)
    own = np.zeros(contexts, np.int64) if domains is None else np.asarray(domains).astype(np.int64)
    return Batch(
        shape=(contexts, length),
        input_ids=ids,
        targets=targets,
        positions=positions,
        documents=documents.view(contexts, length),
        perm=perm,
        inverse=inverse,
        target_modality=torch.from_numpy(target_modality),
        domains=torch.from_numpy(own),
        sizes=sizes.tolist(),
        target_counts=target_counts.tolist(),
        piece_lengths=read,
    )


def _leave_out(
    counted: np.ndarray,
    targets: np.ndarray,
    target_modality: np.ndarray,
    target_counts: np.ndarray,
    nothing: int,
) -> None:
    """Make targets that do not count ignored ones, in place; `nothing` is the modality of an ignored target."""
    at = np.flatnonzero(~counted.reshape(-1)[1:] & (targets[:-1] != IGNORE))
    target_counts -= np.bincount(target_modality[at], minlength=len(target_counts))
    targets[at], target_modality[at] = IGNORE, nothing


def _pieces(doc_lengths: Sequence[np.ndarray], contexts: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of all pieces that tile the batch, int64 [P], and which of them are padding, bool [P]."""
    if len(doc_lengths) != contexts:
        raise ValueError(f"{len(doc_lengths)} lists of document lengths for {contexts} contexts")
    lengths = DocLengths.of(doc_lengths).padded
    most = contexts * (lengths.shape[1] + 1)
    pieces, padding = np.empty(most, np.int64), np.empty(most, np.bool_)
    code, found, held = cut_pieces(lengths, length, pieces, padding)
    if code == NEGATIVE:
        raise ValueError(f"a document of context {found} has length {held}")
    if code == TOO_LONG:
        raise ValueError(f"the documents of context {found} hold {held} tokens, more than {length}")
    return pieces[:found], padding[:found]


def _joined(pieces: np.ndarray, padding: np.ndarray, length: int) -> np.ndarray:
    """Lengths of the pieces that tile contexts read as a whole, int64 [P]: real tokens, then padding."""
    joined = np.full(len(pieces) + 1, length, dtype=np.int64)
    return joined[: join_pieces(pieces, padding, joined)]


def micro_batches(
    arrays: Arrays,
    parts: int,
    modality: np.ndarray,
    modalities: int,
    *,
    document_mask: bool = True,
    config: ModelConfig | None = None,
    edges: np.ndarray | None = None,
    blocks: Blocks | None = None,
) -> list[Batch]:
    """The contexts of one update cut into `parts` batches of equal height.

    Args:
        config: of a model that may read speech in patches, for which they are made here.
        edges, blocks: see `make_batch`.
    """
    from mixloom.trainers.speech_batch import patched  # which builds on this module

    input_ids, doc_lengths, domains = arrays[:3]
    counted = arrays[3] if len(arrays) > 3 else None
    patches = arrays[4] if len(arrays) == 5 else None
    height = input_ids.shape[0] // parts
    batches = [
        make_batch(
            input_ids[i : i + height],
            doc_lengths[i : i + height],
            modality,
            domains=domains[i : i + height],
            modalities=modalities,
            document_mask=document_mask,
            counted=None if counted is None else counted[i : i + height],
            edges=edges,
            blocks=blocks,
        )
        for i in range(0, height * parts, height)
    ]
    if config is None:
        return batches
    own = [None if patches is None else patches[i * height : (i + 1) * height] for i in range(parts)]
    return [patched(batch, config, lengths) for batch, lengths in zip(batches, own)]


Made = list[Batch] | BaseException


class Prefetcher:
    """Batches of the steps from `start` on, those of the next steps being made in threads while one is used.

    There is nothing to save: the stream is a pure function of the step, so threads and depth change no batch. A batch is
    its holder's for as long as anything refers to one of its tensors; then its memory is used for another.

    Args:
        stream: where the contexts come from.
        start, stop: first step, and the step after the last.
        parts: batches per step, see `micro_batches`.
        modality, modalities, document_mask: see `make_batch`. config: see `micro_batches`.
        depth: steps made ahead; 0: none, each is made when it is asked for, without a thread.
        threads: steps made at once; reading and making run outside the interpreter's lock.
    """

    def __init__(
        self,
        stream: StreamLike,
        start: int,
        stop: int,
        *,
        parts: int,
        modality: np.ndarray,
        modalities: int,
        document_mask: bool = True,
        config: ModelConfig | None = None,
        depth: int = 1,
        threads: int = 1,
    ) -> None:
        self._stream, self._next, self._stop = stream, start, stop
        self._parts, self._modality, self._modalities = parts, modality, modalities
        self._document_mask, self._config = document_mask, config
        self._edges = modality_edges(modality)
        ahead = max(depth, threads) if depth else 0
        # Of each step: what is used, what is made ahead, and what each thread makes, a block and one to work in.
        self._blocks = Blocks(2 * parts * (1 + ahead + threads))
        self._wanted: SimpleQueue[tuple[int, SimpleQueue[Made]] | None] = SimpleQueue()
        self._ahead: deque[SimpleQueue[Made]] = deque()
        self._threads = [
            Thread(target=self._work, name=f"batches-{i}", daemon=True)
            for i in range(threads if depth else 0)
        ]
        for thread in self._threads:
            thread.start()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        """Ask for the next step. Its batches come through a queue of its own: cheaper to wait on than a future."""
        if self._next < self._stop:
            place: SimpleQueue[Made] = SimpleQueue()
            self._ahead.append(place)
            self._wanted.put((self._next, place))
            self._next += 1

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            step, place = wanted
            try:
                place.put(self._make(step))
            except BaseException as error:
                place.put(error)
            del wanted, place  # nothing made may be kept alive from here

    def _make(self, step: int) -> list[Batch]:
        return micro_batches(
            self._stream.batch_arrays(step),
            self._parts,
            self._modality,
            self._modalities,
            document_mask=self._document_mask,
            config=self._config,
            edges=self._edges,
            blocks=self._blocks,
        )

    def next(self) -> list[Batch]:
        """The parts of the next update; an error of the stream is raised here.

        Raises:
            IndexError: after the last step.
        """
        if not self._threads and self._next < self._stop:
            self._next += 1
            return self._make(self._next - 1)
        if not self._ahead:
            raise IndexError(f"no step after {self._stop - 1}")
        made = self._ahead.popleft().get()
        if isinstance(made, BaseException):
            raise made
        self._submit()
        return made

    def close(self) -> None:
        """Wait for the batches being made and end the threads; what is not begun is left out."""
        with suppress(Empty):
            while True:
                self._wanted.get_nowait()
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._stop = [], self._next
        self._ahead.clear()
