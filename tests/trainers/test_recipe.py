"""A run as a whole: what is done again after a change, what is not, and what is told when it cannot go on."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mixloom.pipeline.config import validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.trainers.recipe import RunConfig, TrainRecipe, run_recipe, train_recipe

STAGES = [
    "ingest",
    "annotate",
    "filter",
    "dedup_exact",
    "dedup_near",
    "embed",
    "cluster",
    "order",
    "tokenizer",
]
STAGES += ["tokenize", "pack", "shards", "mixture", "train"]


class Said(Console):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def do(tree):
    """Run a configuration; returns the stages that had work."""
    said = Said()
    worked = run_recipe(validate(RunConfig, tree, "test"), said)
    stages = [line.split()[0] for line in said.lines if line.split()[0] in STAGES]
    assert worked == bool(stages)
    return stages


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_corpus, make_tree):
    """A corpus of text and pictures, and a finished run of it; tests work on copies."""
    tmp = tmp_path_factory.mktemp("finished")
    make_corpus(tmp / "corpus", "notes", "scenes")
    tree = make_tree(tmp / "corpus", tmp / "run", ["notes", "scenes"])
    assert do(tree) == STAGES
    return tmp, tree


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run, copied to a folder of its own, and its configuration."""
    tmp, tree = finished
    shutil.copytree(tmp / "run", tmp_path / "run")
    return {**tree, "run_dir": str(tmp_path / "run")}


def fingerprints(tree):
    run = RunDirectory(tree["run_dir"])
    return {name: m.fingerprint for name in run.plan() if (m := run.stage(name).manifest())}


def test_a_run_may_be_moved_and_goes_on_from_there(copied):
    assert do(copied) == []


def test_changed_rules_redo_the_filter_and_what_follows_but_never_ingest_or_annotate(copied):
    assert do({**copied, "filter": {"rules": ["media"]}}) == STAGES[2:]


def test_rules_that_decide_the_same_redo_the_filter_alone(copied, tmp_path):
    rules = "description: nothing falls below this\nrules:\n  - {name: short, measure: words, min: 1}\n"
    (tmp_path / "mine.yaml").write_text(rules)
    changed = {**copied, "filter": {"rules": ["basic", "media", str(tmp_path / "mine.yaml")]}}
    assert do(changed) == ["filter"]
    (tmp_path / "mine.yaml").write_text(rules.replace("min: 1", "min: 2"))  # the rules count, not their names
    assert do(changed) == ["filter"]
    assert do(changed) == []


def test_an_exchanged_tokenizer_is_noticed_though_its_path_stays(copied, tmp_path):
    def give(name):
        words = [f"some text on {name} {i}" for i in range(50)]
        train_text_tokenizer(words, TextTokenizerConfig(vocab_size=280)).save(tmp_path / "given")

    give("the sea")
    tree = {
        **copied,
        "train": None,
        "tokenizer": {**copied["tokenizer"], "text": {"path": f"{tmp_path}/given"}},
    }
    assert do(tree) == STAGES[STAGES.index("tokenizer") : -1]
    assert do(tree) == []
    give("deserts")
    assert do(tree) == STAGES[STAGES.index("tokenizer") : -1]


def test_changed_training_redoes_only_the_training(copied):
    assert do({**copied, "train": {**copied["train"], "lr": 0.005}}) == ["train"]
    assert do({**copied, "train": {**copied["train"], "lr": 0.005, "log_every": 2}}) == []


def test_a_longer_training_weighs_the_domains_anew_because_it_is_served_more(copied):
    assert do({**copied, "train": {**copied["train"], "steps": 7}}) == ["mixture", "train"]


def test_changed_contexts_redo_packing_and_what_follows(copied):
    assert do({**copied, "shards": {**copied["shards"], "window": 1}}) == STAGES[STAGES.index("pack") :]
    blocks = {**copied["shards"], "window": 1, "block": 5}
    assert do({**copied, "shards": blocks}) == STAGES[STAGES.index("shards") :]


def test_how_to_run_is_no_reason_to_run_again(copied):
    assert do({**copied, "workers": 2, "max_failed_share": 0.5}) == []


def test_data_that_moved_are_read_again_but_nothing_after_is_done_when_they_are_the_same(
    finished, copied, tmp_path
):
    shutil.copytree(finished[0] / "corpus", tmp_path / "elsewhere")  # with the times of the files
    assert do({**copied, "data_root": str(tmp_path / "elsewhere")}) == []
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert do({**copied, "data_root": str(tmp_path / "elsewhere")}) == ["ingest"]


