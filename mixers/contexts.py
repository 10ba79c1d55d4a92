"""What the stream hands out: contexts by name, the arrays of a step, and the account of what was served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ContextRef:
    """A context of the shards, and how often its domain had been served in full before it."""

    domain: str
    index: int
    epoch: int


class ContextRefs(Sequence[ContextRef]):
    """Contexts as ContextRef, made when they are asked for: few steps are ever looked at, and a step has many."""

    __slots__ = ("_rows", "domains")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        domains: Sequence[str],
        domain: NDArray[np.int32],
        index: NDArray[np.int64],
        epoch: NDArray[np.int64],
    ) -> None:
        self.domains, self._rows = domains, (domain, index, epoch)

    def __len__(self) -> int:
        return len(self._rows[0])

    @overload
    def __getitem__(self, at: int) -> ContextRef: ...

    @overload
    def __getitem__(self, at: slice) -> list[ContextRef]: ...

    def __getitem__(self, at: int | slice) -> ContextRef | list[ContextRef]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        domain, index, epoch = (column[at] for column in self._rows)
        return ContextRef(self.domains[int(domain)], int(index), int(epoch))

    def __iter__(self) -> Iterator[ContextRef]:
        for d, i, e in zip(*(column.tolist() for column in self._rows)):
            yield ContextRef(self.domains[d], i, e)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


class DocLengths(Sequence[NDArray[np.integer[Any]]]):
    """Lengths of the documents of some contexts, one array for each, as views of one table made when they are asked for.

    Attributes:
        padded: int32 or int64 [b, m], zeros on the right.
    """

    __slots__ = ("padded",)

    def __init__(self, padded: NDArray[np.integer[Any]]) -> None:
        self.padded = padded

    @classmethod
    def of(cls, rows: Sequence[NDArray[Any]]) -> DocLengths:
        """Rows of different length as a table of int64, or the table they are; zeros between lengths stay."""
        if isinstance(rows, DocLengths):
            return rows
        padded = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        for own, row in zip(padded, rows):
            own[: len(row)] = row
        return cls(padded)

    def __len__(self) -> int:
        return len(self.padded)

    @overload
    def __getitem__(self, at: int) -> NDArray[np.integer[Any]]: ...

    @overload
    def __getitem__(self, at: slice) -> DocLengths: ...

    def __getitem__(self, at: int | slice) -> NDArray[np.integer[Any]] | DocLengths:
        if isinstance(at, slice):
            return DocLengths(self.padded[at])
        return np.trim_zeros(self.padded[at], "b")

    def __repr__(self) -> str:
        return repr([row.tolist() for row in self])

    def narrow(self) -> NDArray[np.integer[Any]]:
        """The table without columns that are zero throughout."""
        used = np.flatnonzero(self.padded.any(axis=0))
        return self.padded[:, : used[-1] + 1 if len(used) else 0]


class Exposure(NamedTuple):
    """What a domain has given by some step."""

    domain: str
    contexts: int
    tokens: int  # real tokens
    epochs: float


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """The contexts of one step on one rank.

    Attributes:
        step: the step.
        input_ids: uint16 or uint32 [b, seq_len], padded on the right.
        doc_lengths: per context, int32 [pieces]; their sum is its number of real tokens.
        domains: int32 [b], index into Stream.domains.
        refs: the contexts; Stream.documents(ref) names their documents.
        counted: bool like input_ids, False where a token is no target; None: all are. See `objective_stream`.
    """

    step: int
    input_ids: NDArray[np.unsignedinteger[Any]]
    doc_lengths: DocLengths
    domains: NDArray[np.int32]
    refs: Sequence[ContextRef]
    counted: NDArray[np.bool_] | None = None
