"""Decontamination: documents that share word n-grams with evaluation items, confirmed word by word.

Three steps, so that the corpus is read once: `find_matches` (per batch: every run of words a document shares with an
item), `count_documents` (over all parts: in how many documents each n-gram stands), `judge` (per part, from the
matches alone). The method is that of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C) with exact comparison
and with items, not n-grams, as what is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline import overlap_kernel as kernel
from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.doc_ids import run_bounds, run_starts
from mixloom.pipeline.edited import DROPPED
from mixloom.pipeline.edits import SPANS, rows_of
from mixloom.pipeline.overlap_index import I64, OverlapIndex, Terms, hash_terms, locate_terms

REASON = "contaminated"
AROUND = 5  # words shown on each side of a match
TOP = 10  # n-grams reported of each set
WHOLE_SHARE = 0.5  # of an item, from which even common phrases are a copy of it

MATCHES = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # of the document in its ingest part
        pa.field("doc_terms", pa.int32(), nullable=False),  # words in the document
        pa.field("text", pa.int32(), nullable=False),  # of the index
        pa.field("item_start", pa.int32(), nullable=False),  # first matched word in the item
        pa.field("terms", pa.int32(), nullable=False),  # matched words
        pa.field("start", pa.int64(), nullable=False),  # bytes of the document's text
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("cut_first", pa.int32(), nullable=False),  # words of the document, with the margin
        pa.field("cut_last", pa.int32(), nullable=False),
        pa.field("cut_start", pa.int64(), nullable=False),  # bytes, with the margin
        pa.field("cut_stop", pa.int64(), nullable=False),
        pa.field("shown", pa.string(), nullable=False),
    ]
)
"""One row per run of words that a document shares with an item, by document, item and place."""


def find_matches(documents: pa.RecordBatch, index: OverlapIndex, config: DecontaminateConfig) -> pa.Table:
    """Every longest run of words that a document shares with an item and that holds an n-gram of the index.

    Args:
        documents: doc_id, segments, and row where these are not whole parts.

    Returns:
        `MATCHES`, sorted by row, text, place.
    """
    texts = document_text(documents)
    ends, hashes = hash_terms(texts)
    hit_term, hit_key = _hits(ends, hashes, index)
    hit_doc = np.searchsorted(ends, hit_term, side="right") - 1
    candidates = np.unique(hit_doc)
    if not len(candidates):
        return MATCHES.empty_table()
    terms = locate_terms(texts.take(pa.array(candidates)))
    local = np.searchsorted(candidates, hit_doc)
    runs = kernel.confirm(
        local, hit_term - ends[hit_doc] + terms.ends[local], hit_key,
        terms.ends, terms.normal, terms.bounds,
        index.posting_starts, index.posting_at, index.posting_text,
        index.ends, index.gram_key, index.normal, index.bounds, index.needed,
    )  # fmt: skip
    runs = runs[np.lexsort((runs[:, 2], runs[:, 3], runs[:, 1], runs[:, 0]))]
    return _described(documents, texts, candidates, terms, runs, config)


def _hits(ends: I64, hashes: NDArray[np.uint64], index: OverlapIndex) -> tuple[I64, I64]:
    """First term and key of all that may be in the index; a beginning stands for each text that has it."""
    where, key = index.long.scan(ends, hashes, index.ngram)
    at, anchor = index.whole.scan(ends, hashes, index.min_words)
    if not len(at):
        return where, key
    first, stop = index.whole_starts[anchor], index.whole_starts[anchor + 1]
    which = np.repeat(np.arange(len(at)), stop - first)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(stop - first) - (stop - first), stop - first)
    whole = len(index.long.keys) + first[which] + offset
    return np.concatenate([where, at[which]]), np.concatenate([key, whole])


def _described(
    documents: pa.RecordBatch,
    texts: pa.Array,
    candidates: I64,
    terms: Terms,
    runs: I64,
    config: DecontaminateConfig,
) -> pa.Table:
    """Confirmed runs as `MATCHES`, with where they stand in the bytes of the document."""
    doc, text, item_start, doc_start, count = runs.T
    base, size = terms.ends[doc], (terms.ends[1:] - terms.ends[:-1])[doc]
    last = doc_start + count - 1
    cut_first, cut_last = np.maximum(doc_start - config.margin, 0), np.minimum(last + config.margin, size - 1)
    around = (np.maximum(doc_start - AROUND, 0), np.minimum(last + AROUND, size - 1))
    start, stop = terms.starts[base + doc_start], terms.stops[base + last]
    low, high = terms.starts[base + around[0]], terms.stops[base + around[1]]
    which = candidates[doc]
    raw = {int(d): texts[int(d)].as_buffer() for d in np.unique(which)}
    shown = [
        _shown(memoryview(raw[d]), a, b, c, e, config.shown_chars)
        for d, a, b, c, e in zip(which.tolist(), low.tolist(), start.tolist(), stop.tolist(), high.tolist())
    ]
    numbers = {
        "row": rows_of(documents)[which],
        "doc_terms": size,
        "text": text,
        "item_start": item_start,
        "terms": count,
        "start": start,
        "stop": stop,
        "cut_first": cut_first,
        "cut_last": cut_last,
        "cut_start": terms.starts[base + cut_first],
        "cut_stop": terms.stops[base + cut_last],
    }
    columns = {n: pa.array(v).cast(MATCHES.field(n).type) for n, v in numbers.items()}
    columns |= {"shown": pa.array(shown, pa.string())}
    columns["doc_id"] = documents.column("doc_id").take(pa.array(which))
    return pa.table([columns[n] for n in MATCHES.names], schema=MATCHES)


def _shown(raw: memoryview, low: int, start: int, stop: int, high: int, limit: int) -> str:
    """The matched text in brackets with the words around it, white space as single spaces, cut in the middle."""

    def plain(a: int, b: int) -> str:
        return " ".join(bytes(raw[a:b]).decode("utf-8", "replace").split())

    before, after = plain(low, start), plain(stop, high)
    match = plain(start, min(stop, start + 4 * limit))
    if len(match) > limit or stop > start + 4 * limit:
        end = plain(max(start, stop - 4 * limit), stop)
        match = f"{match[: limit // 2]} ... {end[-(limit // 2) :]}"
    return " ".join(x for x in (before, f"[{match}]", after) if x)


def _groups(matches: pa.Table, *names: str) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of rows equal in some columns."""
    keys = np.stack([np.asarray(matches[n], dtype=np.int64) for n in names], axis=1)
    if len(keys):
        starts, stops = run_bounds(run_starts(keys))
        yield from zip(starts.tolist(), stops.tolist())


