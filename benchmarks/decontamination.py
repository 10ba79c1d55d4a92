"""Decontamination on real data: copies found by kind, false positives, speed.

    python benchmarks/decontamination.py --data ROOT [--quick] [--json FILE]

GSM8K and HumanEval are looked for in the real sets under ROOT. Recall: every item is planted, in each of several
disguises, into a real document of its own; an item counts as found when the verdict names it. False positives: any
verdict on the sets as they are, but for HumanEval-X, which holds the HumanEval problems in six languages and is the
natural positive. Speed: one thread, text to verdicts, and its steps.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save
from text_sets import documents, sets

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.decontaminate import Verdict, count_documents, find_matches, judge
from mixloom.pipeline.decontaminate_config import DecontaminateConfig, EvaluationSet
from mixloom.pipeline.evaluation_sets import Item, read_items, set_files
from mixloom.pipeline.overlap_index import OverlapIndex, build_index, hash_terms, locate_terms
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch

PART = 1000
SETS = (
    EvaluationSet(name="gsm8k", path="decon-gsm8k/test.jsonl", fields=("question", "answer")),
    EvaluationSet(
        name="humaneval",
        path="decon-humaneval/HumanEval.jsonl.gz",
        fields=("prompt", "canonical_solution", "test"),
        id_field="task_id",
    ),
)
PROBLEM = re.compile(r"(CPP|Go|Java|JavaScript|Python|Rust)/\d+\n")
HOSTS = ("text-eips", "text-20news", "text-medquad", "text-movie-reviews", "text-wikitext2")


def _sentence(text: str, rng: random.Random) -> str:
    """The longest sentence or line of at least 13 words, or all of a text that has none."""
    pieces = re.split(r"(?<=[.?!])\s+|\n", text)
    long = [p for p in pieces if len(re.findall(r"[^\W_]+", p)) >= 13]
    return max(long, key=len) if long else text


def _half(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    at = len(words) // 2
    return " ".join(words[:at] if rng.random() < 0.5 else words[at:])


def _swap(share: float) -> Callable[[str, random.Random], str]:
    def change(text: str, rng: random.Random) -> str:
        return re.sub(r"\w+", lambda m: "lantern" if rng.random() < share else m[0], text)

    return change


def _comment(prefix: str) -> Callable[[str, random.Random], str]:
    return lambda text, rng: "\n".join(prefix + x for x in textwrap.fill(text, 60).split("\n"))


DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "whole": lambda t, rng: t,
    "first or second half": _half,
    "longest sentence": _sentence,
    "upper case": lambda t, rng: t.upper(),
    "random case": lambda t, rng: "".join(c.upper() if rng.random() < 0.5 else c.lower() for c in t),
    "respaced": lambda t, rng: re.sub(r"\s+", lambda m: rng.choice([" ", "  ", "\n", "\t ", "\r\n\r\n"]), t),
    "repunctuated": lambda t, rng: re.sub(r"[^\w\s]", lambda m: rng.choice([" ; ", " - ", " ", "*"]), t),
    "wrapped at 60 columns": lambda t, rng: textwrap.fill(t, 60),
    "comment, '# '": _comment("# "),
    "comment, ' * '": _comment(" * "),
    "comment, '// '": _comment("// "),
    "as a JSON string": lambda t, rng: json.dumps(t),
    "all numbers changed": lambda t, rng: re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(1, 9)), t),
    "1 word in 20 changed": _swap(0.05),
    "1 word in 10 changed": _swap(0.1),
}


def batches(texts: list[str], names: list[str]) -> list[pa.RecordBatch]:
    """Documents of one text segment each, 1000 a batch."""
    out = []
    for start in range(0, len(texts), PART):
        rows = zip(texts[start : start + PART], names[start : start + PART])
        out.append(
            documents_batch(
                [
                    Document(
                        source=n,
                        locator=Locator(uri=str(start + i)),
                        segments=(Segment(kind="text", text=t),),
                    )
                    for i, (t, n) in enumerate(rows)
                ]
            )
        )
    return out


def verdicts(parts: list[pa.RecordBatch], index: OverlapIndex, config: DecontaminateConfig) -> list[Verdict]:
    """The verdict of each part of a corpus."""
    matches = [find_matches(p, index, config) for p in parts]
    counts = sum((count_documents(m, index) for m in matches), np.zeros(index.keys, np.int64))
    return [judge(m, index, counts, config) for m in matches]


def recall(
    items: list[Item], hosts: list[str], index: OverlapIndex, config: DecontaminateConfig
) -> list[dict[str, Any]]:
    """For each disguise and set: of the items planted, the share that is found."""
    rows = []
    terms = locate_terms(pa.array([i.text for i in items], pa.large_string()))
    words = [" ".join(terms.words(a, b)) for a, b in itertools.pairwise(terms.ends.tolist())]
    for kind, disguise in DISGUISES.items():
        rng = random.Random(5)
        texts = []
        for n, item in enumerate(items):
            paragraphs = hosts[n % len(hosts)].split("\n\n")
            paragraphs.insert(rng.randrange(len(paragraphs) + 1), disguise(item.text, rng))
            texts.append("\n\n".join(paragraphs))
        found: set[tuple[str, str]] = set()
        for part, verdict in enumerate(verdicts(batches(texts, [i.set for i in items]), index, config)):
            for o in verdict.overlaps:
                own, text = items[part * PART + o.row], index.texts[o.text]
                # Items of equal words stand in the index under the name of the first.
                equal = index.words(o.text, 0, index.size(o.text)) == words[part * PART + o.row]
                if text.set == own.set and (text.id == own.id or equal):
                    found.add((own.set, own.id))
        for name in sorted({i.set for i in items}):
            planted = [i for i in items if i.set == name]
            hit = sum((i.set, i.id) in found for i in planted)
            rows.append(
                {
                    "disguise": kind,
                    "set": name,
                    "planted": len(planted),
                    "found": hit,
                    "recall": hit / len(planted),
                }
            )
    return rows


def humaneval_x(root: Path, index: OverlapIndex, config: DecontaminateConfig) -> list[dict[str, Any]]:
    """Of the HumanEval problems in each language, how many are found, and by their own number."""
    texts, names, numbers = [], [], []
    for path in sorted((root / "text-code-java-cs" / "humaneval-x").glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            problem = json.loads(line)
            texts.append("\n".join(problem[f] for f in ("prompt", "canonical_solution", "test")))
            names.append(path.name.removesuffix(".jsonl.gz").partition("_")[2])
            numbers.append(problem["task_id"].partition("/")[2])
    hit, own = set(), set()
    for part, verdict in enumerate(verdicts(batches(texts, names), index, config)):
        for o in verdict.overlaps:
            at = part * PART + o.row
            hit.add(at)
            if index.texts[o.text].id == f"HumanEval/{numbers[at]}":
                own.add(at)
    return [
        {
            "language": name,
            "problems": names.count(name),
            "found": sum(names[i] == name for i in hit),
            "found_by_own_number": sum(names[i] == name for i in own),
        }
        for name in sorted(set(names))
    ]


def clean_corpus(root: Path) -> tuple[list[str], list[str]]:
    """Every document of the sets that are not evaluation sets, nor contain one, and the name of its set."""
    texts, names = [], []
    for name, folder in sets(root).items():
        if name.startswith("decon-"):
            continue
        for text in documents(folder):
            if name == "text-code-java-cs" and PROBLEM.match(text):  # HumanEval-X
                continue
            texts.append(text)
            names.append(name)
    return texts, names


def false_positives(
    parts: list[pa.RecordBatch], index: OverlapIndex, config: DecontaminateConfig
) -> list[dict[str, Any]]:
    """Every verdict on documents that should have none."""
    out = []
    for batch, verdict in zip(parts, verdicts(parts, index, config)):
        for row in verdict.dropped.to_pylist():
            out.append(
                {
                    "source": batch.column("source")[row["row"]].as_py(),
                    "share": row["value"],
                    "shown": row["detail"],
                }
            )
    return out


def speed(
    parts: list[pa.RecordBatch], index: OverlapIndex, config: DecontaminateConfig, rounds: int
) -> dict[str, float]:
    """MB/s of text in one thread, the best of some rounds: cutting terms, scanning them, all of `find_matches`."""
    texts = [document_text(p) for p in parts]
    size = sum(t.get_total_buffer_size() for t in texts) / 1e6
    cut = [hash_terms(t) for t in texts]

    def rate(work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        return size / best

    def scanned() -> None:
        for ends, hashes in cut:
            index.long.scan(ends, hashes, index.ngram)
            index.whole.scan(ends, hashes, index.min_words)

    return {
        "megabytes": size,
        "terms_mb_per_s": rate(lambda: [hash_terms(t) for t in texts]),
        "scan_mb_per_s": rate(scanned),
        "find_mb_per_s": rate(lambda: [find_matches(p, index, config) for p in parts]),
    }


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    root: Path = options.data
    config = DecontaminateConfig(sets=SETS)
    items = [i for s in SETS for i in read_items(s, set_files(s, str(root)))]
    started = time.perf_counter()
    index = build_index(items, config)
    built = time.perf_counter() - started
    texts, names = clean_corpus(root)
    parts = batches(texts, names)
    hosts = [t for t, n in zip(texts, names) if n in HOSTS and 500 < len(t) < 20_000][:400]
    planted = [i for i in items if i.field in ("question", "prompt")]
    if options.quick:
        planted = planted[::4]
    figures: dict[str, Any] = {
        "index": {"seconds": built, **index.report},
        "recall": recall(planted, hosts, index, config),
        "humaneval_x": humaneval_x(root, index, config),
        "corpus": {"documents": len(texts), "megabytes": sum(len(t.encode()) for t in texts) / 1e6},
        "false_positives": false_positives(parts, index, config),
        "false_positives_without_guards": false_positives(parts, *_unguarded(items, config)),
        "speed": speed(parts, index, config, 1 if options.quick else 5),
    }
    for row in figures["recall"]:
        print(
            f"{row['disguise']:<24}{row['set']:<12}{row['found']:>5} of {row['planted']:<6}{row['recall']:.3f}"
        )
    for row in figures["humaneval_x"]:
        print(f"HumanEval-X {row['language']:<12}{row['found']:>5} of {row['problems']}")
    print(f"false positives in {len(texts)} documents: {figures['false_positives']}")
    print(f"without the guards against common phrases: {len(figures['false_positives_without_guards'])}")
    print(figures["speed"])
    save(options.json, options.quick, figures, ("numba", "numpy", "pyarrow"))


def _unguarded(items: list[Item], config: DecontaminateConfig) -> tuple[OverlapIndex, DecontaminateConfig]:
    """The same with every n-gram as evidence."""
    bare = config.model_copy(update={"min_distinct": 0, "common_items": 10**9, "common_documents": None})
    return build_index(items, bare), bare


if __name__ == "__main__":
    main()
