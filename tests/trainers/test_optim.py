from __future__ import annotations

import math

import pytest
import torch

from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.model import Model
from mixloom.trainers.optim import Towers, build_optimizer, learning_rate, skip_absent

SMALL = ModelConfig(dim=16, heads=2, layers=2, vocab_size=32)


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


def stepped(model, **options):
    optimizer = build_optimizer(model, TrainConfig(lr=1e-2, **options))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    return optimizer


def test_the_gradient_of_the_towers_adds_up_to_the_whole_and_is_clipped_as_torch_does():
    model, other = Model(SMALL), Model(SMALL)
    stepped(model)
    for p, q in zip(other.parameters(), model.parameters()):
        p.grad = q.grad.clone()
    towers = Towers(model)
    squares = towers.squares()
    whole = torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    assert float(squares.sum().sqrt()) == pytest.approx(float(whole), rel=1e-6)
    for m in range(3):
        own = torch.cat([p.grad.flatten() for p in model.tower(m)]).double().norm()
        assert float(squares[1 + m].sqrt()) == pytest.approx(float(own), rel=1e-6)
    towers.clip(squares.sum().sqrt(), 1.0)
    for p, q in zip(other.parameters(), model.parameters()):
        assert torch.allclose(p.grad, q.grad, rtol=1e-5)


def test_a_tower_without_gradient_has_none_and_nothing_is_asked_of_a_model_without_any():
    model = Model(SMALL)
    assert Towers(model).squares().tolist() == [0.0] * 4
    stepped(model)
    skip_absent(model, [1, 0, 1])
    squares = Towers(model).squares()
    assert squares[2] == 0
    assert squares[1] > 0


def test_the_size_of_an_update_is_that_of_the_change_of_the_weights():
    model = Model(SMALL)
    optimizer = stepped(model)
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    skip_absent(model, [1, 1, 0])
    optimizer.step()
    moved = Towers(model).moved(optimizer)
    for row, old in ((0, [p.detach() - b for p, b in zip(model.parameters(), before)]), (1, before)):
        names = {id(p): m for m in range(3) for p in model.tower(m)}
        want = [0.0] * 4
        for p, x in zip(model.parameters(), old):
            m = names.get(id(p), -1)
            want[1 + m] += 0.0 if m == 2 else float(x.double().square().sum())
        assert moved[row].tolist() == pytest.approx(want, rel=1e-4)


def test_an_update_left_out_by_the_flag_moves_nothing():
    model = Model(SMALL)
    optimizer = stepped(model)
    optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in zip(model.parameters(), moments))
    assert {float(optimizer.state[p]["step"]) for p in model.parameters()} == {1.0}
