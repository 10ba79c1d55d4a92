"""The proofs: what a Mixture-of-Transformers must be, checked on small models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixloom.trainers.config import DENSE, MOT, ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.loss import chunked_cross_entropy
from mixloom.trainers.model import Model, compile_blocks
from mixloom.trainers.optim import skip_absent

SMALL = {"dim": 32, "layers": 2, "heads": 4, "vocab_size": 1024, "seq_len": 64, "init_std": 0.1}
VARIANTS = [
    {},
    {"norm": "swin", "qk_norm": True},
    {"untie": ("ffn",)},
    {"untie": ("attention",), "qk_norm": True},
    {"untie": (), "tie_embeddings": True},
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


def hidden(model, batch, kind="buckets"):
    """Hidden states [T, D] in sequence order."""
    out = model(model.rows(batch, kind, torch.float32))
    return out if model.order(batch) is None else out[batch.inverse]


def loss_of(model, batch):
    h, order = model(model.rows(batch, "buckets", torch.float32)), model.order(batch)
    targets, modality = batch.targets, batch.target_modality
    if order is not None:
        targets, modality = targets[order], modality[order]
    return chunked_cross_entropy(h, model.head_weight, targets, modality, modalities=3, chunk=32)


@pytest.mark.parametrize("norm", ["pre", "swin"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_towers_that_are_copies_equal_the_dense_model(batch_of, norm, qk_norm):
    options = {"init": "copy", "norm": norm, "qk_norm": qk_norm}
    dense, mot = model_of(untie=DENSE, **options), model_of(untie=MOT, **options)
    batch = batch_of()
    torch.testing.assert_close(hidden(mot, batch), hidden(dense, batch), rtol=1e-5, atol=1e-5)
    loss_of(dense, batch).total.backward()
    loss_of(mot, batch).total.backward()
    for layer in range(2):
        ours = sum(w.grad for w in mot.blocks[layer].ffn.up)
        torch.testing.assert_close(ours, dense.blocks[layer].ffn.up[0].grad, rtol=1e-4, atol=1e-3)


def test_towers_drawn_independently_differ_from_each_other_and_from_the_dense_model(batch_of):
    mot = model_of()
    first, second, third = mot.blocks[0].ffn.up
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.allclose(hidden(mot, batch_of()), hidden(model_of(untie=DENSE), batch_of()), atol=1e-2)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_mask_and_the_buckets_give_the_same_hidden_states(batch_of, options):
    model, batch = model_of(**options), batch_of()
    torch.testing.assert_close(hidden(model, batch, "mask"), hidden(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("kind", ["buckets", "mask"])
def test_changing_a_token_changes_nothing_before_it_nor_in_other_documents(
    batch_of, make_contexts, vocabulary, options, kind
):
    model = model_of(**options)
    ids, lengths, _ = make_contexts()
    table = modality_table(vocabulary)
    before = hidden(model, make_batch(ids, lengths, table), kind)
    batch = make_batch(ids, lengths, table)
    owners = batch.documents.reshape(-1)
    for row, column in ((0, 9), (1, 30), (2, 3)):
        place = row * ids.shape[1] + column
        changed = ids.copy()
        changed[row, column] = (
            300 if ids[row, column] != 300 else 301
        )  # text, so rows may move to another tower
        after = hidden(model, make_batch(changed, lengths, table), kind)
        index = torch.arange(owners.shape[0])
        reach = (owners == owners[place]) & (index >= place)
        torch.testing.assert_close(after[~reach], before[~reach], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after[place], before[place], atol=1e-3)


@pytest.mark.parametrize("kind", ["buckets", "mask"])
def test_without_a_document_mask_a_token_reaches_all_that_follows_in_its_context(
    make_contexts, vocabulary, kind
):
    model, table = model_of(document_mask=False), modality_table(vocabulary)
    ids, lengths, _ = make_contexts()
    before = hidden(model, make_batch(ids, lengths, table, document_mask=False), kind)
    changed = ids.copy()
    changed[1, 2] = 300 if ids[1, 2] != 300 else 301
    after = hidden(model, make_batch(changed, lengths, table, document_mask=False), kind)
    moved = (after - before).abs().amax(1).view(ids.shape) > 1e-6
    filled = int(sum(lengths[1]))
    assert int(lengths[1][0]) < filled, "there is more than one document in the context"
    assert moved[1, 2:filled].all()
    assert int(moved.sum()) == filled - 2


@pytest.mark.parametrize("options", VARIANTS)
def test_the_gradient_of_a_prediction_reaches_only_its_own_document_up_to_itself(batch_of, options):
    model, batch = model_of(**options), batch_of()
    owners = batch.documents.reshape(-1)
    for place in (5, 60, 130):
        embedded = []

        def keep(weight_ids, weight, _embedding=torch.nn.functional.embedding, _kept=embedded):
            out = _embedding(weight_ids, weight)
            out.retain_grad()
            _kept.append(out)
            return out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mixloom.trainers.model.F.embedding", keep)
            hidden(model, batch)[place].square().sum().backward()
        order = model.order(batch)
        grad = embedded[0].grad if order is None else embedded[0].grad[batch.inverse]
        touched = grad.abs().sum(1) > 0
        index = torch.arange(owners.shape[0])
        reach = (owners == owners[place]) & (index <= place)
        assert not bool(touched[~reach].any())
        assert bool(touched[place])
        assert int(touched.sum()) > 1


@pytest.mark.parametrize("options", VARIANTS)
def test_a_document_packed_with_others_equals_the_document_alone(make_contexts, vocabulary, options):
    model, table = model_of(**options), modality_table(vocabulary)
    ids, lengths, _ = make_contexts()
    packed = hidden(model, make_batch(ids, lengths, table)).view(*ids.shape, -1)
    for row in range(ids.shape[0]):
        start = 0
        for size in lengths[row]:
            piece = ids[row : row + 1, start : start + size]
            alone = hidden(model, make_batch(piece, [np.array([size])], table))
            torch.testing.assert_close(packed[row, start : start + size], alone, rtol=1e-4, atol=1e-5)
            start += int(size)


@pytest.mark.parametrize("kinds", [("t",), ("ti",), ("ts",)])
def test_an_absent_modality_gets_gradients_of_exactly_zero_and_is_left_out_of_the_update(batch_of, kinds):
    model, batch = model_of(), batch_of(kinds=kinds)
    loss_of(model, batch).total.backward()
    absent = [m for m, size in enumerate(batch.sizes) if size == 0]
    assert absent
    for m, size in enumerate(batch.sizes):
        for parameter in model.tower(m):
            assert parameter.grad is not None
            assert bool((parameter.grad == 0).all()) == (size == 0)
    skipped = skip_absent(model, batch.sizes)
    assert len(skipped) == sum(len(model.tower(m)) for m in absent)
    assert all(p.grad is None for p in skipped)


@pytest.mark.parametrize("modality", [0, 1, 2])
def test_a_batch_of_one_modality_alone_trains(vocabulary, modality):
    first = {0: 256, 1: 512, 2: 768}[modality]
    ids = np.arange(first, first + 16, dtype=np.uint16)[None].repeat(2, 0)
    batch = make_batch(ids, [np.array([16])] * 2, modality_table(vocabulary))
    model = model_of()
    losses = loss_of(model, batch)
    losses.total.backward()
    assert losses.counts.tolist() == [30 if m == modality else 0 for m in range(3)]
    assert all(bool(p.grad.abs().sum() > 0) for p in model.tower(modality))


def test_a_tower_changes_only_what_its_own_modality_and_later_tokens_see(batch_of):
    model, batch = model_of(), batch_of(kinds=("tit",))
    before = hidden(model, batch)
    with torch.no_grad():
        for parameter in model.tower(1):
            parameter.mul_(1.5)
    after = hidden(model, batch)
    image = torch.zeros(batch.input_ids.shape[0], dtype=torch.bool)
    image[batch.perm[batch.sizes[0] : batch.sizes[0] + batch.sizes[1]]] = True
    documents, position = batch.documents.reshape(-1), torch.arange(image.shape[0])
    starts = {int(d): int(position[image & (documents == d)].min()) for d in documents[image]}
    early = torch.tensor([i < starts.get(int(d), 1 << 30) for i, d in enumerate(documents)])
    torch.testing.assert_close(after[early], before[early], rtol=1e-5, atol=1e-6)
    assert not bool(torch.isclose(after[image], before[image], atol=1e-4).all(1).any())


def test_renaming_the_modalities_only_renames_the_towers(make_contexts, vocabulary):
    ids, lengths, _ = make_contexts()
    table = modality_table(vocabulary)
    swapped = np.array([0, 2, 1], dtype=np.uint8)[table]
    one, two = model_of(), model_of()
    with torch.no_grad():
        for ours, theirs in ((1, 2), (2, 1)):
            for a, b in zip(two.tower(ours), one.tower(theirs)):
                a.copy_(b)
    torch.testing.assert_close(
        hidden(one, make_batch(ids, lengths, table)),
        hidden(two, make_batch(ids, lengths, swapped)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns_from_a_batch_of_all_modalities(batch_of, options):
    model = model_of(**options)
    loss_of(model, batch_of()).total.backward()
    for name, parameter in model.named_parameters():
        assert bool(parameter.grad.abs().sum() > 0), name


def test_the_initial_weights_depend_on_the_seed_alone():
    one, same, other = (model_of(seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["blocks.0.ffn.up.1"], other["blocks.0.ffn.up.1"])


@pytest.mark.parametrize("untie", [MOT, ("ffn",), DENSE])
def test_the_parameter_count_of_the_configuration_is_that_of_the_model(untie):
    model = model_of(untie=untie)
    counted = sum(p.numel() for n, p in model.named_parameters() if "blocks" in n and "norm" not in n)
    assert model.config.parameters() == counted
    assert model.config.parameters(active=True) == ModelConfig(**SMALL, untie=()).parameters()


def test_the_dense_sizes_of_the_paper_come_out():
    sizes = [(256, 4, 8, 37.0), (512, 8, 8, 94.4), (1024, 24, 16, 442.5), (4096, 32, 32, 7012.9)]
    for dim, layers, heads, millions in sizes:
        config = ModelConfig(dim=dim, layers=layers, heads=heads, untie=())
        total = (config.parameters() + 2 * 65536 * dim) / 1e6
        assert total == pytest.approx(millions, abs=0.06)


def test_contexts_longer_than_the_positions_of_the_model_are_refused(batch_of):
    with pytest.raises(ValueError, match="contexts of 80 tokens, but the model has seq_len 64"):
        model_of().rows(batch_of(length=80), "buckets", torch.float32)


def test_a_block_is_one_graph_for_changing_sizes_and_absent_modalities(batch_of):
    plain, compiled = model_of(layers=1), model_of(layers=1)
    compiled.blocks[0].compile(fullgraph=True, backend="eager")
    for options in ({"seed": 1}, {"seed": 2}, {"kinds": ("t",)}):
        batch = batch_of(**options)
        torch.testing.assert_close(
            hidden(compiled, batch, "mask"), hidden(plain, batch, "mask"), rtol=1e-4, atol=1e-5
        )


def test_a_compiled_block_follows_the_flex_mask_of_each_new_batch(batch_of):
    plain, compiled = model_of(layers=1, seq_len=128), model_of(layers=1, seq_len=128)
    compiled.blocks[0].compile(fullgraph=True, backend="eager")
    with torch.no_grad():
        for seed in (1, 2):
            batch = batch_of(seed=seed, contexts=2, length=128)
            ours, theirs = hidden(compiled, batch, "flex"), hidden(plain, batch, "mask")
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_compiling_keeps_the_names_of_the_weights():
    model = model_of()
    names = list(model.state_dict())
    compile_blocks(model)
    assert list(model.state_dict()) == names
