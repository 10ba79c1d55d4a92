"""A new crawl deduplicated against earlier runs on disk, against the plain definition over all pairs."""

import numpy as np
import pytest

from mixloom.pipeline import annotate_stage
from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.annotate_config import AnnotateConfig, MinHashConfig
from mixloom.pipeline.console import Console
from mixloom.pipeline.dedup_config import DedupConfig, IndexConfig, NearConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.incremental_stage import AgainstDedupStage, DedupIndexStage
from mixloom.pipeline.schema import documents_batch
from mixloom.pipeline.signatures import jaccard, shingle_sets

LOCAL = NearConfig(components="local")


def finish(run, hashes: int | None, survivors: str = "dedup_near") -> None:
    """Deduplicate a run in itself and leave an index of it, when `hashes` are stated."""
    config = DedupConfig(partitions=2, near=LOCAL, index=IndexConfig(hashes=hashes) if hashes else None)
    run.run(ExactDedupStage(config, "filter"))
    run.run(NearDedupStage(config, "dedup_exact"))
    if hashes:
        run.run(DedupIndexStage(config, survivors))


@pytest.fixture
def crawls(words, edited, document):
    """Two earlier crawls and a new one: copies, near copies on both sides of the threshold, and new texts."""
    rng = np.random.default_rng(21)
    first = [words(rng, int(n)) for n in rng.integers(40, 400, 60)]
    second = [words(rng, int(n)) for n in rng.integers(40, 400, 40)]
    new = [words(rng, 100) for _ in range(30)]
    for i, text in enumerate([*first, *second]):
        new.append(text if i % 4 == 0 else edited(rng, text, int(rng.integers(1, max(2, len(text) // 20)))))
    new += [["too", "short"], ["too", "short"], ["other"]]
    first.append(["too", "short"])
    return tuple(
        [document(" ".join(t), f"{name}{i}") for i, t in enumerate(texts)]
        for name, texts in (("first", first), ("second", second), ("new", new))
    )


def similarities(a, b) -> np.ndarray:
    sets = [[np.asarray(s.values) for s in shingle_sets(document_text(documents_batch(x)))] for x in (a, b)]
    return np.array([[jaccard(x, y) for y in sets[1]] for x in sets[0]])


def test_a_new_crawl_loses_exactly_what_earlier_runs_have_kept(tmp_path, small_run, crawls):
    first, second, new = crawls
    for name, documents in (("first", first), ("second", second)):
        finish(small_run(tmp_path / name, documents, per_part=40), hashes=1024)
    against = (str(tmp_path / "first"), str(tmp_path / "second"))
    config = DedupConfig(partitions=2, near=LOCAL, against=against)
    run = small_run(tmp_path / "new", new, per_part=70)
    manifest = run.run(AgainstDedupStage(config))

    earlier = [*first, *second]
    truth = similarities(new, earlier)
    text = {d.segments[0].text: d.doc_id for d in reversed(earlier)}
    by_id = {d.doc_id: i for i, d in enumerate(new)}
    place = {
        f"{d.doc_id} of {root}": i
        for i, (d, root) in enumerate([*((d, against[0]) for d in first), *((d, against[1]) for d in second)])
    }
    copies = {d.doc_id for d in new if d.segments[0].text in text}
    near = {d.doc_id for i, d in enumerate(new) if d.doc_id not in copies and truth[i].max() >= 0.8}
    assert len(copies) >= 25
    assert len(near) >= 20
    dropped = run.rejects("dedup_against")
    assert {r["doc_id"] for r in dropped if r["reason"] == "exact_duplicate_of_earlier_run"} == copies
    found = {r["doc_id"] for r in dropped if r["reason"] == "near_duplicate_of_earlier_run"}
    assert found <= near
    assert len(found) >= 0.97 * len(near)
    for r in dropped:
        i, j = by_id[r["doc_id"]], place[r["detail"]]
        if r["doc_id"] in near:
            assert r["value"] == pytest.approx(truth[i, j], abs=1e-12)
            assert truth[i, j] == truth[i].max()
        assert r["limit"] == (1.0 if r["doc_id"] in copies else 0.8)
    kept = {d.doc_id for d in new} - {r["doc_id"] for r in dropped}
    assert run.survivors("dedup_against") == kept
    assert manifest.counts.kept == len(kept)

    # Other parts, other order, other partitions, two workers: the same drops.
    other = small_run(tmp_path / "other", new[::-1], per_part=50)
    other.run(AgainstDedupStage(config.model_copy(update={"partitions": 3})), workers=2)
    assert other.survivors("dedup_against") == kept
    pick = ("doc_id", "detail", "value", "reason", "limit")
    assert sorted(str([r[c] for c in pick]) for r in dropped) == sorted(
        str([r[c] for c in pick]) for r in other.rejects("dedup_against")
    )


def test_without_its_text_and_without_an_index_a_run_still_serves_by_its_signatures(
    tmp_path, small_run, crawls, capsys
):
    first, _, new = crawls
    earlier = small_run(tmp_path / "first", first, per_part=40)
    finish(earlier, hashes=None)
    for name in earlier.directory.stage("ingest").store.names():
        if name.endswith(".parquet"):
            earlier.directory.stage("ingest").store.remove(name)
    run = small_run(tmp_path / "new", new, per_part=70)
    run.run(
        AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "first"),))),
        console=Console(),
    )
    heard = " ".join(capsys.readouterr().err.split())
    assert "estimated from 112 signature values (standard error 0.038)" in heard
    assert "at 0.913 or more" in heard
    truth = similarities(new, first).max(axis=1)
    by_id = {d.doc_id: i for i, d in enumerate(new)}
    found = [r for r in run.rejects("dedup_against") if r["reason"].startswith("near")]
    assert len(found) >= 5
    for r in found:
        assert truth[by_id[r["doc_id"]]] >= 0.8
        assert r["value"] >= r["limit"] == pytest.approx(0.9134, abs=1e-3)
    dropped = {r["doc_id"] for r in run.rejects("dedup_against")}
    sure = {d.doc_id for i, d in enumerate(new) if truth[i] >= 0.99}
    assert sure <= dropped


def test_an_index_serves_when_everything_else_of_its_run_is_gone(tmp_path, small_run, crawls):
    first, _, new = crawls
    earlier = small_run(tmp_path / "first", first, per_part=40)
    finish(earlier, hashes=64)
    for stage in ("ingest", "annotate", "filter", "dedup_exact", "dedup_near"):
        earlier.directory.store.remove(stage)
    run = small_run(tmp_path / "new", new, per_part=70)
    run.run(AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "first"),))))
    truth = similarities(new, first).max(axis=1)
    by_id = {d.doc_id: i for i, d in enumerate(new)}
    near = [r for r in run.rejects("dedup_against") if r["reason"].startswith("near")]
    assert len(near) >= 5
    for r in near:  # sketches of 64 hashes: longer documents must exceed the threshold by 3 * 0.05
        assert r["limit"] in (pytest.approx(0.8), pytest.approx(0.95))
        assert truth[by_id[r["doc_id"]]] >= 0.8