def test_documents_keep_their_ids_in_whatever_part_they_are(finished, tmp_path):
    tmp, tree = finished
    parts = {"part_documents": 3, "run_dir": str(tmp_path / "run"), "train": None}
    do({**tree, **parts})

    def ids(run):
        files = sorted((run / "ingest").glob("part-*.parquet"))
        return len(files), sorted(x for f in files for x in pq.read_table(f)["doc_id"].to_pylist())

    few, many = ids(tmp / "run"), ids(tmp_path / "run")
    assert many[0] > few[0]
    assert many[1] == few[1]
    assert len(set(many[1])) == len(many[1])


def test_a_changed_document_is_the_only_one_with_a_new_id(finished, copied, tmp_path):
    shutil.copytree(finished[0] / "corpus", tmp_path / "corpus")
    (tmp_path / "corpus" / "notes" / "sky" / "1.txt").write_text(
        "An altogether different note on the sky.\n" * 3
    )
    assert do({**copied, "data_root": str(tmp_path / "corpus"), "train": None})[0] == "ingest"

    def ids(root):
        files = (root / "run" / "ingest").glob("part-*.parquet")
        return {x for f in files for x in pq.read_table(f)["doc_id"].to_pylist()}

    old, new = ids(finished[0]), ids(tmp_path)
    assert len(old - new) == len(new - old) == 1


def test_a_deleted_part_redoes_its_stage_and_nothing_that_only_reads_it(copied):
    before = fingerprints(copied)
    run = RunDirectory(copied["run_dir"])
    run.stage("annotate").store.remove("part-00000-0000.parquet")
    assert do(copied) == ["annotate"]
    assert fingerprints(copied) == before


def test_a_deleted_shard_is_written_again_byte_for_byte(copied):
    store = RunDirectory(copied["run_dir"]).stage("shards").store
    name = next(n for n in store.names() if n.endswith(".tar"))
    data = store.read(name)
    store.remove(name)
    assert do(copied) == ["shards"]
    assert store.read(name) == data


def test_media_that_vanish_between_two_stages_fail_in_the_ledger_and_nothing_else_is_lost(finished, tmp_path):
    tmp, tree = finished
    corpus = tmp_path / "corpus"
    shutil.copytree(tmp / "corpus", corpus)
    shutil.copytree(tmp / "run", tmp_path / "run")
    (corpus / "scenes" / "s3.png").unlink()
    (corpus / "scenes" / "s4.png").write_bytes((corpus / "scenes" / "s5.png").read_bytes())
    run = RunDirectory(str(tmp_path / "run"))
    for stage in STAGES[STAGES.index("tokenize") :]:
        run.store.remove(stage)
    # The stages from `tokenize` on, as a run does that had been interrupted before them.
    from mixloom.pipeline.stage import RunSettings
    from mixloom.trainers.recipe import run_stages, stages_of

    config = validate(RunConfig, {**tree, "data_root": str(corpus), "train": None}, "test")
    roots = {s.name: str(corpus / s.path) for s in config.sources}
    rest = stages_of(config, roots)[STAGES.index("tokenize") :]
    done = {name: run.stage(name).manifest() for name in STAGES[: STAGES.index("tokenize")]}
    assert run_stages(rest, run, RunSettings(), Console(quiet=True), done)

    counts = run.stage("tokenize").manifest().counts
    assert counts.failed == {"media_not_encodable": 2}
    assert counts.documents_in == counts.kept + 2 == done["cluster"].counts.kept
    rows = [r for f in (tmp_path / "run/tokenize/rejects").glob("*") for r in pq.read_table(f).to_pylist()]
    assert {r["source"] for r in rows} == {"scenes"}
    gone, other = sorted(r["detail"] for r in rows)
    assert gone.startswith("s3.png: ")
    assert "s3.png" in gone
    assert other == "s4.png: its content has changed since ingest read it; run again to read it anew"
    assert run.stage("shards").manifest().counts.kept == counts.kept


def test_a_run_that_loses_every_document_stops_with_the_reasons(tmp_path, make_tree):
    (tmp_path / "corpus" / "notes" / "x").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "corpus" / "notes" / "x" / f"{i}.txt").write_text("%$#@! ^&*( ~~ |}{ <<>> " * (30 + i))
    tree = make_tree(tmp_path / "corpus", tmp_path / "run", ["notes"])
    with pytest.raises(UserError, match="filter: no document is left of 3: 3 symbol_noise") as caught:
        do(tree)
    assert f"look at {tmp_path}/run/filter/rejects" in str(caught.value)
    with pytest.raises(UserError, match="no document is left of 3: 3 symbol_noise"):
        do(tree)  # the finished filter says the same again


def test_a_run_of_empty_files_stops_with_the_reasons(tmp_path, make_tree):
    (tmp_path / "corpus" / "notes" / "x").mkdir(parents=True)
    (tmp_path / "corpus" / "notes" / "x" / "0.txt").write_text("")
    with pytest.raises(UserError, match="ingest: no document is left of 1: 1 empty_document"):
        do(make_tree(tmp_path / "corpus", tmp_path / "run", ["notes"]))


