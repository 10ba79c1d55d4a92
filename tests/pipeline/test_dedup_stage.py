"""Exact and near deduplication on a real run directory, against plain definitions over all pairs."""

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline import dedup_stage, near
from mixloom.pipeline.annotate import annotate, document_text
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.console import Console
from mixloom.pipeline.dedup_config import DedupConfig, NearConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage, check_columns
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import SURVIVORS, Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.signatures import jaccard, shingle_sets
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, StageContext, UnitOutput, run_stage

THRESHOLD = 0.8


class Written(Stage):
    """Stands for the stages before deduplication: writes the tables it is given."""

    version = 1

    def __init__(self, name: str, tables: dict[str, pa.Table]) -> None:
        self.name, self.tables = name, tables

    def settings(self):
        return AnnotateConfig().model_dump(mode="json") if self.name == "annotate" else {}

    def execute(self, ctx: StageContext) -> None:
        for part, table in self.tables.items():
            ctx.commit(UnitOutput(part, (OutputTable(part, table),), None, table.num_rows))


def make_run(root, documents: list[Document], per_part: int, without: frozenset[str] = frozenset()):
    """A run directory up to `filter`, which lets everything pass but the ids in `without`."""
    run = RunDirectory(str(root))
    parts = {
        f"part-{i:05d}-0000": documents_batch(documents[start : start + per_part])
        for i, start in enumerate(range(0, len(documents), per_part))
    }
    alive = {}
    for part, batch in parts.items():
        rows = [i for i, d in enumerate(batch["doc_id"].to_pylist()) if d not in without]
        columns = [batch["doc_id"].take(pa.array(rows, pa.int64())), pa.array(rows, pa.int32())]
        alive[part] = pa.Table.from_arrays(columns, schema=SURVIVORS)
    annotations = {p: pa.Table.from_batches([annotate(b, AnnotateConfig())]) for p, b in parts.items()}
    manifests = {}
    for stage in (
        Written("ingest", {p: pa.Table.from_batches([b]) for p, b in parts.items()}),
        Written("annotate", annotations),
        Written("filter", alive),
    ):
        manifests[stage.name], _ = run_stage(stage, run, RunSettings(), Console(quiet=True), {})
    return run, manifests


def deduplicate(run, manifests, config: DedupConfig, workers: int = 1):
    """Run both stages; returns their manifests by name."""
    manifests = dict(manifests)
    for stage in (ExactDedupStage(config, "filter"), NearDedupStage(config, "dedup_exact")):
        settings = RunSettings(workers=workers)
        manifests[stage.name], _ = run_stage(stage, run, settings, Console(quiet=True), manifests)
    return manifests


def survivors(run, manifests, stage: str) -> set[str]:
    reader = run.stage(stage).reader()
    return {d for p in manifests[stage].parts for d in reader.read(p.name)["doc_id"].to_pylist()}


def rejects(run, manifests, stage: str) -> list[dict]:
    store = run.stage(stage).store
    tables = [pa.parquet.read_table(pa.BufferReader(store.read(p.file))) for p in manifests[stage].rejects]
    return pa.concat_tables(tables).to_pylist() if tables else []


def document(text: str, name: str, source: str = "web", images: tuple[str, ...] = ()) -> Document:
    media = [
        Media(uri=f"{i}.png", sha256=hashlib.sha256(i.encode()).hexdigest(), bytes=9, width=64, height=64)
        for i in images
    ]
    segments = [Segment(kind="text", text=text), *(Segment(kind="image", media=m) for m in media)]
    return Document(source=source, locator=Locator(uri=name), segments=tuple(segments))


def words(rng, n: int) -> list[str]:
    return [f"w{x}" for x in rng.integers(0, 100_000, n)]


def edited(rng, text: list[str], edits: int) -> list[str]:
    out = list(text)
    for at in rng.choice(len(text), edits, replace=False):
        out[at] = f"e{rng.integers(0, 100_000)}"
    return out


