"""The tables an estimate may be given beside the sizes, read from the files of the settings or from a mixture's record."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixloom.mixers.mix_config import MixtureConfig
from mixloom.mixers.tables import Trace, Trials, csv_line
from mixloom.mixers.utility import Utilities


@dataclass(frozen=True, eq=False)
class Given:
    """What is known beside the sizes; None where it is not. `final` are the utilities of the final phase."""

    utilities: Utilities | None = None
    trials: Trials | None = None
    excess: Trace | None = None
    losses: Trace | None = None
    final: Utilities | None = None

    @classmethod
    def load(cls, config: MixtureConfig, utilities: Utilities | None = None) -> Given:
        """Read the files that the settings name. Utilities that are passed take the place of their file.

        Raises:
            UserError: a file that is missing or wrong.
        """
        final = config.final_phase.utilities if config.final_phase else None
        found = utilities
        if found is None and config.utilities:
            found = Utilities.load(config.utilities)
        return cls(
            found,
            Trials.load(config.trials) if config.trials else None,
            Trace.load(config.excess) if config.excess else None,
            Trace.load(config.losses) if config.losses else None,
            Utilities.load(final) if final else None,
        )

    def record(self, used: Sequence[str]) -> dict[str, Any]:
        """The tables of these names as JSON, whole, with their fingerprints."""
        out: dict[str, Any] = {}
        for name in used:
            table = getattr(self, name)
            if isinstance(table, Utilities):
                rows = [
                    csv_line([s, *map(repr, row)]) for s, row in zip(table.sources, table.values.tolist())
                ]
                about = {"method": table.method, "loss_only": table.loss_only, "skills": list(table.skills)}
                more = {"notes": list(table.notes), "details": table.details}
                out[name] = {**about, "rows": rows, **more, "fingerprint": table.fingerprint}
            elif table is not None:
                out[name] = {
                    "origin": Path(table.origin).name,
                    "rows": table.lines(),
                    "fingerprint": table.fingerprint,
                }
        return out

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Given:
        """The tables that `record` wrote."""

        def utilities(name: str) -> Utilities | None:
            data = record.get(name)
            if data is None:
                return None
            rows = list(csv.reader(data["rows"]))
            values = np.array([[float(x) for x in row[1:]] for row in rows], np.float64)
            return Utilities(
                tuple(row[0] for row in rows),
                tuple(data["skills"]),
                values.reshape(len(rows), len(data["skills"])),
                data["method"],
                data["loss_only"],
                tuple(data["notes"]),
                data["details"],
            )

        def table(name: str, kind: type[Trials] | type[Trace]) -> Any:
            data = record.get(name)
            return None if data is None else kind.parse(data["rows"], data["origin"])

        return cls(
            utilities("utilities"),
            table("trials", Trials),
            table("excess", Trace),
            table("losses", Trace),
            utilities("final"),
        )


def input_hashes(config: MixtureConfig) -> dict[str, str]:
    """sha256 of every file the settings name, by setting: what a stage adds to its own settings, so that it runs again
    when a file changes. A file that is missing has the hash ''."""
    files = {name: getattr(config, name) for name in ("utilities", "trials", "excess", "losses")}
    if config.final_phase is not None:
        files["final_phase.utilities"] = config.final_phase.utilities
    out = {}
    for name, path in files.items():
        if path is not None:
            file = Path(path)
            out[name] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return out
