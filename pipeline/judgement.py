"""Judge documents by a rule set that edits: which documents go, and what goes out of those that stay.

A set is judged in this order. Rules of `rules` that ask annotations judge the document as it came. Then every line is
judged by the first of `lines` that fires on it, which removes it or drops the document, and every image and recording by
the first of `media`. Last come the rules of `rules` that ask what is left. The first that fires is the document's reason.
Only tables of measures are read, never text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.edits import EDITS, WHOLE
from mixloom.pipeline.line_edits import EMPTY_LINES, Change, Flags, line_changes, places
from mixloom.pipeline.line_measures import LINE_MEASURES, SNIPPETS
from mixloom.pipeline.rule_sets import LineRule, MediaRule, Rule, RuleSet
from mixloom.pipeline.rules import Column, Firing, Verdicts, ask, column_of, meets

# What goes out of the documents that stay: `edits.EDITS` without the ids, which the tables of measures do not hold.
CHANGES = EDITS.remove(EDITS.get_field_index("doc_id"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule set says of n documents.

    verdicts: see `rules.Verdicts`; its rules are `names`. fired counts documents for `rules`, lines for `lines` and
    segments for `media`. edits: schema `CHANGES`, of the documents that stay. left: the measures of
    `line_measures.REST_MEASURES` that could be computed, each [n], whether the document stays or not.
    """

    names: tuple[str, ...]
    verdicts: Verdicts
    edits: pa.Table
    left: dict[str, NDArray[np.float64]]


@dataclass(slots=True)
class _Lines:
    """Lines judged. owner: int64 [m], the document. drops: bool [m], the line drops it. cut: bool [m], removals apply.

    kind: object [m], the reason of a line that no rule removed. change, stays: see `line_edits.line_changes`.
    """

    table: pa.RecordBatch
    owner: NDArray[np.int64]
    found: Firing
    kind: NDArray[np.object_]
    drops: Flags
    cut: Flags
    change: Change
    stays: Flags


@dataclass(slots=True)
class _Items:
    """Images and recordings judged. owner: int64 [k], the document; drops, goes: bool [k]."""

    table: pa.RecordBatch
    owner: NDArray[np.int64]
    found: Firing
    drops: Flags
    goes: Flags


def line_column(lines: pa.RecordBatch, name: str) -> Column:
    """A measure of `LINE_MEASURES` of m lines: int32, int64 or float32 [m], and where it is known (everywhere)."""
    measure = LINE_MEASURES[name]
    array = lines.column(measure.column)
    if name in ("citations", "snippets"):
        array = pc.divide(pc.list_value_length(array), 2 if name == "citations" else 3)
    if measure.uncited:
        array = pc.coalesce(lines.column(f"uncited_{measure.column}"), array)
    values = array.to_numpy(zero_copy_only=False)
    if measure.bits:
        bits = [1 << b for b in range(16) if measure.bits >> b & 1]
        values = sum((values & np.array(b, values.dtype)) != 0 for b in bits).astype(np.int32)
    return values, np.ones(len(values), np.bool_)


def _surplus(chars: NDArray[np.int64], unit: NDArray[np.int64], most: int | None) -> Flags:
    """Empty lines beyond the first `most` of a run within one text; bool [m]."""
    if most is None or not len(chars):
        return np.zeros(len(chars), np.bool_)
    at = np.arange(len(chars))
    run = chars == 0
    breaks = ~run
    breaks[0] = True
    breaks[1:] |= np.diff(unit) != 0
    origin = np.maximum.accumulate(np.where(breaks, at, 0))
    length = at - origin + (run[origin])
    return run & (length > most)


