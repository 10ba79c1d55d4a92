"""Ranks, worker processes and reading ahead do not change what is served, with phases and a mixture log in force."""

from __future__ import annotations

import pytest

from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.mixture_log import ExcludeEntry, MixtureEntry, MixtureLog
from mixloom.mixers.stream import Stream, as_iterable_dataset

torch = pytest.importorskip("torch")
STEPS = 10


def mixture_over(reader, *phases) -> Mixture:
    domains = tuple(
        MixtureDomain(name=d.name, tokens=d.tokens, max_epochs=4) for d in reader.manifest.domains
    )
    made = tuple(Phase(start=s, weights=dict(zip(reader.domains, w))) for s, w in phases)
    total = reader.manifest.totals.tokens
    return Mixture(estimator="fixed", inputs="x", budget_tokens=total, domains=domains, phases=made)


@pytest.fixture
def stream(reader):
    log = MixtureLog(
        [
            ExcludeEntry(from_step=3, contexts=(("aa", 3), ("aa", 30), ("bb", 0))),
            MixtureEntry(from_step=6, mixture=mixture_over(reader, (0.0, [0.4, 0.5, 0.1]))),
        ]
    )
    mixture = mixture_over(reader, (0.0, [0.7, 0.2, 0.1]), (0.35, [0.2, 0.7, 0.1]))
    return Stream(reader, mixture, seed=5, batch_contexts=4, steps=STEPS, log=log)


def batches(stream, workers: int = 0, **more):
    dataset = as_iterable_dataset(stream, **more)
    return list(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers))


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 0), (0, 3), (1, 2), (2, 0), (2, 3)])
def test_workers_and_depth_change_nothing(stream, workers, prefetch):
    want = [stream.contexts(s).input_ids.tolist() for s in range(STEPS)]
    got = batches(stream, workers, prefetch=prefetch)
    assert [b["step"] for b in got] == list(range(STEPS))
    assert [b["input_ids"].tolist() for b in got] == want


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_are_parts_of_one_global_order(stream, world):
    want = [stream.batch(s) for s in range(STEPS)]
    assert [[r for k in range(world) for r in stream.batch(s, k, world)] for s in range(STEPS)] == want
    parts = [batches(stream, rank=k, world=world) for k in range(world)]
    whole = batches(stream)
    for step in range(STEPS):
        rows = [row for part in parts for row in part[step]["input_ids"].tolist()]
        assert rows == whole[step]["input_ids"].tolist()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("workers", "prefetch"), [(0, 0), (0, 1), (0, 5), (1, 0), (1, 4), (2, 0), (2, 1)])
def test_the_order_is_the_same_for_any_ranks_workers_and_depth(stream, world, workers, prefetch):
    want = [stream.contexts(step).input_ids.tolist() for step in range(STEPS)]
    parts = [batches(stream, workers, rank=k, world=world, prefetch=prefetch) for k in range(world)]
    for step in range(STEPS):
        assert [row for part in parts for row in part[step]["input_ids"].tolist()] == want[step]


def test_worker_processes_that_are_started_afresh_read_the_same(stream):
    want = [stream.contexts(step).input_ids.tolist() for step in range(STEPS)]
    more = {"batch_size": None, "num_workers": 1, "multiprocessing_context": "spawn"}
    loader = torch.utils.data.DataLoader(as_iterable_dataset(stream), **more)
    assert [b["input_ids"].tolist() for b in loader] == want


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_batch_that_is_kept_is_never_written_over(stream, prefetch):
    loader = torch.utils.data.DataLoader(as_iterable_dataset(stream, prefetch=prefetch), batch_size=None)
    kept = [b["input_ids"][:, 3:5] for b in loader]
    want = [stream.contexts(step).input_ids[:, 3:5].tolist() for step in range(STEPS)]
    assert [part.tolist() for part in kept] == want


@pytest.mark.parametrize("start", [1, 3, 4, 6, 9])
def test_a_stream_goes_on_from_a_state_under_another_world(stream, start):
    state = stream.state(start)
    again = Stream(stream.reader, stream.mixture, seed=5, batch_contexts=4, steps=STEPS, log=stream.log)
    at = again.check(state)
    halves = [batches(again, start=at, rank=k, world=2) for k in range(2)]
    assert len(as_iterable_dataset(again, start=at)) == STEPS - start
    for i, step in enumerate(range(start, STEPS)):
        rows = [row for half in halves for row in half[i]["input_ids"].tolist()]
        assert rows == stream.contexts(step).input_ids.tolist()
