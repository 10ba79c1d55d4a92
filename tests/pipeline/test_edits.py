"""Edits: spans of document text found, mapped to segments and applied, against a plain definition."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.edits import EDITS, SPANS, WHOLE, apply_edits, spans_to_edits, text_places
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

TEXT = st.text(st.sampled_from("ab é漢🙂\n"), max_size=12)
SEGMENTS = st.lists(st.one_of(TEXT, st.none()), max_size=5)


def document(i, segments):
    picture = Media(uri=f"{i}.png", sha256="0" * 64, bytes=1)
    made = tuple(
        Segment(kind="image", media=picture) if s is None else Segment(kind="text", text=s) for s in segments
    )
    return Document(source="s", locator=Locator(uri=str(i)), segments=made)


def contents(documents):
    return [
        [None if s["kind"] == "image" else s["text"] for s in row]
        for row in documents.column("segments").to_pylist()
    ]


@given(st.lists(SEGMENTS, min_size=1, max_size=4))
def test_every_text_segment_is_found_at_its_place_in_the_text_of_its_document(docs):
    batch = documents_batch([document(i, s) for i, s in enumerate(docs)])
    first, segment, begin = text_places(batch)
    texts = [t.encode() for t in document_text(batch).to_pylist()]
    for i, segments in enumerate(docs):
        mine = range(first[i], first[i + 1])
        assert [int(segment[t]) for t in mine] == [j for j, s in enumerate(segments) if s is not None]
        for t in mine:
            raw = segments[segment[t]].encode()
            assert texts[i][begin[t] : begin[t] + len(raw)] == raw


@st.composite
def cut_documents(draw):
    docs = draw(st.lists(SEGMENTS, min_size=1, max_size=3))
    spans = []
    for i, segments in enumerate(docs):
        text = "\n\n".join(s for s in segments if s is not None)
        marks = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True)))
        for a, b in zip(marks[::2], marks[1::2]):
            start, stop = len(text[:a].encode()), len(text[:b].encode())
            spans.append((i, start, stop, draw(st.sampled_from(["", "X", "<漢>"]))))
    return docs, spans


@given(cut_documents())
def test_edits_change_the_spans_and_nothing_else(case):
    docs, spans = case
    batch = documents_batch([document(i, s) for i, s in enumerate(docs)])
    rows = [
        {"document": d, "start": a, "stop": b, "replacement": r, "reason": "x", "value": None, "limit": 1.0}
        for d, a, b, r in spans
    ]
    edits = spans_to_edits(batch, pa.RecordBatch.from_pylist(rows, schema=SPANS))
    assert edits.schema.equals(EDITS)
    edited = contents(apply_edits(batch, edits))
    for i, segments in enumerate(docs):
        expected, at = [], 0
        touched = set()
        for j, s in enumerate(segments):
            if s is None:
                expected.append((j, None))
                continue
            raw = s.encode()
            for _, (d, a, b, r) in reversed(list(enumerate(spans))):
                low, high = max(a - at, 0), min(b - at, len(raw))
                if d == i and low < high:
                    earlier = any(
                        max(a - t, 0) < min(b - t, n) for t, n in _places(segments) if t < at
                    )  # only the first piece of a span is replaced
                    raw = raw[:low] + (b"" if earlier else r.encode()) + raw[high:]
                    touched.add(j)
            expected.append((j, raw.decode()))
            at += len(s.encode()) + 2
        kept = [t for j, t in expected if t is None or j not in touched or t.strip()]
        assert edited[i] == kept


def _places(segments):
    at = 0
    for s in segments:
        if s is not None:
            yield at, len(s.encode())
            at += len(s.encode()) + 2


def test_rows_name_the_documents_when_only_some_of_a_part_are_at_hand():
    batch = documents_batch([document(i, ["some text", None]) for i in range(4)])
    edit = {"doc_id": "d", "row": 2, "segment": 1, "start": WHOLE, "stop": WHOLE, "replacement": ""}
    edits = pa.Table.from_pylist([{**edit, "reason": "blank", "value": 0.0, "limit": 1.0}], schema=EDITS)
    assert contents(apply_edits(batch, edits)) == [["some text", None]] * 2 + [["some text"]] + [
        ["some text", None]
    ]
    some = batch.take(pa.array([0, 2])).append_column("row", pa.array(np.array([0, 2], np.int32)))
    assert contents(apply_edits(some, edits)) == [["some text", None], ["some text"]]


def test_edits_of_other_documents_are_refused():
    batch = documents_batch([document(0, ["text"])])
    edit = {"doc_id": "d", "row": 0, "segment": 3, "start": 0, "stop": 1, "replacement": "", "reason": "x"}
    edits = pa.Table.from_pylist([{**edit, "value": None, "limit": None}], schema=EDITS)
    with pytest.raises(ValueError, match="made for other documents"):
        apply_edits(batch, edits)
