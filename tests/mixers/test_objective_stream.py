"""Objectives on a stream: the same for any ranks and workers, other ones each epoch, shards untouched."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture_log import ExcludeEntry
from mixloom.mixers.objective_stream import ObjectiveStream, sampled_shares, with_objectives
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream, as_iterable_dataset
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.tokenizers.objective_settings import CausalMask, FillMiddle, MixtureOfDenoisers
from mixloom.tokenizers.objectives import restore
from mixloom.tokenizers.vocab import DOC, END_DOC

SEQ_LEN = 48
VOCABULARY = {
    "version": 1,
    "size": 1024,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [
        {"name": "special", "start": 0, "size": 256, "used": 96, "modality": 0, "fingerprint": "s"},
        {"name": "text", "start": 256, "size": 768, "used": 768, "modality": 0, "fingerprint": "t"},
    ],
    "fingerprint": "v",
}
MIXED = (FillMiddle(rate=0.4), CausalMask(rate=0.3), MixtureOfDenoisers(rate=0.3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of two domains, each context of two or three documents of two sources."""
    root = tmp_path_factory.mktemp("objectives")
    rng = np.random.Generator(np.random.PCG64(3))
    entries = []
    for d, (domain, count) in enumerate([("code", 12), ("prose", 8)]):
        rows = []
        for i in range(count):
            lengths = [int(rng.integers(8, 16)) for _ in range(3)]
            ids = [np.array([DOC, *rng.integers(256, 1024, n - 2), END_DOC], np.uint16) for n in lengths]
            names = [f"{domain}{i}{k}" for k in range(3)]
            rows.append(Context(np.concatenate(ids), lengths, names, ["x", "y", "x"], [0, 0, 0]))
        name, common = shard_name(domain, 0, 1), {"seq_len": SEQ_LEN, "vocabulary": VOCABULARY}
        entries.append(write_shard(root, name, domain, rows, prefix=key_prefix(d, 0), block=4, **common))
    build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN).save(root)
    return root


def plain(folder, steps: int = 12, seed: int = 1) -> Stream:
    reader = ShardReader(folder)
    config = MixtureConfig(method="proportional", max_epochs=8)
    mixture = estimate(Sources.from_manifest(reader.manifest), config, reader.manifest.totals.tokens * 4)
    return Stream(reader, mixture, seed=seed, batch_contexts=4, steps=steps)


def served(stream: Stream, step: int, rank: int = 0, world: int = 1):
    b = stream.contexts(step, rank, world)
    return b.input_ids.tolist(), [r.tolist() for r in b.doc_lengths], b.counted.tolist()


