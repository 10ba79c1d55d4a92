"""How many graphs compiled blocks need: a number that layers and batches do not raise."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.model import Model, compile_blocks, most_graphs
from mixloom.trainers.step import batch_losses

SMALL = {"dim": 16, "heads": 2, "vocab_size": 1024, "seq_len": 64, "ffn_hidden": 16}
EXPERTS = {"untie": ("norm",), "experts": {"counts": (3, 2, 1)}}


@pytest.fixture
def graphs(monkeypatch):
    """What has been compiled, one entry for each graph; nothing is made faster."""
    torch._dynamo.reset()
    found = []

    def keep(graph, inputs):
        found.append(graph)
        return graph.forward

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled(self, backend=keep, **options)
    )
    yield found
    torch._dynamo.reset()


def run(model, arrays, vocabulary, *, causal=False):
    ids, lengths, domains = arrays
    batch = make_batch(ids, lengths, modality_table(vocabulary), domains=domains)
    with torch.set_grad_enabled(not causal):
        return batch_losses(model, batch, "mask", torch.float32, 64, causal=causal)


@pytest.mark.parametrize("options", [{}, EXPERTS])
def test_layers_share_their_graphs_and_batches_soon_need_no_more(graphs, make_contexts, vocabulary, options):
    model = Model(ModelConfig(**SMALL, **options, layers=5))
    compile_blocks(model)
    for seed in range(3):
        run(model, make_contexts(seed=seed), vocabulary).total.backward()
    run(model, make_contexts(seed=3), vocabulary, causal=True)
    first = len(graphs)
    # A size that only the device knows stops compilers: none of what is traced may have one.
    assert not [n for graph in graphs for n in graph.graph.nodes if "nonzero" in str(n.target)]
    assert first <= 7  # fixed sizes, any sizes, without gradients: each for the first block and for others
    for seed in range(4, 8):
        run(model, make_contexts(seed=seed), vocabulary).total.backward()
        compiled = run(model, make_contexts(seed=seed), vocabulary, causal=True)
    assert len(graphs) == first
    with torch.compiler.set_stance("force_eager"):
        plain = run(model, make_contexts(seed=seed), vocabulary, causal=True)
    torch.testing.assert_close(compiled.per_token, plain.per_token, rtol=1e-4, atol=1e-5)


def test_absent_modalities_need_graphs_of_their_own_once(graphs, make_contexts, vocabulary):
    model = Model(ModelConfig(**SMALL, layers=3))
    compile_blocks(model)
    for seed in range(2):
        for kinds in (("tis",), ("t",), ("ti", "t")):
            run(model, make_contexts(seed=seed, kinds=kinds), vocabulary).total.backward()
    seen = len(graphs)
    assert seen <= most_graphs(3)
    assert torch._dynamo.config.recompile_limit >= most_graphs(3)
    for kinds in (("t",), ("ti", "t"), ("tis",)):
        run(model, make_contexts(seed=9, kinds=kinds), vocabulary).total.backward()
    assert len(graphs) == seen
