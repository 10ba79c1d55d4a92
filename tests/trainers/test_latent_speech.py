"""Speech in patches: nothing is seen ahead, nothing depends on neighbours, and sampling agrees with training."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.objective_stream import with_objectives
from mixloom.mixers.stage import weigh
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.tokenizers.objective_settings import FillMiddle
from mixloom.tokenizers.vocab import DOC, END_DOC, END_IMAGE, END_SPEECH, IMAGE, SPEECH
from mixloom.trainers import evaluate
from mixloom.trainers.checkpoint import latest_checkpoint
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import make_batch, micro_batches, modality_table
from mixloom.trainers.experts import domain_stream
from mixloom.trainers.export import export_model, export_transformers, load_checkpoint_model, load_exported
from mixloom.trainers.flops import attended
from mixloom.trainers.flow import FlowHead, image_numbers, scaled_vectors
from mixloom.trainers.generate import Cache, decode, generate
from mixloom.trainers.latent_speech import next_in_patch
from mixloom.trainers.losses import document_losses
from mixloom.trainers.metrics import read_metrics
from mixloom.trainers.model import Model
from mixloom.trainers.model_config import ExpertsConfig, FlowConfig
from mixloom.trainers.skills import _from_shards, context_nats
from mixloom.trainers.speech_batch import patched, saving
from mixloom.trainers.stage import StreamSource
from mixloom.trainers.step import batch_losses, token_losses
from mixloom.trainers.subset import Subset
from mixloom.trainers.trainer import train
from mixloom.trainers.utilities_config import ShardSkill

SMALL = {"dim": 32, "layers": 2, "heads": 4, "vocab_size": 1024, "seq_len": 64, "init_std": 0.1}
KINDS = [
    {"untie": ()},
    {"untie": ("attention", "ffn", "norm"), "norm": "swin", "qk_norm": True},
    {"untie": ("attention", "norm"), "experts": ExpertsConfig(counts=(2, 1, 2))},
]
SPOKEN = ("tst", "s", "its", "tsts")


def model_of(**options) -> Model:
    patches = {"size": 3, **options.pop("speech_patches", {})}
    return Model(ModelConfig(**{**SMALL, **options}, speech_patches=patches))


@pytest.fixture
def batch_of(make_contexts, vocabulary):
    table = modality_table(vocabulary)

    def make(**options):
        ids, lengths, domains = make_contexts(**{"kinds": SPOKEN, **options})
        return make_batch(ids, lengths, table, domains=domains)

    return make


def states(model, batch, kind="mask"):
    """States of all tokens in sequence order, and log-odds that a patch ends after each unit where it may, else 0."""
    rows = model.rows(batch, kind, torch.float32)
    out = model(rows)
    ends = torch.zeros(out.shape[0]).index_copy(0, rows.tokens.tokens, rows.ends[0])
    return (out if model.order(batch) is None else out[batch.inverse]), ends


def ragged(batch, seed):
    """Patch lengths as shards record them: no patch leaves its document."""
    rng = np.random.default_rng(seed)
    rows = batch.documents.numpy()
    real = (batch.input_ids != 0).view(batch.shape).sum(1).tolist()
    out = []
    for own, n in zip(rows, real):
        edges = np.flatnonzero((rng.random(n) < 0.4) | (np.diff(own[:n], prepend=-1) != 0))
        out.append(np.diff(np.append(edges, n)).astype(np.uint16))
    return out


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("kind", ["mask", "buckets"])
def test_changing_a_token_changes_nothing_before_it_nor_in_other_documents(
    make_contexts, vocabulary, options, kind
):
    model, table = model_of(**options), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(kinds=SPOKEN, seed=3)
    whole = make_batch(ids, lengths, table)
    given = ragged(whole, 5)
    before, ends_before = states(model, patched(whole, model.config, given), kind)
    owners = whole.documents.reshape(-1)
    index = torch.arange(owners.shape[0])
    for place in np.flatnonzero(ids.reshape(-1) >= 256)[::4]:
        changed, token = ids.copy(), int(ids.reshape(-1)[place])
        start = max(s for s in (256, 512, 768) if s <= token)
        changed.reshape(-1)[place] = start + (token - start + 5) % 16  # another one of its modality
        batch = patched(make_batch(changed, lengths, table), model.config, given)
        after, ends_after = states(model, batch, kind)
        reach = (owners == owners[place]) & (index >= place)
        torch.testing.assert_close(after[~reach], before[~reach], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ends_after[~reach], ends_before[~reach], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(after[place], before[place], atol=1e-3)


@pytest.mark.parametrize("options", KINDS)
def test_a_document_packed_with_others_equals_the_document_alone(make_contexts, vocabulary, options):
    model, table = model_of(**options), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(kinds=SPOKEN, contexts=4)
    packed, ends = states(model, make_batch(ids, lengths, table))
    packed, ends = packed.view(*ids.shape, -1), ends.view(ids.shape)
    for row in range(ids.shape[0]):
        start = 0
        for size in lengths[row]:
            piece = slice(start, start + int(size))
            alone = make_batch(ids[row : row + 1, piece], [np.array([size])], table)
            own, own_ends = states(model, alone)
            torch.testing.assert_close(packed[row, piece], own, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ends[row, piece], own_ends, rtol=1e-4, atol=1e-5)
            start += int(size)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("more", [{}, {"flow": FlowConfig(channels=3, codes=32, first=512)}])
def test_without_speech_states_and_losses_are_those_of_the_plain_model_bit_for_bit(batch_of, options, more):
    options = {**options, **more}
    model = model_of(**options)
    plain = Model(ModelConfig(**SMALL, **options))
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = batch_of(kinds=("t", "ti"))
    rows, bare = (m.rows(batch, "buckets", torch.float32) for m in (model, plain))
    assert torch.equal(model(rows), plain(bare))
    ours, theirs = (batch_losses(m, batch, "buckets", torch.float32, 32) for m in (model, plain))
    assert torch.equal(ours.total, theirs.total)
    assert torch.equal(ours.per_token, theirs.per_token)


@pytest.mark.parametrize("options", KINDS)
def test_losses_are_the_cross_entropies_of_all_tokens_and_of_the_ends_of_patches(batch_of, options):
    model, batch = model_of(**options), batch_of(contexts=2)
    losses = batch_losses(model, batch, "mask", torch.float32, 32, causal=True)
    assert losses.counts.tolist() == batch.target_counts
    seen, ends = states(model, batch)
    logs = torch.log_softmax(seen @ model.head_weight.t(), dim=1)
    made = patched(batch, model.config).speech.leaving
    last = dict(zip(made.tokens.tolist(), made.last.tolist()))
    expected = torch.zeros(len(batch.targets))
    for i, target in enumerate(batch.targets.tolist()):
        if target >= 0:
            expected[i] = -logs[i, target]
            if i in last:
                expected[i] -= torch.nn.functional.logsigmoid(ends[i] if last[i] else -ends[i])
    torch.testing.assert_close(losses.per_token, expected, rtol=1e-4, atol=1e-5)
    for m in range(3):
        mine = (batch.targets >= 0) & (batch.target_modality == m)
        torch.testing.assert_close(losses.sums[m], expected[mine].sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.total, expected.sum(), rtol=1e-4, atol=1e-4)
    alone = token_losses(model, batch, "mask", torch.float32, 32)
    torch.testing.assert_close(alone, losses.per_token.detach())


def test_contexts_read_as_a_whole_see_what_came_before(make_contexts, vocabulary):
    model, table = model_of(document_mask=False), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(kinds=("ts",), seed=2)
    before, _ = states(model, make_batch(ids, lengths, table, document_mask=False))
    changed = ids.copy()
    changed[1, 2] = 300 if ids[1, 2] != 300 else 301
    after, _ = states(model, make_batch(changed, lengths, table, document_mask=False))
    moved = (after - before).abs().amax(1).view(ids.shape) > 1e-6
    filled = int(sum(lengths[1]))
    assert moved[1, 2:filled].all()
    assert not moved[[0, 2]].any()
    assert not moved[1, :2].any()


@pytest.mark.parametrize("options", KINDS)
def test_every_parameter_learns(batch_of, options):
    model = model_of(**options)
    batch_losses(model, batch_of(contexts=6), "mask", torch.float32, 32).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("options", KINDS)
def test_without_speech_its_parameters_get_gradients_of_exactly_zero(batch_of, options):
    model = model_of(**options)
    batch_losses(model, batch_of(kinds=("t", "ti")), "mask", torch.float32, 32).total.backward()
    own = model.tower(2)
    assert {id(p) for p in model.speech.parameters()} <= {id(p) for p in own}
    for parameter in own:
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("options", KINDS)
def test_decoding_with_a_cache_gives_the_states_of_the_whole_sequence(vocabulary, options):
    model, table = model_of(**options), modality_table(vocabulary)
    document = [DOC, 300, SPEECH, *range(768, 776), END_SPEECH, 301, 302, END_DOC]
    lengths = [1, 1, 1, 3, 1, 4, 1, 1, 1, 1]
    batch = make_batch(np.array([document], np.uint16), [np.array([len(document)])], table)
    batch = patched(batch, model.config, [np.array(lengths)])
    rows = model.rows(batch, "mask", torch.float32, causal=True)
    seen = model(rows)
    ends = dict(zip(rows.tokens.tokens.tolist(), torch.sigmoid(rows.ends[0]).tolist()))
    logits = seen @ model.head_weight.t()
    cache, at = Cache(model, 64, torch.float32), 0
    for n in lengths:
        piece, state = document[at : at + n], cache.state
        for j in range(1, n):
            said, over = next_in_patch(model.speech, state, piece[:j], model.embedding)
            torch.testing.assert_close(said, seen[at + j - 1], rtol=1e-4, atol=1e-5)
            assert over == pytest.approx(ends[at + j - 1], abs=1e-5)
        found = decode(model, cache, piece, table, [n])
        torch.testing.assert_close(found, logits[at + n - 1], rtol=1e-4, atol=1e-4)
        at += n
    assert cache.length == len(lengths)
    once = Cache(model, 64, torch.float32)
    torch.testing.assert_close(
        decode(model, once, document, table, lengths), logits[-1], rtol=1e-4, atol=1e-4
    )


FLOW = FlowConfig(channels=3, codes=32, first=512)


def drawing(**options) -> Model:
    """A model with images as vectors."""
    model = model_of(**options, flow=FLOW)
    vectors = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    model.flow.vectors.data.copy_(torch.from_numpy(scaled_vectors(vectors)))
    return model


@pytest.mark.parametrize("options", KINDS)
def test_with_images_as_vectors_each_kind_keeps_its_loss(batch_of, options):
    model, batch = drawing(**options), batch_of(kinds=("its", "tsi", "s"), contexts=4)
    losses = batch_losses(model, batch, "mask", torch.float32, 32, causal=True, salt=3)
    seen = model(model.rows(batch, "mask", torch.float32, salt=3))
    ids = batch.input_ids.view(batch.shape)
    noised = model.flow.noised(ids, image_numbers(model.flow.is_image(ids), batch.documents), 3)
    error = (model.flow.velocity(seen) - noised.velocity).square().mean(1)
    logs = torch.log_softmax(seen @ model.head_weight.t(), dim=1)
    pictures = 0
    for i, target in enumerate(batch.targets.tolist()):
        if 512 <= target < 544:
            torch.testing.assert_close(losses.per_token[i], error[i + 1], rtol=1e-4, atol=1e-5)
            pictures += 1
        elif target >= 0 and not 768 <= batch.input_ids[i] < 784:
            torch.testing.assert_close(losses.per_token[i], -logs[i, target], rtol=1e-4, atol=1e-5)
    assert pictures > 3
    losses.total.backward()
    for name, parameter in model.named_parameters():
        if name != "flow.vectors" and "foretell" not in name:  # those learn beside the choice, not here
            assert bool(parameter.grad.abs().sum() > 0), name


def test_with_images_as_vectors_reading_with_a_cache_equals_reading_at_once(vocabulary, monkeypatch):
    model, table = drawing(untie=("ffn",)), modality_table(vocabulary)
    monkeypatch.setattr(FlowHead, "noised", lambda self, ids, images, salt: self.clean(ids.reshape(-1)))
    document = [DOC, SPEECH, *range(768, 775), END_SPEECH, IMAGE, 512, 520, 530, END_IMAGE, 300, END_DOC]
    batch = make_batch(np.array([document], np.uint16), [np.array([len(document)])], table)
    logits = model(model.rows(batch, "mask", torch.float32)) @ model.head_weight.t()
    cache = Cache(model, 64, torch.float32)
    for start, stop in ((0, 10), (10, 11), (11, 14), (14, 17)):
        found = decode(model, cache, document[start:stop], table)
        torch.testing.assert_close(found, logits[stop - 1], rtol=1e-4, atol=1e-4)


class Spoken:
    """Documents of speech in which units follow each other, in patches of 1, 2, 3, ... units."""

    def batch_arrays(self, step):
        rng = np.random.default_rng(step)
        ids = np.zeros((8, 24), np.uint16)
        for row in ids:
            start = int(rng.integers(4))
            units = [768 + (start + k) % 16 for k in range(10)]
            row[:17] = [DOC, 300 + start, 320, SPEECH, *units, END_SPEECH, 301, END_DOC]
        patches = [np.array([1, 1, 1, 1, 1, 2, 3, 4, 1, 1, 1])] * 8
        return ids, [np.array([17])] * 8, np.zeros(8, np.int32), None, patches

    def state(self, step):
        return {"step": step}

    def check(self, state):
        pass

    def documents(self, step):
        return []


@pytest.fixture(scope="module")
def spoken_vocabulary():
    names = [("special", 0, 256, 104, 0), ("text", 256, 256, 256, 0), ("image", 512, 256, 32, 1)]
    names.append(("speech", 768, 256, 16, 2))
    ranges = [
        {"name": n, "start": a, "size": s, "used": u, "modality": m, "fingerprint": ""}
        for n, a, s, u, m in names
    ]
    return {"version": 1, "size": 1024, "pad": 0, "dtype": "uint16", "ranges": ranges, "fingerprint": "f"}


MODEL = ModelConfig(dim=32, layers=2, heads=4, speech_patches={"size": 4})
TRAIN = TrainConfig(
    steps=100, batch_contexts=8, lr=1e-2, min_lr=1e-3, warmup=5, log_every=1, checkpoint_every=0
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, spoken_vocabulary):
    folder = tmp_path_factory.mktemp("patches")
    result = train(Spoken(), spoken_vocabulary, MODEL, TRAIN, folder, on_record=lambda r: None)
    return load_checkpoint_model(latest_checkpoint(folder / "checkpoints")), result


def test_a_model_that_has_learnt_to_speak_samples_patches_with_their_ends(trained, spoken_vocabulary):
    model, result = trained
    assert result.loss_last_by_modality["speech"] < 0.3
    tokens = generate(model, spoken_vocabulary, [DOC, 303, 320, SPEECH], max_tokens=17, temperature=0.0)
    assert tokens == [DOC, 303, 320, SPEECH, *range(771, 781), END_SPEECH, 301, END_DOC]


def test_sampling_patch_by_patch_is_the_same_for_the_same_seed_and_can_be_decoded(spoken_vocabulary):
    model = model_of(untie=())
    prompt = [DOC, SPEECH, 770, 771, 772, 773]
    draws = [generate(model, spoken_vocabulary, prompt, max_tokens=40, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    for tokens in draws:
        assert tokens.count(SPEECH) == tokens.count(END_SPEECH)
        assert tokens[-1] == END_DOC
        assert len(tokens) <= 40


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(tmp_path, spoken_vocabulary):
    config = TRAIN.model_copy(update={"steps": 8, "log_every": 2, "checkpoint_every": 4})
    quiet = {"on_record": lambda r: None}
    train(Spoken(), spoken_vocabulary, MODEL, config, tmp_path / "whole", **quiet)
    made = iter(range(1, 9))
    half = {"should_stop": lambda: next(made) == 5, **quiet}
    assert train(Spoken(), spoken_vocabulary, MODEL, config, tmp_path / "halves", **half).stopped_early
    train(Spoken(), spoken_vocabulary, MODEL, config, tmp_path / "halves", **quiet)
    one, two = (
        load_checkpoint_model(latest_checkpoint(tmp_path / name / "checkpoints")).state_dict()
        for name in ("whole", "halves")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_ranks_make_the_updates_of_one_where_only_one_of_them_has_speech(tmp_path):
    path = Path(__file__).with_name("latent_speech_worker.py")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(path), str(tmp_path / "two")],
            env={**shared, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    spec = importlib.util.spec_from_file_location("latent_speech_worker", path)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.run(str(tmp_path / "one"))
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-3000:]
    one, two = (
        load_checkpoint_model(latest_checkpoint(tmp_path / name / "checkpoints")).state_dict()
        for name in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_records_tell_how_much_shorter_the_trunk_reads(trained):
    _, result = trained
    record = read_metrics(result.metrics)[-1]
    assert record["rows_per_token"] == pytest.approx(11 / 17, abs=1e-4)


def test_the_trunk_does_less_work(vocabulary, batch_of):
    batch = batch_of(kinds=("s",))
    made = patched(batch, model_of().config)
    assert attended(made.speech.trunk)[0] == pytest.approx((1 - saving(made)) * attended(batch)[0])
    assert attended(made.speech.trunk)[1] < attended(batch)[1]


def test_exported_weights_give_the_same_losses_and_are_no_llama(tmp_path, batch_of, vocabulary):
    model, batch = model_of(untie=()), batch_of()
    export_model(model, vocabulary, tmp_path / "out")
    again, _ = load_exported(tmp_path / "out")
    ours, theirs = (token_losses(m, batch, "mask", torch.float32, 32) for m in (model, again))
    assert torch.equal(ours, theirs)
    assert not (tmp_path / "out" / "modeling_mixloom.py").exists()
    with pytest.raises(UserError, match="a model with speech_patches is no Llama"):
        export_transformers(model, tmp_path / "llama")


def test_bfloat16_and_compiled_blocks_come_close(batch_of):
    model, batch = model_of(), batch_of(contexts=4)
    exact = batch_losses(model, batch, "mask", torch.float32, 32, causal=True).total
    rough = batch_losses(model, batch, "mask", torch.bfloat16, 32, causal=True).total
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0.0)
    for block in model.blocks:
        block.compile(fullgraph=True, backend="eager")
    again = batch_losses(model, batch, "mask", torch.float32, 32, causal=True).total
    torch.testing.assert_close(again, exact)


def test_patches_of_the_shards_reach_the_model(tmp_path, vocabulary):
    documents = [[DOC, 300 + i, SPEECH, *range(768, 774), END_SPEECH, END_DOC] for i in range(6)]
    lengths = np.array([1, 1, 1, 2, 1, 3, 1, 1])
    rows = [
        Context(np.array(d, np.uint16), [len(d)], [f"d{i}"], ["s"], [0], patch_lengths=lengths)
        for i, d in enumerate(documents)
    ]
    shard = shard_name("talk", 0, 1)
    options = {"prefix": key_prefix(0, 0), "seq_len": 16, "vocabulary": vocabulary}
    entry = write_shard(tmp_path, shard, "talk", rows, **options)
    build_manifest([entry], vocabulary, seq_len=16).save(tmp_path)
    reader = ShardReader(tmp_path)
    mixture = weigh(reader.manifest, MixtureConfig(max_epochs=4), 2 * 2)
    stream = Stream(reader, mixture, seed=0, batch_contexts=2, steps=2)
    assert len(StreamSource(stream).batch_arrays(0)) == 3
    arrays = StreamSource(stream, patches=True).batch_arrays(0)
    assert [p.tolist() for p in arrays[4]] == [lengths.tolist()] * 2
    made = micro_batches(arrays, 1, modality_table(vocabulary), 3, config=model_of().config)[0]
    assert made.speech.entering.lengths.tolist() == [2, 1, 3] * 2
    middle = FillMiddle(rate=1.0)
    rearranged = StreamSource(with_objectives(stream, [middle], 8), patches=True).batch_arrays(0)
    taken = with_objectives(stream, [middle], 8).contexts(0).taken
    assert (taken > 0).any()
    assert [p is None for p in rearranged[4]] == (taken > 0).any(axis=1).tolist()


@pytest.fixture
def recorded(tmp_path, vocabulary):
    """Shards of speech whose patches are recorded, and the same shards without."""

    def write(name, lengths):
        documents = [[DOC, 300 + i, SPEECH, *range(768, 774), END_SPEECH, 301, END_DOC] for i in range(6)]
        rows = [
            Context(np.array(d, np.uint16), [len(d)], [f"d{i}"], ["s"], [0], patch_lengths=lengths)
            for i, d in enumerate(documents)
        ]
        options = {"prefix": key_prefix(0, 0), "seq_len": 16, "vocabulary": vocabulary}
        entry = write_shard(tmp_path / name, shard_name("talk", 0, 1), "talk", rows, **options)
        build_manifest([entry], vocabulary, seq_len=16).save(tmp_path / name)
        return ShardReader(tmp_path / name)

    return write("with", np.array([1, 1, 1, 2, 1, 3, 1, 1, 1])), write("without", None)


def test_every_reader_of_shards_takes_the_patches_they_record(recorded):
    """Losses by document, held-out sets, small trainings and experts: with patches of other lengths they differ."""
    with_patches, _ = recorded
    model = model_of(seq_len=16)
    for reader in recorded:
        batch = evaluate.batch_of(model.config, reader.manifest.vocabulary, reader, "talk", [0])
        expected = [2, 1, 3] if reader is with_patches else [3, 3]
        assert batch.speech.entering.lengths.tolist() == expected
    ours, theirs = (document_losses(model, reader) for reader in recorded)
    assert all(ours[d][1] == theirs[d][1] and ours[d][0] != theirs[d][0] for d in ours)
    skills = [
        _from_shards(
            ShardSkill(format="shards", name="talk", path="x"),
            str(r.directory),
            r.manifest.vocabulary,
            16,
            999,
        )
        for r in recorded
    ]
    assert [p.tolist() for p in skills[0].patches] == [[1, 1, 1, 2, 1, 3, 1, 1, 1]] * 6
    assert skills[1].patches is None
    assert skills[0].fingerprint != skills[1].fingerprint
    nats = [context_nats(model, s, with_patches.manifest.vocabulary) for s in skills]
    assert (nats[0] != nats[1]).all()
    told = [
        domain_stream(r, "talk", seed=0, batch_contexts=2, steps=2, max_epochs=9, patches=True).batch_arrays(
            0
        )
        for r in recorded
    ]
    assert [p.tolist() for p in told[0][4]] == [[1, 1, 1, 2, 1, 3, 1, 1, 1]] * 2
    assert told[1][4] == [None, None]
    subsets = [Subset(r, {"talk": np.array([1, 4])}) for r in recorded]
    assert subsets[0].fingerprint != subsets[1].fingerprint
    arrays = subsets[0].stream({"talk": 1.0}, seed=0, batch_contexts=2, steps=2, patches=True).batch_arrays(0)
    assert [p.tolist() for p in arrays[4]] == [[1, 1, 1, 2, 1, 3, 1, 1, 1]] * 2


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValidationError, match="modalities=2"):
        ModelConfig(**SMALL, speech_patches={}, modalities=2)
    with pytest.raises(ValidationError, match="size=20 is more than longest=16"):
        ModelConfig(**SMALL, speech_patches={"size": 20})
    weights = sum(p.numel() for p in model_of(untie=()).speech.parameters() if p.dim() > 0)
    config = model_of(untie=()).config
    bare = ModelConfig(**SMALL, untie=()).parameters()
    norms = 2 * 2 * 16 + 2 * 16
    assert config.parameters() - bare == weights - norms
