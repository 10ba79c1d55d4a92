"""Eight real sources of uneven size as shards, and five held-out sets that mixtures of them are judged by."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from domain_texts import LEAST, documents
from small_lm import packed, tokenized

from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.trainers.skills import SkillSet, packed_skill

HELD_OUT = 10  # one document in so many of the sources below is held out
LONGEST = 2000  # characters of a held-out document, so that there are many
WINDOW = 64
# Share of each set that is a source: what is most useful is scarce, as it is on the web.
SHARES = {
    "20news": 1.0,
    "dccode": 1.0,
    "eips": 1.0,
    "medquad": 0.1,
    "movie-reviews": 0.5,
    "scitldr": 0.1,
    "se-beer": 0.5,
    "wikitext2": 1.0,
}
# Held-out documents of these sources are skills, beside two sets that no source is of.
OWN_SKILLS = {"medquad": "medicine", "scitldr": "science", "wikitext2": "encyclopaedia"}
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARK = re.compile(r"[*_#>`]+|<[^>]+>")


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    seeds: int
    steps: int  # of every model that is compared
    small_steps: int  # of a model that utilities are measured with
    small_seeds: int
    trials: int  # of RegMix
    batch: int = 8
    length: int = 256
    vocab: int = 2048
    dim: int = 64
    layers: int = 2
    heads: int = 2
    skill_tokens: int = 12_000
    epochs: float = 4.0  # no source more often
    constrained: float = 2.5  # epochs of everything that the training is, where data are scarce

    @property
    def contexts(self) -> int:
        return self.steps * self.batch


@dataclass(frozen=True)
class Corpus:
    """Tokenised documents by source, in the order of a hash; skills; and the vocabulary of both.

    skills: what utilities are measured on. test: other documents of the same kinds, on which mixtures are compared.
    """

    scale: Scale
    ids: dict[str, list[np.ndarray]]
    skills: list[SkillSet]
    test: list[SkillSet]
    texts: dict[str, list[str]]  # of sources, for judges that read
    skill_texts: dict[str, list[str]]  # of what utilities are measured on
    vocabulary: dict[str, Any]

    @property
    def tokens(self) -> int:
        return sum(len(d) for own in self.ids.values() for d in own)


def _news(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.md")):
        body = path.read_text(encoding="utf-8").partition("\n---")[2]
        yield html.unescape(_MARK.sub("", _LINK.sub(r"\1", body)))


def _fiction(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.xhtml")):
        yield from ("".join(p.itertext()) for p in ET.parse(path).iter() if p.tag.endswith("}section"))


OTHER_SKILLS = {"news": ("text-current-events", _news), "fiction": ("text-books/sherlock-holmes", _fiction)}


def corpus_of(root: Path, scale: Scale) -> Corpus:
    """Read, split, tokenise. The tokenizer is trained on the sources alone."""
    kept: dict[str, list[str]] = {name: [] for name in SHARES}
    held: dict[str, list[str]] = {OWN_SKILLS[name]: [] for name in OWN_SKILLS}
    for i, (name, text) in enumerate(documents(root, 100_000, 20_000)):
        if name in OWN_SKILLS and i % HELD_OUT == 0:
            held[OWN_SKILLS[name]].append(text[:LONGEST])
        else:
            kept[name].append(text)
    sources = {name: own[: max(1, round(SHARES[name] * len(own)))] for name, own in kept.items() if own}
    for name, (folder, read) in OTHER_SKILLS.items():
        if (root / folder).is_dir():
            texts = [" ".join(t.split()) for t in read(root / folder)]
            held[name] = [t[:LONGEST] for t in texts if len(t) >= LEAST]
    sample = [t for own in sources.values() for t in own[:200]]
    texts = [t for own in sources.values() for t in own] + [t for own in held.values() for t in own]
    _, vocabulary, all_ids = tokenized(texts, sample, scale.vocab)
    at, ids = 0, {}
    for name, own in sources.items():
        ids[name] = all_ids[at : at + len(own)]
        at += len(own)
    skills, test, skill_texts = [], [], {}
    for name, own in held.items():
        found = all_ids[at : at + len(own)]
        at += len(own)
        for sets, first in ((skills, 0), (test, 1)):
            some, texts = _first(found[first::2], scale.skill_tokens), own[first::2]
            sizes = [len(t.encode()) for t in texts[: len(some)]]
            sets.append(packed_skill(name, some, sizes, scale.length, str(vocabulary["dtype"])))
        skill_texts[name] = own[0::2]
    return Corpus(scale, ids, skills, test, sources, skill_texts, vocabulary)


def _first(documents: list[np.ndarray], most: int) -> list[np.ndarray]:
    """The first documents, up to about so many tokens."""
    sums = np.cumsum([0, *map(len, documents)])
    return documents[: int(np.searchsorted(sums, most))]


def write_sources(corpus: Corpus, folder: Path, ratio: float) -> None:
    """Every source cut to `ratio` of its documents' tokens, a domain each, as shards in `folder`."""
    scale, entries = corpus.scale, []
    for d, (name, own) in enumerate(sorted(corpus.ids.items())):
        some = _first(own, max(scale.length, round(ratio * sum(map(len, own))))) if ratio < 1 else own
        contexts = packed(some, np.arange(len(some)), scale.length, WINDOW)
        rows = [
            Context(
                row[: int(n.sum())],
                n.tolist(),
                [f"{name}-{i}" for i in which],
                [name] * len(n),
                [0] * len(n),
            )
            for row, n, which in zip(contexts.ids, contexts.lengths, contexts.documents)
        ]
        shard = shard_name(name, 0, 1)
        prefix, common = key_prefix(d, 0), {"seq_len": scale.length, "vocabulary": corpus.vocabulary}
        entries.append(write_shard(folder, shard, name, rows, prefix=prefix, **common))
    build_manifest(entries, corpus.vocabulary, seq_len=scale.length).save(folder)