def test_a_run_of_files_nobody_can_read_stops_with_place_and_error(tmp_path, make_tree):
    (tmp_path / "corpus" / "notes" / "x").mkdir(parents=True)
    (tmp_path / "corpus" / "notes" / "x" / "0.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError) as caught:
        do(make_tree(tmp_path / "corpus", tmp_path / "run", ["notes"]))
    assert "ingest: 1 of 1 documents failed" in str(caught.value)
    assert "notes/x/0.txt: invalid_utf8: 'x/0.txt' is not valid utf-8: byte 0xe9" in str(caught.value)


def test_one_document_of_one_word_makes_a_trained_model(tmp_path, make_tree):
    (tmp_path / "corpus" / "notes" / "x").mkdir(parents=True)
    (tmp_path / "corpus" / "notes" / "x" / "0.txt").write_text("Hello")
    tree = make_tree(tmp_path / "corpus", tmp_path / "run", ["notes"])
    assert do({**tree, "cluster": {"k": 500}}) == STAGES
    totals = json.loads((tmp_path / "run/shards/manifest.json").read_text())["totals"]
    assert totals["documents"] == totals["contexts"] == 1


def test_a_corpus_without_a_word_makes_shards_of_units_alone(tmp_path, make_corpus, make_tree):
    make_corpus(tmp_path / "corpus", "clips")
    tree = make_tree(tmp_path / "corpus", tmp_path / "run", ["clips"])
    [clips] = tree["sources"]
    del clips["transcripts"]
    clips["order"] = "speech_only"
    assert do({**tree, "train": None}) == STAGES[:-1]
    totals = json.loads((tmp_path / "run/shards/manifest.json").read_text())["totals"]
    assert totals["tokens_by_modality"]["speech"] > 0
    assert totals["tokens_by_modality"]["image"] == 0
    assert totals["documents"] == 6


def test_two_sources_of_one_name_are_refused(finished):
    tree = finished[1]
    with pytest.raises(UserError, match="two sources are named 'notes'; give each a name of its own"):
        validate(RunConfig, {**tree, "sources": tree["sources"] + tree["sources"][:1]}, "c.yaml")


def test_the_seed_of_a_run_reaches_every_section_that_draws_and_states_none(finished):
    def drawn(tree):
        config = validate(RunConfig, {**finished[1], **tree}, "c.yaml")
        sections = [config.embed, config.cluster, config.order, config.shards]
        sections += [config.tokenizer.image, config.tokenizer.speech, config.train]
        return [s.seed for s in sections if s is not None]

    assert drawn({}) == [0] * 7
    assert drawn({"seed": 5}) == [5] * 7
    assert drawn({"seed": 5, "cluster": {"k": 3, "seed": 2}}) == [5, 2, 5, 5, 5, 5, 5]
    assert drawn({"seed": 5, "train": None}) == [5] * 6
    with pytest.raises(UserError, match="'seed' is -1"):
        drawn({"seed": -1})
    with pytest.raises(UserError, match="'shards' is 3"):
        drawn({"seed": 5, "shards": 3})


def test_another_seed_draws_other_shards(copied):
    before = fingerprints(copied)
    do({**copied, "seed": 1, "train": None})
    after = fingerprints(copied)
    assert after["ingest"] == before["ingest"]
    assert all(after[stage] != before[stage] for stage in ("embed", "tokenizer", "shards"))


def test_rules_for_a_source_that_does_not_exist_are_refused(finished):
    tree = {**finished[1], "filter": {"by_source": {"nots": ["basic"]}}}
    with pytest.raises(
        UserError, match=r"filter\.by_source names 'nots', which is not a source; sources are notes"
    ):
        validate(RunConfig, tree, "c.yaml")


def test_another_order_of_segments_is_tokenized_again_with_the_same_tokenizers(copied):
    def layout(**own):
        return {**copied, "tokenizer": {**copied["tokenizer"], "layout": {"by_source": own}}}

    before = fingerprints(copied)
    assert do(layout(scenes={})) == []
    worked = do(layout(scenes={"images": "caption_before"}))
    assert worked == STAGES[STAGES.index("tokenize") :]
    after = fingerprints(copied)
    assert after["tokenizer"] == before["tokenizer"]
    assert after["shards"] != before["shards"]
    manifest = RunDirectory(copied["run_dir"]).stage("tokenize").manifest()
    met = [info["layouts"]["scenes"] for info in manifest.info.values() if "layouts" in info]
    captioned = sum(m["images_with_caption"] for m in met)
    assert captioned > 0
    told = RunDirectory(copied["run_dir"]).stage("shards").manifest().info["manifest"]
    assert told["layouts"]["scenes"]["images_with_caption"] == captioned


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"tokenizer": {"layout": {"by_source": {"scene": {"images": "caption_before"}}}}},
            r"layout\.by_source names 'scene', which is not a source; sources are notes, scenes",
        ),
        (
            {
                "tokenizer": {"layout": {"by_source": {"*": {"images": "caption_before", "alt": True}}}},
                "pii": {},
            },
            r"by_source\.\*: alt writes attributes of images, which pii and decontaminate do not see",
        ),
        (
            {
                "tokenizer": {
                    "layout": {"by_source": {"notes": {"speech": "word_switch"}}},
                    "speech": {"kind": "dac", "path": "x", "codebooks": 4, "layout": "delayed"},
                }
            },
            r"by_source\.notes: word_switch cuts recordings at words",
        ),
    ],
)
def test_layouts_that_cannot_be_are_refused(finished, tree, words):
    with pytest.raises(UserError, match=words):
        validate(RunConfig, {**finished[1], **tree}, "c.yaml")


