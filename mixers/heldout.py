"""Whether a mixture that was learned does better than UniMax on held-out data: the file a comparison writes, and its verdict.

The file is JSON: {"version": 1, "mixture": fingerprint of the mixture, "method": its estimator, "seeds": [0, 1, 2],
"loss": [...], "unimax": [...], "by_skill": {skill: {"loss": [...], "unimax": [...]}}}, a loss per seed, both trained alike.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixloom.pipeline.errors import UserError

HELDOUT_NAME = "heldout.json"
# 97.5% points of Student's t for 1 to 30 degrees of freedom; beyond, the normal's.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class SkillLosses(BaseModel):
    """Losses of one skill, per seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: tuple[float, ...] = Field(min_length=1, description="Held-out losses of the mixture, per seed.")
    unimax: tuple[float, ...] = Field(min_length=1, description="Held-out losses of UniMax, per seed.")


class HeldOut(BaseModel):
    """Held-out losses of a mixture and of UniMax, trained alike, per seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(1, description="Version of this format.")
    mixture: str = Field(description="Fingerprint of the mixture.")
    method: str = Field(description="How the mixture was found.")
    seeds: tuple[int, ...] = Field(min_length=1, description="Seeds of the trainings.")
    loss: tuple[float, ...] = Field(
        description="Mean held-out loss over the skills, of the mixture, per seed."
    )
    unimax: tuple[float, ...] = Field(description="The same of UniMax.")
    by_skill: dict[str, SkillLosses] = Field({}, description="The losses of each skill.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        pairs = [(self.loss, self.unimax), *((s.loss, s.unimax) for s in self.by_skill.values())]
        if any(len(x) != len(self.seeds) for pair in pairs for x in pair):
            raise ValueError("give one loss per seed")
        if not all(math.isfinite(x) for pair in pairs for side in pair for x in side):
            raise ValueError("losses must be finite")
        return self

    @property
    def difference(self) -> float:
        """Mean over the seeds of loss - UniMax's loss; above 0 the mixture is worse."""
        return sum(a - b for a, b in zip(self.loss, self.unimax)) / len(self.seeds)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the mean difference, by seed in pairs (Student's t); None for one seed."""
        n = len(self.seeds)
        if n < 2:
            return None
        gaps = [a - b for a, b in zip(self.loss, self.unimax)]
        variance = sum((g - self.difference) ** 2 for g in gaps) / (n - 1)
        t = _T[n - 2] if n - 2 < len(_T) else 1.96
        half = t * math.sqrt(variance / n)
        return self.difference - half, self.difference + half

    @property
    def loses(self) -> bool:
        """Whether the mixture's mean held-out loss is above UniMax's."""
        return self.difference > 0

    def verdict(self) -> str:
        """One sentence; a warning when the mixture loses."""
        d, ends = self.difference, self.interval
        many = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        spread = f", 95% interval {ends[0]:+.4f} to {ends[1]:+.4f}" if ends else ", no interval from one seed"
        told = f"held-out loss {d:+.4f} against UniMax over {many}{spread}"
        if not self.loses:
            sure = ends is not None and ends[1] < 0
            return f"{told}: {'better than UniMax' if sure else 'not shown to be better than UniMax'}"
        sure = ends is not None and ends[0] > 0
        doubt = "" if sure else " (within the noise of the seeds)"
        return f"warning: {self.method} loses to UniMax on held-out data{doubt}: {told}; use method=unimax"

    def save(self, path: str | Path) -> Path:
        """Write JSON."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        return target

    @classmethod
    def load(cls, path: str | Path, mixture: str | None = None) -> HeldOut:
        """Read a file; with `mixture` its fingerprint must be that one.

        Raises:
            UserError: no file, not this format, or another mixture's.
        """
        file = Path(path)
        fix = "compare the mixture with UniMax again, or leave the file out"
        try:
            found = cls.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{file} does not exist", fix=fix) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "content"
            raise UserError(f"{file}: field {where}: {first['msg']}", fix=fix) from None
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}", fix=fix) from None
        if found.version != 1:
            raise UserError(f"{file} has version {found.version}; this mixloom reads 1", fix=fix)
        if mixture is not None and found.mixture != mixture:
            raise UserError(
                f"{file} compares mixture {found.mixture[:12]}, this one is {mixture[:12]}", fix=fix
            )
        return found
