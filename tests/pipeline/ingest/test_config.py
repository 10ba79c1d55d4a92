import pytest
from pydantic import TypeAdapter, ValidationError

from mixloom.pipeline.ingest.config import SourceConfig

ADAPTER = TypeAdapter(SourceConfig)


def test_the_format_picks_the_model():
    source = ADAPTER.validate_python({"name": "a", "path": "p", "format": "jsonl", "text_field": "x.y"})
    assert type(source).__name__ == "JsonlSource"
    assert source.text_field == "x.y"
    assert source.encoding == "utf-8"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "text", "name": "a b"}, "should match pattern"),
        (
            {"format": "text", "split": "(["},
            "not a regular expression: unterminated character set at position 1",
        ),
        (
            {"format": "text", "encoding": "klingon"},
            "not an encoding Python knows; common ones: utf-8, latin-1",
        ),
        ({"format": "text", "encoding": "base64"}, "not a text encoding"),
        (
            {"format": "text", "glob": "../*.txt"},
            "must be relative to the path of the source and stay inside it",
        ),
        ({"format": "text", "glob": "a{b"}, "has a { without its }"),
        ({"format": "text", "colour": "red"}, "Extra inputs are not permitted"),
        (
            {"format": "text", "split": "lines", "strip_headers": True},
            "strip_headers works on whole files only",
        ),
        ({"format": "jsonl", "text_field": None}, "nothing to read: set text_field, segments_field"),
        ({"format": "xml", "record": "//a["}, "record is neither an element name nor an XPath expression"),
        ({"format": "xml", "image": "image"}, "should match pattern"),
        ({"format": "html", "split_on": "h2[["}, "split_on is neither an element name nor an XPath"),
        (
            {"format": "html", "split_on": "h2", "extract": "resiliparse"},
            "split_on cuts whole pages: set extract: all, or leave out split_on",
        ),
        ({"format": "html", "drop": ["div > p"]}, "drop: 'div > p' is not a tag, .class or tag.class"),
        (
            {"format": "html", "extract": "readability"},
            "Input should be 'all', 'resiliparse' or 'trafilatura'",
        ),
        ({"format": "warc", "mime": ["image/png"]}, "mime: image/png cannot be read as a document"),
        ({"format": "warc", "mime": ["Text/HTML"]}, "must be a media type in lower case such as text/html"),
        ({"format": "warc", "status": [99]}, "greater than or equal to 100"),
        ({"format": "warc", "status": []}, "at least 1 item"),
        ({"format": "webdataset", "text": [".txt"]}, "must be a suffix without its leading dot"),
        ({"format": "webdataset", "text": ["json"]}, "the suffix json stands in text and in json_member"),
        (
            {"format": "webdataset", "text_field": "t", "interleaved": {"kind": "segments"}},
            "set text_field or interleaved, not both",
        ),
        ({"format": "csv", "segments_field": "s"}, "a cell of a CSV file is no list"),
        ({"format": "speech"}, "no transcripts: set transcripts or label_from_path, or order: speech_only"),
        ({"format": "speech", "label_from_path": "x"}, "label_from_path needs a group named label"),
        (
            {"format": "speech", "label_from_path": "(?P<label>x)", "transcripts": {"path": "t.csv"}},
            "set transcripts or label_from_path, not both",
        ),
        ({"format": "speech", "transcripts": {"path": "/etc/x"}}, "stay inside it"),
        ({"format": "speech", "transcripts": {"path": "t", "delimiter": "||"}}, "must be one character"),
        (
            {"format": "image_caption", "captions": {"kind": "file_name", "pattern": "x"}},
            "a group named caption",
        ),
        ({"format": "image_caption"}, "Field required"),
    ],
)
def test_a_wrong_setting_says_what_is_allowed(settings, message):
    with pytest.raises(ValidationError) as e:
        ADAPTER.validate_python({"name": "a", "path": "p", **settings})
    assert message in str(e.value)


def test_every_setting_is_described():
    schema = ADAPTER.json_schema()
    for name, model in schema["$defs"].items():
        for key, field in model["properties"].items():
            assert field.get("description") or "const" in field, f"{name}.{key} has no description"


def test_a_source_is_a_value_that_can_be_hashed_by_its_json():
    a = ADAPTER.validate_python({"name": "a", "path": "p", "format": "text"})
    assert ADAPTER.validate_json(a.model_dump_json()) == a
