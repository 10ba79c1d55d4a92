"""Shards on another file system: copied, checked, kept within bounds, and read as though they lay here."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import uuid
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_cache import ShardCache, default_folder, retried, shown
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SHARDS, EACH, SEQ_LEN = 4, 6, 32
VOCABULARY = {
    "version": 1,
    "size": 1024,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [{"name": "text", "start": 0, "size": 1024, "used": 1024, "modality": 0, "fingerprint": "t"}],
    "fingerprint": "v",
}


def write(root: str | Path) -> None:
    """One domain in four tars of equal size."""
    rng = np.random.Generator(np.random.PCG64(3))
    entries = []
    for s in range(SHARDS):
        rows = [
            Context(rng.integers(1, 1000, SEQ_LEN).astype(np.uint16), [SEQ_LEN], [f"{s}-{i}"], ["s"], [0])
            for i in range(EACH)
        ]
        name, common = shard_name("aa", s, SHARDS), {"seq_len": SEQ_LEN, "vocabulary": VOCABULARY}
        entries.append(write_shard(root, name, "aa", rows, prefix=key_prefix(0, s), block=2, **common))
    build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN).save(root)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write(root)
    return root


@pytest.fixture
def there(here):
    """The same shards in memory, in a folder of their own for each test."""
    url = f"memory://{uuid.uuid4().hex}/shards"
    fs = fsspec.filesystem("memory")
    for path in here.iterdir():
        fs.pipe_file(f"{url}/{path.name}", path.read_bytes())
    yield url
    fs.rm(url, recursive=True)


def tar_bytes(here) -> int:
    return max(p.stat().st_size for p in here.glob("*.tar"))


def all_rows(reader) -> list:
    numbers = np.arange(SHARDS * EACH)
    return [reader.batch(0, numbers[i : i + 1])[0][0].tolist() for i in numbers]


def test_remote_shards_read_like_local_ones(here, there, tmp_path):
    local, remote = ShardReader(here), ShardReader(there, cache=tmp_path)
    assert remote.manifest == local.manifest
    assert all_rows(remote) == all_rows(local)
    assert remote.info("aa", 7) == local.info("aa", 7)
    assert remote.context_tokens("aa").tolist() == local.context_tokens("aa").tolist()
    assert [a.tolist() for a, _ in remote.blocks("aa")] == [a.tolist() for a, _ in local.blocks("aa")]
    whole = ShardReader(there, cache=tmp_path, verify=True).batch(0, np.arange(SHARDS * EACH))[0]
    assert whole.tolist() == local.batch(0, np.arange(SHARDS * EACH))[0].tolist()


def test_opening_copies_no_tar_and_reading_copies_only_the_tar_asked_for(there, tmp_path):
    reader = ShardReader(there, cache=tmp_path)
    assert list(tmp_path.rglob("*.tar")) == []
    reader.context("aa", 0)
    assert [p.name for p in tmp_path.rglob("*.tar")] == [shard_name("aa", 0, SHARDS)]
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_copy_is_used_again_although_the_other_side_is_gone(there, tmp_path):
    want = all_rows(ShardReader(there, cache=tmp_path))
    fs = fsspec.filesystem("memory")
    for path in fs.glob(f"{there}/*.tar*"):
        fs.pipe_file(path, b"changed")
    assert all_rows(ShardReader(there, cache=tmp_path)) == want


@pytest.mark.parametrize("room", [1, 2, 3])
def test_the_folder_never_holds_more_than_its_bound_and_the_oldest_go_first(here, there, tmp_path, room):
    reader = ShardReader(there, cache=tmp_path, cache_bytes=room * tar_bytes(here))
    want = all_rows(ShardReader(here))
    order = [0, 6, 12, 18, 0, 7, 19, 13, 1]
    for i in order:
        assert reader.batch(0, [i])[0][0].tolist() == want[i]
        assert len(list(tmp_path.rglob("*.tar"))) <= room
    last = list(dict.fromkeys(i // EACH for i in reversed(order)))
    names = {p.name for p in tmp_path.rglob("*.tar")}
    assert shard_name("aa", last[0], SHARDS) in names
    # A batch may need more tars at once than there is room for.
    everything = reader.batch(0, np.arange(SHARDS * EACH))[0]
    assert everything.tolist() == want
    assert sum(len(m) for m in reader._maps.values()) <= room * tar_bytes(here)


def test_views_of_a_tar_stay_valid_when_it_is_removed(here, there, tmp_path):
    reader = ShardReader(there, cache=tmp_path, cache_bytes=tar_bytes(here))
    ids, _ = reader.context("aa", 0)
    want = ShardReader(here).context("aa", 0)[0].tolist()
    for i in (6, 12, 18):
        reader.context("aa", i)
    assert not list(tmp_path.rglob(shard_name("aa", 0, SHARDS)))
    assert ids.tolist() == want


def test_use_counts_not_age(here, there, tmp_path):
    manifest = ShardReader(here).manifest
    cache = ShardCache(there, manifest, tmp_path, 2 * tar_bytes(here))
    first, second, third, _ = manifest.shards
    for at, entry in enumerate((first, second)):
        os.utime(cache.tar(entry), (at, at))
    cache.tar(first)
    cache.tar(third)
    assert sorted(p.name for p in tmp_path.rglob("*.tar")) == [first.name, third.name]


def test_a_tar_that_every_batch_reads_is_copied_once(here, there, tmp_path, monkeypatch):
    reader = ShardReader(there, cache=tmp_path, cache_bytes=2 * tar_bytes(here))
    copied: list[str] = []
    whole = ShardCache._copied
    monkeypatch.setattr(
        ShardCache, "_copied", lambda c, name, *a: [copied.append(name), whole(c, name, *a)][1]
    )
    for other in (1, 2, 3, 1, 2, 3):
        reader.batch(0, [0, other * EACH])
    assert copied.count(shard_name("aa", 0, SHARDS)) == 1


def test_a_bound_smaller_than_a_shard_is_refused(here, there, tmp_path):
    with pytest.raises(UserError, match=r"cache_bytes is 100, but shard aa-0000\d-of-00004.tar has") as e:
        ShardReader(there, cache=tmp_path, cache_bytes=100)
    assert "set cache_bytes to at least" in e.value.fix


def test_a_damaged_shard_is_not_kept_and_named_with_its_url(there, tmp_path, monkeypatch):
    monkeypatch.setattr("mixloom.pipeline.shard_cache.PAUSE", 0.0)
    fs, name = fsspec.filesystem("memory"), shard_name("aa", 1, SHARDS)
    raw = bytearray(fs.cat_file(f"{there}/{name}"))
    raw[700] ^= 1
    fs.pipe_file(f"{there}/{name}", bytes(raw))
    reader = ShardReader(there, cache=tmp_path)
    with pytest.raises(UserError, match=r"could not be read in 5 attempts.*its sha256 is") as e:
        reader.context("aa", EACH)
    assert f"{there}/{name}" in e.value.what
    assert [p.name for p in tmp_path.rglob("*.tmp")] == []
    assert not list(tmp_path.rglob(name))
    reader.context("aa", 0)


def test_a_missing_shard_index_or_manifest_is_named(there, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.rm(f"{there}/{shard_name('aa', 2, SHARDS)}")
    with pytest.raises(UserError, match=f"{there}/aa-00002-of-00004.tar is missing"):
        ShardReader(there, cache=tmp_path).context("aa", 2 * EACH)
    fs.rm(f"{there}/{shard_name('aa', 3, SHARDS)}.index.json")
    with pytest.raises(UserError, match=r"aa-00003-of-00004.tar.index.json is missing"):
        ShardReader(there, cache=tmp_path / "other").context("aa", 0)
    with pytest.raises(UserError, match="no shard manifest at memory://nowhere"):
        ShardReader("memory://nowhere", cache=tmp_path)


def test_failures_are_tried_again_a_bounded_number_of_times_with_growing_pauses():
    calls, pauses = [], []

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise OSError("connection reset")
        return "here"

    assert retried(flaky, "s3://b/x", sleep=pauses.append) == "here"
    assert pauses == [0.5, 1.0, 2.0]

    def down() -> None:
        raise TimeoutError("no answer\nand more")

    pauses.clear()
    with pytest.raises(
        UserError, match=r"s3://b/x could not be read in 5 attempts; .* TimeoutError: no answer\n"
    ):
        retried(down, "s3://b/x", sleep=pauses.append)
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_a_file_system_that_is_not_installed_is_told_with_its_package(monkeypatch, tmp_path):
    def missing(*args, **more):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UserError, match="s3://bucket/shards cannot be opened: Install s3fs") as e:
        ShardReader("s3://bucket/shards", cache=tmp_path)
    assert "s3fs for s3://" in e.value.fix


def test_credentials_in_an_address_are_not_told():
    assert shown("https://me:secret@host/a/b?token=x") == "https://host/a/b"


def test_tars_expected_next_are_copied_by_a_thread(here, there, tmp_path):
    reader = ShardReader(there, cache=tmp_path)
    reader.expect([0, 0, 0], [0, 1, 13])
    for future in list(reader.cache._asked.values()):
        future.result(timeout=30)
    assert sorted(p.name for p in tmp_path.rglob("*.tar")) == [shard_name("aa", s, SHARDS) for s in (0, 2)]
    ShardReader(here).expect([0], [0])  # local: nothing to do
    small = ShardReader(there, cache=tmp_path / "small", cache_bytes=3 * tar_bytes(here))
    small.expect([0] * 24, np.arange(24))
    assert len(small.cache._asked) == 1, "what is asked for early must not push out what is in use"


READ = """
import sys
import numpy as np
from mixloom.pipeline.shard_reader import ShardReader
reader = ShardReader(sys.argv[1], cache=sys.argv[2], cache_bytes=int(sys.argv[3]))
rng = np.random.Generator(np.random.PCG64(int(sys.argv[4])))
total = 0
for i in rng.permutation(np.repeat(np.arange(24), 4)):
    total += int(reader.batch(0, [i])[0].sum())
