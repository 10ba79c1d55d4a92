"""The lexical judge on the real sets: a source is best for a skill made of its own held-out text, and it for the source."""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixloom import cli
from mixloom.mixers.utility import Utilities

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real sets do not lie beside this checkout")

_TAG = re.compile(r"<[^>]+>")


def _files(pattern: str, encoding: str = "utf-8") -> Iterator[str]:
    return (p.read_text(encoding=encoding) for p in sorted(DATA.glob(pattern)))


def texts() -> dict[str, list[str]]:
    code = DATA / "text-code-java-cs"
    with gzip.open(DATA / "decon-humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as f:
        problems = [json.loads(line) for line in f]
    sums = [json.loads(line) for line in (DATA / "decon-gsm8k" / "test.jsonl").read_text().splitlines()]
    return {
        "medquad": [_TAG.sub(" ", t) for t in _files("text-medquad/2_GARD_QA/*.xml")],
        "20news": [t.partition("\n\n")[2] for t in _files("text-20news/*/*", "latin-1")],
        "java": (code / "valid.java-cs.txt.java").read_text().splitlines(),
        "csharp": (code / "test.java-cs.txt.cs").read_text().splitlines(),
        "eips": list(_files("text-eips/eip-*.md")),
        "gsm8k": [f"{r['question']}\n{r['answer']}" for r in sums],
        "humaneval": [r["prompt"] + r["canonical_solution"] for r in problems],
        "movie-reviews": list(_files("text-movie-reviews/*/*.txt", "latin-1")),
        "current-events": list(_files("text-current-events/*.md")),
        "dccode": [_TAG.sub(" ", t) for t in _files("text-dccode/titles/**/*.xml")],
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("real-judge")
    command = ["mix", "judge", str(root / "docs.jsonl"), "--out", str(root / "u.yaml"), "--quiet",
               "documents_per_source=128"]  # fmt: skip
    with (root / "docs.jsonl").open("w") as docs:
        for name, found in texts().items():
            known = sorted({t for t in found if t.strip()}, key=lambda t: hashlib.sha256(t.encode()).digest())
            half = len(known) // 2
            docs.writelines(json.dumps({"text": t, "source": name}) + "\n" for t in known[:half])
            held_out = "".join(json.dumps({"text": t}) + "\n" for t in known[half:])
            (root / f"{name}.jsonl").write_text(held_out)
            command += ["--skill", f"{name}={root / name}.jsonl"]
    assert cli.main(command) == 0
    return Utilities.load(root / "u.yaml")


def test_every_source_is_best_for_the_skill_of_its_own_held_out_text(table):
    for i, source in enumerate(table.sources):
        assert table.skills[int(table.values[i].argmax())] == source
        assert table.values[i].max() > 0.65


def test_every_skill_is_served_best_by_the_source_it_was_taken_from(table):
    for j, skill in enumerate(table.skills):
        assert table.sources[int(table.values[:, j].argmax())] == skill


def test_what_is_near_is_told_from_what_is_far(table):
    def value(source: str, skill: str) -> float:
        return float(table.values[table.sources.index(source), table.skills.index(skill)])

    assert value("java", "csharp") > value("dccode", "csharp") + 0.3
    assert value("medquad", "java") < 0.1
    assert value("current-events", "gsm8k") < 0.1
