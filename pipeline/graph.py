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
_arguments: dict[tuple[type, str], Any] = {}  # what Beam finds out about a method, by class and method


class Work(beam.DoFn):
    """A DoFn whose methods are looked at once in a process, not a dozen times in every pipeline.

    Beam asks a DoFn for `_inspect_<method>` before it takes the signature of the method apart, which takes most of
    the time of building a small pipeline. If Beam ceases to ask, nothing changes but that.
    """

    def __getattr__(self, name: str) -> Any:
        method = name.removeprefix(_INSPECT)
        if method == name or not hasattr(type(self), method):
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        key = (type(self), method)
        if key not in _arguments:
            _arguments[key] = get_function_args_defaults(getattr(self, method))
        found = _arguments[key]
        return lambda: found


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


class Spread(beam.PTransform):
    """`beam.Reshuffle`, which has nothing to do where a single worker of the local runner does everything."""

    def expand(self, pcoll: Any) -> Any:
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        pipeline = pcoll.pipeline
        workers = pipeline.options.view_as(DirectOptions).direct_num_workers
        alone = isinstance(pipeline.runner, FnApiRunner) and workers == 1
        return pcoll if alone else pcoll | beam.Reshuffle()
