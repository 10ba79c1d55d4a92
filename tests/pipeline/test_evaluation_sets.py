import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from mixloom.pipeline.decontaminate_config import DecontaminateConfig, EvaluationSet
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.evaluation_sets import fingerprint, read_items, set_files

ROWS = [
    {"id": "q1", "question": "What is it?", "extra": {"choices": ["one", "two"]}, "answer": None},
    {"id": "q2", "question": "And then?", "extra": {"choices": []}, "answer": "It ends."},
]


def lines(rows) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def items(tmp_path, data: bytes, name: str = "set.jsonl", **settings):
    (tmp_path / name).write_bytes(data)
    evaluation = EvaluationSet(name="quiz", path=settings.pop("path", name), **settings)
    found = read_items(evaluation, set_files(evaluation, str(tmp_path)))
    return [(i.id, i.field, i.text) for i in found]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("set.jsonl", bytes),
        ("set.jsonl.gz", gzip.compress),
        ("set.jsonl.zst", lambda b: zstandard.ZstdCompressor().compress(b)),
    ],
)
def test_each_field_of_an_item_is_a_text_of_its_own(tmp_path, name, pack):
    assert items(tmp_path, pack(lines(ROWS)), name, fields=("question", "extra.choices", "answer")) == [
        ("1", "question", "What is it?"),
        ("1", "extra.choices", "one\ntwo"),
        ("2", "question", "And then?"),
        ("2", "answer", "It ends."),
    ]


def test_fields_can_be_joined_and_items_named(tmp_path):
    found = items(tmp_path, lines(ROWS), fields=("question", "answer"), join=True, id_field="id")
    assert found == [
        ("q1", "question+answer", "What is it?"),
        ("q2", "question+answer", "And then?\nIt ends."),
    ]


def test_parquet_rows_and_text_lines_are_items(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    assert items(tmp_path, data, "x.parquet", format="parquet", fields=("question",), id_field="id") == [
        ("q1", "question", "What is it?"),
        ("q2", "question", "And then?"),
    ]
    text = "first\n\n second \n".encode("utf-8-sig")
    assert items(tmp_path, text, "a.txt", format="text") == [("1", "", "first"), ("3", "", " second ")]
    whole = items(tmp_path, b"first\nsecond\n", "b.txt", format="text", text_items="file")
    assert whole == [("b.txt", "", "first\nsecond\n")]


def test_a_glob_reads_every_file_and_names_it(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(lines(ROWS[1:]))
    found = items(tmp_path, lines(ROWS[:1]), "a.jsonl", path="*.jsonl", fields=("question",))
    assert [i for i, _, _ in found] == ["a.jsonl:1", "b.jsonl:1"]


def test_the_fingerprint_follows_content_and_fields_and_not_the_path(tmp_path):
    def of(name: str, data: bytes, **settings) -> str:
        (tmp_path / name).write_bytes(data)
        evaluation = EvaluationSet(name="quiz", path=name, **settings)
        return fingerprint(evaluation, set_files(evaluation, str(tmp_path)))

    one = of("a.jsonl", lines(ROWS), fields=("question",))
    assert of("b.jsonl", lines(ROWS), fields=("question",)) == one
    assert of("a.jsonl", lines(ROWS[:1]), fields=("question",)) != one
    assert of("a.jsonl", lines(ROWS), fields=("answer",)) != one


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        (b'{"question": 1}\n', {}, r"line 1, of the evaluation set 'quiz': the field 'question' holds int"),
        (b'{"q": "x"}\n', {}, r"line 1, .* has no field 'question'"),
        (b'{"question": "x"}\n{oops\n', {}, r"line 2, of the evaluation set 'quiz', is not JSON"),
        (b'["question"]\n', {}, r"line 1, .* holds list, not an object"),
        (b"\n", {}, r"the evaluation set 'quiz' holds no text"),
        (b"not parquet", {"format": "parquet"}, r"'quiz', is not Parquet"),
        (b"x", {"path": "sat.jsonl"}, r"where there is no file \(did you mean 'set.jsonl'\?\)"),
        (b"x", {"path": "*.json"}, r"where there is no file"),
    ],
)
def test_a_set_that_cannot_be_read_says_where_and_why(tmp_path, data, settings, said):
    with pytest.raises(UserError, match=said) as caught:
        items(tmp_path, data, fields=("question",), **settings)
    assert caught.value.fix


def test_damaged_compression_is_told(tmp_path):
    with pytest.raises(UserError, match=r"of the evaluation set 'quiz', cannot be read"):
        items(tmp_path, gzip.compress(lines(ROWS))[:-9], "set.jsonl.gz", fields=("question",))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"sets": [{"name": "a", "path": "x"}]}, "fields is empty"),
        ({"sets": [{"name": "a", "path": "x", "format": "text", "fields": ["q"]}]}, "has no fields"),
        ({"sets": [{"name": "a", "path": "x", "format": "text"}] * 2}, "two sets are called 'a'"),
        ({"ngram": 6, "min_distinct": 7}, "nothing could ever match"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tree, said):
    with pytest.raises(ValidationError, match=said):
        DecontaminateConfig.model_validate(tree)