def test_other_images_make_another_document_also_across_runs(tmp_path, small_run, words, document):
    caption = " ".join(words(np.random.default_rng(4), 40))
    finish(small_run(tmp_path / "old", [document(caption, "1", images=("cat",))]), hashes=1024)
    new = [
        document(f"{caption} more", "2", images=("dog",)),
        document(f"{caption} more", "3", images=("cat",)),
    ]
    run = small_run(tmp_path / "new", new)
    run.run(AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "old"),))))
    assert run.survivors("dedup_against") == {new[0].doc_id}


def test_documents_an_earlier_run_dropped_do_not_count(tmp_path, small_run, words, document):
    text = " ".join(words(np.random.default_rng(4), 60))
    old = document(text, "1")
    small_run(tmp_path / "old", [old, document("something else", "2")], without={old.doc_id})
    run = small_run(tmp_path / "new", [document(text, "3")])
    run.run(AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "old"),))))
    assert len(run.survivors("dedup_against")) == 1


def test_a_change_of_an_earlier_run_redoes_the_stage(tmp_path, small_run, words, document):
    rng = np.random.default_rng(4)
    old = [document(" ".join(words(rng, 60)), str(i)) for i in range(3)]
    finish(small_run(tmp_path / "old", old), hashes=1024)
    config = DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "old"),))
    before = AgainstDedupStage(config).settings()
    assert AgainstDedupStage(config).settings() == before
    finish(small_run(tmp_path / "old", old[:2]), hashes=1024)
    assert AgainstDedupStage(config).settings() != before


def test_runs_that_cannot_be_compared_are_refused_by_name(tmp_path, small_run, document, monkeypatch):
    one = [document("a b c d e f g", "1")]
    with monkeypatch.context() as patch:
        patch.setattr(annotate_stage, "SIGNATURES", 1)
        small_run(tmp_path / "older", one)
    for name, minhash in (("seed", MinHashConfig(seed=7)), ("ngram", MinHashConfig(ngram=4))):
        small_run(tmp_path / name, one, config=AnnotateConfig(minhash=minhash))
    run = small_run(tmp_path / "new", one)
    told = {
        "seed": r"seed do not compare .*: seed is 7 there and 1 here",
        "older": r"older were made by another version of Mixloom \(arithmetic 1, here 2\) and do not compare",
        "ngram": r"ngram do not compare .*: ngram is 4 there and 5 here",
        "new": r"new, which is this run itself",
        "nothing": r"nothing does not exist",
    }
    for name, message in told.items():
        with pytest.raises(UserError, match=message):
            run.run(AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / name),))))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"empty, which has no finished stage that decided"):
        run.run(AgainstDedupStage(DedupConfig(partitions=2, near=LOCAL, against=(str(tmp_path / "empty"),))))
    # Without near deduplication signatures do not matter.
    only_exact = DedupConfig(near=None, against=(str(tmp_path / "seed"),))
    assert run.run(AgainstDedupStage(only_exact)).counts.kept == 0
