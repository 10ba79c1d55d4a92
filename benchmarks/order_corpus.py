"""The documents that small models are trained on to compare orders and experts, and the model all of them begin from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from domain_texts import documents
from small_lm import Contexts, Setting, arrays, model_config, packed, tokenized, train_config, trained

from mixloom.pipeline.context_similarity import within_context_cosine
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.order import order_cell
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.tfidf import TfidfSvd

HELD_OUT = 10  # one document in so many is held out


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    each: int  # documents of a set, at most
    characters: int  # of a document, at most
    seeds: int
    windows: tuple[int, ...]
    seed_steps: int  # updates of the model that all others begin from
    order_steps: int  # updates in either order
    expert_steps: int  # updates of the dense model, and of all experts of a kind together
    experts: int
    setting: Setting


@dataclass(frozen=True)
class Corpus:
    """What every job reads: ids and vectors of all documents, and which are trained on, both kinds in path order."""

    size: Size
    texts: list[str]
    ids: list[np.ndarray]
    vectors: np.ndarray
    trained: np.ndarray
    held_out: np.ndarray
    groups: np.ndarray  # of near duplicates, by document
    embedder: TfidfSvd
    tokenizer: Any
    vocabulary: dict[str, Any]

    def contexts(self, which: np.ndarray, order: str, window: int, seed: int) -> Contexts:
        """Documents, given in path order, packed in that order or a random one; near duplicates are kept apart."""
        if order == "random":
            which = np.random.Generator(np.random.PCG64([seed, 1])).permutation(which)
        return packed(self.ids, which, self.size.setting.length, window, self.groups)


def corpus_of(root: Path, size: Size) -> Corpus:
    """Documents, their tokenizer and their vectors; both are fitted on the documents that are trained on."""
    texts = [text for _, text in documents(root, size.each, size.characters)]
    held_out = np.arange(len(texts)) % HELD_OUT == 0  # they stand in the order of a hash
    sample = [t for t, out in zip(texts, held_out) if not out]
    tokenizer, vocabulary, ids = tokenized(texts, sample, size.setting.vocab)
    embedder = TfidfSvd.fit(sample, TfidfConfig())
    vectors = embedder.transform(texts)
    groups = np.full(len(texts), -1, np.int64)
    paths = []
    for which in (np.flatnonzero(~held_out), np.flatnonzero(held_out)):
        found = order_cell(vectors[which], [f"{i:08d}" for i in which], OrderConfig())
        paths.append(which[found.path])
        groups[paths[-1]] = found.near_duplicates
    return Corpus(size, texts, ids, vectors, *paths, groups, embedder, tokenizer, vocabulary)


def similarity(corpus: Corpus, contexts: Contexts) -> float:
    """Mean cosine of documents that share a context."""
    offsets = np.cumsum([0, *map(len, contexts.documents)]).astype(np.int64)
    total, pairs = within_context_cosine(np.concatenate(contexts.documents), offsets, corpus.vectors)
    return total / max(1, pairs)


def first_document(contexts: Contexts) -> np.ndarray:
    """bool [C, L]: tokens of the first piece of each context."""
    column = np.arange(contexts.ids.shape[1])
    return column < np.array([n[0] for n in contexts.lengths])[:, None]


def seed_job(corpus: Corpus, seed: int) -> dict[str, np.ndarray]:
    """The weights that everything of one seed begins from: trained on all documents, each read by itself."""
    order = np.random.Generator(np.random.PCG64([seed, 3])).permutation(corpus.trained)
    contexts = packed(corpus.ids, order, corpus.size.setting.length, 64)
    config = model_config(corpus.size.setting, document_mask=True)
    return arrays(trained(contexts, corpus.vocabulary, config, train_config(corpus.size.seed_steps, seed)))
