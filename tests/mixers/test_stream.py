"""The stream: what it serves is a function of the step, follows the weights in tokens, and keeps the caps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.prefetch import ahead
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream, as_iterable_dataset
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.shard_reader import ShardReader

BATCH = 12


def mixture_for(reader, budget: int, **config) -> Mixture:
    return estimate(Sources.from_manifest(reader.manifest), MixtureConfig(**config), budget)


def stream_of(
    reader, steps: int = 12, seed: int = 1, batch: int = BATCH, budget: int | None = None, **config
) -> Stream:
    mixture = mixture_for(reader, budget or reader.manifest.totals.tokens * 3, **config)
    return Stream(reader, mixture, seed=seed, batch_contexts=batch, steps=steps)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_world(reader, world):
    stream = stream_of(reader)
    for step in range(stream.steps):
        whole = stream.contexts(step)
        parts = [stream.contexts(step, rank, world) for rank in range(world)]
        assert [r for p in parts for r in p.refs] == whole.refs == stream.batch(step)
        assert np.concatenate([p.input_ids for p in parts]).tolist() == whole.input_ids.tolist()
        assert np.concatenate([p.domains for p in parts]).tolist() == whole.domains.tolist()


def test_any_step_can_be_asked_for_first_and_in_any_order(shards):
    forward = [stream_of(ShardReader(shards)).batch(step) for step in range(12)]
    one = stream_of(ShardReader(shards))
    assert [one.batch(step) for step in reversed(range(12))] == forward[::-1]


def test_a_longer_run_begins_like_a_shorter_one(reader):
    short, long = stream_of(reader, steps=3), stream_of(reader, steps=11)
    assert [short.batch(s) for s in range(3)] == [long.batch(s) for s in range(3)]


def test_the_seed_changes_the_contexts_and_not_the_domains(reader):
    a, b = stream_of(reader, seed=1), stream_of(reader, seed=2)
    assert [r.domain for r in a.batch(0)] == [r.domain for r in b.batch(0)]
    assert [r.index for r in a.batch(0)] != [r.index for r in b.batch(0)]


def test_another_process_serves_the_same_contexts(shards, reader):
    stream = stream_of(reader)
    stream.mixture.save(shards / "stream-test.yaml")
    code = (
        "import sys; from mixloom.mixers.stream import Stream; from mixloom.mixers.mixture import Mixture;"
        "from mixloom.pipeline.shard_reader import ShardReader;"
        "s = Stream(ShardReader(sys.argv[1]), Mixture.load(sys.argv[2]), seed=1, batch_contexts=12, steps=12);"
        "print([(r.domain, r.index, r.epoch) for t in range(12) for r in s.batch(t)]);"
        "assert not {'torch', 'apache_beam'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(shards), str(shards / "stream-test.yaml")]
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert said.strip() == str([(r.domain, r.index, r.epoch) for t in range(12) for r in stream.batch(t)])


def test_the_tokens_are_those_of_the_shards_and_name_their_documents(reader):
    stream = stream_of(reader)
    batch = stream.contexts(4)
    assert batch.input_ids.shape == (BATCH, 16)
    assert batch.input_ids.dtype == np.uint16
    for i, ref in enumerate(batch.refs):
        ids, lengths = reader.context(ref.domain, ref.index)
        assert batch.input_ids[i].tolist() == ids.tolist()
        assert batch.doc_lengths[i].tolist() == lengths.tolist()
        assert stream.domains[batch.domains[i]] == ref.domain
        assert len(stream.documents(ref)["doc_ids"]) == len(lengths)


SIZES = st.dictionaries(
    st.sampled_from(list("abcdefgh")),
    st.tuples(st.integers(1, 60), st.integers(1, 16)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=120, deadline=None)
@given(
    SIZES,
    st.floats(0.05, 1.0),
    st.sampled_from(["unimax", "proportional", "uniform", "temperature"]),
    st.data(),
)
def test_no_domain_exceeds_its_cap_and_every_epoch_serves_each_context_once(
    sizes_only, sizes, part, method, data
):
    reader = sizes_only({name: (n, n * mean) for name, (n, mean) in sizes.items()})
    epochs = data.draw(st.sampled_from([1.0, 2.0, 2.5, 4.0]))
    budget = max(1, int(part * epochs * reader.manifest.totals.tokens))
    mixture = mixture_for(reader, budget, method=method, max_epochs=epochs)
    rate = sum(mixture.weights[n] / sizes[n][1] for n in sizes)
    draws = max(1, int(budget * rate * (1 - 1e-9)) - len(sizes))
    stream = Stream(reader, mixture, seed=3, batch_contexts=1, steps=draws)
    domain, index, epoch = stream.draws(0, draws)
    shares = {n: mixture.weights[n] / sizes[n][1] / rate for n in sizes}
    for i, name in enumerate(stream.domains):
        mine, when = index[domain == i], epoch[domain == i]
        assert len(mine) <= epochs * sizes[name][0]
        for e in range(int(when.max(initial=-1)) + 1):
            served = mine[when == e]
            assert len(set(served.tolist())) == len(served)
            if e < when.max():
                assert len(served) == sizes[name][0]
        assert (np.diff(when) >= 0).all()
        # Rounding a cap down to whole contexts moves at most one context per domain to the others.
        at = np.cumsum(domain == i)
        assert (np.abs(at - shares[name] * np.arange(1, draws + 1)) <= 2 + len(sizes)).all()


def test_a_budget_of_exactly_every_epoch_serves_each_context_exactly_that_often(reader):
    total = reader.manifest.totals
    stream = stream_of(reader, batch=1, steps=4 * total.contexts, budget=4 * total.tokens)
    domain, index, _ = stream.draws(0, 4 * total.contexts)
    seen = {(int(d), int(i)) for d, i in zip(domain, index)}
    assert len(seen) == total.contexts
    assert all(((domain == d) & (index == i)).sum() == 4 for d, i in seen)
    assert [e.epochs for e in stream.exposure(stream.steps)] == [4.0, 4.0, 4.0]
    assert sum(e.tokens for e in stream.exposure(stream.steps)) == 4 * total.tokens


def test_served_tokens_follow_the_weights_although_contexts_differ_in_fill(sizes_only):
    reader = sizes_only({"full": (10_000, 160_000), "thin": (40_000, 80_000)})
    mixture = mixture_for(reader, 100_000, method="uniform")
    stream = Stream(reader, mixture, seed=0, batch_contexts=100, steps=280)
    for step in (40, 100, 280):
        tokens = {e.domain: e.tokens for e in stream.exposure(step, exact=False)}
        assert tokens["full"] / (tokens["full"] + tokens["thin"]) == pytest.approx(0.5, abs=0.005)
    counts = (
        {e.domain: e.contexts for e in stream.exposure(280)} if False else stream.exposure(280, exact=False)
    )
    assert counts[1].contexts == pytest.approx(8 * counts[0].contexts, rel=0.01)


def test_a_run_that_would_exceed_a_cap_is_refused_before_it_starts(reader):
    total = reader.manifest.totals
    fits = 4 * total.contexts // BATCH
    stream_of(reader, steps=fits, budget=4 * total.tokens)
    with pytest.raises(UserError, match=r"domain '\w\w' would be served .* epochs .* allowed: 4 epochs") as e:
        stream_of(reader, steps=fits + 2, budget=4 * total.tokens)
    assert f"train at most {fits} steps" in e.value.fix


def test_a_cap_under_which_not_one_context_fits_is_refused(reader):
    with pytest.raises(UserError, match="not one context fits under the cap"):
        stream_of(reader, steps=1, batch=1, budget=1, max_epochs=0.01)


def test_a_mixture_for_other_shards_is_refused(reader, sizes_only):
    other = mixture_for(sizes_only({"aa": (4, 40), "bb": (4, 40)}), 50)
    with pytest.raises(UserError, match="leave out domain 'cc'"):
        Stream(reader, other, seed=0, batch_contexts=1, steps=1)
    larger = mixture_for(sizes_only({"aa": (40, 300), "bb": (12, 100), "cc": (5000, 20_000)}), 20_000)
    with pytest.raises(UserError, match="domain 'cc' would be served"):
        Stream(reader, larger, seed=0, batch_contexts=1, steps=1)


def test_a_domain_of_weight_zero_is_never_served(reader):
    stream = stream_of(reader, steps=8, budget=150, method="fixed", weights={"aa": 0.9, "bb": 0.1, "cc": 0.0})
    assert {r.domain for s in range(8) for r in stream.batch(s)} == {"aa", "bb"}


def test_exposure_counts_real_tokens_context_by_context(reader):
    stream = stream_of(reader)
    for step in (0, 1, 7, 12):
        refs = [r for s in range(step) for r in stream.batch(s)]
        for e in stream.exposure(step):
            mine = [r for r in refs if r.domain == e.domain]
            assert e.contexts == len(mine)
            assert e.tokens == sum(int(reader.context(r.domain, r.index)[1].sum()) for r in mine)
            assert e.epochs == len(mine) / reader.contexts(e.domain)


def test_a_checkpoint_is_a_step_and_fingerprints_and_fits_only_its_own_stream(reader):
    stream = stream_of(reader)
    state = json.loads(json.dumps(stream.state(9)))
    assert stream_of(reader, steps=10).check(state) == 9
    for other, said in [
        (stream_of(reader, seed=2), "has seed 1, this one 2"),
        (stream_of(reader, batch=6), "has batch_contexts 12, this one 6"),
        (stream_of(reader, max_epochs=3.5), "has mixture"),
    ]:
        with pytest.raises(UserError, match=said):
            other.check(state)
    with pytest.raises(UserError, match="has manifest 'x'"):
        stream.check({**state, "manifest": "x"})
    with pytest.raises(UserError, match="has version None"):
        stream.check({"step": 3})


def test_what_lies_outside_the_run_or_does_not_divide_is_refused(reader):
    stream = stream_of(reader)
    for step, rank, world in [(12, 0, 1), (-1, 0, 1), (0, 2, 2)]:
        with pytest.raises(IndexError):
            stream.batch(step, rank, world)
    with pytest.raises(UserError, match="batch_contexts 12 cannot be split evenly over 5 ranks"):
        stream.batch(0, 0, 5)
    with pytest.raises(UserError, match="both are at least 1"):
        stream_of(reader, steps=0)


def test_a_period_shorter_than_the_budget_keeps_weights_and_caps(sizes_only, monkeypatch):
    monkeypatch.setattr("mixloom.mixers.stream.MAX_PERIOD", 64)
    reader = sizes_only({"a": (500, 5000), "b": (300, 3000), "c": (40, 400)})
    mixture = mixture_for(reader, 8000)
    draws = 790
    stream = Stream(reader, mixture, seed=0, batch_contexts=1, steps=draws)
    served = {e.domain: e.contexts for e in stream.exposure(draws, exact=False)}
    assert served["c"] <= 160
    for name, count in served.items():
        assert abs(count - draws * mixture.weights[name]) <= 2 * draws / 64 + 1
    domain, index, epoch = stream.draws(0, draws)
    assert len({(int(d), int(i), int(e)) for d, i, e in zip(domain, index, epoch)}) == draws


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reading_ahead_changes_neither_the_items_nor_the_place_of_an_error(depth):
    assert list(ahead(range(20), depth)) == list(range(20))

    def broken():
        yield from range(3)
        raise ValueError("broken")

    got = []

    def read():
        for item in ahead(broken(), depth):
            got.append(item)

    with pytest.raises(ValueError, match="broken"):
        read()
    assert got == [0, 1, 2]


def test_the_thread_that_reads_ahead_ends_with_its_reader():
    before = threading.active_count()
    source = ahead(iter(int, 1), 2)
    next(source)
    assert threading.active_count() == before + 1
    source.close()
    assert threading.active_count() == before


def test_the_torch_dataset_yields_the_steps_in_order_for_any_number_of_workers(reader):
    torch = pytest.importorskip("torch")
    stream = stream_of(reader, steps=6)
    want = [stream.contexts(step, 1, 2) for step in range(2, 6)]
    for workers in (0, 2):
        dataset = as_iterable_dataset(stream, start=2, rank=1, world=2, prefetch=2)
        got = list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers))
        assert [g["step"] for g in got] == [2, 3, 4, 5]
        for g, w in zip(got, want):
            assert g["input_ids"].tolist() == w.input_ids.tolist()
            assert g["doc_lengths"].dtype == torch.int32
            assert [[x for x in row if x] for row in g["doc_lengths"].tolist()] == [
                n.tolist() for n in w.doc_lengths
            ]
            assert g["domains"].tolist() == w.domains.tolist()
