from __future__ import annotations

import pytest
import torch

from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.model import Model
from mixloom.trainers.recompute import recompute
from mixloom.trainers.step import batch_losses

CONFIG = ModelConfig(dim=32, layers=2, heads=4, vocab_size=1024, seq_len=48)


def gradients(mode: str, batch) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a model, and how many products of matrices it took to get them."""
    model = Model(CONFIG)
    recompute(model, mode)
    products = 0

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal products
            products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return func(*args, **(kwargs or {}))

    with Count():
        batch_losses(model, batch, "buckets", torch.float32, 64).total.backward()
    return {name: p.grad for name, p in model.named_parameters()}, products


@pytest.fixture
def batch(make_contexts, vocabulary):
    ids, lengths, domains = make_contexts()
    return make_batch(ids, lengths, modality_table(vocabulary), domains=domains)


@pytest.mark.parametrize("mode", ["selective", "block"])
def test_gradients_are_the_same_bit_for_bit_and_names_stay(batch, mode):
    plain, _ = gradients("none", batch)
    made, _ = gradients(mode, batch)
    assert made.keys() == plain.keys()
    assert all(torch.equal(made[name], plain[name]) for name in plain)


def test_products_are_made_again_for_whole_blocks_only(batch):
    plain, selective, block = (gradients(mode, batch)[1] for mode in ("none", "selective", "block"))
    assert selective == plain
    assert block > 1.2 * plain
