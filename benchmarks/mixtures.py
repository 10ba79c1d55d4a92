"""Which mixture of real sources trains the better model: heuristics, utilities from small trainings, or learned weights?

    python benchmarks/mixtures.py --data ROOT [--quick] [--workers 2] [--heldout FOLDER] [--json FILE]

Eight sources of uneven size (those most useful for the skills are scarce) and five skills, which are held-out sets: other
documents of three of the sources, and two kinds of text that no source holds. Two settings with the same training length:
rich, where no cap of four epochs binds on equal shares, and constrained, where every source is cut by one ratio until the
training is two and a half epochs of everything (simulated epochs), so that caps bind.

Everything learned is learned from small trainings and other held-out documents than those on which mixtures are compared:
ablations (a model per source), averages of branched models, DoReMi's proxy, RegMix's trials, and the lexical judge, which
trains nothing. Then the same model is trained on every mixture, from the same initial weights under each seed.

Losses are bits per byte of held-out text; skills count alike. Differences are UniMax minus the method on the same tokens, so
above 0 the method is better; intervals are 95 %, by a bootstrap over seeds and contexts, each by itself: with ten methods
one in twenty of such intervals misses 0 by chance. The models are tiny: this shows direction, not size.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixtures_corpus import Corpus, Scale, corpus_of, write_sources
from paired import difference
from recording import options_parser, save
from scipy.stats import spearmanr

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.given import Given
from mixloom.mixers.heldout import HeldOut, SkillLosses
from mixloom.mixers.judge_lexical import LexicalJudge
from mixloom.mixers.medu_labels import VALUES
from mixloom.mixers.mixture import Mixture
from mixloom.mixers.stage import weigh
from mixloom.mixers.stream import Stream
from mixloom.mixers.tables import Trace, Trials
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.trainers.ablate import SmallRuns, ablation_losses, utilities_of
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.merging import Merged, merge_losses, merge_utilities
from mixloom.trainers.model_cache import ModelCache
from mixloom.trainers.proxies import doremi_proxy, regmix_trials
from mixloom.trainers.skills import context_nats
from mixloom.trainers.stage import StreamSource
from mixloom.trainers.trainer import train

PACKAGES = ("mixloom", "numpy", "scikit-learn", "scipy", "torch")
FULL = Scale(seeds=3, steps=240, small_steps=40, small_seeds=2, trials=24)
QUICK = replace(FULL, seeds=2, steps=60, small_steps=15, small_seeds=1, trials=6, skill_tokens=5_000)
JUDGED = 100  # documents of a source that the lexical judge reads
SMALL_SEED = 1000  # of small trainings, so that none shares its initial weights with a model that is compared
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """One setting: where its shards and its small models lie."""

    name: str
    shards: str
    cache: str


def config_of(scale: Scale, steps: int, seed: int) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_contexts=scale.batch,
        lr=6e-3,
        min_lr=6e-4,
        warmup=max(2, steps // 10),
        seed=seed,
        device="cpu",
        threads=1,
        log_every=max(1, steps // 4),
        checkpoint_every=0,
    )


def model_of(scale: Scale) -> ModelConfig:
    sizes = {"dim": scale.dim, "layers": scale.layers, "heads": scale.heads}
    return ModelConfig(**sizes, untie=(), tie_embeddings=True, init_std=0.1, seq_len=scale.length)


def small_runs(corpus: Corpus, place: Place) -> SmallRuns:
    scale = corpus.scale
    config = config_of(scale, scale.small_steps, SMALL_SEED)
    reader = ShardReader(place.shards)
    return SmallRuns(reader, corpus.skills, model_of(scale), config, scale.contexts, scale.small_seeds)


def ablation_job(corpus: Corpus, place: Place) -> tuple[Utilities, float]:
    torch.set_num_threads(1)
    began, runs = time.process_time(), small_runs(corpus, place)
    made = utilities_of(ablation_losses(runs, ModelCache(place.cache)), runs)
    return made, time.process_time() - began


def merge_job(corpus: Corpus, place: Place) -> tuple[Utilities, float]:
    torch.set_num_threads(1)
    began, runs = time.process_time(), small_runs(corpus, place)
    steps = corpus.scale.small_steps
    losses = merge_losses(runs, ModelCache(place.cache), branch_steps=steps)
    return merge_utilities(losses, runs, steps), time.process_time() - began


def doremi_job(corpus: Corpus, place: Place) -> tuple[Trace, float]:
    torch.set_num_threads(1)
    began, runs = time.process_time(), small_runs(corpus, place)
    return doremi_proxy(runs, ModelCache(place.cache)), time.process_time() - began


def regmix_job(corpus: Corpus, place: Place) -> tuple[Trials, float]:
    torch.set_num_threads(1)
    began, runs = time.process_time(), small_runs(corpus, place)
    trials = regmix_trials(runs, ModelCache(place.cache), corpus.scale.trials)
    return trials, time.process_time() - began


def lexical_job(corpus: Corpus, place: Place) -> tuple[Utilities, float]:
    """The lexical judge on the first documents of each source; the same in every setting."""
    began = time.process_time()
    sources = tuple(sorted(corpus.texts))
    judge = LexicalJudge({s: corpus.texts[s][:JUDGED] for s in sources}, corpus.skill_texts)
    columns = []
    for skill in corpus.skill_texts:
        labels = judge.judge(skill).labels
        columns.append([np.mean([VALUES[x] for x in labels[s]]) for s in sources])
    values = np.array(columns).T
    made = Utilities(sources, tuple(corpus.skill_texts), values, "lexical", loss_only=False)
    return made, time.process_time() - began


MEASURES = {
    "ablation": ablation_job,
    "merge": merge_job,
    "doremi": doremi_job,
    "regmix": regmix_job,
    "lexical": lexical_job,
}


def merged_scores_job(corpus: Corpus, place: Place, trials: Trials) -> np.ndarray:
    """Losses of merged models for the mixtures of RegMix's trials: [trials, skills]. Nothing more is trained."""
    torch.set_num_threads(1)
    runs = small_runs(corpus, place)
    merged = Merged(runs, ModelCache(place.cache), branch_steps=corpus.scale.small_steps)
    return merged.scores([dict(zip(trials.domains, row.tolist())) for row in trials.weights])


