"""Does it help to train on related documents in one context, and to train experts on domains that were found?

    python benchmarks/order.py --data ROOT [--quick] [--only order|experts] [--workers 2] [--json FILE]

A seed model reads all documents of eight kinds, each by itself. Everything else goes on from its weights.

Order: two equal models read documents in contexts packed the same way, without a document mask, so that both can use
earlier documents of a context; for one the documents stand in the order of in-context pretraining, for the other in
random order. They are then read out on held-out documents in related contexts (ordered by the same method) and in
unrelated ones: first documents of a context apart from later ones, and the later ones once more with every document
alone. How much lower the loss is in context than alone is what the earlier documents are worth to a model.

Experts: the seed model goes on in three ways with the same documents and as many updates in all: one dense model,
experts on k domains that were found, experts on k random parts. The ensembles are routed as in c-BTM, and averages of
their weights are measured too.

Losses are nats per token (a byte-level BPE of 2,048 ids trained on the documents). Every difference is paired: the same
tokens, the same initial weights; intervals are 95 %, by a bootstrap over seeds and contexts. A difference above 0 speaks
for the method. The models are tiny and read about a million tokens, so this shows direction, not size.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from order_corpus import Corpus, Size, corpus_of, first_document, seed_job, similarity
from order_experts import expert_job, expert_tables
from paired import by_context, difference, grouped, mean_of, sums_of
from recording import options_parser, save
from small_lm import Setting, losses, model_config, train_config, trained

PACKAGES = ("mixloom", "numpy", "scikit-learn", "torch")
ORDERS = ("path", "random")
BATCH = 8  # contexts of an update in either order: with few of them, related contexts make a narrow update
LR = 3e-3
Row = dict[str, Any]


FULL = Size(
    each=1000,
    characters=700,
    seeds=3,
    windows=(64, 1),
    seed_steps=480,
    order_steps=100,
    expert_steps=280,
    experts=4,
    setting=Setting(),
)
QUICK = replace(FULL, each=200, windows=(1,), seed_steps=200, order_steps=40, expert_steps=60)


def order_job(corpus: Corpus, window: int, seed: int, start: dict[str, np.ndarray]) -> list[Row]:
    """Both orders under one seed, from the weights `start`: differences of losses, summed by held-out context."""
    voc, config = corpus.vocabulary, model_config(corpus.size.setting, document_mask=False)
    training = {o: corpus.contexts(corpus.trained, o, window, seed) for o in ORDERS}
    fewest = min(len(c.ids) for c in training.values())
    goes_on = train_config(min(corpus.size.order_steps, fewest // BATCH), seed + 1000, LR, BATCH)
    models = {o: trained(c, voc, config, goes_on, start) for o, c in training.items()}
    rows: list[Row] = []
    for contexts_are, order in (("related", "path"), ("unrelated", "random")):
        held_out = corpus.contexts(corpus.held_out, order, window, 0)
        first = first_document(held_out)
        found = {o: losses(m, held_out, voc, document_mask=False) for o, m in models.items()}
        alone = {o: losses(m, held_out, voc, document_mask=True) for o, m in models.items()}
        common = {"window": window, "seed": seed, "contexts": contexts_are}
        common |= {"similarity": similarity(corpus, held_out)}
        for name, mask in (("later", ~first), ("first", first)):
            means = {o: float(np.nanmean(found[o][mask])) for o in ORDERS}
            told = {**common, "documents": name, "means": means}
            rows.append({**told, "kind": "order", "sums": by_context(found["random"] - found["path"], mask)})
            if name == "later":
                for o in ORDERS:
                    both = {"alone": float(np.nanmean(alone[o][mask])), "in_context": means[o]}
                    told = {**common, "trained_on": o, "means": both}
                    rows.append({**told, "kind": "context", "sums": by_context(alone[o] - found[o], mask)})
                worth = {o: alone[o] - found[o] for o in ORDERS}
                told = {**common, "means": {o: float(np.nanmean(worth[o][mask])) for o in ORDERS}}
                more = by_context(worth["path"] - worth["random"], mask)
                rows.append({**told, "kind": "use of context", "sums": more})
    for o, c in training.items():
        told = {"window": window, "seed": seed, "order": o, "contexts": len(c.ids), "tokens": c.tokens}
        told |= {"similarity": similarity(corpus, c), "updates": goes_on.steps}
        rows.append({**told, "kind": "packing", "fill": c.tokens / c.ids.size})
    return rows


def order_tables(rows: list[Row]) -> dict[str, Any]:
    """Tables over all seeds: what was packed, differences between the orders, and what earlier documents are worth."""
    packing = []
    for key, group in grouped(rows, "packing", "window", "order"):
        mean = {
            k: float(np.mean([r[k] for r in group])) for k in ("contexts", "updates", "fill", "similarity")
        }
        packing.append({**key, **{k: round(v, 4) for k, v in mean.items()}})
    orders, worth = [], []
    for key, group in grouped(rows, "order", "window", "contexts", "documents"):
        made = difference(*sums_of(group))
        means = {f"loss_{o}": mean_of(group, o) for o in ("random", "path")}
        orders.append({**key, "similarity": round(group[0]["similarity"], 3), **means, **made.row()})
    for key, group in grouped(rows, "context", "window", "contexts", "trained_on"):
        made = difference(*sums_of(group))
        means = {f"loss_{o}": mean_of(group, o) for o in ("alone", "in_context")}
        worth.append({**key, **means, **made.row()})
    use = []
    for key, group in grouped(rows, "use of context", "window", "contexts"):
        means = {f"worth_to_{o}": mean_of(group, o) for o in ORDERS}
        use.append({**key, **means, **difference(*sums_of(group)).row()})
    return {
        "training_contexts": packing,
        "random_minus_path": orders,
        "alone_minus_in_context": worth,
        "worth_of_context_path_minus_random": use,
    }


def verdicts(figures: Row) -> list[str]:
    """What the intervals say, in sentences."""
    said = []
    for row in figures.get("random_minus_path", []):
        if row["documents"] == "later" or row["contexts"] == "unrelated":
            what = f"window {row['window']}, {row['documents']} documents of {row['contexts']} contexts"
            said.append(f"{what}: in-context order {_against('random order', row)}")
    for row in figures.get("worth_of_context_path_minus_random", []):
        what = f"window {row['window']}, what earlier documents of {row['contexts']} contexts are worth"
        said.append(f"{what}: in-context order {_against('random order', row)}")
    for row in (r for r in figures.get("dense_minus_experts", []) if "low" in r):
        said.append(f"{row['model']} {_against('the dense model', row)}")
    for row in figures.get("random_parts_minus_domains", []):
        said.append(f"experts on domains, {row['model']}: {_against('experts on random parts', row)}")
    return said


def _against(other: str, row: Row) -> str:
    interval = f"{row['difference']:+.4f} nats per token, {row['low']:+.4f} to {row['high']:+.4f}"
    if row["low"] > 0:
        return f"is better than {other} ({interval})"
    return f"is {'worse than' if row['high'] < 0 else 'not told apart from'} {other} ({interval})"


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--only", choices=("order", "experts"), help="only this half")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    began = time.perf_counter()
    corpus = corpus_of(options.data, size)
    tokens = {n: int(sum(len(corpus.ids[i]) for i in getattr(corpus, n))) for n in ("trained", "held_out")}
    facts = {
        "documents": len(corpus.texts),
        "trained_tokens": tokens["trained"],
        "held_out_tokens": tokens["held_out"],
    }
    print(facts, flush=True)
    seeds, orders, experts = range(size.seeds), [], []
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        starts = [job.result() for job in [pool.submit(seed_job, corpus, s) for s in seeds]]
        print(f"seed models are trained, {time.perf_counter() - began:.0f} s", flush=True)
        if options.only != "experts":
            orders = [pool.submit(order_job, corpus, w, s, starts[s]) for w in size.windows for s in seeds]
        if options.only != "order":
            experts = [pool.submit(expert_job, corpus, s, starts[s]) for s in seeds]
        figures: Row = {**facts, "seeds": size.seeds, "parameters": parameters(size.setting)}
        if orders:
            figures |= order_tables([row for job in orders for row in job.result()])
            print(f"both orders are trained, {time.perf_counter() - began:.0f} s", flush=True)
        if experts:
            figures |= expert_tables([row for job in experts for row in job.result()])
    figures["says"] = verdicts(figures)
    figures["wall_s"] = round(time.perf_counter() - began, 1)
    for name, value in figures.items():
        print(name if isinstance(value, list) else f"{name}: {value}")
        for row in value if isinstance(value, list) else []:
            print("  ", row)
    figures["says"] = [
        {"finding": text.rpartition(" (")[0]} for text in figures["says"]
    ]  # tables have the rest
    save(options.json, options.quick, figures, PACKAGES)


def parameters(setting: Setting) -> int:
    """Weights of a model, embedding included."""
    from mixloom.trainers.model import Model

    config = model_config(setting, document_mask=True).filled(
        vocab_size=setting.vocab, seq_len=setting.length
    )
    return sum(p.numel() for p in Model(config).parameters())


if __name__ == "__main__":
    main()
