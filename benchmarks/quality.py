"""Quality classifiers on real documents: how well they tell sources apart, how honest they are, and at what speed.

    python benchmarks/quality.py --data ROOT [--quick] [--json FILE]

Easy: encyclopedia articles and paper abstracts (text-wikitext2, text-scitldr) against newsgroup posts and film reviews
(text-20news, text-movie-reviews); sources differ in topic and form, so a figure near 1 says that the machinery works, not
that quality was measured. Hard: well-meant against ill-meant film reviews, 360 in all. Default settings but where named.
Speed: the same documents scored by the fitted model through the fasttext package (a list per call, as its batch
interface wants it) and through this project's kernel (an Arrow batch per call), CPU seconds, median of turns taken in
rotation; and the kernel on two threads at once, wall seconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save
from text_sets import documents

from mixloom.pipeline.config import validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.quality.classifier import Classifier
from mixloom.pipeline.quality.config import QualityFitConfig
from mixloom.pipeline.quality.fit import fit_quality

WIKITEXT = {
    "format": "text",
    "path": "text-wikitext2",
    "glob": "{valid,test}.txt",
    "split": r"^ = [^=\n].*[^=\n] = *$",
}
NEWS = {
    "format": "text",
    "path": "text-20news",
    "glob": "*.*/*",
    "encoding": "latin-1",
    "strip_headers": True,
}
REVIEWS = {"format": "text", "path": "text-movie-reviews", "encoding": "latin-1"}
CASES: dict[str, dict[str, Any]] = {
    "easy": {
        "positives": [
            {"name": "wikitext2", **WIKITEXT},
            {"name": "scitldr", "format": "jsonl", "path": "text-scitldr", "text_field": "source"},
        ],
        "negatives": [{"name": "news", **NEWS}, {"name": "reviews", **REVIEWS, "glob": "{neg,pos}/*.txt"}],
    },
    "close": {
        "positives": [{"name": "sci", **NEWS, "glob": "sci.*/*"}],
        "negatives": [{"name": "comp", **NEWS, "glob": "comp.*/*"}],
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "isotonic": {"calibration": "isotonic"},
    "lower case, punctuation apart": {"normalisation": {"lowercase": True, "separate_punctuation": True}},
    "one word at a time": {"fasttext": {"word_ngrams": 1}},
    "5 epochs": {"fasttext": {"epochs": 5}},
    "quantised": {"fasttext": {"quantize": True}},
}
SCORED = ("text-20news", "text-movie-reviews", "text-wikitext2", "text-current-events", "text-eips")


def fit(case: str, variant: str, root: Path, out: Path) -> dict[str, Any]:
    """Fit one case in one variant; its row of the table."""
    tree = {"out": str(out), "data_root": str(root), **CASES[case], **VARIANTS[variant]}
    config = validate(QualityFitConfig, tree, case)
    started = time.process_time()
    header = fit_quality(config, Console(quiet=True))
    seconds = time.process_time() - started
    m = header["metrics"]
    return {
        "case": case,
        "variant": variant,
        "documents": sum(sum(s.values()) for s in header["splits"].values()),
        "held out": sum(header["splits"]["test"].values()),
        "AUC": round(m["auc"], 4),
        "calibration error raw": round(m["calibration_error_raw"], 4),
        "calibration error": round(m["calibration_error"], 4),
        "Brier raw": round(m["brier_raw"], 4),
        "Brier": round(m["brier"], 4),
        "model MB": round((out / "model.bin").stat().st_size / 1e6, 1),
        "CPU seconds": round(seconds, 1),
    }


def speed(model: Path, root: Path, turns: int) -> list[dict[str, Any]]:
    """Documents per second through the package and through the kernel, and how far their scores differ."""
    import fasttext

    texts = [t for name in SCORED if (root / name).is_dir() for t in documents(root / name)]
    batches = [pa.array(texts[i : i + 1000], pa.large_string()) for i in range(0, len(texts), 1000)]
    classifier = Classifier.load(str(model))
    package = fasttext.load_model(str(model / "model.bin"))

    def by_package() -> None:
        for i in range(0, len(texts), 1000):
            lines = [t.replace("\n", " ") + "\n" for t in texts[i : i + 1000]]
            package.f.multilinePredict(lines, 2, 0.0, "strict")

    def by_kernel() -> None:
        for batch in batches:
            classifier.score(batch)

    def on_two_threads() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(classifier.score, batches))

    seconds: dict[str, list[float]] = {"fasttext package": [], "kernel": [], "kernel, two threads": []}
    ways: dict[str, tuple[Callable[[], None], Callable[[], float]]] = {
        "fasttext package": (by_package, time.process_time),
        "kernel": (by_kernel, time.process_time),
        "kernel, two threads": (on_two_threads, time.perf_counter),
    }
    by_kernel()
    for _ in range(turns):
        for name, (way, clock) in ways.items():
            started = clock()
            way()
            seconds[name].append(clock() - started)
    size = sum(len(t.encode()) for t in texts) / 1e6
    slow = statistics.median(seconds["fasttext package"])
    return [
        {
            "way": name,
            "documents": len(texts),
            "documents/s": round(len(texts) / statistics.median(s)),
            "MB/s": round(size / statistics.median(s), 1),
            "ratio": round(slow / statistics.median(s), 1),
        }
        for name, s in seconds.items()
    ]


def largest_difference(model: Path, root: Path) -> float:
    """Between the scores of the package and of the kernel on real documents."""
    import fasttext

    texts = [t for t in documents(root / "text-20news") if "</s>" not in t and "__label__" not in t]
    classifier = Classifier.load(str(model))
    package = fasttext.load_model(str(model / "model.bin"))
    labels, values = package.f.multilinePredict(
        [t.replace("\n", " ") + "\n" for t in texts], 2, -1.0, "strict"
    )
    theirs = [dict(zip(a, b))[classifier.label] for a, b in zip(labels, values)]
    return float(np.abs(classifier.score(pa.array(texts, pa.large_string())) - np.array(theirs)).max())


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    variants = ["default", "isotonic"] if options.quick else list(VARIANTS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            for variant in variants:
                rows.append(fit(case, variant, options.data, Path(folder, f"{case}-{variant}")))
                print("  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
        model = Path(folder, "easy-default")
        speeds = speed(model, options.data, 3 if options.quick else 7)
        difference = largest_difference(model, options.data)
    for row in speeds:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    print(f"largest difference of a score between package and kernel: {difference:.2g}")
    figures = {"fits": rows, "speed": speeds, "largest_difference": difference}
    save(options.json, options.quick, figures, ("fasttext-community", "scikit-learn", "numpy", "pyarrow"))


if __name__ == "__main__":
    main()
