"""The documents a judge is shown, drawn from JSONL and from a run."""

import gzip
import json
import random
from collections import Counter

import pyarrow as pa
import pytest
import yaml

from mixloom.mixers.medu_documents import draw
from mixloom.pipeline.config import load_config
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings
from mixloom.trainers.recipe import RunConfig, run_stages, stages_of


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


ROWS = [{"text": f"text {s} {i} " + "x" * 50, "source": s} for s in "abc" for i in range(30)]


def test_so_many_of_every_source_are_drawn_and_cut(tmp_path):
    sample = draw(write(tmp_path / "d.jsonl", ROWS), per_source=8, characters=20)
    assert sample.sources == ("a", "b", "c")
    assert Counter(d.source for d in sample.documents) == {"a": 8, "b": 8, "c": 8}
    assert all(len(d.text) == 20 for d in sample.documents)
    assert len({d.doc_id for d in sample.documents}) == 24


def test_the_sample_depends_on_content_and_seed_and_on_no_order(tmp_path):
    rows = ROWS.copy()
    random.Random(1).shuffle(rows)
    one = draw(write(tmp_path / "one.jsonl", ROWS), per_source=8, characters=99)
    two = draw(write(tmp_path / "two.jsonl", rows), per_source=8, characters=99)
    assert one == two
    other = draw(str(tmp_path / "one.jsonl"), per_source=8, characters=99, seed=1)
    assert other.documents != one.documents
    assert other.fingerprint != one.fingerprint


def test_a_further_source_changes_nothing_of_the_others(tmp_path):
    before = draw(write(tmp_path / "d.jsonl", ROWS), per_source=8, characters=99)
    after = draw(
        write(tmp_path / "d.jsonl", [*ROWS, {"text": "new", "source": "z"}]), per_source=8, characters=99
    )
    assert tuple(d for d in after.documents if d.source != "z") == before.documents


def test_a_larger_sample_holds_the_smaller_one(tmp_path):
    path = write(tmp_path / "d.jsonl", ROWS)
    small = draw(path, per_source=5, characters=99).documents
    assert set(small) < set(draw(path, per_source=9, characters=99).documents)


def test_fields_can_be_named_and_the_same_record_counts_once(tmp_path):
    rows = [{"body": "one", "site": "x", "n": "7"}, {"body": "one", "site": "x", "n": "7"}]
    sample = draw(
        write(tmp_path / "d.jsonl", rows),
        per_source=9,
        characters=99,
        text_field="body",
        source_field="site",
        id_field="n",
    )
    assert [(d.source, d.doc_id, d.text) for d in sample.documents] == [("x", "7", "one")]


def test_without_a_source_the_file_names_it_and_packed_files_and_folders_are_read(tmp_path):
    write(tmp_path / "plain.jsonl", [{"text": "one"}])
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as f:
        f.write(json.dumps({"text": "two"}) + "\n")
    assert draw(str(tmp_path), per_source=9, characters=99).sources == ("packed", "plain")
    assert draw(str(tmp_path / "p*.jsonl"), per_source=9, characters=99).sources == ("plain",)


def test_half_a_surrogate_pair_becomes_text_that_can_be_written(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a \\ud800 b", "source": "s"}\n')
    assert draw(str(tmp_path / "d.jsonl"), per_source=9, characters=99).documents[0].text == "a ? b"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"body": "x"}\n', "line 1, has no text in 'text'; its fields are body"),
        ('{"text": "x"}\n{"text":\n', "line 2, is not JSON"),
        ("[1]\n", "line 1, holds list"),
        ('{"text": "  "}\n', "holds no document with text"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, content, said):
    (tmp_path / "d.jsonl").write_text(content)
    with pytest.raises(UserError, match=said):
        draw(str(tmp_path / "d.jsonl"), per_source=9, characters=99)


def test_nothing_there_and_domains_without_a_run_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.jsonl file"):
        draw(str(tmp_path), per_source=9, characters=99)
    with pytest.raises(UserError, match="only a run has domains"):
        draw(write(tmp_path / "d.jsonl", ROWS), per_source=9, characters=99, group="domain")


# A run: two sources, near duplicates dropped, e-mail addresses masked, three domains.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("judged")
    rng = random.Random(5)
    for name, words in (("law", "court statute clause appeal"), ("food", "butter flour oven salt")):
        pool = [f"{w}{c}" for w in words.split() for c in "abcdefgh"] + ["the", "of", "and", "with"] * 6
        rows = [{"text": " ".join(rng.choices(pool, k=80)) + f" me{i}@mail.example end"} for i in range(60)]
        rows += [{"text": rows[i]["text"]} for i in range(10)]  # exact copies
        write(root / f"{name}.jsonl", rows)
    (root / "run.yaml").write_text(
        f"""
run_dir: {root}/run
data_root: {root}
sources:
  - {{name: law, format: jsonl, path: law.jsonl}}
  - {{name: food, format: jsonl, path: food.jsonl}}
part_documents: 25
dedup: {{near: null}}
pii: {{}}
embed: {{text: {{dim: 8}}}}
cluster: {{k: 3}}
"""
    )
    config = load_config(RunConfig, root / "run.yaml")
    found = RunDirectory(str(root / "run"))
    stages = stages_of(config, {s.name: str(root / s.path) for s in config.sources})
    stages = stages[: [s.name for s in stages].index("cluster") + 1]
    found.store.write("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    found.save_plan([s.name for s in stages])
    run_stages(stages, found, RunSettings(), Console(quiet=True))
    return found


def kept(run):
    """Ids that stage pii left, by reading everything."""
    reader = run.stage("pii").reader()
    return {i for p in reader.parts if p.startswith("part-") for i in reader.read(p)["doc_id"].to_pylist()}


def test_only_survivors_are_drawn_with_their_text_as_it_stands_after_edits(run):
    sample = draw(run.store.root, per_source=1000, characters=10_000)
    assert {d.doc_id for d in sample.documents} == kept(run)
    assert Counter(d.source for d in sample.documents) == {"law": 60, "food": 60}
    assert not any("@mail.example" in d.text for d in sample.documents)
    assert all(d.text.endswith("end") for d in sample.documents)


def test_a_part_of_them_is_drawn_from_all_parts(run):
    sample = draw(run.store.root, per_source=20, characters=100)
    assert Counter(d.source for d in sample.documents) == {"law": 20, "food": 20}
    reader = run.stage("ingest").reader()
    parts = {i: p for p in reader.parts for i in reader.read(p, ["doc_id"])["doc_id"].to_pylist()}
    assert len({parts[d.doc_id] for d in sample.documents}) == len(set(parts.values()))


def test_domains_have_the_names_that_the_shards_give_them(run):
    sample = draw(run.store.root, per_source=1000, characters=100, group="domain")
    assert set(sample.sources) == {"domain-000", "domain-001", "domain-002"}
    reader = run.stage("cluster").reader()
    tables = [reader.read(p, ["doc_id", "domain"]) for p in reader.parts if p.startswith("part-")]
    placed = dict(zip(*(pa.concat_tables(tables)[c].to_pylist() for c in ("doc_id", "domain"))))
    assert {d.doc_id: d.source for d in sample.documents} == {
        i: f"domain-{n:03d}" for i, n in placed.items() if i in kept(run)
    }
