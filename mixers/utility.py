"""Utilities: how much each source is worth for each skill, whatever they were measured with.

The one form in which ablations, merged models, judges and hand-written tables reach UtiliMax.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from mixloom.pipeline.errors import UserError, nearest

VERSION = 1
Method = Literal["csv", "ablation", "merge", "medu", "lexical", "losses"]
METHODS: dict[str, str] = {
    "csv": "a table written by hand or by another tool",
    "ablation": "a small model trained per source, evaluated per skill",
    "merge": "averages of models trained per partition, evaluated per skill",
    "medu": "labels of documents by a language model that was told what the skill needs",
    "lexical": "overlap of words with the skill: deterministic, and blind to quality",
    "losses": "held-out losses alone, without any task",
}


@dataclass(frozen=True, eq=False)
class Utilities:
    """Sources by skills, each value in 0..1, higher is better.

    Attributes:
        sources: n names, as the domains of a mixture.
        skills: k names.
        values: float64 [n, k], read-only.
        method: how they were found, a key of METHODS.
        loss_only: they rest on losses alone; a lower loss need not mean a better model.
        notes: what a reader should know.
        details: JSON: the inputs and their hashes, settings, seeds, standard errors.

    Raises:
        UserError: names that are empty or used twice, a shape that does not agree, values outside 0..1, or an unknown
            method.
    """

    sources: tuple[str, ...]
    skills: tuple[str, ...]
    values: NDArray[np.float64]
    method: Method = "csv"
    loss_only: bool = False
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in (("source", self.sources), ("skill", self.skills)):
            counts = Counter(names)
            twice = [x for x in names if counts[x] > 1 or not str(x).strip()]
            if twice or not names:
                said = (
                    f"names the {what} '{twice[0]}' twice or leaves it empty" if twice else f"has no {what}"
                )
                raise UserError(f"the table of utilities {said}", fix=f"give each {what} one name")
        if self.method not in get_args(Method):
            raise UserError(
                f"utilities have method {self.method!r}; allowed: {', '.join(METHODS)}",
                fix="use one of these",
            )
        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.sources), len(self.skills)):
            raise UserError(
                f"utilities have shape {values.shape}, for {len(self.sources)} sources and {len(self.skills)} skills",
                fix="give one row per source and one value per skill",
            )
        bad = np.argwhere(~((values >= 0) & (values <= 1)))
        if len(bad):
            i, j = map(int, bad[0])
            raise UserError(
                f"the utility of source '{self.sources[i]}' for skill '{self.skills[j]}' is {values[i, j]:g};"
                " allowed: 0 to 1, higher is better",
                fix="bring every skill to 0..1 first, for example (value - worst) / (best - worst)",
            )
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def fingerprint(self) -> str:
        """sha256 over the names, the values and how they were found; `notes` are left out."""
        data = self._data()
        del data["notes"]
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def aligned(self, names: Sequence[str]) -> Utilities:
        """The same utilities with the rows of these sources, in this order.

        Raises:
            UserError: a source that has no row, or a row of a source that is not among the names.
        """
        place, wanted = {s: i for i, s in enumerate(self.sources)}, set(names)
        missing = [n for n in names if n not in place]
        unknown = [s for s in self.sources if s not in wanted]
        if missing or unknown:
            said = []
            if missing:
                close = nearest(missing[0], unknown)
                said.append(f"have no row for {_quoted(missing)}{close}")
            if unknown:
                said.append(f"have rows for {_quoted(unknown)}, which are not among the sources")
            raise UserError(
                f"the utilities {' and '.join(said)}",
                fix=f"give exactly one row for each of: {', '.join(list(names)[:20])}",
            )
        rows = [place[n] for n in names]
        return replace(self, sources=tuple(names), values=self.values[rows])

    def save(self, path: str | Path) -> Path:
        """Write YAML under a temporary name, then rename it; the same utilities give the same bytes."""
        data = {**self._data(), "fingerprint": self.fingerprint}
        return _write(
            Path(path), yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        )

    def to_csv(self, path: str | Path) -> Path:
        """Write a CSV: the header `source` and the skills, then a line per source."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["source", *self.skills])
        writer.writerows([s, *map(repr, row)] for s, row in zip(self.sources, self.values.tolist()))
        return _write(Path(path), out.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Utilities:
        """Read a YAML file of `save`, or a CSV whose first column is the source and whose others are skills.

        Raises:
            UserError: no file, a format that is not known, a value that is no number or is outside 0..1, or a YAML file
                that was changed after it was written.
        """
        file = Path(path)
        if not file.is_file():
            raise UserError(f"no utilities at {file}", fix="give a .yaml or .csv file of sources by skills")
        if file.suffix.lower() == ".csv":
            return _from_csv(file)
        if file.suffix.lower() in (".yaml", ".yml"):
            return _from_yaml(file)
        raise UserError(
            f"{file}: utilities are read from .yaml or .csv", fix="rename the file after what it holds"
        )

    def _data(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "method": self.method,
            "loss_only": self.loss_only,
            "skills": list(self.skills),
            "values": dict(zip(self.sources, self.values.tolist())),
            "notes": list(self.notes),
            "details": self.details,
        }


def normalised(raw: ArrayLike, higher_is_better: bool | Sequence[bool]) -> NDArray[np.float64]:
    """Bring measurements of each skill to 0..1: float64 [n, k], 1 for the best source of a skill and 0 for the worst.

    (value - worst) / (best - worst) per skill. What the paper of UtiliMax does here could not be read; results depend
    on it. A skill at which all sources are equal gives 1 everywhere: any mixture then meets its ideal, so that it
    has no say in the weights, while any other constant would.

    Args:
        raw: [n, k], one row per source.
        higher_is_better: for all skills, or one per skill. False for losses.

    Raises:
        ValueError: not a table, or a value that is not finite.
    """
    table = np.array(raw, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"measurements must be a table of finite numbers, got shape {table.shape}")
    table *= np.where(np.broadcast_to(higher_is_better, table.shape[1]), 1.0, -1.0)
    worst, best = table.min(axis=0), table.max(axis=0)
    spread = best - worst
    flat = spread <= 1e-12 * np.maximum(np.abs(best), np.abs(worst))
    scaled = (table - worst) / np.where(flat, 1.0, spread)
    return np.where(flat, 1.0, np.clip(scaled, 0.0, 1.0))


class _Dumper(yaml.SafeDumper):
    """Rows of numbers on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        numbers = all(isinstance(x, int | float) for x in sequence)
        return super().represent_sequence(tag, sequence, flow_style=numbers or flow_style)


def _from_csv(file: Path) -> Utilities:
    raw = file.read_bytes()
    fix = "give a header line 'source,skill,...' and one line per source with values from 0 to 1"
    try:
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV in UTF-8: {error}", fix=fix) from None
    rows = [(n, line) for n, line in enumerate(lines, 1) if any(cell.strip() for cell in line)]
    if not rows or rows[0][1][0].strip() != "source":
        raise UserError(f"{file}: the first column of the header must be 'source'", fix=fix)
    header = rows[0][1]
    values = []
    for n, line in rows[1:]:
        if len(line) != len(header):
            raise UserError(f"{file} line {n} has {len(line)} cells, the header {len(header)}", fix=fix)
        values.append(
            [_number(cell, f"{file} line {n}, column '{h}'", fix) for h, cell in zip(header[1:], line[1:])]
        )
    names = tuple(line[0].strip() for _, line in rows[1:])
    details = {"inputs": {file.name: hashlib.sha256(raw).hexdigest()}}
    table = np.array(values, np.float64).reshape(len(names), len(header) - 1)
    try:
        return Utilities(names, tuple(h.strip() for h in header[1:]), table, "csv", details=details)
    except UserError as error:
        raise UserError(f"{file}: {error.what}", fix=error.fix) from None


def _number(cell: str, where: str, fix: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{where}: '{cell}' is not a number", fix=fix) from None


def _from_yaml(file: Path) -> Utilities:
    fix = "measure the utilities again, or give them as a CSV"
    try:
        data = yaml.load(
            file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}", fix=fix) from None
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else None
        raise UserError(f"{file}: version of utilities is {found!r}; this mixloom reads {VERSION}", fix=fix)
    try:
        table = data["values"]
        loaded = Utilities(
            tuple(map(str, table)),
            tuple(map(str, data["skills"])),
            np.array([[float(x) for x in row] for row in table.values()], np.float64),
            data["method"],
            bool(data["loss_only"]),
            tuple(data.get("notes") or ()),
            dict(data.get("details") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: a field is missing or has the wrong form: {error}", fix=fix) from None
    except UserError as error:
        raise UserError(f"{file}: {error.what}", fix=error.fix) from None
    if data.get("fingerprint") not in (None, loaded.fingerprint):
        raise UserError(f"{file} was changed after it was written: its fingerprint is another", fix=fix)
    return loaded


def _write(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)
    return target


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{n}'" for n in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