def _found(matches: pa.Table, a: int, b: int, index: OverlapIndex) -> tuple[NDArray[np.int32], int]:
    """Of the runs a:b of one document and text: the keys found (distinct places of the text), and words found."""
    text = int(matches["text"][a].as_py())
    size, first = index.size(text), int(index.ends[text])
    gram = int(index.needed[text])
    words, places = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    starts, counts = (np.asarray(matches[c].slice(a, b - a)) for c in ("item_start", "terms"))
    for start, count in zip(starts.tolist(), counts.tolist()):
        words[start : start + count] = True
        places[start : start + count - gram + 1] = True
    keys = index.gram_key[first : first + size][places]
    return keys[keys >= 0], int(words.sum())


def count_documents(matches: pa.Table, index: OverlapIndex) -> I64:
    """In how many documents of a part each key of the index stands, int64 [keys]."""
    out = np.zeros(index.keys, np.int64)
    at = 0
    pairs = list(_groups(matches, "row", "text"))
    for _, b in _groups(matches, "row"):
        keys = []
        while at < len(pairs) and pairs[at][0] < b:
            keys.append(_found(matches, *pairs[at], index)[0])
            at += 1
        out[np.unique(np.concatenate(keys))] += 1
    return out


@dataclass(frozen=True, slots=True)
class Overlap:
    """A document that holds enough of an item. `runs`: the rows of its matches."""

    row: int
    text: int
    matched: int
    size: int
    runs: tuple[int, int]

    @property
    def share(self) -> float:
        """Matched share of the item's words."""
        return self.matched / self.size


