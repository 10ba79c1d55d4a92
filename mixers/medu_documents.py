"""The documents a judge is shown: a sample of each source or domain, drawn by document id, from a run or from JSONL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixloom.mixers.medu_jsonl_documents import jsonl_documents
from mixloom.mixers.medu_run_documents import run_documents
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import Store, canonical_json, sha256_hex


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as a judge sees it: the beginning of its text."""

    source: str
    doc_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The documents drawn, by source and then in the order they were drawn.

    sources: all that have documents with text, sorted. without_text: sources whose drawn documents had none.
    """

    documents: tuple[Shown, ...]
    sources: tuple[str, ...]
    without_text: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over what is shown of every document."""
        return sha256_hex(canonical_json([[d.source, d.doc_id, sha256_hex(d.text.encode("utf-8", "replace"))]
                                          for d in self.documents]))  # fmt: skip


def draw(
    place: str,
    *,
    per_source: int,
    characters: int,
    seed: int = 0,
    group: Literal["source", "domain"] = "source",
    text_field: str = "text",
    source_field: str = "source",
    id_field: str | None = None,
) -> Sample:
    """Draw up to `per_source` documents with text of every source.

    Args:
        place: a run directory, a .jsonl file (also .gz, .zst), a folder or a glob of such files.
        characters: so many are kept of the beginning of each text.
        group: "domain" takes the domains that stage `cluster` of the run found, by the names the shards give them.
        text_field, source_field, id_field: of JSONL records; without the source field the file name is the source,
            without an id the id is a hash of source and text.

    Raises:
        UserError: nothing there, a record without text, no domains in the run, or no text at all.
    """
    if Store.at(place).exists("config.yaml"):
        found = run_documents(place, per_source, seed, group)
    elif group == "domain":
        raise UserError(f"{place} is no run directory, and only a run has domains", fix="use --group source")
    else:
        found = jsonl_documents(place, per_source, seed, text_field, source_field, id_field)
    documents: list[Shown] = []
    sources: list[str] = []
    empty: list[str] = []
    for name, rows in found.items():
        own = [Shown(name, i, text[:characters]) for i, text in rows if text[:characters].strip()][
            :per_source
        ]
        (sources if own else empty).append(name)
        documents += own
    if not documents:
        raise UserError(f"{place} holds no document with text", fix="name a run or a .jsonl with text")
    return Sample(tuple(documents), tuple(sources), tuple(empty))
