"""Packing and shards as stages of a run: what is redone when, and what the manifests tell."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.integrity import check
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.trainers.recipe import RunConfig, run_recipe


class Said(Console):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__(quiet=True)
        self.stages = []

    def say(self, text):
        self.stages.append(text.split()[0])


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_corpus, make_tree):
    """The configuration of a run without training, in several cells a domain, and what its stages said at first."""
    tmp = tmp_path_factory.mktemp("world")
    corpus = make_corpus(tmp / "corpus", "notes", "records")
    tree = make_tree(corpus.root, tmp / "run", ["notes", "records"])
    tree["cluster"] = {"k": 2, "max_cell": 6, "min_cell": 1}
    tree["shards"] = {**tree["shards"], "seq_len": 2048, "measure_windows": [1, 8]}
    del tree["train"], tree["model"]
    return tree, run(tree)


def run(tree, **shards):
    said = Said()
    run_recipe(RunConfig.model_validate({**tree, "shards": {**tree["shards"], **shards}}), said)
    return said.stages


def told(tree, stage):
    return json.loads((Path(tree["run_dir"]) / stage / "stage.json").read_text())


def test_another_length_of_contexts_packs_again_and_tokenizes_nothing(world):
    tree, first = world
    assert {"tokenize", "pack", "shards"} <= set(first)
    before = ShardManifest.load(tree["run_dir"])
    assert run(tree, seq_len=96) == ["pack", "shards", "mixture"]
    after = ShardManifest.load(tree["run_dir"])
    assert (before.seq_len, after.seq_len) == (2048, 96)
    assert after.totals.tokens == before.totals.tokens
    assert after.totals.documents == before.totals.documents
    assert run(tree) == ["pack", "shards", "mixture"]
    assert ShardManifest.load(tree["run_dir"]) == before


def test_windows_that_are_measured_change_no_shard(world):
    tree, _ = world
    assert run(tree, measure_windows=[4]) == ["pack"]
    assert {r["window"] for i in told(tree, "pack")["info"].values() for r in i.get("windows", ())} == {4}
    assert run(tree) == ["pack"]


def test_a_window_for_a_domain_that_is_not_there_is_a_mistake_of_the_user(world):
    tree, _ = world
    with pytest.raises(UserError, match=r"shards\.layout names 'domain-077'"):
        run(tree, layout={"domain-077": {"window": 1}})
    run(tree)


def test_ends_of_cells_are_joined_and_every_document_is_counted_once(world):
    tree, _ = world
    info = told(tree, "pack")["info"]
    cells = {name: i for name, i in info.items() if name.startswith("cell-")}
    domains = {i["domain"] for i in cells.values()}
    assert len(cells) > len(domains)
    assert set(info) - set(cells) == {f"domain-{d:03d}" for d in domains}
    alone = sum(i["contexts_alone"] for i in cells.values())
    assert sum(i["contexts"] for i in info.values()) < alone
    assert sum(i["documents"] for i in cells.values()) == told(tree, "tokenize")["counts"]["kept"]
    fill = sum(i["contexts"] * i["fill"] for i in info.values())
    assert fill == pytest.approx(sum(i["contexts_alone"] * i["fill_alone"] for i in cells.values()))


def test_two_workers_join_the_same_ends(world, tmp_path):
    tree, _ = world
    run({**tree, "run_dir": str(tmp_path / "two"), "workers": 2})
    again = ShardManifest.load(tmp_path / "two")
    assert [s.sha256 for s in again.shards] == [s.sha256 for s in ShardManifest.load(tree["run_dir"]).shards]


def test_near_duplicates_of_the_order_are_never_neighbours_in_a_context(world):
    tree, _ = world
    group = {}
    for file in sorted((Path(tree["run_dir"]) / "order").glob("cell-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["near_duplicates"] >= 0:
                group[row["doc_id"]] = (file.name, row["near_duplicates"])
    reader = ShardReader(tree["run_dir"], verify=True)
    for domain in reader.domains:
        for i in range(reader.contexts(domain)):
            names = reader.info(domain, i)["doc_ids"]
            assert all(group.get(a, a) != group.get(b, b) for a, b in pairwise(names))


def test_the_manifest_tells_bytes_per_token_by_source_and_language(world):
    tree, _ = world
    manifest = ShardManifest.load(tree["run_dir"])
    sums = defaultdict(lambda: [0, 0, 0])
    for file in sorted((Path(tree["run_dir"]) / "tokenize").glob("part-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["text_bytes"]:
                own = sums[row["source"], row["language"] or ""]
                own[0], own[1], own[2] = own[0] + 1, own[1] + row["text_bytes"], own[2] + row["text_tokens"]
    assert {(t.source, t.language): [t.documents, t.bytes, t.tokens] for t in manifest.texts} == dict(sums)
    assert all(t.bytes_per_token == pytest.approx(t.bytes / t.tokens, abs=1e-4) for t in manifest.texts)
    written = {(s.source, s.language) for s in manifest.texts}
    assert len(written) == len(manifest.texts) > 1


def test_a_run_is_whole_until_a_byte_of_it_changes(world):
    tree, _ = world
    root = Path(tree["run_dir"])
    found = check(str(root), workers=2)
    assert found.damages == ()
    listed = sum(
        len(told(tree, s)["parts"]) + len(told(tree, s)["rejects"])
        for s in json.loads((root / "plan.json").read_text())["stages"]
    )
    assert found.files == listed + len(json.loads((root / "plan.json").read_text())["stages"])
    part = next((root / "tokenize").glob("part-*.parquet"))
    whole = bytearray(part.read_bytes())
    whole[np.random.Generator(np.random.PCG64(1)).integers(len(whole))] ^= 4
    saved = part.read_bytes()
    part.write_bytes(whole)
    assert [(d.stage, d.file) for d in check(str(root)).damages] == [("tokenize", f"tokenize/{part.name}")]
    part.write_bytes(saved)