def _judge_lines(lines: pa.RecordBatch, owner: NDArray[np.int64], ruleset: RuleSet) -> _Lines:
    m = len(lines)
    removal = ruleset.remove[0] if ruleset.remove else None
    when = dict(removal.when) if removal else {}
    read = {name for rule in ruleset.lines for name in rule.reads} | set(when)
    columns = {name: line_column(lines, name) for name in read}
    chars = lines.column("chars").to_numpy(zero_copy_only=False)
    found = ask(columns, ruleset.lines, m, chars > 0)
    drops = _drops(found, ruleset.lines)
    applies = meets(columns, when, m) if removal else np.zeros(m, np.bool_)
    what = removal.what if removal else None
    p = places(lines, what, applies)
    goes = (found.first >= 0) & ~drops
    kind = np.full(m, None, dtype=object)
    if what == "snippets":
        alone = p.cut & ~goes & (p.content_stop <= p.content_start)
        offsets = lines.column("snippets").offsets.to_numpy()
        values = lines.column("snippets").values.to_numpy(zero_copy_only=False)
        kind[alone] = [SNIPPETS[values[o]] for o in offsets[:-1][alone]]
        goes |= alone
    surplus = _surplus(chars, p.unit, ruleset.max_empty_lines)
    kind[surplus] = EMPTY_LINES
    change, stays = line_changes(lines, p, goes | surplus, what, ruleset.layout == "joined")
    return _Lines(lines, owner, found, kind, drops, p.cut, change, stays)


def _text_left(judged: _Lines, n: int, what: str | None) -> dict[str, NDArray[np.float64]]:
    """What is left of the text of n documents."""
    table, owner, stays = judged.table, judged.owner, judged.stays
    number = {
        name: table.column(name).to_numpy(zero_copy_only=False)
        for name in ("words", "alnum_words", "sentences", "segment")
    }
    left = dict(number)
    prefix = {"citations": "uncited", "snippets": "bare"}.get(what or "")
    for name in ("words", "alnum_words", "sentences"):
        if prefix and f"{prefix}_{name}" in table.schema.names:
            rest = table.column(f"{prefix}_{name}").fill_null(0).to_numpy(zero_copy_only=False)
            left[name] = np.where(judged.cut, rest, number[name])

    def total(values: NDArray[np.generic], among: Flags | None = None) -> NDArray[np.float64]:
        weights = values if among is None else np.where(among, values, 0)
        return np.bincount(owner, weights=weights, minlength=n).astype(np.float64)

    kept = stays & (left["words"] > 0)
    filled = number["words"] > 0
    whole, words, alnum = total(filled), total(number["words"]), total(number["alnum_words"])
    out = {
        "kept_lines": total(kept),
        "kept_words": total(left["words"], stays),
        "kept_sentences": total(left["sentences"], stays),
    }
    out["removed_lines"] = whole - out["kept_lines"]
    out["removed_line_share"] = out["removed_lines"] / np.maximum(whole, 1)
    out["removed_word_share"] = (words - out["kept_words"]) / np.maximum(words, 1)
    out["removed_alnum_word_share"] = (alnum - total(left["alnum_words"], stays)) / np.maximum(alnum, 1)
    segments = np.unique(owner[kept] << 32 | number["segment"][kept].astype(np.int64))
    out["kept_text_segments"] = np.bincount(segments >> 32, minlength=n).astype(np.float64)
    return out


def _judge_items(items: pa.RecordBatch, owner: NDArray[np.int64], ruleset: RuleSet) -> _Items:
    columns = {name: column_of(items, name) for rule in ruleset.media for name in rule.reads}
    found = ask(columns, ruleset.media, len(items))
    drops = _drops(found, ruleset.media)
    return _Items(items, owner, found, drops, (found.first >= 0) & ~drops)


def _media_left(judged: _Items, n: int) -> dict[str, NDArray[np.float64]]:
    """What is left of the images and recordings of n documents."""
    kind = np.array(judged.table.column("kind").to_pylist(), dtype=object)

    def count(among: Flags) -> NDArray[np.float64]:
        return np.bincount(judged.owner[among], minlength=n).astype(np.float64)

    gone, every = count(judged.goes), count(np.ones(len(kind), np.bool_))
    return {
        "kept_media": every - gone,
        "kept_images": count(~judged.goes & (kind == "image")),
        "kept_speech": count(~judged.goes & (kind == "speech")),
        "removed_media": gone,
        "removed_media_share": gone / np.maximum(every, 1),
    }


