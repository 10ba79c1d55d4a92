"""Decontamination on a run directory: what is dropped, cut and reported, whatever the parts and workers."""

import json

import numpy as np
import pytest

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.decontaminate_config import DecontaminateConfig, EvaluationSet
from mixloom.pipeline.decontaminate_stage import DecontaminateStage
from mixloom.pipeline.engine import read_part
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.overlay import edited_annotations, edited_documents


@pytest.fixture
def planted(tmp_path, document):
    """A set of 20 items, and 60 documents of which every sixth holds a copy of one."""
    rng = np.random.default_rng(11)

    def words(rng, n: int) -> list[str]:
        return [f"word{x}" for x in rng.integers(0, 100_000, n)]

    items = [" ".join(words(rng, 40)) for _ in range(20)]
    (tmp_path / "sets").mkdir()
    rows = "".join(json.dumps({"id": f"i{n}", "q": t}) + "\n" for n, t in enumerate(items))
    (tmp_path / "sets" / "quiz.jsonl").write_text(rows)
    documents, held = [], {}
    for i in range(60):
        text = words(rng, 150)
        if i % 6 == 0:
            at = int(rng.integers(0, 150))
            item = items[i // 6]
            text[at:at] = (item.upper() if i % 4 else " ".join(item.split()[:25])).split()
        documents.append(document(" ".join(text), f"{i}.txt", f"s{i % 3}"))
        if i % 6 == 0:
            held[documents[-1].doc_id] = f"i{i // 6}"
    return documents, held


def stage(tmp_path, survivors: str = "filter", **settings) -> DecontaminateStage:
    sets = (EvaluationSet(name="quiz", path="sets/quiz.jsonl", fields=("q",), id_field="id"),)
    config = DecontaminateConfig(sets=sets, **settings)
    return DecontaminateStage(config, survivors, AnnotateConfig(), str(tmp_path))


def test_planted_documents_are_dropped_and_the_report_says_by_what(tmp_path, small_run, planted):
    documents, held = planted
    run = small_run(tmp_path / "run", documents, per_part=13)
    manifest = run.run(stage(tmp_path))
    assert run.survivors("decontaminate") == {d.doc_id for d in documents} - set(held)
    by_id = {d.doc_id: d for d in documents}
    rejects = run.rejects("decontaminate")
    assert len(rejects) == len(held)
    for r in rejects:
        assert r["detail"].startswith(f"quiz, item {held[r['doc_id']]} (q): ")
        assert (r["reason"], r["stage"], r["scope"]) == ("contaminated", "decontaminate", "document")
        assert r["source"] == by_id[r["doc_id"]].source
        assert r["value"] in (1.0, 25 / 40)
    assert manifest.counts.dropped == {"contaminated": len(held)}
    report = manifest.info["sets"]["quiz"]
    assert (report["documents_hit"], report["items_hit"]) == (len(held), len(held))
    assert report["indexed"]["items"] == 20
    assert {t["item"] for t in report["top_items"]} == set(held.values())
    assert report["top_ngrams"][0]["documents"] == 1


def test_parts_order_and_workers_change_no_verdict_and_a_rerun_no_byte(tmp_path, small_run, planted):
    documents, held = planted
    one = small_run(tmp_path / "one", documents, per_part=60)
    first = one.run(stage(tmp_path))
    for name, workers in (("two", 1), ("three", 2)):
        again = small_run(tmp_path / name, documents, per_part=60)
        assert again.run(stage(tmp_path), workers=workers).fingerprint == first.fingerprint
    other = small_run(tmp_path / "other", documents[::-1], per_part=7)
    other.run(stage(tmp_path), workers=2)
    assert other.survivors("decontaminate") == one.survivors("decontaminate")

    def ledger(run):
        return sorted(tuple(sorted(r.items(), key=str)) for r in run.rejects("decontaminate"))

    assert len(ledger(one)) == len(held)
    assert [str(r) for r in ledger(other)] == [str(r) for r in ledger(one)]


def test_documents_already_gone_are_not_looked_at(tmp_path, small_run, planted):
    documents, held = planted
    gone = sorted(held)[:4]
    run = small_run(tmp_path / "run", documents, without=frozenset(gone))
    manifest = run.run(stage(tmp_path))
    assert manifest.counts.dropped == {"contaminated": len(held) - 4}
    assert manifest.counts.documents_in == len(documents) - 4


def test_cut_documents_stay_without_the_item_and_are_measured_again(tmp_path, small_run, planted):
    documents, held = planted
    run = small_run(tmp_path / "run", documents, per_part=20)
    manifest = run.run(stage(tmp_path, action="cut", margin=3, min_kept=20))
    assert manifest.counts.dropped == {}
    assert manifest.info["edits"] == {"contaminated": len(held)}
    assert manifest.info["sets"]["quiz"]["documents_hit"] == len(held)
    edits = run.directory.stage("decontaminate").reader()
    ingest, annotate = (run.directory.stage(s).reader() for s in ("ingest", "annotate"))
    after, measured = edited_documents(ingest, [edits]), edited_annotations(annotate, [edits])
    by_id = {d.doc_id: d.segments[0].text for d in documents}
    for part in [p.name for p in run.manifests["filter"].parts]:
        table = read_part(part, after)
        counts = measured.read(part, ["words"])["words"].to_pylist()
        texts = document_text(table).to_pylist()
        for doc_id, text, words in zip(table["doc_id"].to_pylist(), texts, counts, strict=True):
            before = by_id[doc_id].split()
            assert words == len(text.split())
            if doc_id not in held:
                assert text.split() == before
            else:
                at = int(held[doc_id][1:])
                copied = 40 if (at * 6) % 4 else 25
                assert len(before) - copied - 6 <= len(text.split()) <= len(before) - copied - 3
    # Nothing is left to find.
    again = stage(tmp_path, "decontaminate")
    again.name, again.edits = "again", ("decontaminate",)
    assert run.run(again).counts.dropped == {}


def test_the_key_follows_the_content_of_the_sets_and_not_their_place(tmp_path, planted):
    key = stage(tmp_path).settings()
    assert "path" not in json.dumps(key)
    (tmp_path / "moved").mkdir()
    (tmp_path / "sets").rename(tmp_path / "moved" / "sets")
    assert stage(tmp_path / "moved").settings() == key
    assert stage(tmp_path / "moved", ngram=12).settings() != key
    with (tmp_path / "moved" / "sets" / "quiz.jsonl").open("a") as f:
        f.write('{"id": "new", "q": "one more"}\n')
    assert stage(tmp_path / "moved").settings() != key


def test_no_set_at_all_is_refused():
    with pytest.raises(UserError, match=r"decontaminate.sets is empty"):
        DecontaminateStage(DecontaminateConfig(), "filter", AnnotateConfig())