def overlaps(
    matches: pa.Table, index: OverlapIndex, documents: I64, config: DecontaminateConfig
) -> list[Overlap]:
    """The pairs of document and item that are contamination, by row, then text.

    Evidence are the n-grams found that stand in at most `common_documents` documents; all of them where at least
    half of the item and twice an n-gram's words are found.

    Args:
        matches: `MATCHES` of one part.
        documents: int64 [keys], in how many documents of the whole corpus each key stands.
    """
    out = []
    common = np.zeros(index.keys, np.bool_)
    if config.common_documents is not None:
        common = documents > config.common_documents
    rows, texts = (np.asarray(matches[c]) for c in ("row", "text"))
    for a, b in _groups(matches, "row", "text"):
        keys, words = _found(matches, a, b, index)
        text = int(texts[a])
        size = index.size(text)
        copied = words >= WHOLE_SHARE * size and words >= 2 * index.ngram
        evidence = len(keys) if copied else int((~common[keys]).sum())
        # A text with fewer n-grams than asked for must be found whole.
        enough = evidence >= min(config.min_matches, max(1, size - int(index.needed[text]) + 1))
        if enough and evidence and words >= config.min_coverage * size:
            out.append(Overlap(int(rows[a]), text, words, size, (a, b)))
    return out


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the contaminated documents of a part.

    dropped: `DROPPED`, the documents to drop, by row. cuts: int64 [m, 3], row, start and stop (bytes of the document's
    text), sorted, disjoint, of the others. worst: the overlap each contaminated row is reported by;
    overlaps: all of them.
    """

    dropped: pa.Table
    cuts: I64
    worst: dict[int, Overlap]
    overlaps: tuple[Overlap, ...]


def judge(matches: pa.Table, index: OverlapIndex, documents: I64, config: DecontaminateConfig) -> Verdict:
    """Drop or cut the contaminated documents of a part; arguments as `overlaps`.

    A document is reported by the item of which it holds most (then most words, then the first of the index).
    """
    found = overlaps(matches, index, documents, config)
    by_row: dict[int, list[Overlap]] = {}
    for o in found:
        by_row.setdefault(o.row, []).append(o)
    worst = {r: max(os, key=lambda o: (o.share, o.matched, -o.text)) for r, os in by_row.items()}
    cuts: list[tuple[int, int, int]] = []
    dropped = []
    for row, mine in by_row.items():
        pieces = _pieces(matches, mine) if config.action == "cut" else []
        total = int(matches["doc_terms"][mine[0].runs[0]].as_py())
        left = total - sum(last - first + 1 for first, last, _, _ in pieces)
        if not pieces or len(pieces) > config.max_cuts or left < config.min_kept:
            dropped.append(_drop(matches, worst[row], mine, index, config))
        else:
            cuts += [(row, a, b) for _, _, a, b in pieces]
    table = pa.Table.from_pylist(dropped, schema=DROPPED)
    return Verdict(table, np.array(sorted(cuts), np.int64).reshape(-1, 3), worst, tuple(found))


def _pieces(matches: pa.Table, mine: list[Overlap]) -> list[tuple[int, int, int, int]]:
    """The places to cut out of a document, margins included, joined where they touch: words and bytes."""
    names = ("cut_first", "cut_last", "cut_start", "cut_stop")
    columns = [matches[n] for n in names]
    places = sorted(tuple(c[i].as_py() for c in columns) for o in mine for i in range(*o.runs))
    out: list[tuple[int, int, int, int]] = []
    for first, last, start, stop in places:
        if out and first <= out[-1][1] + 1:
            a, b, c, d = out[-1]
            out[-1] = (a, max(b, last), c, max(d, stop))
        else:
            out.append((first, last, start, stop))
    return out


def describe(overlap: Overlap, matches: pa.Table, index: OverlapIndex, others: int = 0) -> str:
    """Which item, how much of it, and the longest matched text."""
    a, b = overlap.runs
    longest = a + int(np.argmax(np.asarray(matches["terms"].slice(a, b - a))))
    text = index.texts[overlap.text]
    field = f" ({text.field})" if text.field else ""
    more = f" and {others} more" if others else ""
    return (
        f"{text.set}, item {text.id}{field}{more}: {overlap.matched} of {overlap.size} words: "
        f"{matches['shown'][longest].as_py()}"
    )


def _drop(
    matches: pa.Table, worst: Overlap, mine: list[Overlap], index: OverlapIndex, config: DecontaminateConfig
) -> dict[str, object]:
    items = {(index.texts[o.text].set, index.texts[o.text].id) for o in mine}
    return {
        "row": worst.row,
        "reason": REASON,
        "value": worst.share,
        "limit": config.min_coverage,
        "detail": describe(worst, matches, index, len(items) - 1),
    }


def cut_spans(documents: pa.RecordBatch, verdict: Verdict, config: DecontaminateConfig) -> pa.Table:
    """The cuts of a verdict as `SPANS` over these documents (a batch of the part, whole or survivors)."""
    rows = rows_of(documents)
    at = {int(r): i for i, r in enumerate(rows)}
    inside = [(at[r], a, b, verdict.worst[r].share) for r, a, b in verdict.cuts.tolist() if r in at]
    n = len(inside)
    columns = {
        "document": pa.array([x[0] for x in inside], pa.int32()),
        "start": pa.array([x[1] for x in inside], pa.int64()),
        "stop": pa.array([x[2] for x in inside], pa.int64()),
        "replacement": pa.array([""] * n, pa.string()),
        "reason": pa.array([REASON] * n, pa.string()),
        "value": pa.array([x[3] for x in inside], pa.float64()),
        "limit": pa.array([config.min_coverage] * n, pa.float64()),
    }
    return pa.table(columns, schema=SPANS)


def summary(verdict: Verdict, index: OverlapIndex) -> dict[str, dict[str, Any]]:
    """By set: how many documents hold any of its items, and how many hold each item."""
    rows: dict[str, set[int]] = {}
    items: dict[str, dict[str, set[int]]] = {}
    for o in verdict.overlaps:
        text = index.texts[o.text]
        rows.setdefault(text.set, set()).add(o.row)
        items.setdefault(text.set, {}).setdefault(text.id, set()).add(o.row)
    return {
        name: {"documents": len(rows[name]), "items": {i: len(r) for i, r in sorted(items[name].items())}}
        for name in sorted(rows)
    }


def top_ngrams(index: OverlapIndex, documents: I64, config: DecontaminateConfig) -> dict[str, list[Any]]:
    """By set: the keys of the index that stand in most documents, their number, and whether they count as common."""
    out: dict[str, list[Any]] = {}
    limit = np.inf if config.common_documents is None else config.common_documents
    for key in np.lexsort((np.arange(len(documents)), -documents)):
        if not documents[key]:
            break
        text, words = index.key_words(int(key))
        mine = out.setdefault(index.texts[text].set, [])
        if len(mine) < TOP:
            n = int(documents[key])
            mine.append({"words": words, "documents": n, "common": bool(n > limit)})
    return {name: out[name] for name in sorted(out)}