def _mine(
    table: pa.RecordBatch | pa.Table, place: NDArray[np.int64]
) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    """The rows of a table of lines or items that belong to the documents judged, and whose they are."""
    row = np.asarray(table.column("row")).astype(np.int64)
    owner = np.full(len(row), -1, np.int64)
    known = row < len(place)
    owner[known] = place[row[known]]
    whole = bool((owner >= 0).all()) and len(table) > 0
    if isinstance(table, pa.RecordBatch):
        if whole and table.column("row").offset == 0:
            return table, owner
    elif whole and table.column("row").num_chunks == 1:
        only = table.to_batches()[0]
        if only.column("row").offset == 0:
            return only, owner
    # Taking rows also makes one batch of many, and lists whose values begin at 0.
    mine = table.take(pa.array(np.flatnonzero(owner >= 0)))
    if isinstance(mine, pa.Table):
        batches = mine.combine_chunks().to_batches()
        mine = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=mine.schema)
    return mine, owner[owner >= 0]


def _edit_columns(
    row: NDArray[np.generic], segment: NDArray[np.generic], start: object, stop: object, put: pa.Array,
    reason: list[str], value: NDArray[np.float64], limit: NDArray[np.float64],
) -> pa.Table:  # fmt: skip
    arrays = [
        pa.array(row).cast(pa.int32()),
        pa.array(segment).cast(pa.int32()),
        pa.array(start).cast(pa.int32()),
        pa.array(stop).cast(pa.int32()),
        put,
        pa.array(reason, pa.string()),
        pa.array(value, mask=np.isnan(value)),
        pa.array(limit, mask=np.isnan(limit)),
    ]
    return pa.Table.from_arrays(arrays, schema=CHANGES)


def _line_edits(judged: _Lines, keep: Flags, ruleset: RuleSet) -> pa.Table:
    c = judged.change
    chosen = keep[judged.owner[c.line]]
    line, newline, kind = c.line[chosen], c.newline[chosen], c.kind[chosen]
    own = kind == None  # noqa: E711 (elementwise)
    kind[own] = judged.kind[line[own]]
    by_rule = kind == None  # noqa: E711
    names = np.array([rule.name for rule in ruleset.lines] + [""], dtype=object)
    kind[by_rule] = names[judged.found.first[line[by_rule]]]
    row = judged.table.column("row").to_numpy(zero_copy_only=False)[line]
    segment = judged.table.column("segment").to_numpy(zero_copy_only=False)[line]
    put = pa.array(np.where(newline, "\n", "").tolist(), pa.string())
    value, limit = (np.where(by_rule, v[line], np.nan) for v in (judged.found.value, judged.found.limit))
    return _edit_columns(row, segment, c.start[chosen], c.stop[chosen], put, kind.tolist(), value, limit)


@dataclass(slots=True)
class _Reasons:
    """The reason of each of n documents so far; what settles one first wins."""

    first: NDArray[np.int16]
    value: NDArray[np.float64]
    limit: NDArray[np.float64]

    def settle(self, found: Firing, rule: NDArray[np.integer], document: NDArray[np.int64]) -> None:
        """`document` (each once) goes for what `found` says of it; rule: its place among the names of the set."""
        new = self.first[document] < 0
        self.first[document[new]] = rule[new]
        self.value[document[new]] = found.value[new]
        self.limit[document[new]] = found.limit[new]

    def settle_parts(self, found: Firing, owner: NDArray[np.int64], drops: Flags, base: int) -> None:
        """The document of a line or segment goes for the first of them that drops it."""
        guilty = np.flatnonzero(drops)
        document, earliest = np.unique(owner[guilty], return_index=True)
        at = guilty[earliest]
        chosen = Firing(found.first[at], found.value[at], found.limit[at], found.fired)
        self.settle(chosen, found.first[at].astype(np.int64) + base, document)


def _settle_rules(
    reasons: _Reasons, fired: NDArray[np.int64], ruleset: RuleSet, columns: dict[str, Column], rest: bool
) -> None:
    """Ask the rules of documents that ask what is left (`rest`), or the others."""
    at = np.array([k for k, rule in enumerate(ruleset.rules) if rule.asks_rest == rest], np.int64)
    asked: list[Rule] = [ruleset.rules[k] for k in at]
    found = ask(columns, asked, len(reasons.first))
    fired[at] = found.fired
    document = np.flatnonzero(found.first >= 0)
    chosen = Firing(found.first[document], found.value[document], found.limit[document], found.fired)
    reasons.settle(chosen, at[chosen.first], document)