print(total)
"""


@pytest.fixture(scope="module")
def server(here):
    pytest.importorskip("aiohttp")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(here))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_several_processes_share_one_folder_that_is_too_small(here, server, tmp_path):
    bound = str(2 * tar_bytes(here))
    commands = [[sys.executable, "-c", READ, server, str(tmp_path), bound, str(k)] for k in range(3)]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    want = 4 * int(ShardReader(here).batch(0, np.arange(SHARDS * EACH))[0].sum())
    assert [int(p.communicate(timeout=60)[0]) for p in running] == [want] * 3
    assert list(tmp_path.rglob("*.tmp")) == []
    assert len(list(tmp_path.rglob("*.tar"))) <= 3, "as many as were copied at once"


def test_what_a_killed_process_left_is_removed_by_the_next_that_copies_the_shard(there, tmp_path):
    reader = ShardReader(there, cache=tmp_path)
    name = shard_name("aa", 0, SHARDS)
    left = reader.cache.folder / f".{name}.99999.tmp"
    left.write_bytes(b"half")
    (reader.cache.folder / f".{name}.lock").touch()
    reader.context("aa", 0)
    assert not left.exists()


def test_a_reader_of_remote_shards_can_be_sent_to_another_process(server, here, tmp_path):
    reader = ShardReader(server, cache=tmp_path, verify=True)
    again = pickle.loads(pickle.dumps(reader))
    assert (again.verify, again.directory) == (True, reader.directory)
    assert all_rows(again) == all_rows(ShardReader(here))


def test_a_server_that_does_not_answer_is_an_error_with_its_address(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("mixloom.pipeline.shard_cache.PAUSE", 0.0)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/shards could not be read in 5 attempts") as e:
        ShardReader("http://127.0.0.1:9/shards", cache=tmp_path)
    assert "check the network" in e.value.fix


@pytest.mark.filterwarnings("ignore:the tars this run reads from")
def test_a_stream_over_remote_shards_serves_what_one_over_local_shards_does(here, there, tmp_path):
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream

    readers = [
        ShardReader(here),
        ShardReader(there, cache=tmp_path / "a"),
        ShardReader(there, cache=tmp_path / "b", cache_bytes=2 * tar_bytes(here)),
    ]
    mixture = weigh(readers[0].manifest, MixtureConfig(), 48)
    served = []
    for reader in readers:
        stream = Stream(reader, mixture, seed=0, batch_contexts=4, steps=12)
        served.append([stream.contexts(step).input_ids.tolist() for step in range(12)])
    assert served[1] == served[0]
    assert served[2] == served[0]
    assert len(list((tmp_path / "b").rglob("*.tar"))) <= 3


@pytest.mark.filterwarnings("ignore:the tars this run reads from")
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_made_after_the_reader_was_used_read_the_same(here, server, tmp_path, workers):
    torch = pytest.importorskip("torch")
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream, as_iterable_dataset

    reader = ShardReader(server, cache=tmp_path, cache_bytes=2 * tar_bytes(here))
    mixture = weigh(reader.manifest, MixtureConfig(), 48)
    stream = Stream(reader, mixture, seed=0, batch_contexts=4, steps=12)
    want = [stream.contexts(step).input_ids.tolist() for step in range(12)]
    loader = torch.utils.data.DataLoader(as_iterable_dataset(stream), batch_size=None, num_workers=workers)
    assert [b["input_ids"].tolist() for b in loader] == want


def test_copies_lie_in_the_users_cache_folder_by_default(monkeypatch, tmp_path, there):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mixloom" / "shards"
    ShardReader(there).context("aa", 0)
    assert list((tmp_path / "mixloom" / "shards").rglob("*.tar"))


def stream_over(reader, steps: int = 12):
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream

    mixture = weigh(reader.manifest, MixtureConfig(), 4 * steps)
    return Stream(reader, mixture, seed=0, batch_contexts=4, steps=steps)


def test_a_cache_too_small_for_the_tars_of_a_run_is_warned_of_with_what_to_set(here, there, tmp_path):
    whole = sum(p.stat().st_size for p in here.glob("*.tar"))
    with pytest.warns(UserWarning, match=f"hold {whole:,} bytes.*give ShardReader cache_bytes={whole}"):
        stream_over(ShardReader(there, cache=tmp_path, cache_bytes=tar_bytes(here)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream_over(ShardReader(there, cache=tmp_path, cache_bytes=whole))
        stream_over(ShardReader(here))


def test_a_copy_of_a_reader_does_not_ask_for_the_manifest_again(server, here, tmp_path, monkeypatch):
    reader = ShardReader(server, cache=tmp_path)
    data = pickle.dumps(reader)

    def asked(path):
        raise AssertionError(f"{path} was asked for its manifest")

    monkeypatch.setattr("mixloom.pipeline.shard_reader.remote_manifest", asked)
    again = pickle.loads(data)
    assert again.manifest == reader.manifest
    assert all_rows(again) == all_rows(ShardReader(here))
