"""The stream of a training: its own rows, and contexts that are excluded while it runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture_log import LOG_NAME, MixtureLog
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.distributed import _check
from mixloom.trainers.incidents import read_incidents
from mixloom.trainers.stage import StreamSource, TrainStage
from mixloom.trainers.trainer import train

LENGTH, CONTEXTS, STEPS, BATCH = 32, 48, 60, 8
NOISE = 7  # the context that is noise, on its way through the first epochs before spikes are looked for


@pytest.fixture(scope="module")
def shards(tmp_path_factory, request):
    vocabulary = request.getfixturevalue("words")
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(CONTEXTS):
        ids = (256 + (int(rng.integers(64)) + np.arange(LENGTH)) % 64).astype(np.uint16)
        if i == NOISE:
            ids = rng.integers(320, 512, LENGTH).astype(np.uint16)
        rows.append(Context(ids, [20, 12], [f"{i}-a", f"{i}-b"], ["s", "s"], [0, 0]))
    name, common = shard_name("d", 0, 1), {"seq_len": LENGTH, "vocabulary": vocabulary}
    entry = write_shard(root, name, "d", rows, prefix=key_prefix(0, 0), block=4, **common)
    build_manifest([entry], vocabulary, seq_len=LENGTH).save(root)
    return root


@pytest.fixture(scope="module")
def words():
    text = {"name": "text", "start": 256, "size": 256, "used": 256, "modality": 0, "fingerprint": ""}
    special = {**text, "name": "special", "start": 0}
    return {
        "version": 1,
        "size": 512,
        "pad": 0,
        "dtype": "uint16",
        "ranges": [special, text],
        "fingerprint": "f",
    }


def source(shards: Path, folder: Path | None = None, max_epochs: float = 99) -> StreamSource:
    reader = ShardReader(shards)
    budget = STEPS * BATCH * LENGTH
    mixture = estimate(Sources.from_manifest(reader.manifest), MixtureConfig(max_epochs=max_epochs), budget)
    log = None if folder is None else MixtureLog.load(folder / LOG_NAME)
    return StreamSource(Stream(reader, mixture, seed=1, batch_contexts=BATCH, steps=STEPS, log=log))


def trained(shards, words, folder: Path, stop_at: int | None = None):
    folder.mkdir(exist_ok=True)
    own = source(shards, folder)
    seen: list[int] = []
    config = TrainConfig(
        steps=STEPS,
        batch_contexts=BATCH,
        lr=1e-2,
        warmup=5,
        device="cpu",
        checkpoint_every=20,
        spike={"window": 16, "probe_every": 0},
    )
    result = train(
        own,
        words,
        ModelConfig(dim=32, layers=1, heads=4, modalities=1),
        config,
        folder,
        on_record=lambda r: seen.append(r["step"]),
        should_stop=None if stop_at is None else lambda: bool(seen) and seen[-1] >= stop_at,
    )
    return own, result


def served(own: StreamSource, start: int = 0) -> list[list[int]]:
    return [[ref.index for ref in own.stream.batch(step)] for step in range(start, STEPS)]


def test_noise_is_excluded_through_the_log_and_a_stopped_run_serves_the_same(shards, words, tmp_path):
    own, whole = trained(shards, words, tmp_path / "whole")
    (incident,) = read_incidents(tmp_path / "whole" / "spikes.jsonl")
    assert incident["cause"] == "data"
    assert [c["documents"] for c in incident["contexts"]] == [[f"{NOISE}-a", f"{NOISE}-b"]]
    (entry,) = MixtureLog.load(tmp_path / "whole" / LOG_NAME).entries
    assert entry.contexts == (("d", NOISE),)
    assert entry.from_step == incident["step"]
    before, after = served(own)[: entry.from_step], served(own)[entry.from_step :]
    assert sum(row.count(NOISE) for row in before) >= 3
    assert not any(NOISE in row for row in after)
    assert before == served(source(shards))[: entry.from_step]

    cut = incident["step"] + 3
    trained(shards, words, tmp_path / "part", stop_at=cut)
    again, rest = trained(shards, words, tmp_path / "part")
    assert served(again) == served(own)
    assert read_incidents(tmp_path / "part" / "spikes.jsonl") == [incident]
    a, b = (load_file(r.checkpoint / "model.safetensors") for r in (whole, rest))
    assert all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a)


def test_ranks_read_their_own_contexts_of_a_step(shards):
    own = source(shards)
    whole = own.batch_arrays(3)
    parts = [own.batch_arrays(3, rank, 4) for rank in range(4)]
    assert np.array_equal(np.concatenate([p[0] for p in parts]), whole[0])
    assert [d.tolist() for p in parts for d in p[1]] == [d.tolist() for d in whole[1]]


def test_documents_of_a_step_are_named_by_context(shards):
    own = source(shards)
    refs = own.stream.batch(2)
    assert own.context_documents(2) == [[f"{r.index}-a", f"{r.index}-b"] for r in refs]
    assert own.documents(2) == [name for row in own.context_documents(2) for name in row]


def test_what_the_log_excludes_already_is_passed_over(shards):
    own = source(shards)
    own.exclude(5, [(4, 0)], "once", write=False)
    first = own.stream.log.entries
    own.exclude(9, [(4, 0)], "twice", write=False)
    assert own.stream.log.entries == first
    own.exclude(STEPS, [(5, 1)], "after the end", write=False)
    assert own.stream.log.entries == first


def test_a_cap_on_epochs_keeps_a_context_in(shards):
    own = source(shards, max_epochs=STEPS * BATCH / CONTEXTS)
    with pytest.raises(UserError, match="epochs"):
        own.exclude(5, [(4, 0)], "noise", write=False)
    assert own.stream.log.entries == ()


def test_ranks_that_follow_are_let_go_where_there_is_nothing_to_train(tmp_path, monkeypatch):
    said: list[int] = []
    world = SimpleNamespace(told=lambda value: said.append(value) or value)
    monkeypatch.setattr("mixloom.trainers.distributed.join", lambda config: world)
    stage = TrainStage(ModelConfig(), TrainConfig(), MixtureConfig())
    stage.release()
    assert said == []  # alone, there is nobody to tell
    monkeypatch.setenv("WORLD_SIZE", "2")
    stage.release()
    stage.follow(RunDirectory(str(tmp_path)))  # reads no shards: there are none
    assert said == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_would_end_before_the_training_is_an_error_before_the_model_is_built(
    shards, words, tmp_path, monkeypatch
):
    def built(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr("mixloom.trainers.trainer.Run", built)
    config = TrainConfig(steps=STEPS + 1, batch_contexts=BATCH, warmup=5, device="cpu")
    with pytest.raises(UserError, match=f"the stream has {STEPS} steps, but train.steps is {STEPS + 1}"):
        train(source(shards), words, ModelConfig(dim=32, layers=1, heads=4, modalities=1), config, tmp_path)


def test_ranks_that_cannot_share_a_step_are_an_error_before_the_model_is_built(
    shards, words, tmp_path, monkeypatch
):
    def ran(config):
        _check(config, 3)  # what `join` does first of all on three ranks
        raise AssertionError("three ranks were let in")

    monkeypatch.setattr("mixloom.trainers.trainer.join", ran)
    monkeypatch.setattr("mixloom.trainers.trainer.Run", ran)
    config = TrainConfig(steps=STEPS, batch_contexts=BATCH, warmup=5, device="cpu")
    with pytest.raises(UserError, match="batch_contexts is 8, which 3 ranks"):
        train(source(shards), words, ModelConfig(dim=32, layers=1, heads=4, modalities=1), config, tmp_path)
    with pytest.raises(UserError, match="split evenly over 3 ranks"):
        source(shards).stream.check_ranks(3)
