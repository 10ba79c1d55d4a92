"""What was changed during a training: from which step on another mixture holds, and which contexts are left out.

The log lies beside the training as lines of JSON, is only ever appended to, and each line carries the hash of all before
it. The stream is a function of it, so a run with changes is as exactly repeatable as one without.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.errors import UserError

VERSION = 1
LOG_NAME = "mixture-log.jsonl"


class MixtureEntry(BaseModel):
    """From `from_step` on this mixture holds. Its phases are shares of its own budget, counted from step 0 of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mixture"] = Field("mixture", description="What the entry changes.")
    from_step: int = Field(ge=0, description="The first step it holds for.")
    mixture: Mixture = Field(description="The weights from then on, over the same domains.")
    reason: str = Field("", description="Why, for those who read the log.")


class ExcludeEntry(BaseModel):
    """From `from_step` on these contexts are passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["exclude"] = Field("exclude", description="What the entry changes.")
    from_step: int = Field(ge=0, description="The first step it holds for.")
    contexts: tuple[tuple[str, int], ...] = Field(
        min_length=1, description="Contexts by domain and number in it."
    )
    documents: tuple[str, ...] = Field(
        (), description="Documents they were left out for; for the record, `contexts` is what counts."
    )
    reason: str = Field("", description="Why, for those who read the log.")


Entry = Annotated[MixtureEntry | ExcludeEntry, Field(discriminator="kind")]
_ENTRY: TypeAdapter[MixtureEntry | ExcludeEntry] = TypeAdapter(Entry)


class MixtureLog:
    """Entries in the order they were made. Empty where nothing was changed.

    Args:
        entries: to begin with.
        path: the file `append` writes to; None keeps the log in memory.
    """

    def __init__(
        self, entries: Iterable[MixtureEntry | ExcludeEntry] = (), path: str | Path | None = None
    ) -> None:
        self.entries: tuple[MixtureEntry | ExcludeEntry, ...] = ()
        self.path = None if path is None else Path(path)
        self._lines: tuple[str, ...] = ()
        self.fingerprint = ""  # hash of the last line, which covers all before it; '' for an empty log
        for entry in entries:
            self._add(entry)

    @classmethod
    def load(cls, path: str | Path) -> MixtureLog:
        """Read a log; where there is no file the log is empty, and the first `append` makes one.

        Raises:
            UserError: a line that is no entry, or was changed, taken out or put in since it was written.
        """
        file = Path(path)
        if not file.exists():
            return cls(path=file)
        log = cls(path=file)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            entry, stated = _read(line, log.fingerprint, f"{file} line {number}")
            log.entries, log.fingerprint = (*log.entries, entry), stated
            log._lines = (*log._lines, line)
        return log

    def append(self, entry: MixtureEntry | ExcludeEntry, *, served: int = 0) -> None:
        """Add an entry, on disk too where the log has a file (written under a temporary name, then renamed).

        Args:
            entry: what changes.
            served: steps that have been served already; the entry may change none of them.

        Raises:
            UserError: the entry begins before `served`, or the file has been written to by somebody else.
        """
        longer = self.extended(entry, served=served)
        if self.path is not None:
            if MixtureLog.load(self.path).fingerprint != self.fingerprint:
                raise UserError(
                    f"{self.path} was changed since it was read",
                    fix="let one process write the log; load it again and append then",
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            with temporary.open("w", encoding="utf-8") as f:
                f.write("".join(f"{line}\n" for line in longer._lines))
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, self.path)
        self.entries, self._lines = longer.entries, longer._lines
        self.fingerprint = longer.fingerprint

    def extended(self, entry: MixtureEntry | ExcludeEntry, *, served: int = 0) -> MixtureLog:
        """The log with one more entry, not written. Raises UserError where the entry begins before `served`."""
        if entry.from_step < served:
            raise UserError(
                f"an entry of the mixture log begins at step {entry.from_step}, but {served} steps have been served",
                fix=f"let it begin at step {served} or later; what was served cannot be changed",
            )
        longer = self.copy()
        longer._add(entry)
        return longer

    def copy(self) -> MixtureLog:
        """The log as it is now, unchanged by what is appended to this one later."""
        same = MixtureLog(path=self.path)
        same.entries, same._lines, same.fingerprint = self.entries, self._lines, self.fingerprint
        return same

    def _add(self, entry: MixtureEntry | ExcludeEntry) -> None:
        plain = entry.model_dump(mode="json")
        line = {"version": VERSION, "entry": plain, "previous": self.fingerprint}
        self.fingerprint = _hash(self.fingerprint, plain)
        self.entries = (*self.entries, entry)
        text = json.dumps({**line, "hash": self.fingerprint}, ensure_ascii=False)
        self._lines = (*self._lines, text)

    def before(self, step: int) -> str:
        """Fingerprint of what steps 0..step (not including `step`) depend on: the entries that begin before it.

        Entries appended later for later steps leave it as it is, so a checkpoint remains valid. '' where nothing
        was changed before `step`.
        """
        previous = ""
        for entry in self.effective():
            if entry.from_step < step:
                previous = _hash(previous, _essence(entry))
        return previous

    def effective(self) -> Sequence[MixtureEntry | ExcludeEntry]:
        """Entries in the order they take effect: by step, then as they were made."""
        return sorted(self.entries, key=lambda e: e.from_step)


def _essence(entry: MixtureEntry | ExcludeEntry) -> dict[str, Any]:
    """What the order depends on; not why, and nothing that a later version may add to a mixture file."""
    own = {"kind": entry.kind, "from_step": entry.from_step}
    if isinstance(entry, MixtureEntry):
        return {**own, "mixture": entry.mixture.fingerprint}
    return {**own, "contexts": [list(c) for c in entry.contexts]}


def _hash(previous: str, entry: dict[str, Any]) -> str:
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{VERSION}\n{previous}\n{body}".encode()).hexdigest()


def _read(line: str, previous: str, where: str) -> tuple[MixtureEntry | ExcludeEntry, str]:
    """The entry of a line and its hash, checked against the hash of the line before."""
    fix = "restore the file; a log is only ever appended to, by the training or by MixtureLog.append"
    try:
        data = json.loads(line)
        version, stated, chain = data["version"], data["hash"], data["previous"]
        if version != VERSION:
            raise UserError(f"{where} has version {version!r}; this mixloom reads {VERSION}", fix=fix)
        entry = _ENTRY.validate_python(data["entry"])
    except (ValueError, TypeError, KeyError) as error:  # a ValidationError is a ValueError
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{where} is no entry of a mixture log: {said}", fix=fix) from None
    except UserError as error:
        raise UserError(f"{where}: {error.what}", fix=error.fix) from None
    if chain != previous or stated != _hash(previous, data["entry"]):
        raise UserError(f"{where} was changed, or lines before it were, since it was written", fix=fix)
    return entry, str(stated)
