"""Tables that learned mixtures are found from: trials (mixtures with their losses) and traces (losses per domain by step)."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError, nearest

Floats = NDArray[np.float64]
_LOSS = "loss:"


@dataclass(frozen=True, eq=False)
class Trials:
    """Mixtures that were trained and what they lost.

    Attributes:
        domains: n names.
        skills: k names of held-out sets.
        weights: float64 [rows, n], each row sums to 1.
        losses: float64 [rows, k].
        origin: where they come from; fingerprint: sha256 over the lines.
    """

    domains: tuple[str, ...]
    skills: tuple[str, ...]
    weights: Floats
    losses: Floats
    origin: str = "trials"

    @property
    def fingerprint(self) -> str:
        return _hash(self.lines())

    def lines(self) -> list[str]:
        """As a CSV: a column per domain, then loss:SKILL for every skill; `Trials.parse` reads it back exactly."""
        rows = [[*w, *x] for w, x in zip(self.weights.tolist(), self.losses.tolist())]
        return _lines([*self.domains, *(_LOSS + s for s in self.skills)], rows)

    def aligned(self, names: Sequence[str]) -> Trials:
        """The same trials with the columns of these domains, in this order. Raises UserError for one that is missing or
        that is not among the names."""
        order = _order(self.domains, names, self.origin)
        return Trials(tuple(names), self.skills, self.weights[:, order], self.losses, self.origin)

    @classmethod
    def load(cls, path: str | Path) -> Trials:
        """Read a CSV of trials. Raises UserError for a file, column or number that is wrong."""
        return cls.parse(_read(path, _TRIALS_FIX), str(path))

    @classmethod
    def parse(cls, lines: Iterable[str], origin: str = "trials") -> Trials:
        """Trials from the lines of a CSV. A column `loss` alone is the loss of a skill named loss; `trial` is ignored."""
        header, rows = _table(lines, origin, _TRIALS_FIX, skipped=("trial", "index"))
        skills = [h for h in header if h.startswith(_LOSS) or h == "loss"]
        domains = [h for h in header if h not in skills]
        if not skills or not domains or len(rows) < 2:
            raise UserError(
                f"{origin} has {len(domains)} domains, {len(skills)} losses and {len(rows)} trials; needed: at least"
                " one domain, one loss and two trials",
                fix=_TRIALS_FIX,
            )
        table = np.array(rows, np.float64)
        weights = table[:, [header.index(d) for d in domains]]
        losses = table[:, [header.index(s) for s in skills]]
        sums = weights.sum(axis=1)
        for bad in np.flatnonzero((np.abs(sums - 1) > 0.02) | (weights < 0).any(axis=1) | ~np.isfinite(sums)):
            raise UserError(
                f"{origin}: trial {bad + 1} has weights that sum to {sums[bad]:.6g} or are negative",
                fix="give every domain a column; the weights of a trial sum to 1",
            )
        if not np.isfinite(losses).all():
            i, j = map(int, np.argwhere(~np.isfinite(losses))[0])
            raise UserError(f"{origin}: trial {i + 1} has no {skills[j]}", fix="leave failed trials out")
        names = tuple(s.removeprefix(_LOSS) for s in skills)
        # Rounded weights are brought to a sum of 1; those that have it stay as they are, to the last bit.
        near = np.abs(sums - 1) <= 1e-12
        return cls(tuple(domains), names, weights / np.where(near, 1.0, sums)[:, None], losses, origin)


@dataclass(frozen=True, eq=False)
class Trace:
    """A number per domain and step: excess losses (DoReMi) or training losses (ODM).

    Attributes:
        domains: n names.
        steps: int64 [rows], ascending.
        values: float64 [rows, n]; nan where a domain was not seen.
    """

    domains: tuple[str, ...]
    steps: NDArray[np.int64]
    values: Floats
    origin: str = "trace"

    @property
    def fingerprint(self) -> str:
        return _hash(self.lines())

    def lines(self) -> list[str]:
        """As a CSV: step, then a column per domain, empty where it was not seen; `Trace.parse` reads it back exactly."""
        rows = [[int(s), *v] for s, v in zip(self.steps, self.values.tolist())]
        return _lines(["step", *self.domains], rows)

    def aligned(self, names: Sequence[str]) -> Trace:
        """The same trace with the columns of these domains, in this order. Raises UserError as for trials."""
        order = _order(self.domains, names, self.origin)
        return Trace(tuple(names), self.steps, self.values[:, order], self.origin)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a CSV with the column step and one per domain. Raises UserError for what is wrong in it."""
        return cls.parse(_read(path, _TRACE_FIX), str(path))

    @classmethod
    def parse(cls, lines: Iterable[str], origin: str = "trace") -> Trace:
        """A trace from the lines of a CSV."""
        header, rows = _table(lines, origin, _TRACE_FIX)
        if not header or header[0] != "step" or len(header) < 2 or not rows:
            raise UserError(
                f"{origin} needs the column step, a column per domain, and a line per step", fix=_TRACE_FIX
            )
        table = np.array(rows, np.float64)
        steps = table[:, 0]
        if not (np.isfinite(steps).all() and (np.diff(steps) > 0).all() and (steps == np.floor(steps)).all()):
            raise UserError(f"{origin}: steps must be whole and ascending", fix=_TRACE_FIX)
        if np.isinf(table).any():
            raise UserError(f"{origin} holds infinite values", fix="leave the cell empty, or the step out")
        return cls(tuple(header[1:]), steps.astype(np.int64), table[:, 1:], origin)


