from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mixloom.trainers.loss import chunked_cross_entropy


def case(tokens=37, dim=12, vocab=50, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, dim, generator=g, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,), generator=g)
    targets[::5] = -100
    return hidden, weight, targets, torch.randint(0, 3, (tokens,), generator=g)


@pytest.mark.parametrize("chunk", [1, 8, 37, 100])
def test_chunked_loss_and_gradients_equal_plain_cross_entropy(chunk):
    hidden, weight, targets, modality = case()
    plain = F.cross_entropy(hidden @ weight.t(), targets, ignore_index=-100, reduction="sum") * 0.7
    expected = torch.autograd.grad(plain, [hidden, weight])
    losses = chunked_cross_entropy(hidden, weight, targets, modality, modalities=3, chunk=chunk)
    assert losses.total.item() * 0.7 == pytest.approx(plain.item(), rel=1e-6)
    ours = torch.autograd.grad(losses.total * 0.7, [hidden, weight])
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_sums_and_counts_by_modality_are_those_of_the_targets():
    hidden, weight, targets, modality = case()
    losses = chunked_cross_entropy(hidden, weight, targets, modality, modalities=3, chunk=8)
    plain = F.cross_entropy(hidden @ weight.t(), targets, ignore_index=-100, reduction="none")
    for m in range(3):
        mine = (modality == m) & (targets >= 0)
        assert float(losses.sums[m]) == pytest.approx(plain[mine].sum().item(), rel=1e-5)
        assert int(losses.counts[m]) == int(mine.sum())
    torch.testing.assert_close(losses.per_token.double(), plain, rtol=1e-5, atol=1e-5)


def test_ignored_rows_get_a_gradient_of_exactly_zero():
    hidden, weight, targets, modality = case()
    losses = chunked_cross_entropy(hidden, weight, targets, modality, modalities=3, chunk=8)
    (grad,) = torch.autograd.grad(losses.total, [hidden])
    assert torch.equal(grad[targets < 0], torch.zeros_like(grad[targets < 0]))
    assert bool((grad[targets >= 0] != 0).any(dim=1).all())


def test_logits_far_from_zero_stay_finite():
    hidden = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    weight = torch.eye(2).mul(10.0).requires_grad_()
    targets = torch.tensor([0, 0])
    losses = chunked_cross_entropy(hidden, weight, targets, targets, modalities=1, chunk=4)
    losses.total.backward()
    assert losses.per_token.tolist() == pytest.approx([0.0, 2000.0])
    assert bool(torch.isfinite(weight.grad).all())


def test_bfloat16_hidden_states_give_nearly_the_same_loss_and_float32_weight_gradients():
    hidden, weight, targets, modality = case(dtype=torch.float32)
    exact = chunked_cross_entropy(hidden, weight, targets, modality, modalities=3, chunk=8)
    exact_grad = torch.autograd.grad(exact.total, weight)[0]
    rough = chunked_cross_entropy(hidden.bfloat16(), weight, targets, modality, modalities=3, chunk=8)
    grad = torch.autograd.grad(rough.total, weight)[0]
    assert grad.dtype == torch.float32
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=0.02)
    assert float((grad - exact_grad).norm() / exact_grad.norm()) < 0.02


def test_no_tensor_as_large_as_all_logits_is_ever_made():
    hidden, weight, targets, modality = case(tokens=64, vocab=4096, dtype=torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(
                [
                    largest,
                    *(o.numel() for o in (out if isinstance(out, tuple) else (out,)) if hasattr(o, "numel")),
                ]
            )
            return out

    with Watch():
        losses = chunked_cross_entropy(hidden, weight, targets, modality, modalities=3, chunk=8)
        losses.total.backward()
    assert largest == weight.numel()
    assert largest < 64 * 4096
