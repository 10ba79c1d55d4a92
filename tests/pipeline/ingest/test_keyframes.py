import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mixloom.pipeline.ingest.assemble import Ref
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest.keyframes import timed_items


def frame(time, image, **more):
    return {"time": time, "image": image, **more}


def said(start, stop, text, **more):
    return {"start": start, "stop": stop, "text": text, **more}


@pytest.fixture
def film(bench, make_png, make_sound):
    for name in "abc":
        bench.write(f"frames/{name}.png", make_png())
    bench.write("all.wav", make_sound())
    bench.write("one.wav", make_sound(0.5))

    def read(*records, **settings):
        bench.write("film.jsonl", "".join(json.dumps(r) + "\n" for r in records))
        return bench.read("keyframes", **settings)

    return read


def test_frames_and_texts_stand_in_the_order_of_time(film, segments):
    items = [
        said(0, 4.5, "First."),
        said(4.5, 8, "Then."),
        said(12.25, 14, "Last."),
        frame(11, "frames/c.png"),
        frame(3, "frames/a.png", alt="a pan"),
        frame(10, "frames/b.png"),
    ]
    (document,), failures = film(
        {"items": items, "id": "x7", "lang": "en"}, language_field="lang", meta_fields=["id"]
    )
    assert failures == []
    assert segments(document) == [
        ("text", "First."),
        ("image", "frames/a.png"),
        ("text", "Then."),
        ("image", "frames/b.png"),
        ("image", "frames/c.png"),
        ("text", "Last."),
    ]
    assert document.segments[0].attrs == {"role": "transcript", "start": "0", "stop": "4.5"}
    assert document.segments[1].attrs == {"alt": "a pan", "time": "3"}
    assert document.segments[-1].attrs["start"] == "12.25"
    assert (document.meta, document.language) == ({"id": "x7"}, "en")
    assert (document.locator.uri, document.locator.offset) == ("film.jsonl", 0)


def test_at_one_time_frames_come_first_and_else_the_order_of_the_lists_holds(film, segments):
    frames = [frame(2, "frames/b.png"), frame(2.0, "frames/a.png")]
    texts = [said(2, 3, "y"), said(2, 2, "x")]
    (document,), _ = film({"t": texts, "f": frames}, items=["t", "f"])
    assert segments(document) == [("image", "frames/b.png"), ("image", "frames/a.png"), ("text", "y x")]
    (document,), _ = film({"t": texts, "f": frames}, items=["f", "t"], join=None)
    assert [s for _, s in segments(document)][2:] == ["y", "x"]


def test_texts_without_a_frame_between_them_are_one_and_keep_their_times(film, segments):
    items = [
        said(0, 9, "one"),
        said(1, 2, "two"),
        frame(5, "frames/a.png"),
        said(6, None, "three"),
        said(7, 8, " "),
    ]
    (document,), _ = film({"items": items}, join="\n")
    assert segments(document) == [("text", "one\ntwo"), ("image", "frames/a.png"), ("text", "three")]
    assert document.segments[0].attrs == {"role": "transcript", "start": "0", "stop": "9"}
    assert document.segments[2].attrs == {"role": "transcript", "start": "6", "stop": "6"}


@pytest.mark.parametrize(("text_at", "order"), [("start", "ta"), ("middle", "ta"), ("stop", "at")])
def test_which_time_of_a_text_counts_is_declared(film, text_at, order):
    (document,), _ = film({"items": [frame(5, "frames/a.png"), said(0, 8, "t")]}, text_at=text_at)
    assert "".join("t" if s.text else "a" for s in document.segments) == order


