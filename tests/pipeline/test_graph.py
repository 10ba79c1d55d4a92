"""The pieces of pipelines: what Beam's own give, on one worker, on several, and on another runner."""

import pickle

import apache_beam as beam
import pytest
from apache_beam.runners.common import DoFnSignature
from apache_beam.testing.util import assert_that, equal_to

from mixloom.pipeline.engine import run_pipeline
from mixloom.pipeline.graph import Given, Work, each, flat

OTHER = ("--runner=BundleBasedDirectRunner",)


def _added(x: int, to: int) -> int:
    return x + to


def _twice(x: int) -> list[int]:
    return [x, x]


@pytest.mark.parametrize(("workers", "runner"), [(1, ()), (2, ()), (1, OTHER)])
@pytest.mark.parametrize("spread", [True, False])
def test_given_values_go_through_functions_once_each(workers, runner, spread):
    def build(p):
        found = p | Given(range(50), int, spread) | "Add" >> each(_added, to=100) | "Twice" >> flat(_twice)
        assert_that(found, equal_to(sorted([*range(100, 150)] * 2)))

    run_pipeline(build, workers, runner)


def test_nothing_given_is_nothing():
    run_pipeline(lambda p: assert_that(p | Given([]), equal_to([])))


class _Told(Work):
    """Asks for all that Beam looks for in signatures."""

    def start_bundle(self):
        self.seen = []

    def process(self, element, other, window=beam.DoFn.WindowParam, *, unused=None):
        self.seen.append((element, other, type(window).__name__))

    def finish_bundle(self):
        for element in self.seen:
            yield beam.transforms.window.GlobalWindows.windowed_value(element)


class _Plain(beam.DoFn):
    start_bundle, process, finish_bundle = _Told.start_bundle, _Told.process, _Told.finish_bundle


@pytest.mark.parametrize("method", ["process", "start_bundle", "finish_bundle", "setup"])
def test_beam_finds_the_same_arguments_as_in_a_plain_dofn(method):
    for _ in range(2):  # looked at, and remembered
        ours, plain = (getattr(DoFnSignature(f), f"{method}_method", None) for f in (_Told(), _Plain()))
        if ours is not None:
            assert (ours.args, ours.defaults) == (plain.args, plain.defaults)


def test_parameters_and_side_inputs_reach_a_dofn_that_is_looked_at_once():
    def build(p):
        side = p | "Side" >> Given([7], int)
        found = p | Given([1, 2], int) | beam.ParDo(_Told(), beam.pvalue.AsSingleton(side))
        assert_that(found, equal_to([(1, 7, "GlobalWindow"), (2, 7, "GlobalWindow")]))

    run_pipeline(build)


def test_what_a_dofn_does_not_have_it_does_not_answer_to():
    work = pickle.loads(pickle.dumps(_Told()))
    for name in ("_inspect_no_such_method", "no_such_method", "_stateless_dofn_urn"):
        with pytest.raises(AttributeError, match=name):
            getattr(work, name)
