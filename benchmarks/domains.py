"""Domains found in real text against the sources it came from, beside scikit-learn's k-means on the same vectors.

    python benchmarks/domains.py --data ROOT [--quick] [--json FILE]

Eight sets mixed together as they are read by conf/real (newsgroups, medical questions, abstracts, proposals, statutes,
recipes, film reviews, encyclopedia articles), as tf-idf + SVD vectors of default settings. Labels are the source
(8), and the source with the newsgroup (27). Other mixtures are of the same and of other sets, some cut down to a share.
The method was chosen on the first five mixtures; the last three were measured after that and changed nothing. Methods: `capped` (the default) and `strict` (c-BTM's
balance) of mixloom, KMeans of scikit-learn with 10 starts. Each figure is a mean over seeds; documents go to the nearest
centre. `max/mean` is the largest domain in equal shares, `balance` the entropy of the sizes over that of equal ones.
Labels serve to score, never to fit. CPU seconds on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter
from recording import options_parser, save

from mixloom.pipeline.choose_k import size_entropy
from mixloom.pipeline.cluster import ClusterConfig, fit_domains
from mixloom.pipeline.domain_report import nmi, purity
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.ingest.config import Source
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.schema import Document
from mixloom.pipeline.storage import resolve
from mixloom.pipeline.tfidf import TfidfSvd

CONFIG = Path(__file__).resolve().parent.parent / "conf" / "real" / "shared.yaml"
EIGHT = ("20news", "medquad", "scitldr", "eips", "dccode", "based-cooking", "movie-reviews", "wikitext")
# Name -> source -> most documents of it (0: all).
MIXTURES: dict[str, dict[str, int]] = {
    "eight": dict.fromkeys(EIGHT, 0),
    "newsgroups": {"20news": 0},
    "questions and languages": {
        **dict.fromkeys(
            ("medquad", "eips", "wikitext", "gsm8k", "based-cooking", "current-events", "d2l"), 0
        ),
        "beer": 900,
        "tatoeba": 700,
    },
    "one large": {
        "20news": 0,
        "beer": 400,
        "dccode": 0,
        "current-events": 0,
        "gsm8k": 500,
        "movie-reviews": 0,
    },
    "short texts": dict.fromkeys(("beer", "gsm8k", "tatoeba", "current-events", "sherlock", "scitldr"), 0),
    "eight, cut": {**dict.fromkeys(EIGHT, 0), "20news": 400, "medquad": 300, "scitldr": 200, "dccode": 300},
    "books and news": {
        **dict.fromkeys(
            ("sherlock", "legendland", "openstax-sociology", "current-events", "wikitext", "eips"), 0
        ),
        "20news": 800,
        "movie-reviews": 0,
        "scitldr": 300,
    },
    "half": {
        "20news": 800,
        "medquad": 150,
        "beer": 1200,
        "dccode": 460,
        "gsm8k": 200,
        "wikitext": 0,
        "d2l": 0,
    },
}
KS = (16, 27, 32)
FINE = "newsgroup"
Labels = list[str]
Method = Callable[[np.ndarray, int, int], np.ndarray]


def sources() -> dict[str, Source]:
    """The sources of conf/real, a medical page as one document, and one more set."""
    read = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["sources"]
    named = {s["name"]: s for s in read}
    for key in ("record", "meta_fields"):
        named["medquad"].pop(key)
    named["gsm8k"] = {
        "name": "gsm8k",
        "format": "jsonl",
        "path": "decon-gsm8k",
        "glob": "test.jsonl",
        "text_field": "question",
    }
    adapter: TypeAdapter[Source] = TypeAdapter(Source)
    wanted = {name for mixture in MIXTURES.values() for name in mixture}
    return {name: adapter.validate_python(named[name]) for name in sorted(wanted)}


def texts(source: Source, root: Path) -> list[tuple[str, str]]:
    """(text, label) of every document with text; the label is the source, or the source and its newsgroup."""
    place = resolve(str(root), source.path)
    out = []
    for split in plan_splits(source, place):
        for item in read_split(split, source, place):
            if isinstance(item, Document):
                text = "\n\n".join(s.text for s in item.segments if s.kind == "text" and s.text)
                group = item.meta.get(FINE)
                out.append((text, f"{source.name}/{group}" if group else source.name))
    return out


def mixed(
    found: Mapping[str, list[tuple[str, str]]], mixture: Mapping[str, int]
) -> tuple[np.ndarray, Labels, Labels]:
    """Vectors float32 [n, 100] of the documents of a mixture that have one, their sources, and their finer labels."""
    documents: list[tuple[str, str]] = []
    for name, most in mixture.items():
        every = found[name]
        rng = np.random.Generator(np.random.PCG64(0))
        some = (
            np.sort(rng.choice(len(every), most, replace=False))
            if 0 < most < len(every)
            else range(len(every))
        )
        documents += [every[i] for i in some]
    model = TfidfSvd.fit([t for t, _ in documents], TfidfConfig())
    vectors = model.transform([t for t, _ in documents])
    known = np.flatnonzero(vectors.any(axis=1))
    fine = [documents[i][1] for i in known]
    return np.ascontiguousarray(vectors[known]), [x.partition("/")[0] for x in fine], fine


def ours(**settings: Any) -> Method:
    def method(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
        config = ClusterConfig(k=k, seed=seed, max_cell=len(vectors) + 2, **settings)
        found: np.ndarray = fit_domains(vectors, config).assign(vectors)[0]
        return found

    return method


def theirs(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    with one_thread():
        found: np.ndarray = KMeans(k, n_init=10, random_state=seed).fit(vectors).labels_
    return found


METHODS: dict[str, Method] = {
    "capped": ours(),
    "strict": ours(balance="strict"),
    "scikit-learn": theirs,
}


def row(
    method: str, vectors: np.ndarray, labels: Labels, fine: Labels, k: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """One row of the table: means over seeds."""
    measured = []
    for seed in seeds:
        started = time.process_time()
        found = METHODS[method](vectors, k, seed)
        seconds = time.process_time() - started
        sizes = np.bincount(found, minlength=k)
        spread = sum(
            float(((vectors[found == j] - vectors[found == j].mean(axis=0)) ** 2).sum())
            for j in np.unique(found)
        )
        measured.append(
            {
                "purity": purity(labels, found),
                "NMI": nmi(labels, found),
                "fine purity": purity(fine, found),
                "fine NMI": nmi(fine, found),
                "inertia": spread,
                "max/mean": float(sizes.max() * k / sizes.sum()),
                "balance": size_entropy(sizes, k),
                "largest": float(sizes.max() / sizes.sum()),
                "seconds": seconds,
            }
        )
    means = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
    digits = {"inertia": 1, "max/mean": 2, "seconds": 2}
    return {"k": k, "method": method, **{n: round(v, digits.get(n, 4)) for n, v in means.items()}}


def compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the default stands to scikit-learn: differences, above 0 where it is better."""
    out = []
    by = {(r["mixture"], r["k"], r["method"]): r for r in rows}
    for (mixture, k, method), mine in by.items():
        if method != "capped":
            continue
        other = by[mixture, k, "scikit-learn"]
        better = {
            n: round(mine[n] - other[n], 4) for n in ("purity", "NMI", "fine purity", "fine NMI", "balance")
        }
        out.append(
            {"mixture": mixture, "k": k, **better, "max/mean": round(other["max/mean"] - mine["max/mean"], 2)}
        )
    return out


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    for r in rows:
        print("  ".join(f"{key} {value}" for key, value in r.items()), flush=True)


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    found = {name: texts(source, options.data) for name, source in sources().items()}
    names = ["eight", "newsgroups", "half"] if options.quick else list(MIXTURES)
    seeds = range(3 if options.quick else 8)
    fit_domains(np.eye(4, dtype=np.float32), ClusterConfig(k=2))  # compiled before it is timed
    rows, sets = [], []
    for name in names:
        vectors, labels, fine = mixed(found, MIXTURES[name])
        kinds = len(set(labels)) if len(set(labels)) > 1 else len(set(fine))
        sets.append(
            {"mixture": name, "documents": len(labels), "sources": len(set(labels)), "labels": len(set(fine))}
        )
        for k in sorted({kinds, *KS}):
            new = [{"mixture": name, **row(m, vectors, labels, fine, k, seeds)} for m in METHODS]
            show(new)
            rows += new
    differences = compared(rows)
    show(differences)
    figures = {
        "seeds": len(seeds),
        "mixtures": sets,
        "domains": rows,
        "better than scikit-learn": differences,
    }
    save(options.json, options.quick, figures, ("numpy", "scikit-learn", "scipy", "numba"))


if __name__ == "__main__":
    main()