def _drops(found: Firing, rules: Sequence[LineRule | MediaRule]) -> Flags:
    """Where the first rule that fires drops the document."""
    return np.array([rule.action == "document" for rule in rules] + [False])[found.first]


def _item_edits(judged: _Items, keep: Flags, ruleset: RuleSet) -> pa.Table:
    at = np.flatnonzero(judged.goes & keep[judged.owner])
    names = [ruleset.media[k].name for k in judged.found.first[at]]
    row, segment = (judged.table.column(c).to_numpy(zero_copy_only=False)[at] for c in ("row", "segment"))
    whole = np.full(len(at), WHOLE, np.int32)
    put = pa.array([""] * len(at), pa.string())
    value, limit = judged.found.value[at], judged.found.limit[at]
    return _edit_columns(row, segment, whole, whole, put, names, value, limit)


def judge_document(
    annotations: pa.RecordBatch,
    lines: pa.RecordBatch | pa.Table | None,
    items: pa.RecordBatch | pa.Table | None,
    ruleset: RuleSet,
    rows: NDArray[np.int32] | None = None,
) -> Judgement:
    """Judge n documents by one rule set (several of them: `rules.split_at_edits`).

    Args:
        annotations: one row per document, with the columns `ruleset.measures`.
        lines: `line_measures.LINES`, sorted by (row, segment, start); may be None unless `ruleset.needs_lines`.
        items: `media_items.ITEMS`; may be None unless `ruleset.needs_items`.
        rows: int32 [n], the `row` under which `lines` and `items` know each document; by default its place. Lines and
            items of other rows are passed over.

    Raises:
        KeyError: a column of measures is missing.
        ValueError: a table the set needs is missing.
    """
    n = annotations.num_rows
    if (ruleset.needs_lines and lines is None) or (ruleset.needs_items and items is None):
        raise ValueError(
            "this rule set needs the tables of lines or of images and recordings, and they were not given"
        )
    rows = np.arange(n, dtype=np.int32) if rows is None else np.asarray(rows)
    place = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
    place[rows] = np.arange(n)
    reasons = _Reasons(np.full(n, -1, np.int16), np.full(n, np.nan), np.full(n, np.nan))
    fired = np.zeros(len(ruleset.names), np.int64)
    left: dict[str, NDArray[np.float64]] = {}
    line_base, media_base = len(ruleset.rules), len(ruleset.rules) + len(ruleset.lines)
    columns = {measure: column_of(annotations, measure) for measure in ruleset.measures}
    _settle_rules(reasons, fired, ruleset, columns, rest=False)
    text: _Lines | None = None
    media: _Items | None = None
    if ruleset.needs_lines:
        assert lines is not None
        text = _judge_lines(*_mine(lines, place), ruleset)
        fired[line_base:media_base] = text.found.fired
        reasons.settle_parts(text.found, text.owner, text.drops, line_base)
        left |= _text_left(text, n, ruleset.remove[0].what if ruleset.remove else None)
    if ruleset.needs_items:
        assert items is not None
        media = _judge_items(*_mine(items, place), ruleset)
        fired[media_base:] = media.found.fired
        reasons.settle_parts(media.found, media.owner, media.drops, media_base)
        left |= _media_left(media, n)
    if text is not None and media is not None:
        left["kept_segments"] = left["kept_text_segments"] + left["kept_media"]
    known = np.ones(n, np.bool_)
    _settle_rules(reasons, fired, ruleset, columns | {m: (v, known) for m, v in left.items()}, rest=True)
    keep = reasons.first < 0
    edits = [CHANGES.empty_table()]
    if text is not None and ruleset.edits_text:
        edits.append(_line_edits(text, keep, ruleset))
    if media is not None:
        edits.append(_item_edits(media, keep, ruleset))
    order = [(name, "ascending") for name in ("row", "segment", "start")]
    verdicts = Verdicts(keep, reasons.first, reasons.value, reasons.limit, fired)
    changes = pa.concat_tables(edits).sort_by(order) if len(edits) > 1 else edits[0]
    return Judgement(ruleset.names, verdicts, changes, left)
