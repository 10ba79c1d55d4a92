"""Online mixing in a training: weights follow the losses through the mixture log, within the caps, and a run resumes exactly."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture_log import MixtureLog
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.trainers.checkpoint import latest_checkpoint
from mixloom.trainers.config import OnlineMixingConfig
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.stage import StreamSource
from mixloom.trainers.trainer import train

sys.path.insert(0, str(Path(__file__).parent))
from small_shards import MODEL, TRAIN, write_domains

STEPS = 24
CONFIG = TRAIN.model_copy(
    update={
        "steps": STEPS,
        "checkpoint_every": 6,
        "log_every": 5,
        "online_mixing": OnlineMixingConfig(every=4, warmup=0.1),
    }
)


@pytest.fixture
def shards(tmp_path, vocabulary):
    write_domains(tmp_path / "shards", {"easy": 1, "hard": 7}, vocabulary, contexts=40)
    return tmp_path / "shards"


def stream_of(shards, log, max_epochs=4.0):
    reader = ShardReader(shards)
    tokens = STEPS * CONFIG.batch_contexts * 30
    mixture = estimate(
        Sources.from_manifest(reader.manifest), MixtureConfig(method="unimax", max_epochs=max_epochs), tokens
    )
    made = Stream(
        reader, mixture, seed=3, batch_contexts=CONFIG.batch_contexts, steps=STEPS, log=MixtureLog.load(log)
    )
    return StreamSource(made)


def run(source, folder, vocabulary, **options):
    return train(source, vocabulary, MODEL, CONFIG, folder, on_record=lambda r: None, **options)


def weights(folder):
    return load_checkpoint_model(latest_checkpoint(folder / "checkpoints")).state_dict()


def test_the_weights_change_at_their_times_and_stand_in_the_log(tmp_path, shards, vocabulary):
    source = stream_of(shards, tmp_path / "log.jsonl")
    run(source, tmp_path / "a", vocabulary)
    entries = MixtureLog.load(tmp_path / "log.jsonl").entries
    assert [e.from_step for e in entries] == [4, 8, 12, 16, 20]
    assert all(e.reason == "online mixing" for e in entries)
    assert all(abs(sum(e.mixture.phases[-1].weights.values()) - 1) < 1e-9 for e in entries)
    for exposure in source.stream.exposure(STEPS):
        assert exposure.epochs <= 4.0


def test_the_domain_with_the_higher_loss_gets_more(shards, tmp_path):
    source = stream_of(shards, tmp_path / "log.jsonl")
    easy, hard = (source.stream.domains.index(d) for d in ("easy", "hard"))
    state = None
    config = OnlineMixingConfig(every=4)
    for step in (4, 8, 12):
        state = source.remix(step, {easy: 0.5, hard: 4.0}, state, config, write=True)
    last = MixtureLog.load(tmp_path / "log.jsonl").entries[-1].mixture.phases[-1].weights
    assert last["hard"] > 0.55 > last["easy"]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, shards, vocabulary):
    run(stream_of(shards, tmp_path / "one.jsonl"), tmp_path / "one", vocabulary)
    made = []
    stopped = run(
        stream_of(shards, tmp_path / "two.jsonl"),
        tmp_path / "two",
        vocabulary,
        should_stop=lambda: made.append(1) or len(made) == 10,
    )
    assert stopped.stopped_early
    run(stream_of(shards, tmp_path / "two.jsonl"), tmp_path / "two", vocabulary)
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_entries_written_after_the_last_checkpoint_are_found_again(tmp_path, shards, vocabulary):
    """As after a kill: the log is ahead of the checkpoint."""
    run(stream_of(shards, tmp_path / "log.jsonl"), tmp_path / "a", vocabulary)
    before = weights(tmp_path / "a")
    newest = latest_checkpoint(tmp_path / "a" / "checkpoints")
    shutil.rmtree(newest)
    run(stream_of(shards, tmp_path / "log.jsonl"), tmp_path / "a", vocabulary)
    after = weights(tmp_path / "a")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [e.from_step for e in MixtureLog.load(tmp_path / "log.jsonl").entries] == [4, 8, 12, 16, 20]


def test_where_the_caps_leave_no_choice_the_weights_in_force_go_on(tmp_path, shards, vocabulary):
    source = stream_of(shards, tmp_path / "log.jsonl", max_epochs=1.3)
    result = run(source, tmp_path / "a", vocabulary)
    assert result.steps == STEPS
    assert all(e.epochs <= 1.3 + 1e-9 for e in source.stream.exposure(STEPS))


class Plain:
    """A stream without a mixture."""

    def batch_arrays(self, step):
        ids = np.full((CONFIG.batch_contexts, 8), 300, np.uint16)
        return ids, [np.array([8])] * CONFIG.batch_contexts, np.zeros(CONFIG.batch_contexts, np.int32)

    def state(self, step):
        return {"step": step}

    def check(self, state):
        json.dumps(state)

    def documents(self, step):
        return []


def test_a_stream_without_weights_is_refused(tmp_path, vocabulary):
    with pytest.raises(
        UserError, match=r"train\.online_mixing needs a stream of shards with a mixture, and Plain"
    ):
        run(Plain(), tmp_path, vocabulary)


def test_settings_out_of_range_are_told():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        OnlineMixingConfig(every=0)
    with pytest.raises(ValidationError, match="less than 1"):
        OnlineMixingConfig(warmup=1.0)
