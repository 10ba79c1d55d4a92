"""Semantic deduplication on a run directory, against the plain definition cell by cell."""

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.cluster import DOMAINS
from mixloom.pipeline.console import Console
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.embed import vectors_schema
from mixloom.pipeline.semantic_config import SemanticConfig
from mixloom.pipeline.semantic_stage import SemanticDedupStage

DIM = 6


@pytest.fixture
def clustered(small_run, words, document):
    """(root, per_part, reverse) -> a run with 90 documents in three cells, many close to others; and their vectors."""

    def make(root, per_part=20, reverse=False):
        rng = np.random.default_rng(31)
        documents = [document(" ".join(words(rng, 5 + i % 7)), f"{i}", f"s{i % 2}") for i in range(90)]
        centres = rng.normal(size=(12, DIM))
        vectors = centres[rng.integers(0, 12, 90)] + 0.1 * rng.normal(size=(90, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[::17] = 0.0
        vectors = {d.doc_id: v.astype(np.float32) for d, v in zip(documents, vectors)}
        cells = {d.doc_id: i % 3 for i, d in enumerate(documents)}
        distance = {d.doc_id: np.float32(i * 37 % 90) for i, d in enumerate(documents)}
        run = small_run(
            root, documents[::-1] if reverse else documents, per_part, without={documents[3].doc_id}
        )
        embedded, assigned = {}, {}
        reader = run.directory.stage("filter").reader()
        for part in sorted(reader.parts):
            table = reader.read(part)
            ids = table["doc_id"].to_pylist()
            v = np.array([vectors[i] for i in ids], np.float32).reshape(-1, DIM)
            schema = vectors_schema(DIM)
            column = pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), type=schema.field("vector").type)
            embedded[part] = pa.table(
                [table["doc_id"], table["row"], column, pa.array(v.any(axis=1))], schema=schema
            )
            cell = pa.array([cells[i] for i in ids], pa.int32())
            far = pa.array([distance[i] for i in ids], pa.float32())
            assigned[part] = pa.table([table["doc_id"], table["row"], cell, cell, far], schema=DOMAINS)
        run.written("embed", embedded)
        run.written("cluster", assigned)
        return run, documents, vectors, cells, distance

    return make


def expected(documents, alive, vectors, cells, rank, limit) -> dict[str, str]:
    """Dropped id -> id of the closest kept one before it in survivor order."""
    drops = {}
    for cell in (0, 1, 2):
        kept: list[str] = []
        for d in sorted((d for d in alive if cells[d] == cell), key=rank):
            close = [(float(vectors[d].astype(float) @ vectors[k].astype(float)), k) for k in kept]
            if close and max(close)[0] > limit:
                drops[d] = max(close)[1]
            else:
                kept.append(d)
    return drops


@pytest.mark.parametrize("keep", ["preferred", "far", "near"])
def test_documents_too_close_to_a_kept_one_of_their_cell_are_dropped(tmp_path, clustered, keep):
    run, documents, vectors, cells, distance = clustered(tmp_path)
    alive = run.survivors("filter")
    dedup = DedupConfig(priority=("s1",))
    stage = SemanticDedupStage(SemanticConfig(eps=0.05, keep=keep), dedup, "filter")
    manifest = run.run(stage)
    about = {d.doc_id: d for d in documents}
    rank = {
        "preferred": lambda i: (about[i].source != "s1", -len(about[i].segments[0].text.split()), i),
        "far": lambda i: (-distance[i], i),
        "near": lambda i: (distance[i], i),
    }[keep]
    drops = expected(documents, alive, vectors, cells, rank, 0.95)
    assert 20 < len(drops) < 70
    rejects = run.rejects("dedup_semantic")
    assert {r["doc_id"]: r["detail"] for r in rejects} == drops
    assert run.survivors("dedup_semantic") == alive - set(drops)
    assert manifest.counts.dropped == {"semantic_duplicate": len(drops)}
    for r in rejects:
        cosine = vectors[r["doc_id"]].astype(float) @ vectors[r["detail"]].astype(float)
        assert r["value"] == pytest.approx(cosine, abs=1e-6)
        assert r["limit"] == pytest.approx(0.95)
    zero = [i for i in alive if not vectors[i].any()]
    assert len(zero) >= 5
    assert not set(zero) & set(drops)


def test_parts_order_and_workers_do_not_change_the_drops(tmp_path, clustered):
    found = []
    for name, per_part, reverse, workers in (("a", 20, False, 1), ("b", 33, True, 2)):
        run, *_ = clustered(tmp_path / name, per_part, reverse)
        run.run(SemanticDedupStage(SemanticConfig(eps=0.05), DedupConfig(), "filter"), workers=workers)
        rejects = run.rejects("dedup_semantic")
        found.append(sorted((r["doc_id"], r["detail"], r["value"]) for r in rejects))
    assert found[0] == found[1]


def test_a_large_share_dropped_is_said_aloud(tmp_path, clustered, capsys):
    run, *_ = clustered(tmp_path)
    run.run(SemanticDedupStage(SemanticConfig(eps=0.05), DedupConfig(), "filter"), console=Console())
    assert "of 89 documents are closer than eps 0.05" in capsys.readouterr().err
    run.run(SemanticDedupStage(SemanticConfig(eps=1e-6), DedupConfig(), "filter"), console=Console())
    assert "closer" not in capsys.readouterr().err


def test_documents_of_different_images_are_no_duplicates_unless_media_are_ignored(
    tmp_path, small_run, document
):
    documents = [document("a disc", str(i), images=(image,)) for i, image in enumerate(["x", "y", "y"])]
    documents.append(document("a disc", "3"))
    ids = [d.doc_id for d in documents]
    for media in ("equal", "ignore"):
        run = small_run(tmp_path / media, documents)
        table = run.directory.stage("filter").reader().read("part-00000-0000")
        schema = vectors_schema(DIM)
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(np.ones(4 * DIM, np.float32)), type=schema.field("vector").type
        )
        arrays = [table["doc_id"], table["row"], vectors, pa.array([True] * 4)]
        run.written("embed", {"part-00000-0000": pa.table(arrays, schema=schema)})
        zero = pa.array([0] * 4, pa.int32())
        arrays = [table["doc_id"], table["row"], zero, zero, pa.array([0.0] * 4, pa.float32())]
        run.written("cluster", {"part-00000-0000": pa.table(arrays, schema=DOMAINS)})
        run.run(SemanticDedupStage(SemanticConfig(media=media), DedupConfig(), "filter"))
        kept = run.survivors("dedup_semantic")
        if media == "equal":
            assert kept == {ids[0], ids[3], min(ids[1:3])}
        else:
            assert kept == {min(ids)}
