"""Experts that choose tokens: the definition, what must not leak, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from mixloom.trainers.config import ExpertsConfig, ModelConfig, TrainConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.generate import Cache, decode
from mixloom.trainers.model import Model
from mixloom.trainers.moma import Experts, token_seeds
from mixloom.trainers.step import Run, Totals, batch_losses

SMALL = {"dim": 32, "layers": 2, "heads": 4, "vocab_size": 1024, "seq_len": 64, "init_std": 0.1}
MOMA = {"untie": (), "experts": {"counts": (4, 3, 1)}}
KINDS = [
    MOMA,
    {"untie": ("attention", "norm"), "experts": {"counts": (2, 2, 2)}},
    {"untie": (), "experts": {"counts": (4,), "groups": "all"}},
    {"untie": ("attention",), "experts": {"counts": (4,), "groups": "all"}},
    {"untie": (), "experts": {"counts": (4, 2, 1), "routing": "random"}},
]


def model_of(seed: int = 0, **options) -> Model:
    return Model(ModelConfig(**{**SMALL, **options}), seed=seed)


@pytest.fixture
def batch_of(make_contexts, vocabulary):
    table = modality_table(vocabulary)

    def make(**options):
        ids, lengths, domains = make_contexts(**options)
        return make_batch(ids, lengths, table, domains=domains)

    return make


def hidden(model, batch, causal):
    out = model(model.rows(batch, "buckets", torch.float32, causal=causal))
    return out if model.order(batch) is None else out[batch.inverse]


def plainly(experts: Experts, x, group):
    """Expert choice by its definition: a loop over experts, each sorts the tokens by its score."""
    n, dim = experts.counts[group], x.shape[1]
    up, down = experts.up[group].view(n, -1, dim), experts.down[group].view(n, dim, -1)
    scores = torch.sigmoid(x @ experts.router[str(group)].t())
    out = torch.zeros_like(x)
    for e in range(n):
        for row in torch.argsort(scores[:, e], descending=True)[: -(-len(x) // n)].tolist():
            gate, value = (x[row] @ up[e].t()).chunk(2)
            out[row] += scores[row, e] * (down[e] @ (F.silu(gate) * value))
    return out


def test_each_expert_takes_its_share_of_the_tokens_it_scores_highest():
    experts = model_of(**MOMA).blocks[0].ffn
    x = [torch.randn(t, 32, generator=torch.Generator().manual_seed(t)) for t in (13, 6, 5)]
    seeds = [torch.arange(len(part)) for part in x]
    made, _ = experts(x, seeds, False)
    for group in (0, 1):
        torch.testing.assert_close(made[group], plainly(experts, x[group], group), rtol=1e-4, atol=1e-5)


def test_a_group_of_one_expert_is_a_plain_feed_forward():
    moma, plain = model_of(**MOMA), model_of(untie=("ffn",))
    ours, theirs = moma.blocks[0].ffn, plain.blocks[0].ffn
    with torch.no_grad():
        theirs.up[2].copy_(ours.up[2])
        theirs.down[2].copy_(ours.down[2])
    x = [torch.randn(t, 32) for t in (4, 2, 7)]
    seeds = [torch.arange(len(part)) for part in x]
    torch.testing.assert_close(ours(x, seeds, False)[0][2], theirs(x, seeds, False)[0][2])


@pytest.mark.parametrize("options", KINDS)
def test_causal_choice_sees_no_later_token_and_no_other_document(
    batch_of, vocabulary, options, make_contexts
):
    model, table = model_of(**options), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(contexts=2, seed=3)
    before = hidden(model, make_batch(ids, lengths, table), True)
    cut = int(lengths[0][0]) - 2
    changed = ids.copy()
    changed[0, cut + 1 :] = np.where(changed[0, cut + 1 :] >= 256, 300, changed[0, cut + 1 :])
    after = hidden(model, make_batch(changed, lengths, table), True)
    torch.testing.assert_close(after[: cut + 1], before[: cut + 1], rtol=1e-4, atol=1e-5)


def test_expert_choice_in_training_does_see_other_tokens(vocabulary, make_contexts):
    model, table = model_of(**MOMA), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(contexts=2, seed=3)
    changed = ids.copy()
    changed[1] = np.where(changed[1] >= 256, 300, changed[1])
    first, second = (
        hidden(model, make_batch(x, lengths, table), False)[: ids.shape[1]] for x in (ids, changed)
    )
    assert not torch.allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", KINDS)
def test_cached_decoding_equals_the_full_forward(vocabulary, options, make_contexts):
    model, table = model_of(**options).eval(), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(contexts=1, seed=5)
    document = ids[0, : int(lengths[0][0])]
    batch = make_batch(document[None], [np.array([len(document)])], table)
    full = hidden(model, batch, True) @ model.head_weight.t()
    cache = Cache(model, len(document), torch.float32)
    head = decode(model, cache, document[:3].tolist(), table)
    torch.testing.assert_close(head, full[2], rtol=1e-4, atol=1e-4)
    for i in range(3, len(document)):
        torch.testing.assert_close(
            decode(model, cache, [int(document[i])], table), full[i], rtol=1e-4, atol=1e-4
        )


def test_the_foretelling_network_changes_nothing_the_model_learns(batch_of):
    model, batch = model_of(**MOMA), batch_of()
    batch_losses(model, batch, "buckets", torch.float32, 32).total.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if "foretell" not in n}
    told = [p.grad.clone() for p in model.foretelling()]
    model.zero_grad()
    with torch.no_grad():
        for p in model.foretelling():
            p.mul_(-3.0)
    batch_losses(model, batch, "buckets", torch.float32, 32).total.backward()
    for name, parameter in model.named_parameters():
        if "foretell" not in name:
            torch.testing.assert_close(parameter.grad, grads[name], rtol=0, atol=0)
    assert all(bool(g.abs().sum() > 0) for g in told)


def test_what_foretells_has_no_part_in_the_clipping_of_the_gradient(batch_of, vocabulary):
    config = TrainConfig(grad_clip=0.1, batch_contexts=3, threads=1)
    weights = []
    for scale in (1.0, -30.0):
        run = Run(ModelConfig(**SMALL, **MOMA), config, vocabulary)
        with torch.no_grad():
            for p in run.model.foretelling():
                p.mul_(scale)
        run.update([batch_of()], 0, Totals(3))
        weights.append({n: p.detach() for n, p in run.model.named_parameters() if "foretell" not in n})
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_the_reported_losses_do_not_hold_the_foretelling_loss(batch_of):
    model, batch = model_of(**MOMA), batch_of()
    losses = batch_losses(model, batch, "buckets", torch.float32, 32)
    assert losses.total.item() > float(losses.sums.sum()) + 0.1 * batch.targets_total
    torch.testing.assert_close(losses.per_token.sum(), losses.sums.sum())


def test_foretelling_learns_to_agree_with_the_choice(batch_of):
    model, batch = model_of(layers=1, **MOMA), batch_of(contexts=4, seed=1)
    optimizer = torch.optim.AdamW(model.foretelling(), lr=1e-2)

    def gap():
        with torch.no_grad():
            return float((hidden(model, batch, True) - hidden(model, batch, False)).abs().mean())

    before = gap()
    for _ in range(150):
        rows = model.rows(batch, "buckets", torch.float32, causal=False)
        model(rows)
        torch.stack(rows.foretold).sum().backward()
        optimizer.step()
        model.zero_grad()
    assert gap() < 0.35 * before


@pytest.mark.parametrize("options", KINDS)
def test_an_absent_modality_has_exactly_zero_gradients(batch_of, options):
    model = model_of(**options)
    batch = batch_of(kinds=("t",))
    batch_losses(model, batch, "buckets", torch.float32, 32).total.backward()
    for m in (1, 2):
        for parameter in model.tower(m):
            assert parameter.grad is None or float(parameter.grad.abs().max()) == 0.0
    assert all(p.grad is not None for p in model.tower(0))


@pytest.mark.parametrize("options", KINDS)
def test_every_parameter_learns_from_a_batch_of_all_modalities(batch_of, options):
    model = model_of(**options)
    batch_losses(model, batch_of(contexts=6), "buckets", torch.float32, 32).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("options", KINDS)
def test_the_parameter_count_of_the_configuration_is_that_of_the_model(options):
    model = model_of(**options)
    counted = sum(p.numel() for n, p in model.named_parameters() if "blocks" in n and "norm" not in n)
    assert model.config.parameters() == counted


def test_a_token_meets_one_expert_on_average_so_active_weights_are_those_of_the_dense_model():
    dense = ModelConfig(**SMALL, untie=())
    moma = ModelConfig(**SMALL, **{**MOMA, "experts": {"counts": (4, 3, 1), "routing": "random"}})
    routers = 2 * 4 * 32
    assert moma.parameters(active=True) == dense.parameters() + routers


@pytest.mark.parametrize("options", [MOMA, KINDS[2]])
def test_a_block_with_experts_is_one_graph(batch_of, options):
    plain, compiled = model_of(layers=1, **options), model_of(layers=1, **options)
    compiled.blocks[0].compile(fullgraph=True, backend="eager")
    for choice in ({"seed": 1}, {"seed": 2}):
        batch = batch_of(**choice)
        rows = [m.rows(batch, "mask", torch.float32, causal=False) for m in (compiled, plain)]
        torch.testing.assert_close(compiled(rows[0]), plain(rows[1]), rtol=1e-4, atol=1e-5)


def test_random_draws_are_spread_evenly_and_belong_to_the_token():
    ids, positions = torch.arange(20000) % 500, torch.arange(20000) // 500
    seeds = token_seeds(ids, positions)
    assert len(torch.unique(seeds)) > 19900
    assert torch.equal(seeds[7:9], token_seeds(ids[7:9], positions[7:9]))
    counts = torch.histc(seeds.double() / 2**31, bins=16, min=0, max=1)
    assert float((counts / 1250 - 1).abs().max()) < 0.15


@pytest.mark.parametrize(
    ("experts", "untie", "message"),
    [
        ({"counts": (1, 1, 1)}, (), "no group of several experts"),
        ({"counts": (4, 4)}, (), "must name all 3 modalities"),
        ({"counts": (4,), "groups": "all"}, ("ffn",), "take ffn out of untie"),
        ({"counts": (4, 4, 4), "groups": "all"}, (), "one group"),
        ({"counts": (0, 4, 4)}, (), "give 1 to 256 experts"),
    ],
)
def test_settings_that_make_no_sense_are_told(experts, untie, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(experts=experts, untie=untie)


def test_experts_of_a_group_start_apart_and_the_config_reads_from_plain_values():
    config = ModelConfig.model_validate({**SMALL, "untie": [], "experts": {"counts": [2, 2, 2]}})
    assert config.experts == ExpertsConfig(counts=(2, 2, 2))
    up = Model(config).blocks[0].ffn.up[0].view(2, -1, 32)
    assert not torch.equal(up[0], up[1])
