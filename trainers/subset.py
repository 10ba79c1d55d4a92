"""Some contexts of some domains, served by the same stream as a whole run: what small trainings read.

Simulated epochs (Held et al., arXiv 2501.11747): a small training of b contexts that stands for a run of B reads each
domain cut to b / B of its contexts, so that it meets every context as often as the run would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.permutation import place, stream_key
from mixloom.mixers.stream import Stream
from mixloom.pipeline.manifest import ShardEntry, build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.trainers.stage import StreamSource

Int64 = NDArray[np.int64]

_FREE = 1e9  # epochs: small trainings repeat as often as they must
_READ = 256  # contexts hashed at a time


def simulated_contexts(contexts: int, small: int, run: int | None) -> int:
    """Contexts of a domain that a small training may read: round(contexts * small / run), at least 1, at most all.

    A training of `small` contexts on this domain alone then repeats it small / round(...), which is run / contexts:
    what a run of `run` contexts would, on this domain alone. Under a weight w both are w times that.

    Args:
        contexts: what the domain holds. small, run: contexts served in all; run None: the domain is not cut.
    """
    if run is None or small >= run:
        return contexts
    return max(1, min(contexts, (2 * contexts * small + run) // (2 * run)))


def chosen_contexts(contexts: int, wanted: int, seed: int) -> Int64:
    """Which contexts of a domain are read: int64 [wanted], ascending. Those of fewer are among those of more."""
    ordinal = np.arange(wanted, dtype=np.int64)
    key = np.array([stream_key("subset", seed)], np.uint64)
    return np.sort(place(np.zeros(wanted, np.int32), ordinal, np.array([contexts], np.int64), key)[0])


class Subset:
    """Chosen contexts of some shards, as a `Stream` reads them.

    Its fingerprint is made of the tokens of the contexts and the names given here: the same contexts are the same
    subset, whatever other domains their shards hold, or are called there.

    Args:
        reader: the shards.
        chosen: contexts by domain of the shards, int64, ascending.
        names: what to call them here, by domain; default: as there.
    """

    def __init__(
        self, reader: ShardReader, chosen: Mapping[str, Int64], names: Mapping[str, str] | None = None
    ) -> None:
        self.reader = reader
        called = {d: (names or {}).get(d, d) for d in chosen}
        entries = [_entry(reader, d, rows, called[d]) for d, rows in chosen.items()]
        manifest = reader.manifest
        self.manifest = build_manifest(entries, manifest.vocabulary, seq_len=manifest.seq_len)
        domain = {called[d]: d for d in chosen}
        self._domains = [domain[e.name] for e in self.manifest.domains]
        self._names = [e.name for e in self.manifest.domains]
        self._rows = [np.asarray(chosen[d], np.int64) for d in self._domains]
        there = {name: i for i, name in enumerate(reader.domains)}
        self._numbers = np.array([there[d] for d in self._domains], np.int64)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def batch(self, domains: ArrayLike, contexts: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Many contexts at once, as `ShardReader.batch`; integers [n] of domains and contexts of this subset."""
        domain = np.asarray(domains, np.int64).reshape(-1)
        rows = [int(self._rows[d][c]) for d, c in zip(domain, np.asarray(contexts, np.int64).reshape(-1))]
        return self.reader.batch(self._numbers[domain], np.array(rows, np.int64))

    def info(self, domain: str, i: int) -> dict[str, Any]:
        """Where a context comes from, as `ShardReader.info`."""
        d = self._names.index(domain)
        return self.reader.info(self._domains[d], int(self._rows[d][i]))

    def patches(self, domain: str, i: int) -> NDArray[np.uint16] | None:
        """Tokens of each patch of a context, as `ShardReader.patches`."""
        d = self._names.index(domain)
        return self.reader.patches(self._domains[d], int(self._rows[d][i]))

    def context_tokens(self, domain: str) -> Int64:
        """Real tokens of every context of a domain of this subset: int64 [contexts]."""
        d = self._names.index(domain)
        return self.reader.context_tokens(self._domains[d])[self._rows[d]]

    def stream(
        self,
        weights: Mapping[str, float],
        *,
        seed: int,
        batch_contexts: int,
        steps: int,
        patches: bool = False,
    ) -> StreamSource:
        """Its contexts in these shares of tokens, each domain as often as that takes.

        Args:
            patches: also give the patches that the shards record, for a model that reads speech so.
        """
        mixture = self.mixture(weights, steps * batch_contexts)
        reader = cast(ShardReader, self)  # a stream reads no more of it than stands above
        stream = Stream(reader, mixture, seed=seed, batch_contexts=batch_contexts, steps=steps)
        return StreamSource(stream, patches=patches)

    def mixture(self, weights: Mapping[str, float], contexts: int) -> Mixture:
        """Fixed weights over the domains of this subset, for a training of so many contexts."""
        rate = sum(weights[d.name] * d.contexts / d.tokens for d in self.manifest.domains)
        return Mixture(
            estimator="fixed",
            settings={},
            inputs=self.fingerprint,
            budget_tokens=max(1, int(contexts / rate)),
            domains=tuple(
                MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=_FREE) for d in self.manifest.domains
            ),
            phases=(Phase(start=0.0, weights=dict(weights)),),
        )


def _entry(reader: ShardReader, domain: str, rows: Int64, name: str) -> ShardEntry:
    """The contexts of one domain as one shard whose hash is that of their tokens."""
    number, h, tokens = reader.domains.index(domain), hashlib.sha256(), 0
    for at in range(0, len(rows), _READ):
        some = rows[at : at + _READ]
        ids, lengths = reader.batch(np.full(len(some), number), some)
        for row, own in zip(ids, lengths):
            pieces = own[own > 0].astype("<i4")
            real = int(pieces.sum())
            h.update(
                len(pieces).to_bytes(8, "little") + pieces.tobytes() + row[:real].astype("<u4").tobytes()
            )
            tokens += real
        for i in some:
            recorded = reader.patches(domain, int(i))
            if recorded is not None:
                h.update(recorded.astype("<u2").tobytes())
    return ShardEntry(
        name=f"{name}.tar",
        domain=name,
        sha256=h.hexdigest(),
        bytes=0,
        contexts=len(rows),
        documents=0,
        tokens=tokens,
        tokens_by_modality={},
        tokens_by_source={},
    )
