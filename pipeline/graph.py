"""What pipelines here are made of where Beam's own pieces would take longer to build than the work takes.

Beam describes every transform to its runner, and looks at every DoFn several times to do so. For the parts of a small
corpus that was most of the time of a stage. These pieces mean the same as Beam's and run on any runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.transforms.core import get_function_args_defaults

_INSPECT = "_inspect_"
_LIFE = ("setup", "start_bundle", "process", "finish_bundle", "teardown")
_arguments: dict[
    tuple[type, str], Callable[[], Any]
] = {}  # what Beam finds out, by class and what it asks for


class Work(beam.DoFn):
    """A DoFn without timers, whose methods are looked at once in a process, not a dozen times in every pipeline.

    Beam asks a DoFn for `_inspect_<method>` before it takes the signature of the method apart, and looks for state and
    timers in all methods that `dir` names, eight times for each DoFn: most of the time of building a small pipeline.
    If Beam ceases to ask, nothing changes but that.
    """

    def __dir__(self) -> Iterable[str]:
        return [name for name in _LIFE if getattr(type(self), name) is not getattr(beam.DoFn, name)]

    def __getattr__(self, name: str) -> Any:
        found = _arguments.get((type(self), name))
        if found is None:
            method = name.removeprefix(_INSPECT)
            if method == name or not hasattr(type(self), method):
                raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
            arguments = get_function_args_defaults(getattr(self, method))
            found = _arguments[type(self), name] = lambda: arguments
        return found


class _EachDoFn(Work):
    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._function, self._arguments = function, arguments

    def process(self, element: Any) -> Iterator[Any]:
        yield self._function(element, **self._arguments)


class _FlatDoFn(Work):
    def __init__(self, function: Callable[[Any], Iterable[Any]]) -> None:
        self._function = function

    def process(self, element: Any) -> Iterator[Any]:
        yield from self._function(element)


def each(function: Callable[..., Any], **arguments: Any) -> beam.ParDo:
    """`beam.Map`: the function's value for each element; it must be picklable."""
    return beam.ParDo(_EachDoFn(function, arguments))


def flat(function: Callable[[Any], Iterable[Any]]) -> beam.ParDo:
    """`beam.FlatMap`: all that the function gives for each element; it must be picklable."""
    return beam.ParDo(_FlatDoFn(function))


class _EmitDoFn(Work):
    def __init__(self, values: Sequence[Any]) -> None:
        self._values = list(values)

    def process(self, impulse: bytes) -> Iterator[Any]:
        yield from self._values


class Given(beam.PTransform):
    """Pipeline root -> some values, spread over the workers: names and numbers of parts, never data.

    Args:
        values: few and small, they are part of the pipeline's description.
        kind: their type.
        spread: False leaves them on one worker, for a transform that spreads them itself.
    """

    def __init__(self, values: Iterable[Any], kind: type = str, spread: bool = True) -> None:
        super().__init__()
        self._values, self._kind, self._spread = list(values), kind, spread

    def expand(self, root: Any) -> Any:
        emit = beam.ParDo(_EmitDoFn(self._values)).with_output_types(self._kind)
        given = root | beam.Impulse() | "Emit" >> emit
        return given | Spread() if self._spread else given


class _NumberDoFn(Work):
    def start_bundle(self) -> None:
        self._number = 0

    def process(self, element: Any) -> Iterator[tuple[int, Any]]:
        yield self._number, element
        self._number += 1


class _ValuesDoFn(Work):
    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        yield from element[1]


class Spread(beam.PTransform):
    """`beam.Reshuffle`: spreads elements over the workers.

    Where a single worker of the local runner does everything there is nothing to do, and its threads need no more than a
    grouping by number.
    """

    def expand(self, pcoll: Any) -> Any:
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        pipeline = pcoll.pipeline
        if not isinstance(pipeline.runner, FnApiRunner):
            return pcoll | beam.Reshuffle()
        if pipeline.options.view_as(DirectOptions).direct_num_workers == 1:
            return pcoll
        kind = pcoll.element_type or Any
        return (
            pcoll
            | "Number" >> beam.ParDo(_NumberDoFn()).with_output_types(tuple[int, kind])  # type: ignore[valid-type]
            | beam.GroupByKey()
            | "Values" >> beam.ParDo(_ValuesDoFn()).with_output_types(kind)
        )
