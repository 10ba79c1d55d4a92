"""Real documents as ingest reads them, and re-mixes of them without end, as the parts of a run's stage `ingest`.

A re-mixed document has the shape of a real one: its pieces (lines, or sentences of long lines) stand where they stood,
but most of them are replaced by pieces of other documents of the same source. So words, lines and lengths are real, and
two documents of one origin have little in common. Document number i depends on the seed and i alone, so a corpus of any
size is made part by part, and a smaller one is the beginning of a larger one.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.run import PartReader, RunDirectory, StageManifest
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.stage import RunSettings, Stage, StageContext, UnitOutput, run_stage
from mixloom.pipeline.storage import resolve
from mixloom.trainers.recipe import RunConfig

PART_DOCUMENTS = RunConfig.model_fields["part_documents"].default
REPLACED = 0.8  # share of the pieces of a re-mixed document that come from elsewhere
LEAST_PIECE = 40  # characters: shorter pieces are joined to the one after them
# A piece ends with its line, or in a long line with a sentence.
_PIECE = re.compile(r".{60,}?[.!?][\"')\]]* +|[^\n]*\n\s*|.+\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one real document."""

    source: str
    text: str


def real_documents(root: Path) -> list[Text]:
    """Text of every document of the sources of conf/real/shared.yaml that hold text, as ingest reads them."""
    conf = Path(__file__).parents[1] / "conf/real/shared.yaml"
    config = load_config(RunConfig, conf, [f"data_root={root}"])
    written = [s for s in config.sources if s.format not in ("speech", "image_caption")]
    sources = [s.model_copy(update={"images": False}) if hasattr(s, "images") else s for s in written]
    roots = {s.name: resolve(config.data_root, s.path) for s in sources}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        stage = IngestStage(sources, roots, PART_DOCUMENTS, config.part_bytes)
        manifest, _ = run_stage(stage, run, RunSettings(), Console(), {})
        reader = PartReader(run.stage(stage.name).store, {p.name: p for p in manifest.parts})
        table = pa.concat_tables([reader.read(name) for name in sorted(reader.parts)]).combine_chunks()
    texts = document_text(table.to_batches()[0]).to_pylist()
    return [Text(s, t) for s, t in zip(table["source"].to_pylist(), texts) if t]


def pieces(text: str) -> list[str]:
    """A text cut at ends of lines and sentences; joined again, the pieces are the text."""
    out: list[str] = []
    held = ""
    for piece in _PIECE.findall(text):
        held += piece
        if len(held) >= LEAST_PIECE:
            out.append(held)
            held = ""
    return [*out, held] if held else out


class Corpus:
    """Documents 0, 1, 2, ... made of real ones.

    Args:
        texts: the real documents. verbatim: so many at the beginning are taken as they are, once each.
        copies: share of the others that repeats an earlier document; half of them exactly, half with one word changed.
    """

    def __init__(self, texts: list[Text], seed: int = 0, verbatim: bool = True, copies: float = 0.0) -> None:
        self.texts = list(texts)
        random.Random(seed).shuffle(self.texts)
        self.seed, self.copies = seed, copies
        self.verbatim = len(self.texts) if verbatim else 0
        self._pieces = [pieces(t.text) for t in self.texts]
        self._pool: dict[str, list[str]] = {}
        for t, own in zip(self.texts, self._pieces):
            self._pool.setdefault(t.source, []).extend(own)

    def text(self, i: int) -> Text:
        """Document number i."""
        base = self.texts[i % len(self.texts)]
        if i < self.verbatim:
            return base
        draw = random.Random((self.seed << 40) + i)
        if draw.random() < self.copies and i:
            first = self.text(draw.randrange(i))
            return first if draw.random() < 0.5 else Text(first.source, _one_word_changed(first.text, draw))
        pool = self._pool[base.source]
        made = [
            pool[int(draw.random() * len(pool))] if draw.random() < REPLACED else own
            for own in self._pieces[i % len(self.texts)]
        ]
        return Text(base.source, "".join(made))

    def parts(self, documents: int) -> Iterator[pa.RecordBatch]:
        """The first `documents` documents, in batches of `PART_DOCUMENTS` (schema `DOCUMENTS`)."""
        for start in range(0, documents, PART_DOCUMENTS):
            numbers = range(start, min(start + PART_DOCUMENTS, documents))
            made = [(i, self.text(i)) for i in numbers]
            yield documents_batch(
                [
                    Document(
                        source=t.source,
                        locator=Locator(uri=f"{t.source}/{i:08d}.txt"),
                        segments=(Segment(kind="text", text=t.text),),
                    )
                    for i, t in made
                ]
            )

    def documents_of(self, megabytes: float) -> int:
        """How many documents hold about so many megabytes of text."""
        mean = sum(len(t.text.encode()) for t in self.texts) / len(self.texts)
        return round(megabytes * 1e6 / mean)


def _one_word_changed(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    words[draw.randrange(len(words))] = f"w{draw.randrange(10**6)}"
    return " ".join(words)


class CorpusStage(Stage):
    """A corpus as the stage `ingest` of a run; made part by part."""

    name = "ingest"
    version = 1

    def __init__(self, corpus: Corpus, documents: int) -> None:
        self.corpus, self.documents = corpus, documents

    def settings(self) -> dict[str, Any]:
        return {"documents": self.documents, "seed": self.corpus.seed}

    def execute(self, ctx: StageContext) -> None:
        files = []
        for k, batch in enumerate(self.corpus.parts(self.documents)):
            part = f"part-{k // 10_000:05d}-{k % 10_000:04d}"
            table = pa.Table.from_batches([batch])
            files.append(ctx.directory.write_table(f"{part}.parquet", part, table))
        ctx.commit(UnitOutput("00000", kept=self.documents, files=tuple(files)))


def ingested(run: RunDirectory, corpus: Corpus, documents: int) -> StageManifest:
    """The first documents of a corpus as the stage `ingest` of a run."""
    return run_stage(CorpusStage(corpus, documents), run, RunSettings(), Console(), {})[0]
