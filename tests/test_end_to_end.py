"""The whole path on a small corpus of every modality: nothing lost, nothing repeated, resumable, readable by anyone."""

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from mixloom import cli
from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.trainers.recipe import RunConfig, run_recipe

TEXT_STAGES = ("annotate", "filter", "dedup_exact", "dedup_near", "embed", "cluster", "order")
DOCUMENT_STAGES = ("ingest", *TEXT_STAGES, "tokenize", "pack", "shards")


class Said(Console):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_corpus, make_tree):
    """A corpus, its configuration as a file, and a finished run of it through the command line."""
    tmp = tmp_path_factory.mktemp("world")
    corpus = make_corpus(tmp / "corpus")
    config = tmp / "small.yaml"
    config.write_text(yaml.safe_dump(make_tree(corpus.root, tmp / "run")))
    assert cli.main(["run", str(config), "--quiet"]) == 0
    return tmp, corpus, config


def rows_of(run: Path, stage: str, folder: str = "") -> list[dict]:
    """Every row of the documents (or the rejects) of a stage."""
    files = sorted((run / stage / folder).glob("part-*.parquet" if not folder else "*.parquet"))
    return [row for f in files for row in pq.read_table(f).to_pylist()]


def stage_json(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "stage.json").read_text())


def shard_hashes(run: Path) -> dict[str, str]:
    manifest = json.loads((run / "shards" / "manifest.json").read_text())
    return {s["name"]: s["sha256"] for s in manifest["shards"]}


def test_documents_are_conserved_at_every_stage(world):
    run = world[0] / "run"
    alive = None
    for stage in DOCUMENT_STAGES:
        counts = stage_json(run, stage)["counts"]
        assert counts["in"] == counts["kept"] + sum(counts["dropped"].values()) + sum(
            counts["failed"].values()
        )
        assert alive is None or counts["in"] == alive
        rejects = [r for r in rows_of(run, stage, "rejects") if r["scope"] == "document"]
        assert len(rejects) == counts["in"] - counts["kept"]
        if stage not in ("pack", "shards", "order"):
            assert len(rows_of(run, stage)) == counts["kept"]
        alive = counts["kept"]
    assert 45 < alive < stage_json(run, "ingest")["counts"]["in"]


def test_every_planted_fault_is_in_the_ledger_with_its_place_and_nothing_else_is(world):
    tmp, corpus, _ = world
    found = rows_of(tmp / "run", "ingest", "rejects")
    documents = [r for r in found if r["scope"] == "document"]
    places = [(r["source"], r["locator"]["uri"], r["locator"]["offset"], r["reason"]) for r in documents]
    assert sorted(places) == sorted(corpus.bad)
    media = [(r["locator"]["uri"], r["locator"]["member"]) for r in found if r["scope"] == "media"]
    assert sorted(media) == sorted(corpus.bad_media)
    assert all("; fix: " in r["detail"] for r in found)


def test_only_the_copy_the_near_copy_and_the_noise_are_dropped(world):
    run = world[0] / "run"
    ids = {r["locator"]["uri"]: r["doc_id"] for r in rows_of(run, "ingest") if r["source"] == "notes"}
    [noise] = rows_of(run, "filter", "rejects")
    assert noise["doc_id"] == ids["sky/noise.txt"]
    [exact] = rows_of(run, "dedup_exact", "rejects")
    assert {exact["doc_id"], exact["detail"]} == {ids["sea/3.txt"], ids["sea/copy-of-3.txt"]}
    [near] = rows_of(run, "dedup_near", "rejects")
    assert {near["doc_id"], near["detail"]} == {ids["sky/2.txt"], ids["sky/nearly-2.txt"]}
    assert 0.8 <= near["value"] < 1


def test_the_planted_topics_are_found_again(world):
    run = world[0] / "run"
    topic = {r["doc_id"]: dict(r["meta"]).get("topic") for r in rows_of(run, "ingest")}
    domains = defaultdict(set)
    for row in rows_of(run, "cluster"):
        if topic[row["doc_id"]]:
            domains[topic[row["doc_id"]]].add(row["domain"])
    assert sorted(domains) == ["kitchen", "sea", "sky"]
    assert all(len(d) == 1 for d in domains.values())
    assert len(set.union(*domains.values())) == 3


