"""What a judge is asked: templates filled in once, and untrusted text put between marker lines it cannot contain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mixloom.pipeline.config import read_yaml, validate
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import canonical_json, sha256_hex

_PLACE = re.compile(r"\{([a-z_]+)\}")
NEEDED: dict[str, frozenset[str]] = {
    "describe": frozenset({"count", "examples"}),
    "merge": frozenset({"first", "first_count", "second", "second_count"}),
    "label": frozenset({"description", "document"}),
}


class Template(BaseModel):
    """A system message and a user message, with places in braces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field(min_length=1, description="who the judge is, and what is data")
    user: str = Field(min_length=1, description="the question; {name} marks a place that is filled in")


class PromptFile(BaseModel):
    """The prompts of a judge, as they stand in a YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    describe: Template = Field(description="items of a benchmark -> a description; places: count, examples")
    merge: Template = Field(
        description="two descriptions -> one; places: first, first_count, second, second_count"
    )
    label: Template = Field(description="a document -> a label; places: description, document")

    @field_validator("describe", "merge", "label")
    @classmethod
    def _places(cls, template: Template, info: object) -> Template:
        needed = NEEDED[str(getattr(info, "field_name", ""))]
        found = set(_PLACE.findall(template.user))
        if _PLACE.search(template.system) or found != needed:
            wrong = sorted(found ^ needed) or ["a place in system"]
            raise ValueError(
                f"its user message must hold each of {', '.join('{' + n + '}' for n in sorted(needed))} and nothing else in"
                f" braces, its system message none; see {', '.join(wrong)}"
            )
        return template


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a judge. `max_tokens` bounds the answer."""

    system: str
    user: str
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """sha256 over the messages and the length allowed."""
        return sha256_hex(canonical_json([self.system, self.user, self.max_tokens]))


class Prompts:
    """The prompts, ready to be filled in.

    Args:
        path: a file of one's own; default: the one that comes with the package.

    Raises:
        UserError: no such file, a key that is missing or unknown, a place that is missing or unknown.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            name = "conf/prompts/medu.yaml"
            text = (files("mixloom.conf.prompts") / "medu.yaml").read_text(encoding="utf-8")
        else:
            name = path
            try:
                text = Path(path).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as e:
                raise UserError(
                    f"prompts: {path} cannot be read: {e}", fix="name a YAML file in UTF-8"
                ) from None
        self._file = validate(PromptFile, read_yaml(text, name), name)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all templates."""
        return sha256_hex(canonical_json(self._file.model_dump(mode="json")))

    def describe(self, examples: list[str], max_tokens: int) -> Request:
        """Ask what some items of a benchmark have in common."""
        shown = "\n\n".join(fence(text, f"ITEM {i}") for i, text in enumerate(examples, start=1))
        return _filled(self._file.describe, {"count": str(len(examples)), "examples": shown}, max_tokens)

    def merge(self, first: tuple[str, int], second: tuple[str, int], max_tokens: int) -> Request:
        """Ask for one description instead of two; each is (text, items it was made from)."""
        values = {
            "first": fence(first[0], "FIRST DESCRIPTION"),
            "first_count": str(first[1]),
            "second": fence(second[0], "SECOND DESCRIPTION"),
            "second_count": str(second[1]),
        }
        return _filled(self._file.merge, values, max_tokens)

    def label(self, description: str, document: str, max_tokens: int) -> Request:
        """Ask what a document is worth for what a description says. No item of the benchmark is shown."""
        values = {
            "description": fence(description, "DESCRIPTION"),
            "document": fence(document, "DOCUMENT"),
        }
        return _filled(self._file.label, values, max_tokens)


def _filled(template: Template, values: Mapping[str, str], max_tokens: int) -> Request:
    # In one pass: a document that holds "{description}" stays what it is.
    user = _PLACE.sub(lambda m: values[m[1]], template.user)
    return Request(template.system.strip(), user.strip(), max_tokens)


def fence(text: str, name: str) -> str:
    """A text between two marker lines whose number is made from the text, so that it cannot hold them itself.

    "<|", with which chat formats begin the names of their special tokens, gets a space: a text cannot end its message.
    """
    text = text.replace("<|", "< |")
    number, turn = "", 0
    while not number or number in text:
        number = hashlib.sha256(f"{turn}:{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        turn += 1
    return f"=== BEGIN {name} {number} ===\n{text}\n=== END {name} {number} ==="
