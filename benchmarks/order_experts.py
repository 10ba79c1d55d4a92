"""Experts on domains that were found, on random parts, and one dense model, from one seed model and on the same tokens."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from order_corpus import Corpus
from paired import Row, by_context, difference, grouped, mean_of, sums_of
from small_lm import Contexts, Shuffled, batches, losses, model_config, packed, tensors, train_config, trained

from mixloom.pipeline.cluster import ClusterConfig, fit_domains
from mixloom.pipeline.distances import nearest
from mixloom.pipeline.routing import mixture_log_probs
from mixloom.trainers.averaging import average, fisher, fisher_average
from mixloom.trainers.config import RoutingConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.experts import Ensemble, branch, text_reader
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.model import Model

WINDOW = 64
FISHER_CONTEXTS = 24
LR = 3e-3  # of what goes on from the seed


def parts_of(corpus: Corpus, seed: int) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """The documents of each expert and the centres, float32 [k, d], for domains that were found and for random parts."""
    size, vectors = corpus.size, corpus.vectors
    found = fit_domains(vectors[corpus.trained], ClusterConfig(k=size.experts, seed=seed))
    label = nearest(vectors[corpus.trained], found.centres)[0]
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    domains = [rng.permutation(corpus.trained[label == j]) for j in range(found.k)]
    pieces = np.array_split(rng.permutation(corpus.trained), found.k)
    means = np.stack([vectors[p].mean(axis=0) for p in pieces]).astype(np.float32)
    return {"domains": (domains, found.centres), "random parts": (pieces, means)}


def expert_job(corpus: Corpus, seed: int, start: dict[str, np.ndarray]) -> list[Row]:
    """All models under one seed, from the weights `start`: differences of losses to the dense model, by context."""
    size, voc = corpus.size, corpus.vocabulary
    length, config = size.setting.length, model_config(size.setting, document_mask=True)
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    everything = packed(corpus.ids, rng.permutation(corpus.trained), length, WINDOW)
    held_out = corpus.contexts(corpus.held_out, "random", WINDOW, 0)
    goes_on = train_config(size.expert_steps, seed + 1000, LR)
    dense = trained(everything, voc, config, goes_on, start)
    base = losses(dense, held_out, voc, document_mask=True)
    before = Model(dense.config)
    before.load_state_dict(tensors(start))
    rows = [_row("seed model", seed, losses(before.eval(), held_out, voc, document_mask=True), base)]
    rows.append(_row("dense", seed, base, base))
    read_out: dict[str, dict[str, np.ndarray]] = {}
    for name, (parts, centres) in parts_of(corpus, seed).items():
        contexts = [packed(corpus.ids, p, length, WINDOW) for p in parts]
        experts = _experts(corpus, contexts, start, seed)
        read_out[name] = _read_out(corpus, experts, centres, contexts, held_out)
        rows += [_row(f"{name}, {label}", seed, found, base) for label, found in read_out[name].items()]
    for label, found in read_out["domains"].items():
        rows.append(_row(label, seed, found, read_out["random parts"][label], "domains"))
    return rows


def _experts(
    corpus: Corpus, contexts: list[Contexts], start: dict[str, np.ndarray], seed: int
) -> list[Model]:
    """One expert per set of contexts; updates in proportion to its tokens, all together those of the dense model."""
    size = corpus.size
    config = model_config(size.setting, document_mask=True)
    share = np.array([c.tokens for c in contexts]) / sum(c.tokens for c in contexts)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for j, own in enumerate(contexts):
            training = train_config(max(1, round(size.expert_steps * share[j])), seed + 1000, LR)
            name = f"expert-{j:03d}"
            stream = {name: Shuffled(own, training.seed, training.batch_contexts)}
            made = branch(
                tensors(start), stream, corpus.vocabulary, config, training, folder, on_record=_quiet
            )
            out.append(load_checkpoint_model(made[name].checkpoint))
    return out


def _quiet(record: dict[str, Any]) -> None:
    """Say nothing."""


def _read_out(
    corpus: Corpus, experts: list[Model], centres: np.ndarray, contexts: list[Contexts], held_out: Contexts
) -> dict[str, np.ndarray]:
    """Nats of every target, float64 [C, L], by how the experts are joined."""
    voc = corpus.vocabulary
    read = text_reader(voc, corpus.tokenizer)
    ways = {
        "ensemble": RoutingConfig(),
        "ensemble, top 1": RoutingConfig(top_k=1),
        "ensemble, all alike": RoutingConfig(temperature=float("inf")),
    }
    groups = {n: Ensemble(experts, centres, corpus.embedder.transform, read, r) for n, r in ways.items()}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for batch in batches(held_out, voc, document_mask=True):
        by_expert = groups["ensemble"].expert_log_probs(batch)  # what routing has no part in is computed once
        for name, group in groups.items():
            nats = -mixture_log_probs(by_expert, group.weights(batch))
            parts[name].append(np.where(batch.targets.numpy() >= 0, nats, np.nan).reshape(batch.shape))
    out = {name: np.concatenate(found) for name, found in parts.items()}
    states = [m.state_dict() for m in experts]
    information = [_information(m, c, voc) for m, c in zip(experts, contexts)]
    for label, state in (
        ("average of weights", average(states)),
        ("Fisher-weighted average", fisher_average(states, information)),
    ):
        model = Model(experts[0].config)
        model.load_state_dict(state)
        out[label] = losses(model.eval(), held_out, voc, document_mask=True)
    return out


def _information(model: Model, contexts: Contexts, voc: dict[str, Any]) -> dict[str, torch.Tensor]:
    table, few = modality_table(voc), range(min(FISHER_CONTEXTS, len(contexts.ids)))
    single = (make_batch(contexts.ids[i : i + 1], contexts.lengths[i : i + 1], table) for i in few)
    return fisher(model, single, "buckets")


def _row(name: str, seed: int, found: np.ndarray, base: np.ndarray, kind: str = "experts") -> Row:
    means = {"loss": float(np.nanmean(found)), "base": float(np.nanmean(base))}
    sums = by_context(base - found, np.ones(base.shape, bool))
    return {"kind": kind, "model": name, "seed": seed, "means": means, "sums": sums}


def expert_tables(rows: list[Row]) -> dict[str, Any]:
    """Perplexity of every model and its difference to the dense one; and domains against random parts."""
    table = []
    for key, group in grouped(rows, "experts", "model"):
        loss = mean_of(group, "loss")
        told = {**key, "loss": loss, "perplexity": round(float(np.exp(loss)), 2)}
        table.append(told | (difference(*sums_of(group)).row() if key["model"] != "dense" else {}))
    against = []
    for key, group in grouped(rows, "domains", "model"):
        means = {"loss_random_parts": mean_of(group, "base"), "loss_domains": mean_of(group, "loss")}
        against.append({**key, **means, **difference(*sums_of(group)).row()})
    return {"dense_minus_experts": table, "random_parts_minus_domains": against}
