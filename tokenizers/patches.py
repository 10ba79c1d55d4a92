"""Patches over raw bytes: where a byte-level model may spend one step on several bytes.

After the Byte Latent Transformer (Pagnoni et al. 2024, arXiv 2412.09871, section 2): a patch starts where the
next byte is hard to guess. There a transformer of 100 M parameters guesses; here a table of byte contexts of up
to six bytes, counted on the corpus, which one core reads at tens of megabytes a second. Both of its rules are
here: entropy above a threshold (equation 2) and entropy rising by more than a threshold (equation 3), and its
simple alternatives, one patch a word and patches of a fixed length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.patch_kernel import (
    BIT,
    EMPTY,
    Bytes,
    Entropies,
    Keys,
    context_entropies,
    cut_at_spaces,
    cut_by_entropy,
    fill_table,
    next_byte_entropies,
)
from mixloom.tokenizers.settings import PatchConfig

Lengths = npt.NDArray[np.uint16]

CONFIG_FILE, CONTEXTS_FILE, ENTROPIES_FILE = "patches.json", "contexts.npy", "entropies.npy"
_FORMAT = 1
_BARE = ("fixed", "space", "none")  # kinds without a model
_HELD_OUT = 8  # one text in this many is kept from the counts, to set the threshold on


@dataclass(frozen=True)
class Patcher:
    """Cuts bytes into patches. `threshold` is in 1/1024 bit; `keys` uint64 [c] sorted, `entropies` uint16 [c]."""

    config: PatchConfig
    threshold: int
    keys: Keys
    entropies: Entropies

    def lengths(self, data: Bytes) -> Lengths:
        """Lengths uint16 [p] of the patches of uint8 [n]; they add up to n, none is 0 or above `longest`.

        Raises:
            ValueError: patches of kind 'none'.
        """
        config = self.config
        if config.kind == "none":
            raise ValueError("no patches are declared")
        if config.kind == "fixed":
            return _fixed(len(data), min(round(config.bytes), config.longest))
        if config.kind == "space":
            return cut_at_spaces(data, config.longest)
        return cut_by_entropy(self.expected(data), self.threshold, config.kind == "monotonic", config.longest)

    def expected(self, data: Bytes) -> Entropies:
        """Entropy uint16 [n], 1024 to the bit, of what the model expects at each byte, from the bytes before it.

        Raises:
            ValueError: patches of this kind have no model.
        """
        if not len(self.keys):
            raise ValueError(f"patches of kind '{self.config.kind}' are cut without a model")
        slots, values = self._table
        return next_byte_entropies(data, self.config.order, slots, values)

    @cached_property
    def _table(self) -> tuple[Keys, Entropies]:
        slots = np.full(1 << (2 * len(self.keys)).bit_length(), EMPTY, np.uint64)
        values = np.zeros(len(slots), np.uint16)
        fill_table(self.keys, self.entropies, slots, values)
        return slots, values

    def save(self, directory: Path | str) -> None:
        """Write patches.json and, where there is a model, its two arrays into a directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "config": self.config.model_dump(mode="json"),
            "threshold": self.threshold,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if len(self.keys):
            np.save(directory / CONTEXTS_FILE, self.keys)
            np.save(directory / ENTROPIES_FILE, self.entropies)

    @classmethod
    def load(cls, directory: Path | str) -> Patcher:
        """Read what `save` wrote.

        Raises:
            UserError: files missing, malformed or not belonging together.
        """
        directory = Path(directory)
        try:
            content = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
            config, threshold = PatchConfig(**content["config"]), int(content["threshold"])
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}, expected {_FORMAT}")
            if config.kind in _BARE:
                return cls(config, threshold, np.zeros(0, np.uint64), np.zeros(0, np.uint16))
            keys = np.load(directory / CONTEXTS_FILE, allow_pickle=False)
            entropies = np.load(directory / ENTROPIES_FILE, allow_pickle=False)
            if (keys.dtype, entropies.dtype) != (np.uint64, np.uint16) or not 0 < len(keys) == len(entropies):
                raise ValueError(f"{CONTEXTS_FILE} and {ENTROPIES_FILE} do not belong together")
            if keys[0] != 0:  # the empty context: without it the search of a byte's entropy would not end
                raise ValueError(f"{CONTEXTS_FILE} does not begin with the empty context")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"patches: cannot load {directory}: {error}", fix="fit the text tokenizer again"
            ) from error
        return cls(config, threshold, keys, entropies)


