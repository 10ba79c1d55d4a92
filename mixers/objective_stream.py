"""A stream whose documents are rearranged by training objectives when they are served; the shards stay as they are.

What happens to a document is a function of the seed, its domain, the number of its context, the epoch and its place in
the context. So it is the same for any number of ranks, workers and batches ahead, and another one in the next epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.contexts import DocLengths
from mixloom.mixers.mixture_log import ExcludeEntry, MixtureEntry
from mixloom.mixers.permutation import stream_key
from mixloom.mixers.stream import ContextRefs, Stream, StreamBatch
from mixloom.tokenizers.objective_settings import Objective, default_room, objectives_fingerprint
from mixloom.tokenizers.objectives import Served, compiled, rates_by_group, serve_contexts
from mixloom.tokenizers.vocab import modality_table


@dataclass(frozen=True, slots=True)
class ObjectiveBatch(StreamBatch):
    """The contexts of one step on one rank, rearranged; input_ids are [b, seq_len + room].

    Attributes:
        taken: int8 [b, most pieces], what happened to each document, see `tokenizers.objectives.Served`.
    """

    taken: NDArray[np.int8] = field(kw_only=True)


class ObjectiveShare(NamedTuple):
    """How often an objective was really applied in some steps."""

    kind: str
    documents: int  # in all, whatever their domain
    wanted: int  # meant for this objective by its rate
    applied: int  # rearranged; the others had no room or nothing to cut


class ObjectiveStream(Stream):
    """The batches of a stream with objectives.

    Contexts are served `room` tokens wider than they are stored, for an objective adds sentinels and never drops a
    token. Documents of a context take turns in a drawn order while padding and room hold what they add; a document that
    finds no place stays as it is stored.

    Args:
        stream: whose contexts are served, in its order.
        objectives: what to do with how many documents of which domains and sources.
        room: tokens by which contexts grow; None: see `default_room`.

    Raises:
        UserError: a domain or source that is not in the shards, or rates that add up to more than 1.
    """

    def __init__(self, stream: Stream, objectives: Sequence[Objective], room: int | None = None) -> None:
        super().__init__(
            stream.reader,
            stream.mixture,
            seed=stream.seed,
            batch_contexts=stream.batch_contexts,
            steps=stream.steps,
            log=stream.log,
            like=stream,
        )
        manifest = self.reader.manifest
        self.objectives = tuple(objectives)
        self.room = default_room(self.objectives, manifest.seq_len) if room is None else room
        by_source = any(o.sources is not None for o in self.objectives)
        self._sources = sorted(manifest.totals.tokens_by_source) if by_source else [""]
        self._rates = rates_by_group(self.objectives, self.domains, self._sources)
        self._tables = compiled(self.objectives)
        self._modality = modality_table(manifest.vocabulary)
        # Not the keys of the order: those hold for the place of a context, these for its documents.
        keys = [stream_key("objectives", self.seed, d) for d in self.domains]
        self._objective_keys = np.array(keys, dtype=np.uint64)

    def contexts(self, step: int, rank: int = 0, world: int = 1) -> ObjectiveBatch:
        """The tokens of a step on a rank, rearranged."""
        domain, index, epoch = self._rows(step, rank, world)
        served = self._serve(domain, index, epoch)
        refs = ContextRefs(self.domains, domain, index, epoch)
        lengths = DocLengths(served.doc_lengths)
        return ObjectiveBatch(
            step, served.input_ids, lengths, domain, refs, served.counted, taken=served.taken
        )

    def _serve(self, domain: NDArray[np.int32], index: NDArray[np.int64], epoch: NDArray[np.int64]) -> Served:
        ids, lengths = self.reader.batch(domain, index)
        return serve_contexts(
            ids,
            lengths,
            self._tables,
            self._rates,
            self._groups(domain, index, lengths.shape[1]),
            room=self.room,
            modality=self._modality,
            keys=self._objective_keys[domain],
            contexts=index,
            epochs=epoch,
        )

    def _groups(self, domain: NDArray[np.int32], index: NDArray[np.int64], most: int) -> NDArray[np.int32]:
        """The row of the table of rates for every piece: int32 [b, most]."""
        groups = np.repeat((domain * len(self._sources)).astype(np.int32)[:, None], most, axis=1)
        if len(self._sources) > 1:
            number = {name: i for i, name in enumerate(self._sources)}
            for row, d, i in zip(groups, domain.tolist(), index.tolist()):
                sources = self.reader.info(self.domains[d], i)["sources"]
                row[: len(sources)] += np.array([number[s] for s in sources], np.int32)
        return groups

    def shares(self, steps: Iterable[int]) -> list[ObjectiveShare]:
        """How often each objective is applied in these steps, over all ranks; reads and rearranges them."""
        found = np.zeros(2 * len(self.objectives) + 1, np.int64)
        for step in steps:
            served = self._serve(*self._rows(step, 0, 1))
            taken = served.taken[served.doc_lengths > 0].astype(np.int64)
            found += np.bincount(taken + len(self.objectives), minlength=len(found))
        middle = len(self.objectives)
        return [
            ObjectiveShare(
                o.kind,
                int(found.sum()),
                int(found[middle + k] + found[middle - k]),
                int(found[middle + k]),
            )
            for k, o in enumerate(self.objectives, 1)
        ]

    @property
    def description(self) -> str:
        """The objectives in words, with the beginning of their fingerprint; equal only where they are the same."""
        told = "; ".join(
            f"{o.kind} at rate {o.rate:g}"
            + (f" in domains {', '.join(o.domains)}" if o.domains is not None else "")
            + (f" in sources {', '.join(o.sources)}" if o.sources is not None else "")
            for o in self.objectives
        )
        return (
            f"{told or 'none'}; room {self.room} [{objectives_fingerprint(self.objectives, self.room)[:16]}]"
        )

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint needs, the objectives among it."""
        return {**super().state(step), "objectives": self.description}

    def amended(
        self, entry: MixtureEntry | ExcludeEntry, *, served: int, write: bool = True
    ) -> ObjectiveStream:
        """The stream with one more entry in its log, for the steps from `served` on; see `Stream.amended`."""
        return ObjectiveStream(super().amended(entry, served=served, write=write), self.objectives, self.room)


def with_objectives(stream: Stream, objectives: Sequence[Objective], room: int | None = None) -> Stream:
    """The stream itself where there are no objectives, else one that applies them."""
    return ObjectiveStream(stream, objectives, room) if objectives else stream


def sampled_shares(stream: Stream, most: int = 20) -> list[ObjectiveShare]:
    """How often the objectives of a stream are really applied, in at most so many steps spread over its run."""
    if not isinstance(stream, ObjectiveStream):
        return []
    return stream.shares(range(0, stream.steps, -(-stream.steps // most)))
