from __future__ import annotations

import pytest
import torch

from mixloom.trainers.averaging import average, fisher, fisher_average
from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.model import Model
from mixloom.trainers.step import batch_losses

SMALL = {"dim": 16, "layers": 1, "heads": 2, "vocab_size": 1024, "seq_len": 64, "init_std": 0.1}


def state(seed, **options):
    return Model(ModelConfig(**{**SMALL, **options}), seed=seed).state_dict()


def ones(like, value=1.0):
    return {name: torch.full_like(t, value) for name, t in like.items()}


@pytest.fixture
def batches(make_contexts, vocabulary):
    table = modality_table(vocabulary)

    def make(count, seed=0):
        ids, lengths, _ = make_contexts(contexts=count, seed=seed)
        return [make_batch(ids[i : i + 1], lengths[i : i + 1], table) for i in range(count)]

    return make


@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 2.0]])
def test_equal_models_average_to_themselves_bit_for_bit(weights):
    one = state(0)
    random = [{n: torch.rand_like(t) for n, t in one.items()} for _ in range(3)]
    for made in (average([one] * 3, weights), fisher_average([one] * 3, random, weights)):
        assert list(made) == list(one)
        assert all(torch.equal(made[n], one[n]) for n in one)
        assert all(made[n].dtype == torch.float32 for n in one)


def test_an_average_is_the_weighted_mean_of_every_weight():
    states = [state(i) for i in range(3)]
    made = average(states, [1, 1, 2])
    for name in made:
        expected = (states[0][name] + states[1][name] + 2 * states[2][name]) / 4
        torch.testing.assert_close(made[name], expected)
    only = average(states, [0, 1, 0])
    for name in only:
        torch.testing.assert_close(only[name], states[1][name])


def test_equal_information_gives_the_plain_average_and_so_does_none():
    states = [state(i) for i in range(2)]
    plain = average(states, [1, 3])
    for information in (ones(states[0]), ones(states[0], 0.0)):
        made = fisher_average(states, [information, information], [1, 3])
        for name in made:
            torch.testing.assert_close(made[name], plain[name])


def test_a_weight_comes_from_the_model_it_matters_in():
    a, b = state(0), state(1)
    fa, fb = ones(a, 0.0), ones(b, 0.0)
    fa["embedding"][:10] = 1.0
    fb["embedding"][10:20] = 1.0
    fa["embedding"][30], fb["embedding"][30] = 3.0, 1.0
    made = fisher_average([a, b], [fa, fb])["embedding"]
    ea, eb = a["embedding"], b["embedding"]
    torch.testing.assert_close(made[:10], ea[:10])
    torch.testing.assert_close(made[10:20], eb[10:20])
    torch.testing.assert_close(made[30], (3 * ea[30] + eb[30]) / 4)
    torch.testing.assert_close(made[40:], (ea[40:] + eb[40:]) / 2)


def test_fisher_information_is_the_mean_of_squared_gradients_of_single_contexts(batches):
    model = Model(ModelConfig(**SMALL))
    found = fisher(model, batches(3), "buckets")
    assert all(p.grad is None for p in model.parameters())
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches(3):
        model.zero_grad()
        batch_losses(model, batch, "mask", torch.float32, 7).total.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad**2 / 3
    assert list(found) == list(model.state_dict())
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)


def test_models_and_weights_that_do_not_fit_are_refused(batches):
    one = state(0)
    for states, weights, text in [
        ([], None, "no model"),
        ([one, state(0, dim=32)], None, "model 1 has other parameters"),
        ([one, one], [1.0], "2 models need as many weights"),
        ([one, one], [1.0, -1.0], "none negative"),
        ([one, one], [0.0, 0.0], "not all 0"),
    ]:
        with pytest.raises(ValueError, match=text):
            average(states, weights)
    with pytest.raises(ValueError, match="1 models for 2"):
        fisher_average([one, one], [ones(one)])
    with pytest.raises(ValueError, match="no Fisher information that fits 'embedding'"):
        fisher_average([one], [{}])
    with pytest.raises(ValueError, match="at least one target"):
        fisher(Model(ModelConfig(**SMALL)), [], "buckets")