def fit_patcher(texts: Sequence[Bytes], config: PatchConfig) -> tuple[Patcher, dict[str, Any]]:
    """Count the contexts of texts (uint8 arrays; the first `sample_bytes` are read) and set the threshold.

    One text in eight is not counted: the threshold is the one at which its patches have `bytes` bytes on average.

    Returns:
        The patcher, and facts: contexts, threshold and mean entropy in bits, bytes of a patch on the texts held out.
    """
    bare = Patcher(config, 0, np.zeros(0, np.uint64), np.zeros(0, np.uint16))
    if config.kind in _BARE:
        return bare, {"patches": config.kind}
    read = _first(texts, config.sample_bytes)
    held = read[_HELD_OUT - 1 :: _HELD_OUT] or read
    counted = [t for i, t in enumerate(read) if i % _HELD_OUT != _HELD_OUT - 1] or read
    keys, entropies = _model(counted, config)
    model = Patcher(config, 0, keys, entropies)
    expected = [model.expected(t) for t in held]
    threshold, length = _threshold(expected, config)
    size = sum(map(len, expected))
    return Patcher(config, threshold, keys, entropies), {
        "patches": config.kind,
        "contexts": len(keys),
        "threshold_bits": round(threshold / BIT, 3),
        "entropy_bits": round(sum(int(e.sum(dtype=np.int64)) for e in expected) / max(1, size) / BIT, 3),
        "bytes_per_patch": round(length, 2),
    }


def _first(texts: Sequence[Bytes], limit: int) -> list[Bytes]:
    out, room = [], limit
    for text in texts:
        if room <= 0:
            break
        if len(text):
            out.append(text[:room])
            room -= len(text)
    return out or [np.frombuffer(b" ", np.uint8)]


def _model(texts: list[Bytes], config: PatchConfig) -> tuple[Keys, Entropies]:
    """Keys of the contexts kept and the entropy after each."""
    data = np.concatenate(texts)
    place = np.concatenate([np.arange(len(t), dtype=np.int64) for t in texts])  # in its own text
    window = np.zeros(len(data), np.uint64)  # the k bytes before, and the byte itself, lowest
    pairs, counts = [], []
    for k in range(config.order + 1):
        if k:
            window[k:] |= data[:-k].astype(np.uint64) << np.uint64(8 * k)
        else:
            window |= data
        found = np.unique(window[place >= k], return_counts=True)
        pairs.append(found[0])
        counts.append(found[1].astype(np.int64))
    kept = _frequent(pairs, counts, config.contexts)
    contexts = [p >> np.uint64(8) for p in (p[m] for p, m in zip(pairs, kept))]
    counts = [c[m] for c, m in zip(counts, kept)]
    followers = np.concatenate([p[m].astype(np.uint8) for p, m in zip(pairs, kept)])
    firsts = [np.flatnonzero(np.concatenate([[True], c[1:] != c[:-1]])[: len(c)]) for c in contexts]
    bounds = np.concatenate([[0], np.cumsum([len(f) for f in firsts])]).astype(np.int64)
    begin = np.concatenate([[0], np.cumsum([len(c) for c in contexts])])
    starts = np.concatenate([*(f + b for f, b in zip(firsts, begin)), [begin[-1]]]).astype(np.int64)
    distinct = np.concatenate([c[f] for c, f in zip(contexts, firsts)])
    entropies = context_entropies(config.order, distinct, bounds, starts, followers, np.concatenate(counts))
    order = np.repeat(np.arange(config.order + 1), np.diff(bounds)).astype(np.uint64)
    return distinct | (order << np.uint64(56)), entropies


def _frequent(
    pairs: list[Keys], counts: list[npt.NDArray[np.int64]], most: int
) -> list[npt.NDArray[np.bool_]]:
    """Which (context, byte) pairs to keep: all of contexts seen at least m times, m the least that leaves `most`.

    A context is seen no more often than its suffixes, so these are kept with it.
    """
    seen = []
    for p, c in zip(pairs, counts):
        _, inverse = np.unique(p >> np.uint64(8), return_inverse=True)
        seen.append(np.bincount(inverse, weights=c).astype(np.int64))
    totals = np.sort(np.concatenate(seen))[::-1]
    least = max(2, int(totals[most]) + 1 if len(totals) > most else 2)
    out = []
    for k, (p, s) in enumerate(zip(pairs, seen)):
        enough = s >= least if k else np.ones(len(s), bool)
        _, inverse = np.unique(p >> np.uint64(8), return_inverse=True)
        out.append(enough[inverse])
    return out


def _threshold(expected: list[Entropies], config: PatchConfig) -> tuple[int, float]:
    """The least threshold that makes patches at least `bytes` long on average, and their average."""
    size = sum(map(len, expected))
    rising = config.kind == "monotonic"

    def average(threshold: int) -> float:
        return size / sum(len(cut_by_entropy(e, threshold, rising, config.longest)) for e in expected)

    low, high = -8 * BIT if rising else -1, 8 * BIT  # nothing is cut at `high` but by `longest`
    while low < high:
        middle = (low + high) // 2
        if average(middle) < config.bytes:
            low = middle + 1
        else:
            high = middle
    return low, average(low)


def _fixed(count: int, length: int) -> Lengths:
    full, rest = divmod(count, length)
    return np.array([length] * full + [rest] * (rest > 0), np.uint16)
