import os

import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.files import SourceFiles, normalise
from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.problems import Problem


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/../b", "b"),
        ("/a", "a"),
        ("a//b/./c", "a/b/c"),
        ("../a", None),
        ("a/../../b", None),
        ("a\\..\\..\\b", None),
    ],
)
def test_a_path_is_reduced_or_refused(path, expected):
    assert normalise(path) == expected


@pytest.mark.parametrize("uri", ["../secret", "a/../../secret", "..\\secret", "link", "folder/secret"])
def test_nothing_outside_the_root_is_read(bench, uri):
    secret = bench.root.parent / "secret"
    secret.write_text("top secret")
    os.symlink(secret, bench.root / "link")
    os.symlink(bench.root.parent, bench.root / "folder")
    with pytest.raises(Problem) as e:
        open_media(str(bench.root), uri)
    assert e.value.reason == "outside_root"
    assert "outside the root of the source" in e.value.detail
    assert "top secret" not in e.value.detail


def test_a_link_that_stays_inside_is_read(bench):
    bench.write("a/real", "x")
    os.symlink(bench.root / "a" / "real", bench.root / "link")
    assert open_media(str(bench.root), "link") == b"x"


def test_an_absolute_path_is_taken_below_the_root(bench):
    bench.write("etc/passwd", "ours")
    assert open_media(str(bench.root), "/etc/passwd") == b"ours"


def test_a_pipe_is_refused_instead_of_waited_for(bench):
    os.mkfifo(bench.root / "pipe")
    with pytest.raises(Problem, match="not_a_file"):
        open_media(str(bench.root), "pipe")


def test_a_missing_file_and_a_large_one_say_so(bench):
    bench.write("big", "12345")
    with pytest.raises(Problem, match="there is no file 'nothing'"):
        open_media(str(bench.root), "nothing")
    with pytest.raises(Problem, match=r"has 5 bytes, more than max_bytes \(4\)"):
        open_media(str(bench.root), "big", max_bytes=4)


def test_a_linked_folder_outside_is_an_error_unless_excluded(bench):
    outside = bench.root.parent / "elsewhere"
    outside.mkdir()
    (outside / "a.txt").write_text("lost?")
    bench.write("b.txt", "here")
    os.symlink(outside, bench.root / "linked")
    with pytest.raises(UserError, match=r"'linked/\*\*'"):
        bench.read("text")
    documents, _ = bench.read("text", exclude=["linked/**"])
    assert len(documents) == 1


def test_a_linked_file_outside_is_a_failure(bench):
    outside = bench.root.parent / "elsewhere.txt"
    outside.write_text("not ours")
    os.symlink(outside, bench.root / "a.txt")
    documents, failures = bench.read("text")
    assert documents == []
    assert failures[0].reason == "outside_root"


def test_hidden_folders_are_not_listed(bench):
    bench.write(".git/a.txt", "x")
    bench.write("b.txt", "x")
    assert [e.uri for e in SourceFiles(str(bench.root)).entries()] == ["b.txt"]


def test_a_file_name_that_is_not_utf8_is_read_and_written_down_as_escapes(bench):
    name = os.path.join(os.fsencode(bench.root), b"caf\xe9.txt")
    with open(name, "wb") as f:
        f.write(b"text")
    documents, failures = bench.read("text")
    assert failures == []
    assert documents[0].locator.uri == "caf\\udce9.txt"


def test_a_remote_root_is_read_like_a_folder():
    import fsspec

    from mixloom.pipeline.ingest.config import TextSource
    from mixloom.pipeline.ingest.plan import fingerprint, plan_splits
    from mixloom.pipeline.ingest.readers import read_split

    fs = fsspec.filesystem("memory")
    fs.pipe("/corpus/a/x.txt", b"one")
    fs.pipe("/corpus/b.txt", b"two")
    source = TextSource(name="s", path="x", format="text")
    root = "memory://corpus"
    out = [x for s in plan_splits(source, root) for x in read_split(s, source, root)]
    assert [(d.locator.uri, d.segments[0].text) for d in out] == [("a/x.txt", "one"), ("b.txt", "two")]
    before = fingerprint(source, root)
    assert before == fingerprint(source, root)
    fs.pipe("/corpus/b.txt", b"three")
    assert before != fingerprint(source, root)
    with pytest.raises(Problem, match="outside_root"):
        open_media(root, "../x")