def test_rules_of_one_source_judge_that_source_alone(copied, tmp_path):
    (tmp_path / "none.yaml").write_text(
        "description: drops all\nrules:\n  - {name: never, measure: words, min: 100000}\n"
    )
    do({**copied, "train": None, "filter": {"by_source": {"scenes": [str(tmp_path / "none.yaml")]}}})
    counts = RunDirectory(copied["run_dir"]).stage("filter").manifest().counts
    assert counts.dropped == {"never": 8, "symbol_noise": 1}


def test_training_on_its_own_uses_its_own_mixture_and_is_listed_in_the_run(copied):
    recipe = {"run_dir": copied["run_dir"], "name": "again", "mixture": {"method": "uniform"}}
    recipe |= {"model": copied["model"], "train": copied["train"]}
    config = validate(TrainRecipe, recipe, "t.yaml")
    assert train_recipe(config, Console(quiet=True))
    assert not train_recipe(config, Console(quiet=True))
    run = RunDirectory(copied["run_dir"])
    assert run.plan()[-1] == "again"
    assert run.stage("again").store.exists("mixture.yaml")
    assert do(copied) == []
    assert "again" in run.plan()


def test_a_training_of_other_settings_is_never_replaced(copied):
    """Not a finished one, not one that was interrupted, and not that of the run itself."""
    recipe = {"run_dir": copied["run_dir"], "mixture": {"method": "uniform"}, "model": copied["model"]}
    recipe |= {"train": copied["train"], "name": "again"}
    quiet, run = Console(quiet=True), RunDirectory(copied["run_dir"])
    train_recipe(validate(TrainRecipe, recipe, "t.yaml"), quiet)
    kept = sorted(p.name for p in Path(run.stage("again").store.root).rglob("*"))
    other = validate(TrainRecipe, {**recipe, "train": {**copied["train"], "lr": 0.01234}}, "t.yaml")
    for state in ("finished", "interrupted"):
        with pytest.raises(
            UserError, match=r"again holds another training.*train\.lr: was .*, is 0\.01234"
        ) as told:
            train_recipe(other, quiet)
        assert "name=again-2" in str(told.value), state
        (Path(run.stage("again").store.root) / "stage.json").unlink(missing_ok=True)
    assert sorted(p.name for p in Path(run.stage("again").store.root).rglob("*")) == [
        name for name in kept if name != "stage.json"
    ]
    with pytest.raises(UserError, match="train holds another training"):
        train_recipe(validate(TrainRecipe, {**recipe, "name": "train"}, "t.yaml"), quiet)


def test_training_that_checks_shards_names_a_damaged_one(copied):
    folder = Path(copied["run_dir"]) / "shards"
    for tar in folder.glob("*.tar"):  # wherever the first step reads
        index = json.loads((folder / f"{tar.name}.index.json").read_text())
        data = bytearray(tar.read_bytes())
        for sample in index["samples"]:
            data[sample["input_ids"]["offset"]] ^= 1
        tar.write_bytes(bytes(data))
    recipe = {"run_dir": copied["run_dir"], "name": "checked", "mixture": {"method": "uniform"}}
    recipe |= {"model": copied["model"], "train": {**copied["train"], "verify": True}}
    with pytest.raises(UserError, match=r"\.tar.*sample|sample.*\.tar"):
        train_recipe(validate(TrainRecipe, recipe, "t.yaml"), Console(quiet=True))


def test_training_without_shards_says_what_to_run_first(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        train_recipe(TrainRecipe(run_dir=str(tmp_path / "nothing")), Console(quiet=True))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match=r"has no finished shards\n  fix: run `mixloom run` on it first"):
        train_recipe(TrainRecipe(run_dir=str(tmp_path)), Console(quiet=True))


def test_a_training_may_not_be_named_like_a_path():
    with pytest.raises(ValidationError):
        TrainRecipe(run_dir="x", name="../outside")