def test_recordings_of_all_and_of_single_texts(film, segments):
    times = [["hello", 0.0, 0.4]]
    items = [
        frame(0, "frames/a.png"),
        said(1, 2, "hello", audio="one.wav", word_times=times),
        said(2, 3, "more"),
    ]
    (document,), failures = film({"items": items, "sound": "all.wav"}, audio_field="sound")
    assert failures == []
    assert segments(document) == [
        ("speech", "all.wav"),
        ("image", "frames/a.png"),
        ("speech", "one.wav"),
        ("text", "hello"),
        ("text", "more"),
    ]
    assert json.loads(document.segments[2].attrs["word_times"]) == times
    (document,), _ = film({"items": items[:1], "sound": None}, audio_field="sound")
    assert segments(document) == [("image", "frames/a.png")]


@pytest.mark.parametrize(
    ("record", "reason", "words"),
    [
        ({}, "missing_field", "line 2: the field 'items' is missing or null (the record has: no fields)"),
        ({"items": 3}, "wrong_type", "the field 'items' is no list"),
        ({"items": ["x"]}, "bad_segment", "entry 1 of 'items' is no object"),
        ({"items": [{"time": 3}]}, "bad_segment", "entry 1 of 'items' is neither a frame nor something said"),
        ({"items": [frame(-1, "a")]}, "bad_segment", "'time' is -1, not a number of seconds"),
        ({"items": [frame(True, "a")]}, "bad_segment", "'time' is true, not"),
        ({"items": [frame("1:20", "a")]}, "bad_segment", "'time' is \"1:20\", not"),
        ({"items": [frame(10**400, "a")]}, "bad_segment", "not a number of seconds"),
        ({"items": [frame(float("nan"), "a")]}, "bad_segment", "'time' is NaN, not"),
        ({"items": [{"image": "a"}]}, "bad_segment", "'time' is null, not"),
        ({"items": [frame(1, 7)]}, "bad_segment", "'image' is no string"),
        ({"items": [frame(1, "a", text="b")]}, "bad_segment", "both a frame and something said"),
        ({"items": [said(3, 2, "x")]}, "bad_segment", "ends at 2 s, before it begins"),
        ({"items": []}, "empty_document", "no text and no media"),
        ({"items": [], "sound": 3}, "wrong_type", "the field 'sound' is no path"),
    ],
)
def test_a_bad_line_costs_itself_and_says_why(film, record, reason, words):
    documents, failures = film({"items": [said(0, 1, "fine")]}, record, audio_field="sound")
    assert len(documents) == 1
    assert [f.reason for f in failures] == [reason]
    assert words in failures[0].detail
    assert failures[0].locator.offset > 0


def test_a_missing_frame_costs_that_frame_and_bad_json_its_line(film, bench, segments):
    (document,), (failure,) = film({"items": [said(0, 1, "a"), frame(1, "gone.png"), said(2, 3, "b")]})
    assert segments(document) == [("text", "a"), ("text", "b")]
    assert (failure.scope, failure.reason) == ("media", "missing_media")
    bench.write("film.jsonl", '{"items": [}\n')
    assert bench.read("keyframes")[1][0].reason == "malformed_json"


ENTRIES = st.lists(
    st.one_of(
        st.builds(frame, st.integers(0, 4), st.sampled_from("pqr")),
        st.builds(
            lambda a, n, t: said(a, a + n, t), st.integers(0, 4), st.integers(0, 3), st.sampled_from("xyz")
        ),
    ),
    max_size=12,
)


@given(ENTRIES, st.sampled_from(["start", "middle", "stop"]))
def test_the_order_is_that_of_a_plain_stable_sort(entries, text_at):
    source = TypeAdapter(SourceConfig).validate_python(
        {"format": "keyframes", "name": "s", "path": ".", "text_at": text_at, "join": None}
    )

    def at(entry):
        if "image" in entry:
            return entry["time"], 0
        start, stop = entry["start"], entry["stop"]
        return {"start": start, "middle": (start + stop) / 2, "stop": stop}[text_at], 1

    items = timed_items({"items": entries}, source, "line 1")
    expected = [e.get("image") or e.get("text") for e in sorted(entries, key=at)]
    assert [i.target if isinstance(i, Ref) else i.text for i in items] == expected
