"""The index of evaluation items: their n-grams by hash, and their words for exact comparison.

Built once from the items, saved as plain arrays (`model_store`), read by every worker. The same items and settings
give the same bytes.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import characters as ch
from mixloom.pipeline import overlap_kernel as kernel
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.evaluation_sets import Item
from mixloom.pipeline.model_store import HEADER, read_model, write_model
from mixloom.pipeline.storage import Store, sha256_hex
from mixloom.pipeline.words import utf8_buffers

KIND = "overlap-index"
_BITS_PER_KEY = 16

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of n documents with all that is known of them; see `overlap_kernel.locate_terms`."""

    ends: I64
    hashes: U64
    starts: I64
    stops: I64
    wordy: NDArray[np.bool_]
    normal: NDArray[np.uint8]
    bounds: I64

    def words(self, first: int, stop: int) -> list[str]:
        """Some terms as they are compared."""
        b = self.bounds
        return [self.normal[b[i] : b[i + 1]].tobytes().decode() for i in range(first, stop)]


def locate_terms(texts: pa.Array) -> Terms:
    """Every term of a string or large_string array, with its place."""
    return Terms(*kernel.locate_terms(*utf8_buffers(texts), ch.character_flags(), ch.lower_table()))


def hash_terms(texts: pa.Array) -> tuple[I64, U64]:
    """Offsets (int64 [n+1]) and hashes (uint64) of the terms of a string or large_string array."""
    offsets, hashes = kernel.hash_terms(*utf8_buffers(texts), ch.character_flags(), ch.lower_table())
    return offsets, hashes


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Sorted hashes with a filter and a directory over their upper bits, for `overlap_kernel.scan`."""

    keys: U64
    bits: U64
    directory: I64
    shift: np.uint64

    @classmethod
    def of(cls, keys: U64) -> KeyTable:
        power = max(1, int(len(keys) - 1).bit_length()) if len(keys) else 1
        bits = np.zeros((1 << max(6, (_BITS_PER_KEY * max(len(keys), 1) - 1).bit_length())) // 64, np.uint64)
        kernel.fill_filter(keys, bits)
        upper = (keys >> np.uint64(64 - power)).astype(np.int64)
        directory = np.searchsorted(upper, np.arange((1 << power) + 1)).astype(np.int64)
        return cls(keys, bits, directory, np.uint64(64 - power))

    def scan(self, ends: I64, hashes: U64, ngram: int) -> tuple[I64, I64]:
        """First term and key of every n-gram of some documents that may be one of these."""
        if not len(self.keys):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        where, which = kernel.scan(ends, hashes, ngram, self.keys, self.bits, self.directory, self.shift)
        return where, which


@dataclass(frozen=True, slots=True)
class Text:
    """A distinct text of the evaluation sets, under the name of its first item."""

    set: str
    id: str
    field: str
    copies: int


@dataclass(frozen=True, slots=True)
class OverlapIndex:
    """Everything a worker needs to find the items in documents.

    texts: the distinct texts. ends: int64 [t+1], the terms of text i are ends[i]:ends[i+1] of all. normal, bounds:
    their letters. needed: int64 [t], words in a row that make a match: `ngram`, or all of a text that is shorter or
    none of whose n-grams is evidence by itself. gram_key: int32 [terms], key of the n-gram (or whole text) that
    starts there, -1 where it is no evidence. Keys below len(long) are n-grams; the others, one for each text needed
    whole, are found by its first `min_words` terms. posting_starts, posting_at, posting_text: where each key stands.
    """

    ngram: int
    min_words: int
    texts: tuple[Text, ...]
    report: dict[str, Any]
    ends: I64
    normal: NDArray[np.uint8]
    bounds: I64
    needed: I64
    gram_key: NDArray[np.int32]
    long: KeyTable
    whole: KeyTable
    whole_starts: I64
    posting_starts: I64
    posting_at: I64
    posting_text: I64

    @property
    def keys(self) -> int:
        """How many keys there are: distinct n-grams and short texts."""
        return len(self.posting_starts) - 1

    def size(self, text: int) -> int:
        """Terms of a text."""
        return int(self.ends[text + 1] - self.ends[text])

    def words(self, text: int, first: int, count: int) -> str:
        """Some terms of a text, as they are compared."""
        at, b = int(self.ends[text]) + first, self.bounds
        words = (self.normal[b[i] : b[i + 1]].tobytes().decode() for i in range(at, at + count))
        return " ".join(words)

    def key_words(self, key: int) -> tuple[int, str]:
        """A text in which a key stands, and the words of the key."""
        at, text = (
            int(self.posting_at[self.posting_starts[key]]),
            int(self.posting_text[self.posting_starts[key]]),
        )
        return text, self.words(text, at - int(self.ends[text]), int(self.needed[text]))

    def save(self, directory: str | Path) -> None:
        texts = [[t.set, t.id, t.field, t.copies] for t in self.texts]
        content = {"ngram": self.ngram, "min_words": self.min_words, "texts": texts, "report": self.report}
        names = ("ends", "normal", "bounds", "needed", "gram_key", "whole_starts")
        arrays = {n: getattr(self, n) for n in (*names, "posting_starts", "posting_at", "posting_text")}
        write_model(directory, KIND, content, arrays | {"long": self.long.keys, "whole": self.whole.keys})

    @classmethod
    def load(cls, directory: str | Path) -> OverlapIndex:
        """Read an index back; one that this process has read already is shared.

        Raises:
            UserError: there is no complete index, or it has changed since it was written.
        """
        store = Store.at(str(directory))
        digest = sha256_hex(store.read(HEADER)) if store.exists(HEADER) else ""
        return _load(store.root, digest)


@functools.lru_cache(maxsize=2)
def _load(root: str, digest: str) -> OverlapIndex:
    content, arrays = read_model(root, KIND)
    return OverlapIndex(
        ngram=content["ngram"],
        min_words=content["min_words"],
        texts=tuple(Text(*t) for t in content["texts"]),
        report=content["report"],
        long=KeyTable.of(arrays.pop("long")),
        whole=KeyTable.of(arrays.pop("whole")),
        **arrays,
    )


def build_index(items: Sequence[Item], config: DecontaminateConfig) -> OverlapIndex:
    """The index of some items; texts of equal words are one, under the name of the first.

    A text with accents, or in Hangul, is there composed and decomposed: words are compared by their characters.
    """
    given = items
    items, origin = _in_both_forms(given)
    terms = locate_terms(pa.array([i.text for i in items], pa.large_string()))
    chosen, copies, skipped = _distinct(items, terms, config, len(given))
    item_of = np.array([origin[i] for i in chosen], np.int64)
    terms = locate_terms(pa.array([items[i].text for i in chosen], pa.large_string()))
    texts = tuple(
        Text(items[i].set, items[i].id, items[i].field, n) for i, n in zip(chosen, copies, strict=True)
    )
    sizes = np.diff(terms.ends)
    owner = np.repeat(np.arange(len(texts), dtype=np.int64), sizes)
    hashes = kernel.gram_hashes(terms.ends, terms.hashes, config.ngram)
    inside = np.arange(len(owner)) + config.ngram <= terms.ends[owner + 1]
    evident = kernel.evident_grams(terms.ends, terms.hashes, terms.wordy, config.ngram, config.min_distinct)
    at = np.flatnonzero(inside & evident)
    keys, which = np.unique(hashes[at], return_inverse=True)
    pairs = np.unique(np.stack([which, item_of[owner[at]]], axis=1), axis=0)
    template = np.bincount(pairs[:, 0], minlength=len(keys)) > config.common_items
    shared = np.zeros(len(owner), np.bool_)
    shared[at[template[which]]] = True
    at = at[~template[which]]
    keys, which = np.unique(hashes[at], return_inverse=True)
    gram_key = np.full(len(owner), -1, np.int32)
    gram_key[at] = which

    held = np.zeros(len(texts), np.bool_)
    held[owner[at]] = True
    whole = np.flatnonzero(~held)
    whole = whole[[_distinct_words(terms, t) >= config.min_distinct for t in whole.tolist()]]
    beginnings = kernel.gram_hashes(terms.ends, terms.hashes, config.min_words)[terms.ends[whole]]
    order = np.lexsort((whole, beginnings))
    whole, beginnings = whole[order], beginnings[order]
    gram_key[terms.ends[whole]] = len(keys) + np.arange(len(whole))
    needed = np.full(len(texts), config.ngram, np.int64)
    needed[whole] = sizes[whole]
    # Such a text is its own key; several may begin alike, so the scan looks up beginnings.
    anchors, first = np.unique(beginnings, return_index=True)

    order = np.argsort(which, kind="stable")
    posting_at = np.concatenate([at[order], terms.ends[whole]]).astype(np.int64)
    starts = np.searchsorted(which[order], np.arange(len(keys)))
    posting_starts = np.concatenate([starts, len(at) + np.arange(len(whole) + 1)]).astype(np.int64)
    index = OverlapIndex(
        ngram=config.ngram,
        min_words=config.min_words,
        texts=texts,
        report={},
        ends=terms.ends,
        normal=terms.normal,
        bounds=terms.bounds,
        needed=needed,
        gram_key=gram_key,
        long=KeyTable.of(keys),
        whole=KeyTable.of(anchors),
        whole_starts=np.append(first, len(whole)).astype(np.int64),
        posting_starts=posting_starts,
        posting_at=posting_at,
        posting_text=owner[posting_at],
    )
    other_form = np.array(chosen, np.int64) >= len(given)
    index.report.update(_report(given, index, skipped, inside & ~evident, shared, owner, other_form))
    return index


def _in_both_forms(items: Sequence[Item]) -> tuple[list[Item], list[int]]:
    """The items, then those whose text is another when it is composed (NFC) or decomposed (NFD); and whose each one is."""
    out, origin = list(items), list(range(len(items)))
    for i, item in enumerate(items):
        if item.text.isascii():
            continue
        for form in ("NFC", "NFD"):
            text = unicodedata.normalize(form, item.text)
            if text != item.text:
                out.append(replace(item, text=text))
                origin.append(i)
    return out, origin


def _distinct_words(terms: Terms, text: int) -> int:
    """Different wordy terms of a text."""
    mine = slice(int(terms.ends[text]), int(terms.ends[text + 1]))
    return len(np.unique(terms.hashes[mine][terms.wordy[mine]]))


def _distinct(
    items: Sequence[Item], terms: Terms, config: DecontaminateConfig, given: int
) -> tuple[list[int], list[int], Counter[str]]:
    """The first of the texts of a set with equal words, in order, and how many there are of each.

    Also how many of each set are too short and left out. Of the items the first `given` are counted; the others are
    other forms of these.
    """
    count: dict[tuple[str, bytes], list[int]] = {}
    skipped: Counter[str] = Counter()
    for i, item in enumerate(items):
        a, b = int(terms.ends[i]), int(terms.ends[i + 1])
        if b - a < min(config.min_words, config.ngram):
            skipped[item.set] += i < given
            continue
        low = terms.bounds[a : b + 1]
        words = (low - low[0]).tobytes() + terms.normal[low[0] : low[-1]].tobytes()
        count.setdefault((item.set, words), []).append(i)
    return (
        [c[0] for c in count.values()],
        [max(1, sum(i < given for i in c)) for c in count.values()],
        skipped,
    )


def _report(
    items: Sequence[Item],
    index: OverlapIndex,
    skipped: Counter[str],
    empty: NDArray[np.bool_],
    template: NDArray[np.bool_],
    owner: I64,
    other_form: NDArray[np.bool_],
) -> dict[str, Any]:
    """What of each set went into the index, by set. empty, template: bool [terms], such an n-gram begins there.

    owner: int64 [terms], the text of each. other_form: bool [texts], those that are another form of a text: not counted.
    """
    sets = np.array([t.set for t in index.texts], dtype=object)
    sizes = np.diff(index.ends)
    known = index.gram_key >= 0
    held = np.zeros(len(index.texts), np.bool_)
    held[owner[known]] = True
    out: dict[str, Any] = {}
    for name in dict.fromkeys(i.set for i in items):
        mine = (sets == name) & ~other_form
        of_set = mine[owner]
        out[name] = {
            "items": len({i.id for i in items if i.set == name}),
            "texts": sum(1 for i in items if i.set == name),
            "skipped_texts": skipped[name],
            "distinct_texts": int(mine.sum()),
            "whole_texts": int((mine & held & (index.needed == sizes)).sum()),
            "unmatchable_texts": int((mine & ~held).sum()),
            "ngrams": int((of_set & known).sum()),
            "empty_ngrams": int((of_set & empty).sum()),
            "template_ngrams": int((of_set & template).sum()),
        }
    return out
