import json
import os

import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.plan import fingerprint, plan_splits
from mixloom.pipeline.ingest.readers import FORMATS, read_split
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.schema import Document


def test_small_files_are_grouped_in_order_of_their_path(bench):
    for i in range(25):
        bench.write(f"{i:02d}.txt", "x" * 10)
    splits = plan_splits(bench.source("text"), str(bench.root), max_files=10)
    assert [len(s.files) for s in splits] == [10, 10, 5]
    assert [f for s in splits for f in s.files] == [f"{i:02d}.txt" for i in range(25)]
    assert [s.size for s in splits] == [100, 100, 50]
    by_size = plan_splits(bench.source("text"), str(bench.root), max_bytes=35)
    assert [len(s.files) for s in by_size] == [3] * 8 + [1]


@pytest.mark.parametrize(
    ("format", "settings", "name", "pieces"),
    [
        ("jsonl", {}, "f.jsonl", 4),
        ("keyframes", {}, "f.jsonl", 4),
        ("text", {"split": "lines"}, "f.txt", 4),
        ("text", {}, "f.txt", 1),
        ("text", {"split": "lines", "encoding": "utf-16-le"}, "f.txt", 1),
        ("jsonl", {}, "f.jsonl.gz", 1),
    ],
)
def test_large_files_of_lines_are_cut_into_byte_ranges(bench, format, settings, name, pieces):
    bench.write(name, b"x\n" * 200)
    splits = plan_splits(bench.source(format, **settings), str(bench.root), max_bytes=110)
    assert len(splits) == pieces
    if pieces > 1:
        assert [(s.start, s.stop) for s in splits] == [(0, 100), (100, 200), (200, 300), (300, 400)]


def test_a_split_survives_json(bench):
    bench.write("a.txt", "x")
    for split in plan_splits(bench.source("text"), str(bench.root)):
        assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


def test_a_plan_is_the_same_every_time_and_for_a_single_file(bench):
    bench.write("b/x.txt", "1")
    bench.write("a.txt", "2")
    source = bench.source("text")
    assert plan_splits(source, str(bench.root)) == plan_splits(source, str(bench.root))
    single = str(bench.root / "b" / "x.txt")
    splits = plan_splits(source, single)
    assert [s.files for s in splits] == [("x.txt",)]
    assert [d.segments[0].text for d in read_split(splits[0], source, single)] == ["1"]


@pytest.mark.parametrize("most", [1, 7, 10, 23, 1000])
def test_max_documents_counts_documents_across_splits(bench, most):
    for i in range(5):
        bench.write(f"{i}.txt", "\n".join(f"line {i} {j}" for j in range(5)))
    source = bench.source("text", split="lines", max_documents=most)
    splits = plan_splits(source, str(bench.root), max_files=2)
    got = [x for s in splits for x in read_split(s, source, str(bench.root)) if isinstance(x, Document)]
    every, _ = bench.read("text", split="lines")
    assert [d.doc_id for d in got] == [d.doc_id for d in every[:most]]


def test_globs_and_exclusions_choose_files(bench):
    for name in ("a.txt", "b.TXT", "c.md", "skip/d.txt", "keep/e.txt"):
        bench.write(name, "x")
    assert plan_splits(bench.source("text"), str(bench.root))[0].files == (
        "a.txt",
        "b.TXT",
        "keep/e.txt",
        "skip/d.txt",
    )
    chosen = bench.source("text", glob=["*.md", "**/e.*"], exclude=["skip/**"])
    assert plan_splits(chosen, str(bench.root))[0].files == ("c.md", "keep/e.txt")


def test_a_missing_path_says_what_is_beside_it(bench):
    bench.write("wikitext/a.txt", "x")
    with pytest.raises(UserError) as e:
        plan_splits(bench.source("text"), str(bench.root / "wikitxt"))
    assert "source 's': the path" in str(e.value)
    assert "wikitxt does not exist" in str(e.value)
    assert "exists and holds: wikitext" in str(e.value)
    assert "did you mean 'wikitext'?" in str(e.value)


def test_a_glob_that_matches_nothing_says_what_is_there(bench):
    for name in ("a.md", "b.md", "c.png"):
        bench.write(name, "x")
    with pytest.raises(UserError) as e:
        plan_splits(bench.source("text", glob="*.txt"), str(bench.root))
    assert "matches '*.txt'. Files there by suffix: .md (2), .png (1); for example a.md" in str(e.value)
    empty = bench.root / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="there are no files at all"):
        plan_splits(bench.source("text"), str(empty))


def test_a_path_regex_that_matches_nothing_is_an_error(bench):
    bench.write("a.txt", "x")
    with pytest.raises(UserError, match=r"matches none of 1 paths, for example 'a.txt'"):
        plan_splits(bench.source("text", meta_from_path="(?P<x>zzz)"), str(bench.root))


@pytest.mark.parametrize("change", ["content", "time", "new", "image", "gone"])
def test_the_fingerprint_follows_every_file_that_is_read(bench, change):
    bench.write("a.md", "x")
    bench.write("b.md", "y")
    bench.write("i.bin", "image")
    source = bench.source("markdown")
    before = fingerprint(source, str(bench.root))
    assert before == fingerprint(source, str(bench.root))
    if change == "content":
        bench.write("a.md", "longer")
    elif change == "time":
        os.utime(bench.root / "a.md", ns=(1, 1))
    elif change == "new":
        bench.write("c.md", "z")
    elif change == "image":
        bench.write("i.bin", "image!")
    else:
        (bench.root / "b.md").unlink()
    assert before != fingerprint(source, str(bench.root))


def test_the_fingerprint_of_plain_text_ignores_other_files_but_not_tables(bench, make_sound):
    bench.write("a.txt", "x")
    before = fingerprint(bench.source("text"), str(bench.root))
    bench.write("README", "y")
    assert before == fingerprint(bench.source("text"), str(bench.root))
    bench.write("a.wav", make_sound())
    bench.write("m.csv", "a|one\n")
    speech = bench.source("speech", transcripts={"path": "m.csv"})
    before = fingerprint(speech, str(bench.root))
    bench.write("m.csv", "a|other\n")
    assert before != fingerprint(speech, str(bench.root))


def test_every_format_has_its_reader():
    from importlib import import_module
    from typing import get_args

    from mixloom.pipeline.ingest.config import Source
    from mixloom.pipeline.ingest.plan import DEFAULT_GLOBS

    formats = {get_args(m.model_fields["format"].annotation)[0] for m in get_args(Source)}
    assert formats == set(FORMATS) == set(DEFAULT_GLOBS)
    assert all(callable(import_module(m).read) for m in FORMATS.values())