def documents_in_shards(shards: Path) -> dict[str, np.ndarray]:
    """doc_id -> its tokens, read with nothing but WebDataset and numpy."""
    import webdataset

    pieces = defaultdict(dict)
    tars = sorted(str(p) for p in shards.glob("*.tar"))
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode():
        for ids, lengths, context in zip(
            sample["input_ids.npy"], sample["doc_lengths.npy"], sample["json"]["contexts"], strict=True
        ):
            stops = np.cumsum(lengths)
            for doc_id, start, a, b in zip(
                context["doc_ids"], context["starts"], stops - lengths, stops, strict=False
            ):
                assert start not in pieces[doc_id]
                pieces[doc_id][start] = ids[a:b]
    out = {}
    for doc_id, found in pieces.items():
        starts = sorted(found)
        assert starts == [0, *np.cumsum([len(found[s]) for s in starts])[:-1]]
        out[doc_id] = np.concatenate([found[s] for s in starts])
    return out


def test_plain_webdataset_reads_every_document_back_in_reading_order(world):
    from tokenizers import Tokenizer

    run = world[0] / "run"
    manifest = json.loads((run / "shards" / "manifest.json").read_text())
    ranges = {r["name"]: r for r in manifest["vocabulary"]["ranges"]}
    text = Tokenizer.from_file(str(run / "tokenizer" / "text" / "tokenizer.json"))

    def told(ids):
        """[kind, text or number of codes] of each segment."""
        out, i = [], 1
        assert (ids[0], ids[-1]) == (1, 2)  # <doc> ... </doc>
        while i < len(ids) - 1:
            kind = {3: "image", 5: "speech"}.get(int(ids[i]), "text")
            if kind == "text":
                i += ids[i] == 7  # <break>
                stop = next(j for j in range(i, len(ids)) if ids[j] < 256)
                out.append((kind, text.decode((ids[i:stop] - ranges["text"]["start"]).tolist())))
                i = stop
                continue
            stop = i + int(np.flatnonzero(ids[i:] == ids[i] + 1)[0])
            codes = ids[i + 1 : stop] - ranges[kind]["start"]
            assert ((codes >= 0) & (codes < ranges[kind]["used"])).all()
            out.append((kind, len(codes)))
            i = stop + 1
        return out

    read = documents_in_shards(run / "shards")
    alive = {r["doc_id"] for r in rows_of(run, "tokenize")}
    assert set(read) == alive
    kinds = set()
    for document in rows_of(run, "ingest"):
        if document["doc_id"] not in alive:
            continue
        segments = told(read[document["doc_id"]])
        assert [k for k, _ in segments] == [s["kind"] for s in document["segments"]]
        kinds.add(tuple(k for k, _ in segments))
        for (kind, got), segment in zip(segments, document["segments"]):
            if kind == "text":
                assert got == segment["text"]
            elif kind == "image":
                assert got == 16  # 16 pixels in patches of 4
            else:
                assert 2 <= got <= 13  # half a second in stacks of 40 ms, equal neighbours written once
    assert kinds == {
        ("text",),
        ("text", "image", "text", "image", "text"),
        ("text", "image", "text"),
        ("image", "text"),
        ("speech", "text"),
    }


def test_the_manifest_counts_what_the_shards_hold(world):
    run = world[0] / "run"
    manifest = json.loads((run / "shards" / "manifest.json").read_text())
    read = documents_in_shards(run / "shards")
    assert manifest["totals"]["tokens"] == sum(map(len, read.values()))
    assert manifest["totals"]["documents"] == len(read)
    assert all(n > 0 for n in manifest["totals"]["tokens_by_modality"].values())


def test_workers_change_no_byte_of_the_shards(world, tmp_path):
    tmp, _, config = world
    said = Said()
    overrides = ["workers=2", f"run_dir={tmp_path / 'two'}", "train=null"]
    assert run_recipe(load_config(RunConfig, config, overrides), said)
    hashes = shard_hashes(tmp / "run")
    assert len(hashes) >= 3
    assert shard_hashes(tmp_path / "two") == hashes


def test_a_second_run_does_no_work(world):
    tmp, _, config = world
    before = {p: p.stat().st_mtime_ns for p in (tmp / "run").rglob("*") if p.is_file()}
    said = Said()
    assert not run_recipe(load_config(RunConfig, config), said)
    assert said.lines == []
    after = {p: p.stat().st_mtime_ns for p in (tmp / "run").rglob("*") if p.is_file()}
    assert after == before


def test_the_mixture_the_metrics_and_the_report_are_there(world):
    run = world[0] / "run"
    mixture = yaml.safe_load((run / "mixture" / "mixture.yaml").read_text())
    assert sum(mixture["phases"][0]["weights"].values()) == pytest.approx(1)
    steps = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(s["loss"]) for s in steps)
    served = {m for s in steps for m, n in s["targets_by_modality"].items() if n}
    assert served == {"text", "image", "speech"}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "data:image/" in page


