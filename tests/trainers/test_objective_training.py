"""Training with objectives: what counts reaches the loss, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.objective_stream import with_objectives
from mixloom.mixers.served import read_served
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.objective_settings import CausalMask, FillMiddle, MixtureOfDenoisers
from mixloom.tokenizers.vocab import DOC, END_DOC, Vocabulary
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import IGNORE, make_batch, micro_batches
from mixloom.trainers.stage import StreamSource
from mixloom.trainers.trainer import train

VOCABULARY = Vocabulary.build(256, "t")
MIXED = (FillMiddle(rate=0.4), CausalMask(rate=0.3), MixtureOfDenoisers(rate=0.3))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        ids = [np.array([DOC, *rng.integers(256, 512, 12), END_DOC], np.uint16) for _ in range(3)]
        rows.append(
            Context(np.concatenate(ids), [14] * 3, [f"{i}-{k}" for k in range(3)], ["s"] * 3, [0] * 3)
        )
    common = {"seq_len": 48, "vocabulary": VOCABULARY.to_json()}
    entry = write_shard(root, shard_name("d", 0, 1), "d", rows, prefix=key_prefix(0, 0), block=4, **common)
    build_manifest([entry], VOCABULARY.to_json(), seq_len=48).save(root)
    return root


def source(shards, objectives=MIXED) -> StreamSource:
    reader = ShardReader(shards)
    mixture = estimate(Sources.from_manifest(reader.manifest), MixtureConfig(max_epochs=9), 2000)
    return StreamSource(
        with_objectives(Stream(reader, mixture, seed=2, batch_contexts=4, steps=8), objectives)
    )


def trained(shards, folder, stop_at: int | None = None, objectives=MIXED):
    config = TrainConfig(
        steps=8,
        batch_contexts=4,
        warmup=1,
        device="cpu",
        threads=1,
        objectives=objectives,
        checkpoint_every=4,
    )
    seen: list[int] = []
    return train(
        source(shards, objectives),
        VOCABULARY.to_json(),
        ModelConfig(dim=16, layers=1, heads=2),
        config,
        folder,
        on_record=lambda r: seen.append(r["step"]),
        should_stop=None if stop_at is None else lambda: len(seen) >= stop_at,
    )


def test_a_stopped_training_goes_on_with_the_same_rearranged_documents(shards, tmp_path):
    whole = trained(shards, tmp_path / "whole")
    first = trained(shards, tmp_path / "parts", stop_at=3)
    assert first.stopped_early
    rest = trained(shards, tmp_path / "parts")
    names = [r.checkpoint / "model.safetensors" for r in (whole, rest)]
    assert names[0].read_bytes() == names[1].read_bytes()
    with pytest.raises(UserError, match="objectives"):
        trained(shards, tmp_path / "parts", objectives=())


def test_targets_that_do_not_count_are_left_out_of_batch_and_counts(shards):
    arrays = source(shards).batch_arrays(0)
    assert len(arrays) == 4
    ids, lengths, _, counted = arrays
    table = VOCABULARY.modality_table()
    plain = make_batch(ids, lengths, table)
    batch = make_batch(ids, lengths, table, counted=counted)
    flat = counted.reshape(-1)
    for place in range(len(flat) - 1):
        wanted = int(plain.targets[place]) if flat[place + 1] else IGNORE
        assert int(batch.targets[place]) == wanted
    assert batch.targets_total == int((batch.targets != IGNORE).sum()) < plain.targets_total
    parts = micro_batches(arrays, 2, table, 3)
    assert sum(p.targets_total for p in parts) == batch.targets_total
    assert torch.cat([p.targets for p in parts]).tolist() == batch.targets.tolist()


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ([{"kind": "fim", "rate": 0.7}, {"kind": "cm3", "rate": 0.7}], r"add up to 1\.4"),
        ([{"kind": "fmi"}], "objectives"),
        ([{"kind": "ul2", "denoisers": [{"mode": "q", "rate": 0.1}]}], "mode"),
        ([{"kind": "cm3", "max_spans": 65}], "max_spans"),
    ],
)
def test_mistakes_in_objectives_are_found_before_anything_runs(objectives, said):
    with pytest.raises(ValidationError, match=said):
        TrainConfig.model_validate({"objectives": objectives})


def test_without_objectives_nothing_is_added_to_a_batch(shards):
    assert len(source(shards, ()).batch_arrays(0)) == 3


def test_served_contexts_can_be_read_with_the_sentinels_of_their_objectives(shards):
    stream = source(shards, (FillMiddle(rate=1),)).stream
    read = read_served(stream, 3, Decoders(VOCABULARY), most=2)
    assert len(read) == 2
    names = [p.text for p in read[0].documents[0].pieces if p.kind == "sentinel"]
    assert names[:2] == ["<doc>", "<fim:prefix>"]
    assert names[-2:] == ["<eom>", "</doc>"]
    assert read[0].domain == "d"