def test_every_document_restores_to_the_one_in_the_shards(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    stream = ObjectiveStream(plain(folder), MIXED)
    changed = 0
    for step in range(stream.steps):
        new, old = stream.contexts(step), plain(folder).contexts(step)
        assert new.input_ids.shape == (4, SEQ_LEN + 64)
        assert new.refs == old.refs
        for row, lengths, stored, were in zip(
            new.input_ids, new.doc_lengths, old.input_ids, old.doc_lengths, strict=True
        ):
            pieces = np.split(row, np.cumsum(lengths))[:-1]
            wanted = np.split(stored, np.cumsum(were))[:-1]
            assert [restore(p).tolist() for p in pieces] == [w.tolist() for w in wanted]
            changed += sum(len(p) != len(w) for p, w in zip(pieces, wanted, strict=True))
    assert changed > 100
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_get_the_parts_of_one_global_batch(folder, world):
    stream = ObjectiveStream(plain(folder), MIXED)
    for step in (0, 5, 11):
        parts = [served(stream, step, rank, world) for rank in range(world)]
        assert [functools.reduce(operator.iadd, columns, []) for columns in zip(*parts)] == list(
            served(stream, step)
        )


def test_steps_may_be_asked_for_in_any_order(folder):
    one, other = ObjectiveStream(plain(folder), MIXED), ObjectiveStream(plain(folder), MIXED)
    forward = [served(one, s) for s in range(12)]
    assert [served(other, s) for s in reversed(range(12))] == forward[::-1]


def test_a_context_is_rearranged_otherwise_in_another_epoch_and_with_another_seed(folder):
    stream, seen = ObjectiveStream(plain(folder), (FillMiddle(rate=1),)), {}
    for step in range(12):
        b = stream.contexts(step)
        for ref, row in zip(b.refs, b.input_ids.tolist(), strict=True):
            seen.setdefault((ref.domain, ref.index), {})[ref.epoch] = row
    again = [rows for rows in seen.values() if len(rows) > 1]
    assert len(again) > 10
    assert sum(rows[0] != rows[1] for rows in again if {0, 1} <= set(rows)) > 10
    by_seed = [ObjectiveStream(plain(folder, seed=s), MIXED) for s in (1, 2)]
    rows = [
        {(r.domain, r.index): row for r, row in zip(b.refs, b.input_ids.tolist(), strict=True)}
        for b in (s.contexts(0) for s in by_seed)
    ]
    shared = rows[0].keys() & rows[1].keys()
    assert not shared or any(rows[0][k] != rows[1][k] for k in shared)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_torch_dataset_serves_the_same_batches_and_what_counts(folder, workers):
    torch = pytest.importorskip("torch")
    stream = ObjectiveStream(plain(folder), MIXED)
    loader = torch.utils.data.DataLoader(
        as_iterable_dataset(stream), batch_size=None, num_workers=workers, multiprocessing_context=None
    )
    for step, b in enumerate(loader):
        ids, lengths, counted = served(stream, step)
        assert b["input_ids"].tolist() == ids
        assert b["counted"].tolist() == counted
        assert [[n for n in row if n] for row in b["doc_lengths"].tolist()] == lengths


def test_only_the_domains_and_sources_asked_for_are_rearranged(folder):
    by_domain = ObjectiveStream(plain(folder), (FillMiddle(rate=1, domains=("code",)),))
    by_source = ObjectiveStream(plain(folder), (CausalMask(rate=1, sources=("y",)),))
    for step in range(6):
        b = by_domain.contexts(step)
        for ref, taken in zip(b.refs, b.taken, strict=True):
            assert (taken != 0).all() == (ref.domain == "code")
        assert (by_source.contexts(step).taken[:, [0, 2]] == 0).all()
        assert (by_source.contexts(step).taken[:, 1] == 1).all()


def test_the_share_that_found_room_is_told(folder):
    wide, none = (ObjectiveStream(plain(folder), MIXED, room) for room in (200, 0))
    for stream in (wide, none):
        fim, cm3, ul2 = stream.shares(range(12))
        assert [fim.kind, cm3.kind, ul2.kind] == ["fim", "cm3", "ul2"]
        assert fim.documents == 12 * 4 * 3
        assert fim.wanted + cm3.wanted + ul2.wanted == fim.documents  # their rates add up to 1
        assert (fim.applied == fim.wanted) == (stream is wide)
        assert fim.applied > 0
    assert sampled_shares(wide, most=4) == wide.shares([0, 3, 6, 9])
    assert sampled_shares(plain(folder)) == []


def test_a_checkpoint_names_both_objectives_when_they_differ(folder):
    fim, cm3 = (ObjectiveStream(plain(folder), (o,)) for o in (FillMiddle(rate=0.25), CausalMask(rate=0.5)))
    assert fim.check(fim.state(3)) == 3
    with pytest.raises(UserError, match=r"fim at rate 0\.25; room 64 .* this one 'cm3 at rate 0\.5; room 64"):
        cm3.check(fim.state(3))
    with pytest.raises(UserError, match=r"has objectives 'none', this one 'fim"):
        fim.check(plain(folder).state(3))
    with pytest.raises(UserError, match=r"has objectives 'fim at rate 0\.25.*this one 'none'"):
        plain(folder).check(fim.state(3))
    with pytest.raises(UserError, match="room 32"):
        fim.check(ObjectiveStream(plain(folder), fim.objectives, 32).state(3))


def test_leaving_contexts_out_keeps_the_objectives(folder):
    stream = ObjectiveStream(plain(folder, steps=6), MIXED)
    first = stream.batch(0)[0]
    entry = ExcludeEntry(from_step=2, contexts=((first.domain, first.index),), documents=(), reason="noise")
    longer = stream.amended(entry, served=2)
    assert isinstance(longer, ObjectiveStream)
    assert longer.description == stream.description
    assert served(longer, 0) == served(stream, 0)


def test_without_objectives_a_stream_stays_what_it_is(folder):
    stream = plain(folder)
    assert with_objectives(stream, ()) is stream
