from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import Vocabulary
from mixloom.trainers import checkpoint
from mixloom.trainers.checkpoint import (
    Saver,
    latest_checkpoint,
    list_checkpoints,
    load_optimizer,
    load_weights,
    read_state,
    same_vocabulary,
    save_checkpoint,
)
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.optim import build_optimizer

CONFIG = ModelConfig(dim=16, heads=2, layers=1, vocab_size=32)


def save(folder: Path, step: int, keep_last: int = 2, model: Model | None = None) -> Path:
    model = model or Model(CONFIG)
    optimizer = build_optimizer(model, TrainConfig())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return save_checkpoint(
        folder,
        model=model,
        optimizer=optimizer,
        step=step,
        stream={"at": step},
        configs={},
        keep_last=keep_last,
    )


def test_weights_moments_and_random_state_come_back_exactly(tmp_path):
    model = Model(CONFIG)
    optimizer = build_optimizer(model, TrainConfig())
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    path = save_checkpoint(
        tmp_path, model=model, optimizer=optimizer, step=3, stream={"a": 1}, configs={"c": 2}, keep_last=1
    )
    drawn = torch.rand(4)
    other = Model(CONFIG, seed=9)
    other_optimizer = build_optimizer(other, TrainConfig())
    load_weights(path, other)
    load_optimizer(path, other, other_optimizer)
    assert torch.equal(torch.rand(4), drawn)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters()):
        assert torch.equal(a, b), name
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[a][key], other_optimizer.state[b][key]), name
    state = read_state(path)
    assert (state["step"], state["stream"], state["configs"]) == (3, {"a": 1}, {"c": 2})


def test_only_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30, 100000000):
        save(tmp_path, step)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000030", "step-100000000"]
    assert latest_checkpoint(tmp_path).name == "step-100000000"


def test_a_checkpoint_cut_off_while_writing_is_not_seen(tmp_path):
    whole = save(tmp_path, 10)
    half = tmp_path / ".step-00000020.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    torn = tmp_path / "step-00000030"
    torn.mkdir()
    (tmp_path / "latest").write_text("step-00000030\n")
    assert latest_checkpoint(tmp_path) == whole
    assert save(tmp_path, 20).name == "step-00000020"


KILLED_WHILE_WRITING = """
import os, signal, sys, torch
from pathlib import Path
from mixloom.trainers import checkpoint
from mixloom.trainers.checkpoint import Saver
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.optim import build_optimizer

model = Model(ModelConfig(dim=16, heads=2, layers=1, vocab_size=32))
saver = Saver(Path(sys.argv[1]), keep_last=2, background=sys.argv[2] == "thread")
def save(step):
    saver.save(model=model, optimizer=build_optimizer(model, TrainConfig()), step=step, stream={}, configs={})
save(10)
saver.wait()
real = checkpoint.save_file
def half(tensors, path):
    real(tensors, path)
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = half if sys.argv[3] == "files" else real
if sys.argv[3] == "rename":
    checkpoint.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
save(20)
saver.wait()
"""


@pytest.mark.parametrize(("way", "where"), [("thread", "files"), ("at once", "rename")])
def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path, way, where):
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path), way, where]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".step-00000020.tmp").exists()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000010"]
    assert latest_checkpoint(tmp_path).name == "step-00000010"
    load_weights(latest_checkpoint(tmp_path), Model(CONFIG))
    save(tmp_path, 20)
    assert not (tmp_path / ".step-00000020.tmp").exists()


def test_what_is_saved_is_the_model_as_it_was_however_it_changes_meanwhile(tmp_path, monkeypatch):
    model = Model(CONFIG)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    changed = threading.Event()
    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *a: (changed.wait(10), real(*a)))
    saver = Saver(tmp_path, keep_last=1, background=True)
    monkeypatch.setattr(saver, "_prepare", lambda temporary: temporary.mkdir(parents=True))
    saver.save(model=model, optimizer=build_optimizer(model, TrainConfig()), step=1, stream={}, configs={})
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    changed.set()
    saver.wait()
    saved = load_file(tmp_path / "step-00000001" / "model.safetensors")
    assert all(torch.equal(saved[k], before[k]) for k in before)


def test_an_error_in_the_thread_is_raised_at_the_next_checkpoint(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    model = Model(CONFIG)
    optimizer = build_optimizer(model, TrainConfig())
    saver = Saver(tmp_path, keep_last=1, background=True)
    monkeypatch.setattr(checkpoint.Saver, "_publish", full)
    saver.save(model=model, optimizer=optimizer, step=1, stream={}, configs={})
    with pytest.raises(OSError, match="No space left"):
        saver.save(model=model, optimizer=optimizer, step=2, stream={}, configs={})
    saver.close()
    assert latest_checkpoint(tmp_path) is None


def test_checkpoints_at_multiples_are_kept_beside_the_newest(tmp_path):
    model = Model(CONFIG)
    optimizer = build_optimizer(model, TrainConfig())
    saver = Saver(tmp_path, keep_last=1, keep_every=20, background=False)
    for step in (10, 20, 30, 40, 50):
        saver.save(model=model, optimizer=optimizer, step=step, stream={}, configs={})
    assert [p.name for p in list_checkpoints(tmp_path)] == [f"step-000000{n}" for n in (20, 40, 50)]


def test_a_lost_or_foreign_pointer_is_made_up_for(tmp_path):
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    (tmp_path / "latest").unlink()
    assert latest_checkpoint(tmp_path) == newest
    (tmp_path / "latest").write_text("../../elsewhere\n")
    assert latest_checkpoint(tmp_path) == newest
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_weights_of_another_shape_are_refused_in_words(tmp_path):
    path = save(tmp_path, 10)
    wider = Model(CONFIG.model_copy(update={"dim": 32}))
    with pytest.raises(UserError, match="the weights do not fit the model"):
        load_weights(path, wider)


def test_another_version_is_refused_in_words(tmp_path):
    path = save(tmp_path, 10)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "version": 99}))
    with pytest.raises(UserError, match="version 99, this program reads 2"):
        read_state(path)


def test_no_file_of_a_checkpoint_can_hold_code(tmp_path):
    path = save(tmp_path, 10)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}


def test_weights_of_the_first_version_are_read_and_its_moments_refused(tmp_path):
    path = save(tmp_path, 10)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "version": 1}))
    model = Model(CONFIG, seed=5)
    load_weights(path, model)
    with pytest.raises(UserError, match="its weights can be read, its moments cannot"):
        load_optimizer(path, model, build_optimizer(model, TrainConfig()))


def vocabulary_of(text: str) -> dict:
    return Vocabulary.build(4096, text, image_size=64, image_fingerprint="i").to_json()


def test_data_of_another_vocabulary_are_refused_by_both_fingerprints():
    ours, other = vocabulary_of("one"), vocabulary_of("two")
    state = {"configs": {"vocabulary": ours}}
    same_vocabulary(state, vocabulary_of("one"), what="these shards")
    same_vocabulary({"configs": {}}, other, what="these shards")
    with pytest.raises(UserError) as refused:
        same_vocabulary(state, other, what="these shards")
    told = str(refused.value)
    assert ours["fingerprint"][:16] in told
    assert other["fingerprint"][:16] in told
    assert "these shards: they differ in text" in told