_TRIALS_FIX = "give a line per trained mixture, with a column per domain and columns loss:SKILL"
_TRACE_FIX = "give a header 'step,DOMAIN,...' and a line per step, a cell empty where a domain was not seen"


def _read(path: str | Path, fix: str) -> list[str]:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file} does not exist", fix=fix)
    try:
        return file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: {error}", fix=fix) from None


def _table(
    lines: Iterable[str], origin: str, fix: str, skipped: Sequence[str] = ()
) -> tuple[list[str], list[list[float]]]:
    """Header and numbers of a CSV; an empty cell is nan."""
    rows = [line for line in csv.reader(lines) if line]
    if not rows:
        raise UserError(f"{origin} is empty", fix=fix)
    header = [h.strip() for h in rows[0]]
    if len(set(header)) != len(header) or "" in header:
        raise UserError(f"{origin} has a column without a name, or two of one name", fix=fix)
    keep = [i for i, h in enumerate(header) if h not in skipped]
    numbers = []
    for n, line in enumerate(rows[1:], 2):
        if len(line) != len(header):
            raise UserError(f"{origin} line {n} has {len(line)} cells, the header {len(header)}", fix=fix)
        try:
            numbers.append([float(line[i]) if line[i].strip() else math.nan for i in keep])
        except ValueError as error:
            raise UserError(f"{origin} line {n}: {error}", fix=fix) from None
    return [header[i] for i in keep], numbers


def _order(found: Sequence[str], names: Sequence[str], origin: str) -> list[int]:
    place: Mapping[str, int] = {d: i for i, d in enumerate(found)}
    missing = [n for n in names if n not in place]
    unknown = [d for d in found if d not in set(names)]
    if missing or unknown:
        which = missing or unknown
        close = nearest(which[0], unknown if missing else names)
        said = "has no column for domain" if missing else "has a column for a domain that is not there,"
        raise UserError(
            f"{origin} {said} '{which[0]}'{close} ({len(which)} in all)",
            fix=f"give exactly one column for each of: {', '.join(list(names)[:20])}",
        )
    return [place[n] for n in names]


def _lines(header: Sequence[str], rows: Iterable[Sequence[float]]) -> list[str]:
    return [csv_line(header), *(csv_line([repr(x) if x == x else "" for x in row]) for row in rows)]


def csv_line(cells: Sequence[str]) -> str:
    """Cells as one line of a CSV, quoted where they must be; no line end."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def _hash(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