def test_status_balances_for_machines_and_for_people(world, capsys):
    run = world[0] / "run"
    assert cli.main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["balanced"]
    names = [s["stage"] for s in status["stages"]]
    assert names == [*DOCUMENT_STAGES[:8], "tokenizer", *DOCUMENT_STAGES[8:], "mixture", "train"]
    for s in status["stages"]:
        assert s["in"] == s["kept"] + sum(s["dropped"].values()) + sum(s["failed"].values())
        assert s["state"] == "finished"
        assert s["seconds"] >= 0
    assert cli.main(["status", str(run)]) == 0
    table = capsys.readouterr().out
    assert all(
        word in table
        for word in ("failed: malformed_json", "dropped: exact_duplicate", "media: missing_media")
    )


def test_explain_tells_the_life_of_a_kept_a_dropped_and_a_failed_document(world, capsys):
    run = world[0] / "run"

    def life(doc_id):
        assert cli.main(["explain", str(run), doc_id, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    page = next(r for r in rows_of(run, "ingest") if r["locator"]["uri"] == "walk.md")
    kept = life(page["doc_id"][:12])
    assert kept["doc_id"] == page["doc_id"]
    assert [s["kind"] for s in kept["document"]["segments"]] == ["text", "image", "text", "image", "text"]
    assert [e["stage"] for e in kept["life"]] == [*DOCUMENT_STAGES[:10]]
    assert all(e["outcome"] == "kept" for e in kept["life"])
    tokens = next(e["tokens"] for e in kept["life"] if e["stage"] == "tokenize")
    assert sum(c["tokens"] for c in kept["life"][-1]["contexts"]) == tokens > 128

    [near] = rows_of(run, "dedup_near", "rejects")
    dropped = life(near["doc_id"])
    assert [e["outcome"] for e in dropped["life"]] == ["kept"] * 4 + ["dropped"]
    assert dropped["life"][-1]["reason"] == "near_duplicate"
    assert dropped["life"][-1]["detail"] == near["detail"]

    torn = next(r for r in rows_of(run, "ingest", "rejects") if r["reason"] == "malformed_json")
    [failed] = life(torn["doc_id"])["life"]
    assert (failed["stage"], failed["outcome"], failed["reason"]) == ("ingest", "failed", "malformed_json")
    assert failed["locator"]["uri"] == "a.jsonl"
    assert "line 2" in failed["detail"]


def start(config: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mixloom.cli", "run", str(config), *overrides]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def stop_when(process: subprocess.Popen, sign: Path, pattern: str, number: int) -> str:
    """Send a signal as soon as a file appears that only a stage in the middle of its work has; returns what was said."""
    deadline = time.monotonic() + 120
    while not any(sign.glob(pattern)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def test_a_run_killed_twice_and_interrupted_once_ends_with_the_same_shards(world, tmp_path):
    tmp, _, config = world
    run = tmp_path / "run"
    overrides = [f"run_dir={run}", "train=null", "workers=2"]

    killed = start(config, *overrides)
    stop_when(killed, run / "ingest" / "_progress", "*.json", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    half = not (run / "ingest" / "stage.json").exists()  # true unless this test was held up on a busy machine

    stopped = start(config, *overrides)  # while a pipeline works in a thread that nothing can stop
    said = stop_when(stopped, run / "dedup_near", "progress.json", signal.SIGINT)
    assert stopped.returncode == 130
    assert ("ingest: continuing;" in said) == half
    assert said.endswith("mixloom run: interrupted; finished parts are kept, the same command goes on\n")
    assert "Traceback" not in said

    again = start(config, *overrides)
    stop_when(again, run / "tokenizer" / "_progress", "text.json", signal.SIGKILL)
    assert again.returncode == -signal.SIGKILL
    assert (run / "order" / "stage.json").exists()
    half = not (run / "tokenizer" / "stage.json").exists()
    fitted = (run / "tokenizer" / "text" / "tokenizer.json").stat().st_mtime_ns
    assert not (run / "shards" / "manifest.json").exists()

    last = start(config, *overrides)
    said = last.communicate(timeout=120)[1]
    assert last.returncode == 0, said
    assert ("tokenizer: continuing;" in said) == half
    assert "annotate" not in said  # finished before, and not done again
    assert (run / "tokenizer" / "text" / "tokenizer.json").stat().st_mtime_ns == fitted
    assert shard_hashes(run) == shard_hashes(tmp / "run")
    assert not [p for p in run.rglob("*") if ".tmp-" in p.name]
