"""Judge documents by a rule set that edits: which documents go, and what goes out of those that stay.

A set is judged in this order. Rules of `rules` that ask annotations judge the document as it came. Then every line is
judged by the first of `lines` that fires on it, which removes it or drops the document, and every image and recording by
the first of `media`. Last come the rules of `rules` that ask what is left. The first that fires is the document's reason.
Only tables of measures are read, never text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixloom.pipeline.edits import EDITS, WHOLE
from mixloom.pipeline.line_edits import EMPTY_LINES, Change, Flags, line_changes, places
from mixloom.pipeline.line_measures import LINE_MEASURES, SNIPPETS
from mixloom.pipeline.rules import Column, Firing, Rule, RuleSet, Verdicts, ask, column_of, meets

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
    """Lines judged. owner: int64 [m], the document; goes, drops: bool [m]; change and stays: see `line_changes`."""

    table: pa.RecordBatch
    owner: NDArray[np.int64]
    found: Firing
    kind: NDArray[np.object_]
    drops: Flags
    cut: Flags
    change: Change
    stays: Flags


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
    actions = np.array([rule.action == "document" for rule in ruleset.lines] + [False])
    drops = actions[found.first]
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
        return np.bincount(owner, weights=weights, minlength=n)

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
    pairs = np.unique(np.stack([owner[kept], number["segment"][kept].astype(np.int64)]), axis=1)
    out["kept_text_segments"] = np.bincount(pairs[0], minlength=n).astype(np.float64)
    return out


def _media_left(kind: NDArray[np.object_], owner: NDArray[np.int64], goes: Flags, n: int) -> dict[str, NDArray[np.float64]]:
    """What is left of the images and recordings of n documents."""

    def count(among: Flags) -> NDArray[np.float64]:
        return np.bincount(owner[among], minlength=n).astype(np.float64)

    gone, every = count(goes), count(np.ones(len(goes), np.bool_))
    return {
        "kept_media": every - gone,
        "kept_images": count(~goes & (kind == "image")),
        "kept_speech": count(~goes & (kind == "speech")),
        "removed_media": gone,
        "removed_media_share": gone / np.maximum(every, 1),
    }


def _mine(table: pa.RecordBatch | pa.Table, place: NDArray[np.int64]) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    """The rows of a table of lines or items that belong to the documents judged, and whose they are."""
    if isinstance(table, pa.Table):
        whole = table.combine_chunks().to_batches()
        table = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=table.schema)
    row = table.column("row").to_numpy(zero_copy_only=False).astype(np.int64)
    known = row < len(place)
    owner = np.where(known, place[np.where(known, row, 0)], -1) if len(place) else np.full(len(row), -1, np.int64)
    if (owner >= 0).all():
        # Lists of a slice begin somewhere in their values; a copy begins at 0.
        return (table if table.num_columns == 0 or not _sliced(table) else table.take(pa.array(np.arange(len(row))))), owner
    return table.filter(pa.array(owner >= 0)), owner[owner >= 0]


def _sliced(table: pa.RecordBatch) -> bool:
    return any(column.offset != 0 for column in table.columns)


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
    nothing = np.full(len(line), np.nan)
    row = judged.table.column("row").to_numpy(zero_copy_only=False)[line]
    segment = judged.table.column("segment").to_numpy(zero_copy_only=False)[line]
    put = pa.array(np.where(newline, "\n", "").tolist(), pa.string())
    value, limit = (np.where(by_rule, v[line], nothing) for v in (judged.found.value, judged.found.limit))
    return _edit_columns(row, segment, c.start[chosen], c.stop[chosen], put, kind.tolist(), value, limit)


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
        raise ValueError("this rule set needs the tables of lines or of images and recordings, and they were not given")
    rows = np.arange(n, dtype=np.int32) if rows is None else np.asarray(rows)
    place = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
    place[rows] = np.arange(n)
    first, value, limit = np.full(n, -1, np.int16), np.full(n, np.nan), np.full(n, np.nan)
    fired = np.zeros(len(ruleset.names), np.int64)
    left: dict[str, NDArray[np.float64]] = {}
    line_base, media_base = len(ruleset.rules), len(ruleset.rules) + len(ruleset.lines)

    def settle(where: Flags, rule: NDArray[np.int16], of_value: NDArray[np.float64], of_limit: NDArray[np.float64]) -> None:
        new = where & (first < 0)
        first[new], value[new], limit[new] = rule[new], of_value[new], of_limit[new]

    def settle_rules(kinds: bool, columns: dict[str, Column]) -> None:
        at = np.array([k for k, rule in enumerate(ruleset.rules) if rule.asks_rest == kinds], np.int16)
        asked: list[Rule] = [ruleset.rules[k] for k in at]
        found = ask(columns, asked, n)
        fired[at] = found.fired
        settle(found.first >= 0, np.append(at, np.int16(-1))[found.first], found.value, found.limit)

    def settle_first(of: Firing, owner: NDArray[np.int64], drops: Flags, base: int) -> None:
        guilty = np.flatnonzero(drops)
        document, earliest = np.unique(owner[guilty], return_index=True)
        guilty = guilty[earliest]
        rule = np.full(n, -1, np.int16)
        of_value, of_limit = np.full(n, np.nan), np.full(n, np.nan)
        rule[document], of_value[document], of_limit[document] = of.first[guilty] + base, of.value[guilty], of.limit[guilty]
        settle(rule >= 0, rule, of_value, of_limit)

    columns = {measure: column_of(annotations, measure) for measure in ruleset.measures}
    settle_rules(False, columns)
    judged: _Lines | None = None
    if ruleset.needs_lines:
        assert lines is not None
        judged = _judge_lines(*_mine(lines, place), ruleset)
        fired[line_base:media_base] = judged.found.fired
        settle_first(judged.found, judged.owner, judged.drops, line_base)
        left |= _text_left(judged, n, ruleset.remove[0].what if ruleset.remove else None)
    edits: list[pa.Table] = []
    if ruleset.needs_items:
        assert items is not None
        table, owner = _mine(items, place)
        media = {name: column_of(table, name) for rule in ruleset.media for name in rule.reads}
        found = ask(media, ruleset.media, len(table))
        actions = np.array([rule.action == "document" for rule in ruleset.media] + [False])
        drops = actions[found.first]
        fired[media_base:] = found.fired
        settle_first(found, owner, drops, media_base)
        goes = (found.first >= 0) & ~drops
        left |= _media_left(np.array(table.column("kind").to_pylist(), dtype=object), owner, goes, n)
    if "kept_text_segments" in left and "kept_media" in left:
        left["kept_segments"] = left["kept_text_segments"] + left["kept_media"]
    settle_rules(True, columns | {name: (values, np.ones(n, np.bool_)) for name, values in left.items()})
    keep = first < 0
    if judged is not None and ruleset.edits_text:
        edits.append(_line_edits(judged, keep, ruleset))
    if ruleset.media:
        at = np.flatnonzero(goes & keep[owner])
        names = [ruleset.media[k].name for k in found.first[at]]
        row, segment = (table.column(c).to_numpy(zero_copy_only=False)[at] for c in ("row", "segment"))
        whole = np.full(len(at), WHOLE, np.int32)
        put = pa.array([""] * len(at), pa.string())
        edits.append(_edit_columns(row, segment, whole, whole, put, names, found.value[at], found.limit[at]))
    merged = pa.concat_tables(edits) if edits else CHANGES.empty_table()
    merged = merged.sort_by([("row", "ascending"), ("segment", "ascending"), ("start", "ascending")])
    return Judgement(ruleset.names, Verdicts(keep, first, value, limit, fired), merged, left)
