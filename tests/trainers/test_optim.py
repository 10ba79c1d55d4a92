from __future__ import annotations

import math

import pytest
import torch

from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.optim import build_optimizer, learning_rate, skip_absent


def rates(**options) -> list[float]:
    config = TrainConfig(steps=100, lr=1.0, min_lr=0.1, warmup=10, **options)
    return [learning_rate(config, step) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_rate_rises_to_its_peak_and_ends_at_the_lowest(schedule):
    made = rates(schedule=schedule)
    assert made[0] == pytest.approx(0.1)
    assert made[9] == pytest.approx(1.0)
    assert made[-1] == pytest.approx(0.1)
    assert made[:10] == sorted(made[:10])
    assert made[10:] == sorted(made[10:], reverse=True)


def test_cosine_is_halfway_in_the_middle():
    assert learning_rate(TrainConfig(steps=101, lr=1.0, min_lr=0.0, warmup=0), 50) == pytest.approx(0.5)


def test_wsd_is_level_until_its_last_tenth():
    made = rates(schedule="wsd")
    assert set(made[10:90]) == {1.0}
    assert made[95] == pytest.approx(0.1 + 0.9 * 4 / 10)


def test_a_run_of_one_step_has_a_rate():
    assert math.isfinite(learning_rate(TrainConfig(steps=1), 0))


def test_norms_and_embedding_do_not_decay_and_every_weight_is_updated_once():
    model = Model(ModelConfig(dim=16, heads=2, layers=1, vocab_size=32, qk_norm=True))
    decay, plain = (group["params"] for group in build_optimizer(model, TrainConfig()).param_groups)
    names = {id(p): n for n, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in [*decay, *plain]) == sorted(names.values())
    assert all("norm" in names[id(p)] or names[id(p)] == "embedding" for p in plain)
    assert not any("norm" in names[id(p)] for p in decay)


def test_an_absent_tower_stands_still_and_then_goes_on_as_if_the_step_had_not_been():
    config = TrainConfig(lr=0.1, min_lr=0.1, weight_decay=0.5)
    model = Model(ModelConfig(dim=16, heads=2, layers=1, vocab_size=32))
    twin = Model(ModelConfig(dim=16, heads=2, layers=1, vocab_size=32))
    optimizer, twin_optimizer = build_optimizer(model, config), build_optimizer(twin, config)

    def step(m: Model, o: torch.optim.Optimizer, sizes: list[int]) -> None:
        for p in m.parameters():
            p.grad = torch.full_like(p, 0.3)
        skip_absent(m, sizes)
        o.step()

    step(model, optimizer, [5, 5, 5])
    step(twin, twin_optimizer, [5, 5, 5])
    before = [p.clone() for p in model.tower(1)]
    shared = model.embedding.detach().clone()
    step(model, optimizer, [5, 0, 5])
    assert all(torch.equal(a, b) for a, b in zip(before, model.tower(1)))
    assert not torch.equal(shared, model.embedding)
    step(model, optimizer, [5, 5, 5])
    step(twin, twin_optimizer, [5, 5, 5])
    assert all(torch.equal(a, b) for a, b in zip(model.tower(1), twin.tower(1)))
