from __future__ import annotations

import numpy as np
import pytest
import torch

from mixloom.trainers.attention import block_mask, choose, document_mask, make_plan, rotary_table, rotate
from mixloom.trainers.data import make_batch

TABLE = np.array([0] * 4 + [1] * 4 + [2] * 4, dtype=np.uint8)


def batch_of(seed: int, contexts: int = 3, length: int = 150, longest: int = 90):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 12, (contexts, length)).astype(np.uint16)
    lengths = []
    for _ in range(contexts):
        left, pieces = length - int(rng.integers(0, 9)), []
        while left:
            pieces.append(min(left, int(rng.integers(1, longest))))
            left -= pieces[-1]
        lengths.append(np.array(pieces))
    return make_batch(ids, lengths, TABLE)


def slow_attention(qkv, batch, heads, rotary):
    """Softmax over every visible key, token by token, in sequence order."""
    q, k, v = (x.view(x.shape[0], heads, -1) for x in qkv.chunk(3, dim=1))
    cos, sin = (t[batch.positions][:, None] for t in rotary)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    documents = batch.documents.reshape(-1)
    out = torch.empty_like(v)
    for t in range(q.shape[0]):
        seen = [s for s in range(t + 1) if documents[s] == documents[t]]
        weights = torch.einsum("nh,snh->ns", q[t], k[seen]).div(q.shape[-1] ** 0.5).softmax(-1)
        out[t] = torch.einsum("ns,snh->nh", weights, v[seen])
    return out.flatten(1)


@pytest.mark.parametrize("modality_major", [True, False])
@pytest.mark.parametrize("kind", ["buckets", "mask"])
@pytest.mark.parametrize("seed", [0, 1])
def test_attention_and_its_gradient_agree_with_a_token_by_token_definition(kind, modality_major, seed):
    batch, heads = batch_of(seed, contexts=2, length=70, longest=50), 2
    rotary = tuple(t.double() for t in rotary_table(70, 8, 10000.0))
    tokens = batch.input_ids.shape[0]
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(tokens, 3 * 16, generator=generator, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(tokens, 16, generator=generator, dtype=torch.float64)
    plan = make_plan(
        batch, heads=heads, rotary=rotary, modality_major=modality_major, kind=kind, dtype=torch.float64
    )
    rows = qkv[batch.perm] if modality_major else qkv
    out = plan.attend(rows, 0)
    out = out[batch.inverse] if modality_major else out
    expected = slow_attention(qkv, batch, heads, rotary)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-8)
    ours = torch.autograd.grad((out * probe).sum(), qkv)[0]
    theirs = torch.autograd.grad((expected * probe).sum(), qkv)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_buckets_hold_every_token_once_and_waste_under_a_third(seed):
    batch = batch_of(seed, length=400, longest=300)
    plan = make_plan(
        batch,
        heads=1,
        rotary=rotary_table(400, 4, 1e4),
        modality_major=False,
        kind="buckets",
        dtype=torch.float32,
    )
    tokens = batch.input_ids.shape[0]
    assert torch.equal(plan.to_slots[plan.to_rows], torch.arange(tokens))
    slots = sum(count * length for count, length in plan.groups)
    assert slots == plan.to_slots.shape[0] == tokens + plan.idle.shape[0]
    start = 0
    for count, length in plan.groups:
        idle = int(((plan.idle >= start) & (plan.idle < start + count * length)).sum())
        assert length <= 32 or idle <= count * length / 3
        start += count * length


def test_the_flex_mask_function_is_the_dense_mask_everywhere():
    batch = batch_of(3, length=256)
    dense = document_mask(batch.documents)[:, 0]
    visible = block_mask(batch.documents, compiled=False).mask_mod
    q, k = torch.arange(256)[:, None], torch.arange(256)[None, :]
    for b in range(3):
        assert torch.equal(visible(torch.tensor(b), torch.tensor(0), q, k), dense[b])


def test_no_flex_block_that_holds_a_visible_pair_is_left_out():
    batch = batch_of(4, length=384)
    made = block_mask(batch.documents, compiled=False)
    dense = document_mask(batch.documents)[:, 0].view(3, 3, 128, 3, 128)
    assert torch.equal(made.to_dense()[:, 0].bool(), dense.any(-1).any(2))


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_gives_what_the_mask_gives():
    batch = batch_of(5, length=256)
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = torch.randn(3, 3, 2, 256, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    ours = flex_attention(q, k, v, block_mask=block_mask(batch.documents, compiled=False))
    plain = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=document_mask(batch.documents)
    )
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    cos, sin = rotary_table(64, 16, 10000.0)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    score = lambda i, j: float(rotate(q, cos[i], sin[i]) @ rotate(k, cos[j], sin[j]))  # noqa: E731
    assert score(3, 10) == pytest.approx(score(40, 47), abs=1e-4)
    assert score(3, 10) != pytest.approx(score(3, 11), abs=1e-3)


@pytest.mark.parametrize(
    ("device", "head_dim", "compiled", "kind"),
    [
        ("cpu", 64, False, "buckets"),
        ("cpu", 64, True, "mask"),
        ("cuda", 64, True, "flex"),
        ("cuda", 48, True, "mask"),
        ("cuda", 8, True, "mask"),
    ],
)
def test_the_way_to_attend_follows_device_and_head_width(device, head_dim, compiled, kind):
    assert choose(torch.device(device), head_dim, compiled=compiled) == kind
