import json

import pytest


def _lines(*rows: object) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def test_fields_are_found_by_dotted_path_and_lists_are_joined(bench):
    row = {"doc": {"sents": ["One.", "Two."], "lang": "en"}, "at": "2020-01-01", "tags": ["a", "b"], "n": 3}
    bench.write("f.jsonl", _lines(row))
    documents, failures = bench.read(
        "jsonl",
        text_field="doc.sents",
        join="\n",
        language_field="doc.lang",
        timestamp_field="at",
        meta_fields=["tags", "n", "absent"],
    )
    assert failures == []
    assert documents[0].segments[0].text == "One.\nTwo."
    assert (documents[0].language, documents[0].timestamp) == ("en", "2020-01-01")
    assert documents[0].meta == {"tags": "a, b", "n": "3"}


def test_a_bad_line_says_line_and_column_and_costs_itself_only(bench):
    bench.write("f.jsonl", '{"text": "a"}\n\n{"text": oops}\n{"text": "b"}\n')
    documents, failures = bench.read("jsonl")
    assert [d.segments[0].text for d in documents] == ["a", "b"]
    assert failures[0].reason == "malformed_json"
    assert "line 3, column 10: Expecting value; fix: correct the line" in failures[0].detail
    assert (failures[0].locator.offset, failures[0].locator.length) == (15, 14)


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        (b'["a"]', "not_an_object", "line 1 holds a JSON array, not an object"),
        (b"3", "not_an_object", "line 1 holds a JSON number"),
        (b'{"txt": "a", "b": 1}', "missing_field", "the field 'text' is missing (the record has: b, txt)"),
        (b'{"text": null}', "missing_field", "line 1: the field 'text' is null"),
        (b'{"text": 7}', "wrong_type", "the field 'text' is a number, not text or a list of texts"),
        (b'{"text": [1]}', "wrong_type", "a list with other things than text"),
        (b'{"text": ""}', "empty_document", "the document holds no text and no media"),
        (b'{"text": "\\ud800"}', "invalid_unicode", "half a surrogate pair (U+D800) at character 0"),
        (
            b'{"text": "\xff"}',
            "invalid_utf8",
            "line 1: the line is not valid utf-8: byte 0xff at byte offset 10",
        ),
        (b"[" * 100_000, "malformed_json", "line 1"),
        (b'{"text": ' + b"9" * 5000 + b"}", "malformed_json", "line 1"),
        (b"", "empty_document", "the file is empty (0 bytes)"),
    ],
)
def test_every_bad_line_is_a_failure_with_its_reason(bench, line, reason, words):
    bench.write("f.jsonl", line)
    documents, failures = bench.read("jsonl")
    assert documents == []
    assert [f.reason for f in failures] == [reason]
    assert words in failures[0].detail


def test_half_surrogates_can_be_replaced(bench):
    bench.write("f.jsonl", b'{"text": "a\\ud800b"}')
    documents, _ = bench.read("jsonl", on_encoding_error="replace")
    assert documents[0].segments[0].text == "a\ufffdb"


def test_segments_keep_their_order_and_lose_only_what_is_bad(bench, make_png, make_sound, segments):
    bench.write("img/a.png", make_png())
    bench.write("b.wav", make_sound())
    row = {
        "parts": [
            {"text": "one"},
            {"image": "img/a.png", "alt": "red"},
            {"image": "gone.png"},
            {"audio": "b.wav"},
            {"text": "two"},
            {"text": "three", "role": "caption"},
        ]
    }
    bench.write("f.jsonl", _lines(row))
    documents, failures = bench.read("jsonl", segments_field="parts")
    assert segments(documents[0]) == [
        ("text", "one"),
        ("image", "img/a.png"),
        ("speech", "b.wav"),
        ("text", "two"),
        ("text", "three"),
    ]
    assert documents[0].segments[1].attrs == {"alt": "red"}
    assert documents[0].segments[4].attrs == {"role": "caption"}
    assert [(f.scope, f.reason) for f in failures] == [("media", "missing_media")]
    assert (
        "image 2 of the document, 'gone.png': there is no such file (looked for 'gone.png')"
        in failures[0].detail
    )


def test_image_and_text_fields_make_a_pair_in_either_order(bench, make_png, segments):
    bench.write("a.png", make_png())
    bench.write("f.jsonl", _lines({"text": "t", "img": "a.png"}, {"text": "only", "img": None}))
    documents, failures = bench.read("jsonl", image_field="img", media_order="text_first")
    assert failures == []
    assert [segments(d) for d in documents] == [[("text", "t"), ("image", "a.png")], [("text", "only")]]


def test_a_record_without_its_image_field_is_told_how_to_say_none(bench):
    bench.write("f.jsonl", _lines({"text": "t"}))
    _, failures = bench.read("jsonl", image_field="img")
    assert "the field 'img' is missing" in failures[0].detail
    assert "a record without media says null" in failures[0].detail


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        ("x", "wrong_type", "not a list of segments"),
        (
            [{"text": "a", "image": "b"}],
            "bad_segment",
            "segment 1 of 'parts' needs exactly one of text, image, audio",
        ),
        ([{"text": 3}], "bad_segment", "segment 1"),
        ([], "empty_document", "holds no text and no media"),
    ],
)
def test_bad_segments_are_failures(bench, value, reason, words):
    bench.write("f.jsonl", _lines({"parts": value}))
    documents, failures = bench.read("jsonl", segments_field="parts")
    assert documents == []
    assert failures[0].reason == reason
    assert words in failures[0].detail


def test_an_image_outside_the_root_is_refused_for_every_spelling(bench, make_png):
    (bench.root.parent / "secret.png").write_bytes(make_png())
    names = [
        "../secret.png",
        "/../secret.png",
        "x/../../secret.png",
        "%2e%2e/secret.png",
        str(bench.root.parent),
    ]
    bench.write("f.jsonl", _lines({"parts": [{"text": "t"}, *({"image": n} for n in names)]}))
    documents, failures = bench.read("jsonl", segments_field="parts")
    assert len(documents) == 1
    assert [f.reason for f in failures] == ["outside_root"] * 4 + ["missing_media"]
