"""The order of draws over phases, later mixtures and exclusions, against the plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.mixture_log import ExcludeEntry, MixtureEntry, MixtureLog
from mixloom.mixers.stream import Stream
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.shard_reader import ShardReader

NAMES = ("a", "b", "c")


def mixture_of(sizes, *phases, budget: int, cap: float = 4.0) -> Mixture:
    """A mixture over `sizes`, {name: (contexts, tokens)}, from (start, weights) pairs."""
    domains = tuple(MixtureDomain(name=n, tokens=t, max_epochs=cap) for n, (_, t) in sizes.items())
    made = tuple(Phase(start=s, weights=dict(zip(sizes, w))) for s, w in phases)
    return Mixture(estimator="fixed", inputs="x", budget_tokens=budget, domains=domains, phases=made)


def served_by(stream: Stream, stop: int) -> np.ndarray:
    """Contexts of each domain before every draw 0..stop: int64 [stop + 1, n]."""
    domain = stream.draws(0, stop)[0]
    one_hot = domain[:, None] == np.arange(len(stream.domains))
    return np.concatenate([np.zeros((1, len(stream.domains)), np.int64), np.cumsum(one_hot, axis=0)])


@st.composite
def runs(draw, max_phases: int = 3):
    """Sizes, phases whose weights fit under the caps, and a batch size."""
    names = NAMES[: draw(st.integers(2, 3))]
    sizes = {
        n: (c, c * m)
        for n, (c, m) in ((n, (draw(st.integers(8, 60)), draw(st.integers(1, 9)))) for n in names)
    }
    starts = sorted(draw(st.sets(st.integers(1, 19), max_size=max_phases - 1)))
    phases = []
    for start in (0, *starts):
        raw = [draw(st.integers(0, 9)) for _ in names]
        raw[draw(st.integers(0, len(names) - 1))] += 1
        phases.append((start / 20, [x / sum(raw) for x in raw]))
    ends = [start for start, _ in phases[1:]] + [1.0]
    mean = np.array([sum((e - s) * w[i] for (s, w), e in zip(phases, ends)) for i in range(len(names))])
    fits = min(4 * sizes[n][1] / m for n, m in zip(names, mean) if m > 0)
    budget = max(1, int(draw(st.floats(0.2, 1.0)) * fits))
    return sizes, phases, budget, draw(st.sampled_from([1, 2, 4]))


def stream_for(sizes_only, case, log=None, **more) -> Stream:
    sizes, phases, budget, batch = case
    reader = sizes_only(sizes)
    mixture = mixture_of(sizes, *phases, budget=budget, **more)
    draws = _contexts(mixture, sizes)
    return Stream(reader, mixture, seed=3, batch_contexts=batch, steps=max(1, draws // batch), log=log)


def _contexts(mixture: Mixture, sizes) -> int:
    """Contexts in the budget: tokens of each domain and phase, by its mean tokens per context."""
    each = [t / (sizes[n][1] / sizes[n][0]) for part in mixture.phase_tokens for n, t in part.items()]
    return max(1, int(sum(each) + 1e-6))


@settings(max_examples=120, deadline=None)
@given(runs())
def test_each_phase_follows_its_own_weights_from_its_own_start(sizes_only, case):
    stream = stream_for(sizes_only, case)
    sizes, phases, budget, _ = case
    total = stream.steps * stream.batch_contexts
    served = served_by(stream, total)
    ends, at = [], 0.0
    for share, (_, w) in zip(stream.mixture.phase_shares, phases):
        at += sum(budget * share * x / (sizes[n][1] / sizes[n][0]) for n, x in zip(sizes, w))
        ends.append(max(1, int(at + 1e-6)))
    begin = 0
    for (_, w), end in zip(phases, ends):
        stop = min(end, total)
        if stop <= begin:
            continue
        raw = np.array([x / (sizes[n][1] / sizes[n][0]) for n, x in zip(sizes, w)])
        share = raw / raw.sum()
        counts = stream.plan.stretches[stream.plan._at(begin)].schedule.counts
        assert abs(counts - share * (end - begin)).max() < 1 + 1e-6, "whole contexts of the phase"
        assert counts.sum() == end - begin
        t = np.arange(stop - begin + 1)[:, None]
        assert (np.abs(served[begin : stop + 1] - served[begin] - t * counts / counts.sum()) < 1).all()
        begin = end


@settings(max_examples=100, deadline=None)
@given(runs(), st.data())
def test_caps_hold_over_the_whole_run_and_no_context_comes_twice_in_an_epoch(sizes_only, case, data):
    """With later mixtures and exclusions anywhere."""
    sizes, _, budget, batch = case
    steps = stream_for(sizes_only, case).steps
    entries: list = []
    for _ in range(data.draw(st.integers(0, 3))):
        step = data.draw(st.integers(0, steps - 1))
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(list(sizes)))
            some = data.draw(st.sets(st.integers(0, sizes[name][0] - 1), min_size=1, max_size=3))
            entries.append(ExcludeEntry(from_step=step, contexts=tuple((name, i) for i in some)))
        else:
            w = [t / sum(t for _, t in sizes.values()) for _, t in sizes.values()]  # always fits
            entries.append(MixtureEntry(from_step=step, mixture=mixture_of(sizes, (0.0, w), budget=budget)))
    try:
        stream = stream_for(sizes_only, case, MixtureLog(entries))
    except UserError:
        return  # the later mixture, or what is left out, leaves too little; see the tests of the errors
    total = stream.steps * batch
    domain, index, epoch = stream.draws(0, total)
    draw = np.arange(total)
    for i, name in enumerate(stream.domains):
        mine = domain == i
        assert len({(a, b) for a, b in zip(index[mine].tolist(), epoch[mine].tolist())}) == mine.sum()
        assert mine.sum() <= 4 * sizes[name][0]
        assert (np.diff(epoch[mine]) >= 0).all()
        assert not mine.any() or epoch[mine].max() < 4
        for e in entries:
            if isinstance(e, ExcludeEntry) and e.contexts[0][0] == name:
                after = mine & (draw >= e.from_step * batch)
                assert not set(index[after].tolist()) & {n for _, n in e.contexts}
    # Any draw can be looked up alone.
    for t in data.draw(st.lists(st.integers(0, total - 1), max_size=5)):
        assert [x.tolist() for x in stream.draws(t, t + 1)] == [[domain[t]], [index[t]], [epoch[t]]]


@settings(max_examples=60, deadline=None)
@given(runs(), st.data())
def test_an_entry_changes_nothing_before_its_step(sizes_only, case, data):
    before = stream_for(sizes_only, case)
    step = data.draw(st.integers(0, before.steps - 1))
    name = data.draw(st.sampled_from(before.domains))
    entry = ExcludeEntry(from_step=step, contexts=((name, 0),))
    try:
        after = before.amended(entry, served=step)
    except UserError:
        return
    at = step * before.batch_contexts
    assert [x.tolist() for x in after.draws(0, at)] == [x.tolist() for x in before.draws(0, at)]


def test_an_exclusion_leaves_the_turns_of_the_domains_and_the_order_of_the_rest_as_they_were(sizes_only):
    sizes = {"a": (50, 500), "b": (50, 500)}
    case = (sizes, [(0.0, [0.5, 0.5])], 1000, 4)
    plain = stream_for(sizes_only, case)
    bad = plain.batch(3)
    without = ExcludeEntry(from_step=3, contexts=tuple((r.domain, r.index) for r in bad))
    quiet = plain.amended(without, served=3)
    assert [r.domain for s in range(20) for r in quiet.batch(s)] == [
        r.domain for s in range(20) for r in plain.batch(s)
    ]
    for name in sizes:
        was = [r.index for s in range(3, 20) for r in plain.batch(s) if r.domain == name]
        now = [r.index for s in range(3, 20) for r in quiet.batch(s) if r.domain == name]
        kept = [i for i in was if (name, i) not in without.contexts]
        assert now[: len(kept)] == kept, "the next contexts move up"
    assert [e.contexts for e in quiet.exposure(20, exact=False)] == [
        e.contexts for e in plain.exposure(20, exact=False)
    ]


def test_where_exclusions_use_up_a_cap_the_other_domains_take_the_draws(sizes_only):
    sizes = {"a": (10, 100), "b": (200, 2000)}
    case = (sizes, [(0.0, [0.5, 0.5])], 800, 4)  # a: exactly 4 epochs
    plain = stream_for(sizes_only, case)
    assert [e.contexts for e in plain.exposure(plain.steps, exact=False)] == [40, 40]
    less = plain.amended(ExcludeEntry(from_step=10, contexts=(("a", 3), ("a", 4))), served=10)
    a, b = less.exposure(less.steps, exact=False)
    assert a.contexts < 40
    assert a.contexts + b.contexts == 80
    domain, index, epoch = less.draws(0, 80)
    assert epoch[domain == 0].max() == 3
    assert not {3, 4} & set(index[40:][domain[40:] == 0].tolist())


def test_a_domain_that_is_wholly_excluded_is_an_error_unless_it_has_no_weight(sizes_only):
    sizes = {"a": (3, 30), "b": (50, 500)}
    case = (sizes, [(0.0, [0.1, 0.9])], 200, 1)
    everything = ExcludeEntry(from_step=5, contexts=tuple(("a", i) for i in range(3)))
    with pytest.raises(UserError, match="excludes all 3 contexts of domain 'a'") as e:
        stream_for(sizes_only, case, MixtureLog([everything]))
    assert "weight 0" in e.value.fix
    without = MixtureEntry(from_step=5, mixture=mixture_of(sizes, (0.0, [0.0, 1.0]), budget=200))
    stream = stream_for(sizes_only, case, MixtureLog([everything, without]))
    assert {r.domain for s in range(5, stream.steps) for r in stream.batch(s)} == {"b"}


def test_a_later_mixture_holds_from_its_step_and_counts_what_was_served_before(sizes_only):
    sizes = {"a": (10, 100), "b": (100, 1000)}
    case = (sizes, [(0.0, [0.3, 0.7])], 1000, 5)
    more = MixtureEntry(from_step=10, mixture=mixture_of(sizes, (0.0, [0.4, 0.6]), budget=1000))
    stream = stream_for(sizes_only, case, MixtureLog([more]))
    assert [e.contexts for e in stream.exposure(10, exact=False)] == [15, 35]
    assert [e.contexts for e in stream.exposure(20, exact=False)] == [35, 65]
    assert [r.index for s in range(10, 12) for r in stream.batch(s) if r.domain == "a"] != []
    assert stream.rates(0).tolist() == [0.3, 0.7]
    assert stream.rates(10).tolist() == [0.4, 0.6]
    # Alone it would fit 4 epochs; with what went before it does not.
    first = (sizes, [(0.0, [0.4, 0.6])], 1000, 5)
    too_much = MixtureEntry(
        from_step=10, mixture=mixture_of(sizes, (0.0, [0.0, 1.0]), (0.5, [0.8, 0.2]), budget=1000)
    )
    with pytest.raises(
        UserError, match=r"domain 'a' would be served 6 epochs .* in the budget of phase 2 of"
    ):
        stream_for(sizes_only, first, MixtureLog([too_much]))


def test_phases_of_a_later_mixture_begin_by_the_clock_of_the_run(sizes_only):
    sizes = {"a": (100, 1000), "b": (100, 1000)}
    case = (sizes, [(0.0, [1.0, 0.0])], 1000, 10)
    change = mixture_of(sizes, (0.0, [0.5, 0.5]), (0.8, [0.0, 1.0]), budget=1000)
    stream = stream_for(sizes_only, case, MixtureLog([MixtureEntry(from_step=4, mixture=change)]))
    shares = [np.mean([r.domain == "a" for r in stream.batch(s)]) for s in range(10)]
    assert shares == [1.0] * 4 + [0.5] * 4 + [0.0] * 2


def test_a_run_longer_than_its_budget_goes_on_with_the_last_phase(sizes_only):
    sizes = {"a": (100, 1000), "b": (100, 1000)}
    mixture = mixture_of(sizes, (0.0, [1.0, 0.0]), (0.5, [0.5, 0.5]), budget=400)
    stream = Stream(sizes_only(sizes), mixture, seed=0, batch_contexts=10, steps=8)
    shares = [np.mean([r.domain == "a" for r in stream.batch(s)]) for s in range(8)]
    assert shares == [1.0] * 2 + [0.5] * 6
    log = MixtureLog([ExcludeEntry(from_step=6, contexts=(("a", 1),))])
    later = Stream(sizes_only(sizes), mixture, seed=0, batch_contexts=10, steps=8, log=log)
    assert [np.mean([r.domain == "a" for r in later.batch(s)]) for s in range(8)] == shares


def test_the_length_of_the_run_does_not_change_its_order_with_phases_and_a_log(sizes_only):
    sizes = {"a": (40, 400), "b": (60, 300)}
    mixture = mixture_of(sizes, (0.0, [0.8, 0.2]), (0.6, [0.3, 0.7]), budget=600)
    log = MixtureLog(
        [
            ExcludeEntry(from_step=9, contexts=(("a", 1), ("b", 7))),
            MixtureEntry(from_step=14, mixture=mixture_of(sizes, (0.0, [0.5, 0.5]), budget=600)),
        ]
    )
    streams = [
        Stream(sizes_only(sizes), mixture, seed=0, batch_contexts=4, steps=n, log=log) for n in (7, 12, 20)
    ]
    for stream in streams:
        assert [stream.batch(s) for s in range(7)] == [streams[0].batch(s) for s in range(7)]
    assert [streams[1].batch(s) for s in range(12)] == [streams[2].batch(s) for s in range(12)]


def test_a_log_for_other_shards_is_refused(sizes_only):
    sizes = {"a": (4, 40), "b": (50, 500)}
    case = (sizes, [(0.0, [0.1, 0.9])], 100, 1)
    for contexts, said in [
        ((("x", 0),), "'x', no domain here"),
        ((("a", 4),), "context 4 of domain 'a', which has 4"),
    ]:
        with pytest.raises(UserError, match=said):
            stream_for(sizes_only, case, MixtureLog([ExcludeEntry(from_step=0, contexts=contexts)]))
    other = mixture_of({"a": (4, 40)}, (0.0, [1.0]), budget=40)
    with pytest.raises(UserError, match="leave out domain 'b'"):
        stream_for(sizes_only, case, MixtureLog([MixtureEntry(from_step=0, mixture=other)]))


def test_an_amended_stream_equals_one_made_anew_from_the_file(shards, tmp_path):
    reader, path = ShardReader(shards), tmp_path / "mixture-log.jsonl"
    weights = {"aa": 0.6, "bb": 0.3, "cc": 0.1}
    manifest = reader.manifest
    domains = tuple(MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=4) for d in manifest.domains)
    phases = (Phase(weights=weights), Phase(start=0.8, weights={"aa": 0.5, "bb": 0.5, "cc": 0.0}))
    mixture = Mixture(
        estimator="fixed", inputs="x", budget_tokens=manifest.totals.tokens, domains=domains, phases=phases
    )
    common = {"seed": 1, "batch_contexts": 4, "steps": 12}
    stream = Stream(reader, mixture, log=MixtureLog.load(path), **common)
    early = stream.state(5)
    bad = stream.quarantine(5, reason="loss is not finite")
    assert bad.from_step == 5
    assert set(bad.documents) == {d for r in stream.batch(5) for d in stream.documents(r)["doc_ids"]}
    quiet = stream.amended(bad, served=5)
    assert not set(bad.contexts) & {(r.domain, r.index) for s in range(5, 12) for r in quiet.batch(s)}
    again = Stream(reader, mixture, log=MixtureLog.load(path), **common)
    assert [again.batch(s) for s in range(12)] == [quiet.batch(s) for s in range(12)]
    assert [e.tokens for e in again.exposure(12)] == [
        sum(
            int(reader.context(d, r.index)[1].sum())
            for s in range(12)
            for r in again.batch(s)
            if r.domain == d
        )
        for d in reader.domains
    ]
    # A checkpoint from before the entry goes on with it; one from after it does not go on without.
    assert again.check(early) == stream.check(early) == 5
    late = again.state(6)
    assert "log" not in early
    assert again.check(late) == 6
    for other in (stream, Stream(reader, mixture, **common)):
        with pytest.raises(UserError, match="mixture log does not say of the steps before 6"):
            other.check(late)
    with pytest.raises(UserError, match="mixture log does not say"):
        again.check(stream.state(6))
    with pytest.raises(UserError, match="begins at step 2, but 3 steps have been served"):
        quiet.amended(ExcludeEntry(from_step=2, contexts=(("aa", 0),)), served=3)
    assert len(MixtureLog.load(path).entries) == 1


def test_an_entry_that_cannot_be_followed_is_not_written(shards, tmp_path):
    reader, path = ShardReader(shards), tmp_path / "log.jsonl"
    domains = tuple(
        MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=4) for d in reader.manifest.domains
    )
    phase = Phase(weights={"aa": 0.6, "bb": 0.3, "cc": 0.1})
    mixture = Mixture(estimator="fixed", inputs="x", budget_tokens=200, domains=domains, phases=(phase,))
    stream = Stream(reader, mixture, seed=1, batch_contexts=4, steps=8, log=MixtureLog.load(path))
    with pytest.raises(UserError, match="excludes all 5 contexts of domain 'cc'"):
        stream.amended(ExcludeEntry(from_step=4, contexts=tuple(("cc", i) for i in range(5))), served=4)
    assert not path.exists()
    unwritten = stream.amended(ExcludeEntry(from_step=4, contexts=(("cc", 0),)), served=4, write=False)
    assert not path.exists()
    assert len(unwritten.log.entries) == 1


def test_documents_are_left_out_with_every_context_that_holds_them(shards):
    reader = ShardReader(shards)
    domains = tuple(
        MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=4) for d in reader.manifest.domains
    )
    phase = Phase(weights={"aa": 0.6, "bb": 0.3, "cc": 0.1})
    mixture = Mixture(estimator="fixed", inputs="x", budget_tokens=200, domains=domains, phases=(phase,))
    stream = Stream(reader, mixture, seed=1, batch_contexts=4, steps=8)
    bad = ["aa13b", "bb07a", "aa00a"]
    entry = stream.without_documents([*bad, "aa13b"], from_step=2, reason="copyright")
    slow = {
        (d, i)
        for d in reader.domains
        for i in range(reader.contexts(d))
        if set(bad) & set(reader.info(d, i)["doc_ids"])
    }
    assert set(entry.contexts) == slow
    assert len(entry.contexts) == 3
    assert entry.documents == tuple(bad)
    quiet = stream.amended(entry, served=2)
    served = {doc for s in range(2, 8) for ref in quiet.batch(s) for doc in quiet.documents(ref)["doc_ids"]}
    assert not served & set(bad)
    for documents, said in [
        (["nobody"], "no context of the shards holds document 'nobody'"),
        ([], "no documents"),
    ]:
        with pytest.raises(UserError, match=said):
            stream.without_documents(documents, from_step=2)