def mixtures_of(corpus: Corpus, place: Place, found: Mapping[str, Any]) -> dict[str, Mixture]:
    """The mixture of every method for one setting, by its name in the tables."""
    manifest = ShardReader(place.shards).manifest
    plain = MixtureConfig(max_epochs=corpus.scale.epochs)

    def made(given: Given | None = None, **settings: Any) -> Mixture:
        config = plain.model_copy(update=settings)
        return weigh(manifest, config, corpus.scale.contexts, given or Given())

    out = {m: made(method=m) for m in ("unimax", "uniform", "proportional", "temperature")}
    for kind in ("ablation", "merge", "lexical"):
        given = Given(utilities=found[kind])
        out[f"utilimax, {kind}"] = made(given, method="utilimax")
        out[f"utilimax, {kind}, risk 0.1"] = made(given, method="utilimax", risk=0.1)
    out["doremi"] = made(Given(excess=found["doremi"]), method="doremi")
    out["regmix"] = made(Given(trials=found["regmix"]), method="regmix")
    return out


def train_job(corpus: Corpus, place: Place, mixture: Mixture, seed: int) -> list[np.ndarray]:
    """Nats of each context of each test set of the model trained on a mixture."""
    torch.set_num_threads(1)
    scale = corpus.scale
    config = config_of(scale, scale.steps, seed)
    stream = Stream(
        ShardReader(place.shards),
        mixture,
        seed=seed,
        batch_contexts=scale.batch,
        steps=scale.steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        source = StreamSource(stream)
        result = train(
            source, corpus.vocabulary, model_of(scale), config, folder, on_record=lambda record: None
        )
        model = load_checkpoint_model(result.checkpoint)
    return [context_nats(model, s, corpus.vocabulary) for s in corpus.test]


def losses_table(
    corpus: Corpus,
    place: Place,
    mixtures: Mapping[str, Mixture],
    nats: Mapping[tuple[str, int], list[np.ndarray]],
) -> list[Row]:
    """A row per method: losses, and differences to UniMax with intervals. nats: by (method, seed)."""
    rows, seeds = [], range(corpus.scale.seeds)
    for name, mixture in mixtures.items():
        by_skill = _bits(corpus, [nats[name, s] for s in seeds])
        row: Row = {"setting": place.name, "method": name, "loss": round(float(by_skill.mean()), 4)}
        if name != "unimax":
            made = difference(*_paired(corpus, nats, name))
            row |= made.row()
            row["says"] = {1: "better than unimax", -1: "worse than unimax", 0: "not told apart"}[made.sign]
        else:
            row |= {"difference": 0.0, "low": None, "high": None, "seeds_above_0": "", "says": "reference"}
        row |= {s.name: round(float(x), 4) for s, x in zip(corpus.test, by_skill.mean(axis=0))}
        row["effective_domains"] = round(mixture.effective_domains, 2)
        row["caps_binding"] = len(mixture.capped)
        rows.append(row)
    return rows


def _bits(corpus: Corpus, nats: list[list[np.ndarray]]) -> np.ndarray:
    """Bits per byte: float64 [seeds, skills]."""
    return np.array([[s.bits(float(own.sum())) for s, own in zip(corpus.test, found)] for found in nats])


def _paired(
    corpus: Corpus, nats: Mapping[tuple[str, int], list[np.ndarray]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of contexts and their weights, [seeds, contexts], such that every skill counts alike."""
    sums, counts = [], []
    for s in range(corpus.scale.seeds):
        both = zip(corpus.test, nats["unimax", s], nats[name, s])
        sums.append(np.concatenate([(base - own) * skill.bits(1.0) for skill, base, own in both]))
        weights = [np.array([n.sum() for n in skill.lengths]) / skill.tokens for skill in corpus.test]
        counts.append(np.concatenate(weights))
    scale = 1e6  # counts are shares here, and `difference` takes a sum below 1 for 1
    return np.stack(sums) * scale, np.stack(counts) * scale


def rank_table(place: Place, found: Mapping[str, Any], merged: np.ndarray) -> list[Row]:
    """Spearman's rank correlations: of utilities by skill over the sources, and of merged models with trained ones."""
    rows = []
    for a, b in (("ablation", "merge"), ("ablation", "lexical"), ("merge", "lexical")):
        x, y = found[a], found[b].aligned(found[a].sources)
        each = [_rank(u, v) for u, v in zip(x.values.T, y.values.T)]
        row: Row = {"setting": place.name, "compared": f"utilities, {a} and {b}", "over": "sources"}
        row |= {"mean": round(float(np.mean(each)), 3)}
        rows.append(row | {s: round(r, 3) for s, r in zip(x.skills, each)})
    trials: Trials = found["regmix"]
    each = [_rank(u, v) for u, v in zip(trials.losses.T, merged.T)]
    row = {"setting": place.name, "compared": "losses, merged and trained models", "over": "mixtures"}
    row["mean"] = round(_rank(trials.losses.mean(axis=1), merged.mean(axis=1)), 3)
    rows.append(row | {s: round(r, 3) for s, r in zip(trials.skills, each)})
    return rows


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    found = spearmanr(x, y).statistic
    return float(found) if np.isfinite(found) else 0.0


def weight_table(place: Place, mixtures: Mapping[str, Mixture]) -> list[Row]:
    return [
        {"setting": place.name, "method": m, **{d: round(w, 4) for d, w in mixture.weights.items()}}
        for m, mixture in mixtures.items()
    ]


def heldout_of(
    corpus: Corpus, mixture: Mixture, nats: Mapping[tuple[str, int], list[np.ndarray]], name: str
) -> HeldOut:
    """The comparison with UniMax as the file that `mixloom mix show --heldout` judges by."""
    seeds = range(corpus.scale.seeds)
    own, base = (_bits(corpus, [nats[m, s] for s in seeds]) for m in (name, "unimax"))
    sides = {
        s.name: SkillLosses(loss=tuple(own[:, k].tolist()), unimax=tuple(base[:, k].tolist()))
        for k, s in enumerate(corpus.test)
    }
    return HeldOut(
        version=1,
        mixture=mixture.fingerprint,
        method=mixture.estimator,
        seeds=tuple(seeds),
        loss=tuple(own.mean(axis=1).tolist()),
        unimax=tuple(base.mean(axis=1).tolist()),
        by_skill=sides,
    )


def verdicts(rows: list[Row]) -> list[Row]:
    """What the table says, in sentences."""
    said = []
    for setting in dict.fromkeys(r["setting"] for r in rows):
        own = [r for r in rows if r["setting"] == setting]
        best = min(own, key=lambda r: r["loss"])
        better = [r["method"] for r in own if r["says"] == "better than unimax"]
        worse = [r["method"] for r in own if r["says"] == "worse than unimax"]
        text = f"{setting}: lowest mean loss by {best['method']} ({best['loss']:.4f} bits per byte);"
        text += f" better than UniMax: {', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}"
        said.append({"finding": text})
    return said


def settings_of(corpus: Corpus, root: Path) -> list[Place]:
    """The shards of both settings."""
    scale = corpus.scale
    scarce = scale.contexts * scale.length / (scale.constrained * corpus.tokens)
    places = []
    for name, ratio in (("rich", 1.0), ("constrained", min(1.0, scarce))):
        places.append(Place(name, str(root / name), str(root / f"{name}-cache")))
        write_sources(corpus, Path(places[-1].shards), ratio)
    return places


def run(corpus: Corpus, root: Path, workers: int, heldout: Path | None) -> Row:
    """Everything, in `root`."""
    began, places = time.perf_counter(), settings_of(corpus, root)
    light = replace(corpus, ids={}, texts={}, skill_texts={})  # what trainings need, without the documents
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        asked = {
            (p.name, k): pool.submit(job, corpus if k == "lexical" else light, p)
            for p in places
            for k, job in MEASURES.items()
        }
        done = {at: job.result() for at, job in asked.items()}
        print(f"small models are trained, {time.perf_counter() - began:.0f} s", flush=True)
        found = {p.name: {k: done[p.name, k][0] for k in MEASURES} for p in places}
        scores = {p.name: pool.submit(merged_scores_job, light, p, found[p.name]["regmix"]) for p in places}
        mixtures = {p.name: mixtures_of(corpus, p, found[p.name]) for p in places}
        nats = trained(pool, light, places, mixtures)
        merged = {name: job.result() for name, job in scores.items()}
    figures: Row = {"sources": _sizes(places)}
    losses = [row for p in places for row in losses_table(corpus, p, mixtures[p.name], nats[p.name])]
    figures |= {"losses_in_bits_per_byte": losses, "says": verdicts(losses)}
    ranks = [row for p in places for row in rank_table(p, found[p.name], merged[p.name])]
    figures |= {"rank_correlations": ranks}
    figures |= {"weights": [row for p in places for row in weight_table(p, mixtures[p.name])]}
    figures |= {"utilities": [row for p in places for row in utility_table(p, found[p.name])]}
    cost = [{"setting": s, "measured": k, "cpu_s": round(x[1], 1)} for (s, k), x in done.items()]
    figures |= {"cost_of_measuring": cost}
    if heldout is not None:
        for p in places:
            for m, mixture in mixtures[p.name].items():
                name = f"{p.name}-{m.replace(', ', '-').replace(' ', '-')}.json"
                heldout_of(corpus, mixture, nats[p.name], m).save(heldout / name)
    return figures | {"wall_s": round(time.perf_counter() - began, 1)}


def trained(
    pool: ProcessPoolExecutor,
    corpus: Corpus,
    places: list[Place],
    mixtures: Mapping[str, Mapping[str, Mixture]],
) -> dict[str, dict[tuple[str, int], list[np.ndarray]]]:
    """Nats on the test sets by setting, method and seed; mixtures of equal weights are trained once."""
    seeds = range(corpus.scale.seeds)
    jobs: dict[tuple[str, tuple[float, ...], int], Any] = {}
    for p in places:
        for m in mixtures[p.name].values():
            for s in seeds:
                if (p.name, _key(m), s) not in jobs:
                    jobs[p.name, _key(m), s] = pool.submit(train_job, corpus, p, m, s)
    print(f"{len(jobs)} models are compared", flush=True)
    return {
        p.name: {
            (m, s): jobs[p.name, _key(x), s].result() for m, x in mixtures[p.name].items() for s in seeds
        }
        for p in places
    }


def utility_table(place: Place, found: Mapping[str, Any]) -> list[Row]:
    rows = []
    for kind in ("ablation", "merge", "lexical"):
        u: Utilities = found[kind]
        for source, values in zip(u.sources, u.values):
            own = {skill: round(float(x), 3) for skill, x in zip(u.skills, values)}
            rows.append({"setting": place.name, "measured": kind, "source": source, **own})
    return rows


def _key(mixture: Mixture) -> tuple[float, ...]:
    """What two mixtures have in common that serve the same."""
    return tuple(round(w, 9) for w in mixture.weights.values())


def _sizes(places: list[Place]) -> list[Row]:
    rows = []
    for p in places:
        manifest = ShardReader(p.shards).manifest
        rows.append({"setting": p.name, **{d.name: d.tokens for d in manifest.domains}})
    return rows


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument(
        "--heldout", type=Path, metavar="FOLDER", help="write held-out comparisons with UniMax"
    )
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    corpus = corpus_of(options.data, scale)
    facts = {
        "seeds": scale.seeds,
        "tokens_of_sources": corpus.tokens,
        "tokens_of_training": scale.contexts * scale.length,
        "tokens_of_small_training": scale.small_steps * scale.batch * scale.length,
        "trials": scale.trials,
        "model": f"{scale.layers} layers of width {scale.dim}, {scale.vocab} ids, contexts of {scale.length}",
    }
    print(facts, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = {**facts, **run(corpus, Path(folder), options.workers, options.heldout)}
    for name, value in figures.items():
        print(name if isinstance(value, list) else f"{name}: {value}")
        for row in value if isinstance(value, list) else []:
            print("  ", row)
    save(options.json, options.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
