"""The items of benchmarks."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mixloom.mixers.medu_config import SkillConfig
from mixloom.mixers.medu_skills import read_skill
from mixloom.pipeline.errors import UserError

ROWS = [{"id": str(i), "question": f"what is {i}?", "answer": f"it is {i}", "n": i} for i in range(6)]


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


def read(path, characters=1000, seed=0, **settings):
    return read_skill("k", SkillConfig(path=str(path), **settings), characters=characters, seed=seed)


def test_named_fields_are_joined_into_one_item(tmp_path):
    (tmp_path / "q.jsonl").write_text(lines(ROWS))
    assert sorted(read(tmp_path / "q.jsonl", fields=("question", "answer")).pieces) == [
        f"what is {i}?\nit is {i}" for i in range(6)
    ]


def test_without_names_text_is_taken_or_else_all_fields_that_hold_text(tmp_path):
    (tmp_path / "q.jsonl").write_text(lines(ROWS[:1]))
    (tmp_path / "t.jsonl").write_text(lines([{"text": "just this", "title": "not this"}]))
    assert read(tmp_path / "q.jsonl").pieces == ("0\nwhat is 0?\nit is 0",)
    assert read(tmp_path / "t.jsonl").pieces == ("just this",)


def test_parquet_packed_files_globs_and_folders_are_read(tmp_path):
    (tmp_path / "one").mkdir()
    for i in range(3):
        (tmp_path / "one" / f"{i}.txt").write_text(f"item {i}")
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "p.parquet")
    with gzip.open(tmp_path / "g.jsonl.gz", "wt") as f:
        f.write(lines([{"text": "packed"}]))
    assert sorted(read(tmp_path / "one").pieces) == ["item 0", "item 1", "item 2"]
    assert sorted(read(tmp_path / "one" / "[01].txt").pieces) == ["item 0", "item 1"]
    assert sorted(read(tmp_path / "p.parquet").pieces) == ["a", "b"]
    assert read(tmp_path / "g.jsonl.gz").pieces == ("packed",)


def test_lines_of_a_text_can_be_items(tmp_path):
    (tmp_path / "f.txt").write_text("one\n\ntwo\n")
    assert sorted(read(tmp_path / "f.txt", text_items="lines").pieces) == ["one", "two"]
    assert read(tmp_path / "f.txt").pieces == ("one\n\ntwo",)


def test_long_items_are_cut_into_pieces_and_equal_ones_count_once(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        lines([{"text": "abcdefghij" * 10}, {"text": "same"}, {"text": "same"}])
    )
    assert sorted(read(tmp_path / "t.jsonl", characters=70).pieces) == sorted(
        ["abcdefghij" * 7, "abcdefghij" * 3, "same"]
    )


def test_the_order_comes_from_content_and_seed_and_not_from_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.jsonl").write_text(lines(ROWS[::-1]))
    one, two = read(tmp_path / "a.jsonl"), read(tmp_path / "b.jsonl")
    assert one.pieces == two.pieces
    assert one.fingerprint == two.fingerprint
    assert read(tmp_path / "a.jsonl", seed=1).pieces != one.pieces


def test_a_description_alone_is_a_skill():
    skill = read_skill("k", SkillConfig(description="sums"), characters=100)
    assert (skill.pieces, skill.description) == ((), "sums")


def test_a_skill_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="needs a path to items"):
        SkillConfig()


@pytest.mark.parametrize(
    ("name", "content", "settings", "said"),
    [
        ("t.jsonl", lines([{"n": 1}]), {}, "no field of the first record of .* holds text"),
        ("t.jsonl", lines(ROWS), {"fields": ("qestion",)}, "did you mean 'question'"),
        ("t.txt", "text", {"fields": ("a",)}, "is text, which has no fields"),
        ("t.txt", " \n", {}, "holds no text"),
        ("t.jsonl", "{", {}, "line 1, .* is not JSON"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, settings, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path / name, **settings)


def test_a_file_that_is_not_there_is_named(tmp_path):
    (tmp_path / "sums.jsonl").write_text("")
    with pytest.raises(UserError, match=r"did you mean 'sums\.jsonl'"):
        read(tmp_path / "sum.jsonl")
