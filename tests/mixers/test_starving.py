"""Whatever would leave a rank without data is an error before training starts, with a way out."""

from __future__ import annotations

import pytest

from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.mixture import Mixture, MixtureDomain, Phase
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream, as_iterable_dataset
from mixloom.pipeline.errors import UserError


def stream_of(reader, batch: int = 6, steps: int = 4) -> Stream:
    mixture = estimate(Sources.from_manifest(reader.manifest), MixtureConfig(), 200)
    return Stream(reader, mixture, seed=0, batch_contexts=batch, steps=steps)


@pytest.mark.parametrize(
    ("world", "said", "fix"),
    [
        (
            8,
            "8 ranks share batch_contexts 6: 2 of them would get no context",
            "a multiple of 8, or train on at most 6",
        ),
        (4, "batch_contexts 6 cannot be split evenly over 4 ranks", "for example 4"),
        (0, "world is 0", "number of ranks"),
    ],
)
def test_ranks_that_would_get_nothing_or_less_than_others_are_refused(reader, world, said, fix):
    with pytest.raises(UserError, match=said) as e:
        as_iterable_dataset(stream_of(reader), rank=0, world=world)
    assert fix in e.value.fix


def test_a_rank_outside_its_world_and_a_start_after_the_run_are_refused(reader):
    with pytest.raises(UserError, match="rank 3 is not one of 3 ranks"):
        as_iterable_dataset(stream_of(reader), rank=3, world=3)
    with pytest.raises(UserError, match="nothing is left from step 4 on"):
        as_iterable_dataset(stream_of(reader), start=4)


@pytest.mark.parametrize("sizes", [(0, 0), (4, 0)])
def test_a_domain_with_weight_and_without_contexts_is_refused(sizes_only, sizes):
    reader = sizes_only({"full": (10, 100), "none": sizes})
    domains = tuple(MixtureDomain(name=n, tokens=100, max_epochs=4) for n in ("full", "none"))

    def mixture(none: float) -> Mixture:
        phase = Phase(weights={"full": 1 - none, "none": none})
        return Mixture(estimator="fixed", inputs="x", budget_tokens=100, domains=domains, phases=(phase,))

    with pytest.raises(UserError, match=r"domain 'none' has weight 0.5, but the shards hold no context") as e:
        Stream(reader, mixture(0.5), seed=0, batch_contexts=1, steps=1)
    assert "set its weight to 0" in e.value.fix
    stream = Stream(reader, mixture(0.0), seed=0, batch_contexts=5, steps=2)
    assert [e.contexts for e in stream.exposure(2, exact=False)] == [10, 0]


def test_steps_beyond_the_caps_are_refused_with_the_number_that_fits(reader):
    total = reader.manifest.totals.contexts
    mixture = estimate(
        Sources.from_manifest(reader.manifest), MixtureConfig(), reader.manifest.totals.tokens * 4
    )
    fits = 4 * total // 6
    with pytest.raises(UserError, match="allowed: 4 epochs") as e:
        Stream(reader, mixture, seed=0, batch_contexts=6, steps=fits + 1)
    assert f"train at most {fits} steps" in e.value.fix


def test_more_ranks_than_contexts_in_the_shards_are_refused(sizes_only):
    reader = sizes_only({"only": (3, 30)})
    mixture = estimate(Sources.from_manifest(reader.manifest), MixtureConfig(), 30)
    with pytest.raises(UserError, match="4 ranks share batch_contexts 3"):
        Stream(reader, mixture, seed=0, batch_contexts=3, steps=1).check_ranks(4)
