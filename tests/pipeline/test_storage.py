"""A folder on a local disk and on another file system: the same answers."""

import uuid

import pytest

from mixloom.pipeline.storage import Store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store.at(str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read_and_listed(store):
    assert store.names() == store.files() == []
    assert not store.exists("a/b.bin")
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"other")  # in the place of the first
    store.write_json("c.json", {"x": 1})
    assert store.read("a/b.bin") == b"other"
    assert store.size("a/b.bin") == 5
    assert store.read_json("c.json") == {"x": 1}
    assert store.names() == ["a", "c.json"]
    assert store.names("a") == ["b.bin"]  # and nothing temporary
    assert store.files() == ["a/b.bin", "c.json"]
    assert store.child("a").read("b.bin") == b"other"


def test_files_and_folders_are_removed_and_what_is_not_there_needs_no_removing(store):
    store.write("a/b/c", b"")
    store.write("a/d", b"")
    store.remove("a/d")
    assert store.files() == ["a/b/c"]
    store.remove("a")
    store.remove("a")
    assert not store.exists("a/b/c")


def test_a_file_that_is_not_there_is_an_error(store):
    store.write("other", b"")
    for read in (store.read, store.size):
        with pytest.raises(FileNotFoundError):
            read("missing")
