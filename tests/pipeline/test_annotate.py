"""Annotation of whole documents: text, content hash, media, signature, schema."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixloom.pipeline.annotate import (
    ANNOTATIONS,
    AnnotateConfig,
    annotate,
    annotations_schema,
    content_hashes,
    cut_for,
    document_text,
    media_measures,
    text_measures,
)
from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.measures import MEASURE_NAMES, MEASURES, MEDIA_MEASURES, family_of
from mixloom.pipeline.schema import Document, Locator, Media, Segment, content_id, documents_batch
from mixloom.pipeline.signatures import signatures

medias = st.builds(
    Media,
    uri=st.sampled_from(["a.png", "b.wav"]),
    sha256=st.sampled_from(["0" * 64, "f" * 64]),
    bytes=st.just(9),
    width=st.none() | st.integers(1, 4000),
    height=st.none() | st.integers(1, 4000),
    seconds=st.none() | st.floats(0, 900, width=32),
    rate=st.none(),
)
segments = st.one_of(
    st.builds(Segment, kind=st.just("text"), text=st.none() | st.text(max_size=30)),
    st.builds(Segment, kind=st.sampled_from(["image", "speech"]), media=medias),
)
corpora = st.lists(
    st.builds(
        Document,
        source=st.sampled_from(["web", "books"]),
        locator=st.builds(Locator, uri=st.text(max_size=5), offset=st.integers(0, 99)),
        segments=st.lists(segments, max_size=5).map(tuple),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(corpora, st.integers(0, 5))
def test_text_hash_and_media_follow_from_the_segments_of_each_document(
    docs: list[Document], start: int
) -> None:
    batch, docs = documents_batch(docs).slice(start), docs[start:]
    text = [[s.text or "" for s in d.segments if s.kind == "text"] for d in docs]
    assert document_text(batch).to_pylist() == ["\n\n".join(t) for t in text]
    assert document_text(batch).type == pa.large_string()
    assert [h.hex() for h in content_hashes(batch).to_pylist()] == [content_id(d.segments) for d in docs]
    measured = media_measures(batch)
    assert list(measured) == list(MEDIA_MEASURES)
    for i, d in enumerate(docs):
        images = [s.media for s in d.segments if s.kind == "image" and s.media]
        clips = [s.media.seconds for s in d.segments if s.kind == "speech" and s.media]
        sides = [sorted((m.width, m.height)) for m in images if m.width and m.height]
        known = [s for s in clips if s is not None]
        expected = {
            "images": len(images),
            "speech_clips": len(clips),
            "min_image_side": min((a for a, _ in sides), default=None),
            "max_image_aspect": np.float32(max(b / a for a, b in sides)) if sides else None,
            "speech_seconds": np.float32(sum(known)) if known else None,
            "min_clip_seconds": min(known, default=None),
            "max_clip_seconds": max(known, default=None),
        }
        assert {name: array[i].as_py() for name, array in measured.items()} == expected


@settings(max_examples=60, deadline=None)
@given(corpora)
def test_annotations_have_one_row_per_document_in_order_and_do_not_depend_on_the_batch(
    docs: list[Document],
) -> None:
    batch = documents_batch(docs)
    config = AnnotateConfig(minhash=MinHashConfig(ngram=2, bands=3, rows=2))
    whole = annotate(batch, config)
    whole.validate(full=True)
    assert whole.schema.equals(annotations_schema(config))
    assert whole.column("doc_id").to_pylist() == [d.doc_id for d in docs]
    assert whole.column("source").to_pylist() == [d.source for d in docs]
    expected = signatures(document_text(batch), config.minhash).to_pylist()
    packed = whole.column("minhash").to_pylist()
    assert [p and np.frombuffer(p, "<u2").tolist() for p in packed] == expected
    for i in range(len(docs)):
        assert annotate(batch.slice(i, 1), config).equals(whole.slice(i, 1))


def test_the_metadata_of_the_part_is_kept_and_every_measure_is_a_described_column() -> None:
    batch = documents_batch(
        [Document(source="s", locator=Locator(uri="u"), segments=(Segment(kind="text", text="Hi"),))]
    )
    result = annotate(batch.replace_schema_metadata({"part": "part-00001"}), AnnotateConfig())
    assert result.schema.metadata == {b"part": b"part-00001"}
    assert result.schema.names == ANNOTATIONS.names
    assert set(MEASURE_NAMES) < set(ANNOTATIONS.names)
    assert ANNOTATIONS.field("minhash").type == pa.binary(2 * 112)
    assert ANNOTATIONS.field("content_hash").type == pa.binary(16)
    assert all(m.description for m in MEASURES.values())


def test_a_document_of_images_alone_has_no_text_no_signature_and_its_own_hash() -> None:
    picture = Media(uri="p.png", sha256="a" * 64, bytes=3, width=640, height=480)
    docs = [
        Document(source="s", locator=Locator(uri="1"), segments=(Segment(kind="image", media=picture),)),
        Document(source="s", locator=Locator(uri="2"), segments=(Segment(kind="speech", media=picture),)),
        Document(source="s", locator=Locator(uri="3"), segments=()),
    ]
    row = annotate(documents_batch(docs), AnnotateConfig()).to_pylist()
    assert [r["text_chars"] for r in row] == [0, 0, 0]
    assert [r["minhash"] for r in row] == [None] * 3
    assert len({r["content_hash"] for r in row}) == 3
    assert (row[0]["min_image_side"], row[1]["min_image_side"]) == (480, None)


def test_equal_content_of_two_sources_has_one_hash_and_two_ids() -> None:
    docs = [
        Document(source=s, locator=Locator(uri="u"), segments=(Segment(kind="text", text="same"),))
        for s in "ab"
    ]
    rows = annotate(documents_batch(docs), AnnotateConfig()).to_pylist()
    assert rows[0]["content_hash"] == rows[1]["content_hash"]
    assert rows[0]["doc_id"] != rows[1]["doc_id"]


def test_an_impossible_setting_is_refused_before_anything_is_read() -> None:
    with pytest.raises(
        ValidationError, match="'The' is not a single word of letters and numbers in lower case"
    ):
        AnnotateConfig(stop_words=("The",))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        AnnotateConfig.model_validate({"stopwords": []})


@pytest.mark.parametrize("families", [(), ("tokens",), ("word_ngrams",), ("segments",)])
def test_a_family_left_out_changes_no_other_measure(families: tuple[str, ...]) -> None:
    texts = ["One line of text, and it's fine: see 3.14 (or not).\n" * n for n in (0, 1, 3)]
    batch = documents_batch(
        [
            Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
            for i, t in enumerate(texts)
        ]
    )
    whole = annotate(batch, AnnotateConfig())
    some = annotate(batch, AnnotateConfig.model_validate({"families": families}))
    wanted = [n for n in whole.schema.names if family_of(n) is None or family_of(n) in families]
    assert some.schema.names == wanted
    for name in wanted:
        assert some.column(name).equals(whole.column(name)), name


TEXTS = (
    "",
    "!!! ???",
    "One line of text, and it's fine: see 3.14 (or not).\n" * 3,
    "naïve caffè – ʼτοῦʼ … #tag\n\n- a b c d e a b c d e a b c d e\n\n• x…",
    "日本語の文。日本語の文。\u3000ไทยไทย\r\n\x85 e\u0301",
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(sorted(MEASURES)), min_size=1, max_size=8, unique=True))
def test_measures_asked_for_by_name_are_the_same_and_there_are_no_others(names: list[str]) -> None:
    batch = documents_batch(
        [
            Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
            for i, t in enumerate(TEXTS)
        ]
    )
    config = AnnotateConfig(measures=tuple(names))
    whole, some = annotate(batch, AnnotateConfig()), annotate(batch, config)
    assert some.schema.equals(annotations_schema(config))
    assert {name for name in some.schema.names if name in MEASURES} == set(names)
    for name in some.schema.names:
        assert some.column(name).equals(whole.column(name)), name
    alone = text_measures(cut_for(document_text(batch), config, terms=False), config)
    for name in names:
        assert alone[name].equals(whole.column(name)), name


@pytest.mark.parametrize("size", [1, 100, 4_000])
def test_how_much_text_is_measured_at_a_time_changes_nothing(monkeypatch, size: int) -> None:
    batch = documents_batch(
        [
            Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
            for i, t in enumerate([*TEXTS, "", *TEXTS, "x " * 3_000, "a"])
        ]
    )
    whole = annotate(batch, AnnotateConfig())
    monkeypatch.setattr("mixloom.pipeline.annotate._PIECE", size)
    assert annotate(batch, AnnotateConfig()).equals(whole)
    assert annotate(batch.slice(3, 5), AnnotateConfig()).equals(whole.slice(3, 5))
    assert annotate(batch.slice(0, 0), AnnotateConfig()).equals(whole.slice(0, 0))


def test_a_measure_that_is_none_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="'wordz' is no measure of text; did you mean 'words'"):
        AnnotateConfig(measures=("wordz",))