def planted(seed: int) -> list[Document]:
    """Distinct texts, exact copies, near copies on both sides of the threshold, chains, templates, short texts."""
    rng = np.random.default_rng(seed)
    texts: list[list[str]] = [words(rng, int(n)) for n in rng.integers(5, 300, 60)]
    for n in rng.integers(60, 300, 40):
        base = words(rng, int(n))
        texts += [base] + [edited(rng, base, int(e)) for e in rng.integers(0, n // 15 + 1, 3)]
    for _ in range(4):  # each a near copy of the one before; the ends have nothing in common
        link = words(rng, 200)
        for _ in range(12):
            texts.append(link)
            link = edited(rng, link, 3)
    template = words(rng, 150)  # more than bucket_cap documents of one kind
    texts += [edited(rng, template, 1) for _ in range(40)]
    texts += [["one", "two", "three"], ["four"], []] * 4
    documents = [document(" ".join(t), f"{i}.txt", f"s{i % 3}") for i, t in enumerate(texts)]
    return [documents[i] for i in rng.permutation(len(documents))]


def test_planted_duplicates_are_found_and_nothing_else_is_lost(tmp_path):
    documents = planted(7)
    run, before = make_run(tmp_path / "a", documents, per_part=100)
    config = DedupConfig(priority=("s2", "s0"), near=NearConfig(local_edges=0))  # in rounds
    after = deduplicate(run, before, config)
    by_id = {d.doc_id: d for d in documents}

    exact = rejects(run, after, "dedup_exact")
    contents = {d.segments[0].text for d in documents}
    assert len(by_id) - len(exact) == len(contents) == after["dedup_exact"].counts.kept
    for r in exact:
        assert by_id[r["doc_id"]].segments == by_id[r["detail"]].segments
        rank = {"s2": 0, "s0": 1, "s1": 2}
        gone, kept = ((rank[by_id[r[c]].source], r[c]) for c in ("doc_id", "detail"))
        assert kept < gone
        assert (r["reason"], r["stage"], r["source"]) == (
            "exact_duplicate",
            "dedup_exact",
            by_id[r["doc_id"]].source,
        )

    alive = sorted(survivors(run, after, "dedup_exact"))
    assert len(alive) == after["dedup_exact"].counts.kept
    text = document_text(documents_batch([by_id[i] for i in alive]))
    sets = dict(zip(alive, (np.asarray(s.values) for s in shingle_sets(text))))
    similar = {}
    for a, b in itertools.combinations(alive, 2):
        if (value := jaccard(sets[a], sets[b])) >= THRESHOLD:
            similar[frozenset((a, b))] = value
    assert len(similar) > 500

    kept = survivors(run, after, "dedup_near")
    near = rejects(run, after, "dedup_near")
    assert kept | {r["doc_id"] for r in near} == set(alive)
    for r in near:  # every dropped document has a kept near duplicate, and the ledger says which
        assert r["detail"] in kept
        assert r["value"] == similar[frozenset((r["doc_id"], r["detail"]))]
        assert (r["reason"], r["limit"]) == ("near_duplicate", THRESHOLD)
        assert r["source"] == by_id[r["doc_id"]].source
    missed = [p for p in similar if p <= kept]
    assert len(missed) <= 0.05 * len(similar)
    involved = {d for p in similar for d in p}
    assert set(alive) - involved <= kept  # distinct in, distinct out
    short = [d for d in alive if len(sets[d]) == 0]
    assert len(short) == 3
    assert set(short) <= kept

    # The same documents cut into other parts, in another order, over other partitions, by other means.
    other, before2 = make_run(tmp_path / "b", documents[::-1], per_part=37)
    few = {"partitions": 3, "near": NearConfig(components="local")}
    local = config.model_copy(update=few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup_stage, "MOST_HELD", 0)  # content hashes through files, too
        after2 = deduplicate(other, before2, local, workers=2)
    assert survivors(other, after2, "dedup_exact") == set(alive)
    assert survivors(other, after2, "dedup_near") == kept
    pick = ("doc_id", "detail", "value")
    assert sorted(tuple(r[c] for c in pick) for r in near) == sorted(
        tuple(r[c] for c in pick) for r in rejects(other, after2, "dedup_near")
    )

    # And in one piece, without a file between; and with all pairs found at once.
    pieces = after2["dedup_near"].info["search"]
    for most in (dedup_stage.MOST_SIGNED, 0):
        other.stage("dedup_exact").store.remove("stage.json")
        other.stage("dedup_near").store.remove("stage.json")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dedup_stage, "MOST_SIGNED", most)
            after2 = deduplicate(other, before2, DedupConfig(priority=("s2", "s0")))
        assert after2["dedup_near"].info["search"] == pieces
        assert survivors(other, after2, "dedup_near") == kept

    # What is left has no duplicates to lose.
    left = [d for d in documents if d.doc_id in kept]
    third, before3 = make_run(tmp_path / "c", left, per_part=100)
    after3 = deduplicate(third, before3, local)
    assert (after3["dedup_exact"].counts.kept, after3["dedup_near"].counts.kept) == (len(kept), len(kept))


def test_the_ends_of_a_chain_survive_unless_components_are_merged(tmp_path):
    base = words(np.random.default_rng(8), 200)

    def changed(text: list[str], at: list[int]) -> list[str]:
        return [f"x{i}" if i in at else w for i, w in enumerate(text)]

    middle = changed(base, [20, 60, 100])
    end = changed(middle, [40, 80, 120])
    chain = [
        document(" ".join([*t, *extra]), str(i))
        for i, (t, extra) in enumerate([(base, ["a", "b"]), (middle, ["a"]), (end, [])])
    ]  # from the longest to the shortest
    ids = [d.doc_id for d in chain]
    shingles = [np.asarray(s.values) for s in shingle_sets(document_text(documents_batch(chain)))]
    assert jaccard(shingles[0], shingles[1]) > 0.8 < jaccard(shingles[1], shingles[2])
    assert jaccard(shingles[0], shingles[2]) < 0.8
    expected = {"greedy": {ids[0], ids[2]}, "components": {ids[0]}}
    run, before = make_run(tmp_path, chain, per_part=2)
    for merge, kept in expected.items():
        after = deduplicate(run, before, DedupConfig(near=NearConfig(components="local", merge=merge)))
        assert survivors(run, after, "dedup_near") == kept
    assert {r["detail"] for r in rejects(run, after, "dedup_near")} == {ids[0]}


def test_the_best_document_is_kept_and_documents_already_dropped_do_not_count(tmp_path):
    rng = np.random.default_rng(3)
    base = words(rng, 100)
    texts = {"short": base[:90], "middle": base[:95], "long": base, "filtered": [*base, "more"]}
    documents = [document(" ".join(t), name) for name, t in texts.items()]
    ids = {d.locator.uri: d.doc_id for d in documents}
    run, before = make_run(tmp_path, documents, per_part=2, without=frozenset({ids["filtered"]}))
    after = deduplicate(run, before, DedupConfig(near=NearConfig(components="local")))
    assert survivors(run, after, "dedup_near") == {ids["long"]}
    assert after["dedup_near"].counts.dropped == {"near_duplicate": 2}
    assert {p.name: p.rows for p in after["dedup_near"].parts} == {"part-00000-0000": 0, "part-00001-0000": 1}


def test_equal_captions_of_different_images_are_no_duplicates_unless_media_are_ignored(tmp_path):
    caption = " ".join(words(np.random.default_rng(4), 40))
    documents = [
        document(caption, "1", images=("cat",)),
        document(caption, "2", images=("dog",)),
        document(caption + " again", "3", images=("dog",)),
        document(caption, "4"),
    ]
    ids = [d.doc_id for d in documents]
    run, before = make_run(tmp_path / "equal", documents, per_part=3)
    after = deduplicate(run, before, DedupConfig(near=NearConfig(components="local")))
    assert survivors(run, after, "dedup_near") == {ids[0], ids[2], ids[3]}
    run, before = make_run(tmp_path / "ignore", documents, per_part=3)
    after = deduplicate(run, before, DedupConfig(near=NearConfig(components="local", media="ignore")))
    assert survivors(run, after, "dedup_near") == {ids[2]}


def star() -> list[Document]:
    """Six documents, five of which are near the first only: not all of their component have been compared."""
    base = words(np.random.default_rng(10), 100)
    others = [[f"x{i}{at}" if at % 5 == i and at < 35 else w for at, w in enumerate(base)] for i in range(5)]
    return [document(" ".join(t), str(i)) for i, t in enumerate([[*base, "more"], *others])]


@pytest.mark.parametrize(
    ("components", "partitions", "steps", "before_interrupt"),
    [
        *(("local", 2, 6, at) for at in (1, 3, 5, 6)),
        *(("local", 1, 3, at) for at in (1, 2, 3)),
        *(("distributed", 2, 10, at) for at in (7, 8, 9, 10)),
    ],
)
def test_an_interrupted_search_continues_from_what_is_finished(
    tmp_path, monkeypatch, components, partitions, steps, before_interrupt
):
    run, before = make_run(tmp_path, star(), per_part=3)
    # Keys, buckets, signatures, pairs (or these at once), shingles, edges; where components are not joined here two rounds,
    # edges by document, by component; then the survivors of two parts beside the record of the search.
    monkeypatch.setattr(dedup_stage, "MOST_SIGNED", 0)
    near = NearConfig(
        threshold=0.4, components=components, local_edges=0, bucket_cap=2, leaders=1, neighbours=0
    )
    config = DedupConfig(near=near, partitions=partitions)
    stage = NearDedupStage(config, "filter")
    directory = run.stage(stage.name)
    directory.begin("key")
    ctx = StageContext(run, directory, stage, RunSettings(), Console(quiet=True), before)
    pipelines = []

    class Interrupted(Exception):
        pass

    class Counted(StageContext):
        room = before_interrupt

        def beam(self, build, units=None):
            if self.room == len(pipelines):
                raise Interrupted
            pipelines.append(units)
            super().beam(build, units)

    fields = {f: getattr(ctx, f) for f in ctx.__dataclass_fields__}
    with pytest.raises(Interrupted):
        stage.execute(Counted(**fields))
    Counted.room = 99
    stage.execute(Counted(**fields))
    assert pipelines == [None] * steps + [3]
    records = directory.units()
    assert sum(r.counts.kept for r in records) == 1
    assert 5 <= next(r.info for r in records if r.unit == "search")["edges"] < 15
    assert directory.store.names("_work") == []


def test_a_stated_banding_that_cannot_serve_the_threshold_is_said_aloud(tmp_path, capsys):
    run, before = make_run(tmp_path, [document("a b c", "x")], per_part=1)
    fineweb = {"bands": 14, "rows": 8}
    said = "similarity 0.7 with probability 0.56 only"
    for threshold, stated, expected in ((0.8, fineweb, False), (0.7, fineweb, True), (0.7, {}, False)):
        near = NearConfig(threshold=threshold, components="local", **stated)
        run_stage(NearDedupStage(DedupConfig(near=near), "filter"), run, RunSettings(), Console(), before)
        heard = capsys.readouterr().err
        assert (said in heard) == expected
        assert ("probability" in heard) == expected


def test_a_banding_longer_than_the_signatures_is_refused(tmp_path):
    run, before = make_run(tmp_path, [document("a b c", "x")], per_part=1)
    stage = NearDedupStage(DedupConfig(near=NearConfig(bands=20, rows=6)), "filter")
    with pytest.raises(UserError, match=r"20 bands of 6 rows need 120 values, but the signatures have 112"):
        run_stage(stage, run, RunSettings(), Console(quiet=True), before)


def test_a_bucket_larger_than_declared_is_named_aloud_and_in_the_manifest(tmp_path, capsys):
    rng = np.random.default_rng(11)
    base = words(rng, 200)
    documents = [document(" ".join([*base, str(i)]), str(i)) for i in range(30)]
    run, before = make_run(tmp_path, documents, per_part=10)
    for warn, named in ((29, True), (30, False)):
        near = NearConfig(components="local", bucket_warn=warn)
        stage = NearDedupStage(DedupConfig(near=near, partitions=3), "filter")
        run.stage(stage.name).store.remove("stage.json")
        after, _ = run_stage(stage, run, RunSettings(), Console(), before)
        heard = capsys.readouterr().err
        told = after.info["search"]
        assert (told["bands"], told["rows"]) == (18, 6)
        assert (
            390 <= told["candidates"] == told["edges"] <= 435
        )  # of a whole bucket: 4 leaders, 16 neighbours
        assert told["capped"] >= 10
        assert ("holds 30 documents (for example " in heard) == named
        assert bool(told["largest"]) == named
    assert {b["documents"] for b in told["largest"]} <= {30}


def test_a_column_to_rank_by_that_does_not_exist_is_refused_before_any_work(tmp_path):
    run, before = make_run(tmp_path, [document("a b c", "x")], per_part=1)
    stage = NearDedupStage(DedupConfig(quality="word"), "filter")
    with pytest.raises(UserError, match=r"dedup.quality is 'word'.*did you mean 'words'"):
        run_stage(stage, run, RunSettings(), Console(quiet=True), before)


@pytest.mark.parametrize(("local_edges", "rounds"), [(0, True), (2, True), (3, False)])
def test_only_more_edges_than_declared_are_joined_in_rounds(tmp_path, monkeypatch, local_edges, rounds):
    text = " ".join(words(np.random.default_rng(3), 100))
    documents = [document(f"{text} {end}", f"{end}.txt") for end in ("alpha", "beta", "gamma")]  # three edges
    run, before = make_run(tmp_path, documents, per_part=2)
    called = []
    distributed = near.connected_components
    monkeypatch.setattr(near, "connected_components", lambda *a: called.append(1) or distributed(*a))
    after = deduplicate(run, before, DedupConfig(near=NearConfig(local_edges=local_edges)))
    assert bool(called) == rounds
    assert after["dedup_near"].counts.kept == 1
    assert after["dedup_near"].info["search"]["edges"] == 3


def test_knobs_of_execution_do_not_change_the_key_of_the_stage():
    plain = NearDedupStage(DedupConfig(), "filter").settings()
    how = DedupConfig(partitions=99, near=NearConfig(components="local", local_edges=7, max_rounds=7))
    assert NearDedupStage(how, "filter").settings() == plain
    what = DedupConfig(near=NearConfig(threshold=0.7))
    assert NearDedupStage(what, "filter").settings() != plain


def test_ranking_by_a_measure_that_annotate_leaves_out_is_told():
    annotate = AnnotateConfig(measures=("text_chars",)).model_dump(mode="json")
    with pytest.raises(UserError) as refused:
        check_columns(DedupConfig(), annotate)
    assert "dedup.length asks for 'words', but annotate.measures leaves it out" in str(refused.value)
    assert "add 'words' to annotate.measures" in str(refused.value)
    check_columns(DedupConfig(length="text_chars"), annotate)
