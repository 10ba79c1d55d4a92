"""Training on two ranks, each a process of its own on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from mixloom.pipeline.errors import UserError
from mixloom.trainers.checkpoint import latest_checkpoint, load_optimizer, load_weights, read_state
from mixloom.trainers.config import TrainConfig
from mixloom.trainers.distributed import World, _check
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.incidents import read_incidents
from mixloom.trainers.metrics import read_metrics
from mixloom.trainers.optim import build_optimizer

WORKER = Path(__file__).with_name("distributed_worker.py")
JOBS = {
    "whole": {"checkpoint_every": 3},
    "parts": {"grad_accumulation": 2, "replicas": 2, "activation_checkpointing": "selective"},
    "from_one": {"async_checkpoint": False},
}


def load_worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distributed_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_ranks(jobs: list[dict], size: int = 2) -> None:
    """The jobs on `size` ranks, as torchrun would start them."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(WORKER), json.dumps(jobs)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for r in range(size)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors.decode()[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The same training on one rank and on two: at once, in parts on whole copies, and gone on with after 3 steps of one."""
    folder = tmp_path_factory.mktemp("runs")
    before = torch.get_num_threads()
    worker.run(str(folder / "one"), {"checkpoint_every": 3})
    torch.set_num_threads(before)
    back_to_step_3(folder / "one", folder / "from_one")
    worker.run(str(folder / "one_spiked"), worker.SPIKED, noise=12)
    jobs = [{"folder": str(folder / name), "options": options} for name, options in JOBS.items()]
    on_ranks([*jobs, {"folder": str(folder / "spiked"), "options": worker.SPIKED, "noise": 12}])
    return folder


def back_to_step_3(run: Path, copy: Path) -> None:
    """A copy of a run as if it had ended at its first checkpoint."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    (copy / "checkpoints" / "latest").unlink()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = load_checkpoint_model(latest_checkpoint(folder / "checkpoints"))
    return {name: p.detach() for name, p in model.named_parameters()}


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    a, b = (read_metrics(f / "metrics.jsonl") for f in (ours, theirs))
    assert [r["step"] for r in a] == [r["step"] for r in b]
    for mine, other in zip(a, b):
        for split in ("modality", "domain"):
            assert mine[f"targets_by_{split}"] == other[f"targets_by_{split}"]
            assert mine[f"loss_by_{split}"] == pytest.approx(other[f"loss_by_{split}"], abs=1e-5)
        assert mine["grad_norm_by_tower"] == pytest.approx(other["grad_norm_by_tower"], abs=1e-5)
        assert mine.get("update_to_weight", {}) == pytest.approx(other.get("update_to_weight", {}), rel=1e-3)
        assert mine.get("eval_loss") == pytest.approx(other.get("eval_loss"), abs=1e-5)
    mine, other = weights(ours), weights(theirs)
    assert max(float((mine[k] - other[k]).abs().max()) for k in other) < 1e-5


@pytest.mark.parametrize("name", ["whole", "parts"])
def test_two_ranks_make_the_updates_of_one(runs, name):
    assert_equal_runs(runs / name, runs / "one")


def test_ranks_leave_out_the_same_update_for_the_same_context(runs):
    ours, theirs = (read_incidents(runs / name / "spikes.jsonl") for name in ("spiked", "one_spiked"))
    assert [x["step"] for x in ours] == [x["step"] for x in theirs] == [13]
    assert [c["context"] for c in ours[0]["contexts"]] == [2]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-4)
    assert 13 not in {r["step"] for r in read_metrics(runs / "spiked" / "metrics.jsonl")}
    mine, other = weights(runs / "spiked"), weights(runs / "one_spiked")
    assert max(float((mine[k] - other[k]).abs().max()) for k in other) < 1e-3


def test_a_checkpoint_of_one_rank_goes_on_with_two(runs):
    assert read_state(latest_checkpoint(runs / "from_one" / "checkpoints"))["ranks"] == 2
    assert_equal_runs(runs / "from_one", runs / "one")


def test_a_checkpoint_of_two_ranks_goes_on_with_one(runs, tmp_path):
    back_to_step_3(runs / "whole", tmp_path / "copy")
    assert read_state(latest_checkpoint(tmp_path / "copy" / "checkpoints"))["ranks"] == 2
    worker.run(str(tmp_path / "copy"), {})
    assert_equal_runs(tmp_path / "copy", runs / "one")


def test_a_sharded_checkpoint_holds_safetensors_and_json_and_no_rank_holds_all(runs):
    checkpoint = latest_checkpoint(runs / "whole" / "checkpoints")
    files = list(checkpoint.iterdir())
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    shards = [load_file(p) for p in files if p.name.startswith("shard-")]
    assert sorted(s["embedding"].shape[0] for s in shards if "embedding" in s) == [512, 512]


def test_moments_of_a_sharded_checkpoint_come_back_in_a_whole_model(runs):
    model = load_checkpoint_model(latest_checkpoint(runs / "one" / "checkpoints"))
    made = {}
    for name in ("one", "whole"):
        checkpoint = latest_checkpoint(runs / name / "checkpoints")
        optimizer = build_optimizer(model, TrainConfig())
        load_weights(checkpoint, model)
        load_optimizer(checkpoint, model, optimizer)
        made[name] = optimizer.state
    assert made["one"].keys() == made["whole"].keys()
    for p, state in made["one"].items():
        assert state["step"] == made["whole"][p]["step"]
        assert torch.allclose(state["exp_avg"], made["whole"][p]["exp_avg"], atol=1e-6)


def test_a_tower_is_left_alone_only_where_no_rank_has_a_token_for_it(runs):
    state = read_state(latest_checkpoint(runs / "whole" / "checkpoints"))["optimizer"]
    # Images stand on the second rank alone, in steps 0, 1, 3 and 4 of 6; speech nowhere.
    assert {state[f"blocks.0.ffn.up.{m}"] for m in (0, 1)} == {6, 4}
    assert state["blocks.0.ffn.up.0"] == 6
    assert "blocks.0.ffn.up.2" not in state


@pytest.mark.parametrize(
    ("options", "size", "text"),
    [
        ({"batch_contexts": 6}, 4, "train.batch_contexts is 6, which 4 ranks .* cannot share evenly"),
        ({"batch_contexts": 8, "grad_accumulation": 4}, 4, "choose a multiple of 16"),
        ({"batch_contexts": 8, "replicas": 3}, 4, "train.replicas is 3, and 4 ranks cannot be split"),
    ],
)
def test_ranks_that_do_not_fit_the_settings_are_refused(options, size, text):
    with pytest.raises(UserError, match=text):
        _check(TrainConfig(**options), size)


def test_a_process_by_itself_pays_for_no_exchange():
    world = World()
    assert world.first
    assert world.any(True)
    assert not world.any(False)
    assert world.told(3) == world.largest(3) == 3
