"""Language identification: which package with a model inside it tells languages apart best, how fast, in how much memory.

    python benchmarks/language_id.py --data ROOT [--quick] [--json FILE]

Texts: the sentences of text-tatoeba (40 languages, up to 1,000 each, and 1,000 of the English sides), one by one
("short"), and 5 to 20 of them joined ("long"). A package is asked only for languages it knows; "common" are the
languages all of them know. Where a model knows only the wider language of a sentence (Arabic for Egyptian Arabic,
Norwegian for Bokmal), that is right. Each package runs in a process of its own, one thread, texts one by one as
its interface wants them; "mixloom" is the model of py3langid behind this project's compiled kernel, in batches of a
thousand. Packages that are not installed (lingua-language-detector, pycld2, resiliparse) are left out.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from recording import options_parser, save

PACKAGES = {
    "mixloom": "py3langid",
    "py3langid": "py3langid",
    "lingua": "lingua-language-detector",
    "lingua-low": "lingua-language-detector",
    "pycld2": "pycld2",
    "resiliparse": "resiliparse",
}
MODULES = {"mixloom": "py3langid", "lingua-low": "lingua"}
# ISO 639-3 of the files -> what models may call it.
CODES = {
    "arz": "arz ar", "ast": "ast", "bel": "be", "ben": "bn", "ber": "ber kab", "dan": "da", "deu": "de", "eng": "en",
    "est": "et", "eus": "eu", "fra": "fr", "fry": "fy", "gla": "gd", "glg": "gl", "ina": "ia", "kat": "ka", "lat": "la",
    "lvs": "lv", "mar": "mr", "nob": "nb no", "rus": "ru", "slk": "sk", "slv": "sl", "sqi": "sq", "srp": "sr",
    "swe": "sv", "tat": "tt", "tha": "th", "uzb": "uz", "vie": "vi", "yid": "yi", "zsm": "ms",
}  # fmt: skip
Answer = Callable[[list[str]], list[str]]


def texts(root: Path, quick: bool) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(language, text): sentences, and sentences joined."""
    folder = root / "text-tatoeba"
    by_language: dict[str, list[str]] = {}
    english: set[str] = set()
    for path in sorted(folder.glob("tatoeba.*")):
        lines = [x.strip() for x in path.read_text(encoding="utf-8").splitlines() if x.strip()]
        if path.suffix == ".eng":
            english.update(lines)
        else:
            by_language[path.suffix[1:]] = lines
    rng = np.random.default_rng(1)
    by_language["eng"] = [str(x) for x in rng.permutation(sorted(english))[:1000]]
    most = 100 if quick else 1000
    short = [(code, line) for code, lines in sorted(by_language.items()) for line in lines[:most]]
    long = []
    for code, lines in sorted(by_language.items()):
        at = 0
        while at < len(lines[:most]):
            count = int(rng.integers(5, 21))
            long.append((code, " ".join(lines[at : at + count])))
            at += count
    return short, long


def answerer(name: str) -> tuple[set[str], Answer]:
    """The languages a package knows, and a function from texts to codes."""
    if name == "mixloom":
        import pyarrow as pa

        from mixloom.pipeline.language import LanguageModel

        model = LanguageModel.load(None)
        return set(model.languages), lambda batch: model.identify(pa.array(batch))[0].to_pylist()
    if name == "py3langid":
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        return set(identifier.labels), lambda batch: [identifier.classify(t)[0] for t in batch]
    if name == "pycld2":
        import pycld2

        def cld(text: str) -> str:
            try:
                return str(pycld2.detect(text, bestEffort=True)[2][0][1])
            except pycld2.error:
                return "und"

        return {code for _, code in pycld2.LANGUAGES}, lambda batch: [cld(t) for t in batch]
    if name == "resiliparse":
        from resiliparse.parse.lang import detect_fast, supported_langs

        return set(supported_langs()), lambda batch: [detect_fast(t, cutoff=10**9)[0] for t in batch]
    from lingua import Language, LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models()
    detector = (builder.with_low_accuracy_mode() if name == "lingua-low" else builder).build()

    def lingua(text: str) -> str:
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else "und"

    known = {x.iso_code_639_1.name.lower() for x in Language.all()}
    return known, lambda batch: [lingua(t) for t in batch]


def measure(name: str, root: Path, quick: bool) -> dict[str, Any]:
    """Accuracy by language, speed and memory of one package, in this process."""
    before = time.perf_counter()
    known, answer = answerer(name)
    answer(["warm up the model"])
    out: dict[str, Any] = {"load_seconds": round(time.perf_counter() - before, 2), "languages": len(known)}
    for kind, rows in zip(("short", "long"), texts(root, quick)):
        rows = [(code, t) for code, t in rows if known & set(CODES.get(code, code).split())]
        batch = [t for _, t in rows]
        started = time.process_time()
        codes = [c for i in range(0, len(batch), 1000) for c in answer(batch[i : i + 1000])]
        seconds = time.process_time() - started
        right: dict[str, list[bool]] = {}
        for (code, _), found in zip(rows, codes, strict=True):
            right.setdefault(code, []).append(found in CODES.get(code, code).split())
        out[kind] = {
            "accuracy": {code: float(np.mean(hits)) for code, hits in right.items()},
            "texts_per_second": len(batch) / seconds,
            "mb_per_second": sum(len(t.encode()) for t in batch) / seconds / 1e6,
        }
    out["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return out


def size_mib(package: str) -> float | None:
    """Bytes of the installed files of a package."""
    try:
        listed = files(package) or []
    except PackageNotFoundError:
        return None
    return round(
        sum(Path(f.locate()).stat().st_size for f in listed if Path(f.locate()).is_file()) / 2**20, 1
    )


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument(
        "--one", choices=PACKAGES, help="measure one package in this process (for the script itself)"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.data, options.quick)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name, package in PACKAGES.items():
        if find_spec(MODULES.get(name, name)) is None:
            continue
        command = [sys.executable, __file__, "--data", str(options.data), "--one", name]
        threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        done = subprocess.run(
            command + ["--quick"] * options.quick,
            env=os.environ | threads,
            stdout=subprocess.PIPE,
            check=True,
        )
        found[name] = json.loads(done.stdout) | {"installed_mib": size_mib(package)}
    common = set.intersection(*(set(f["short"]["accuracy"]) for f in found.values()))
    rows = []
    for name, f in found.items():
        row: dict[str, Any] = {"package": name, "languages": f["languages"]}
        for kind in ("short", "long"):
            accuracy = f[kind]["accuracy"]
            row[f"{kind} known"] = round(float(np.mean(list(accuracy.values()))), 4)
            row[f"{kind} common"] = round(float(np.mean([accuracy[c] for c in sorted(common)])), 4)
            row[f"{kind} texts/s"] = round(f[kind]["texts_per_second"])
            row[f"{kind} MB/s"] = round(f[kind]["mb_per_second"], 2)
        rows.append(row | {k: f[k] for k in ("load_seconds", "memory_mib", "installed_mib")})
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    print(f"common: {len(common)} languages: {' '.join(sorted(common))}")
    figures = {
        "packages": rows,
        "common": sorted(common),
        "by_language": {n: f["short"]["accuracy"] for n, f in found.items()},
    }
    save(options.json, options.quick, figures, sorted(set(PACKAGES.values())))


if __name__ == "__main__":
    main()
