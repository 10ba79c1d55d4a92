"""Every curation stage at once: edits upon edits, nothing lost, and the same bytes however the work is cut."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.config import validate
from mixloom.pipeline.console import Console
from mixloom.pipeline.engine import one_batch
from mixloom.pipeline.explain import explain
from mixloom.pipeline.overlay import edited_documents
from mixloom.pipeline.run import RunDirectory
from mixloom.trainers.recipe import RunConfig, run_recipe

QUESTION = (
    "Weng earns twelve dollars an hour for babysitting. Yesterday, she just did fifty minutes of "
    "babysitting. How much did she earn in total for that work?"
)
BOILERPLATE = (
    "This paragraph of the terms stands on each and every page of the whole small site, word for word."
)
BASE64 = "".join(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(i * i * 37 + i * 11) % 64]
    for i in range(400)
)
WORDS = [
    "river",
    "stone",
    "bridge",
    "lantern",
    "market",
    "harbour",
    "winter",
    "garden",
    "letter",
    "window",
    "silver",
    "mountain",
    "teacher",
    "sailor",
    "orchard",
    "kitchen",
    "morning",
    "engine",
    "village",
    "copper",
    "thunder",
    "basket",
    "island",
    "shadow",
]


def prose(seed):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(6):
        words = [str(w) for w in rng.choice(WORDS, 12)]
        lines.append(f"The {' '.join(words[:6])} and the {' '.join(words[6:])} are old.")
    return "\n".join(lines)


def site(root: Path):
    """Pages with a menu line, a boilerplate paragraph, a picture, and one fault each."""
    pages = root / "pages"
    pages.mkdir(parents=True)
    faults = {
        3: f"\n\n{BASE64}",
        5: "\n\nWrite to jane.doe@somewhere-else.org about it, please, she will be glad to answer.",
        8: f"\n\n{QUESTION.title()}",
    }
    for i in range(14):
        good = np.random.default_rng(i).integers(0, 255, (160, 200, 3), np.uint8)
        Image.fromarray(good).resize((200, 160)).save(pages / f"{i}.png")
        Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(pages / "blank.png")
        text = f"{prose(i)}\n\n{BOILERPLATE}{faults.get(i, '')}\n\n![one]({i}.png)\n\n![two](blank.png)\n"
        (pages / f"{i:02d}.md").write_text(f"HOME SHOP CONTACT\n\n{text}")
    (root / "eval.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    (root / "menu.yaml").write_text(
        "lines: [{name: capitals, measure: upper_share, max: 0.6}]\nmedia: [{name: blank, measure: luminance_std, min: 1}]\n"
    )


def tree(root, run_dir, **more):
    return {
        "run_dir": str(run_dir),
        "data_root": str(root),
        "sources": [{"name": "site", "format": "markdown", "path": "pages"}],
        "annotate": {"media": {}, "noise": {"action": "measure"}, "language": {}},
        "filter": {"rules": ["basic", str(root / "menu.yaml"), "english"]},
        "noise": {},
        "dedup_paragraphs": {"media": "edit"},
        "dedup_images": {},
        "decontaminate": {"sets": [{"name": "sums", "path": "eval.jsonl", "fields": ["question"]}]},
        "pii": {},
        "dedup": {"index": {}},
        "dedup_semantic": {"eps": 1e-6},
        "embed": {"text": {"dim": 4, "min_df": 1}},
        "cluster": {"k": 2},
        "tokenizer": {"text": {"vocab_size": 400}, "image": {"steps": 2, "size": 32}},
        "shards": {"seq_len": 256},
        **more,
    }


def run(root, run_dir, **more):
    config = validate(RunConfig, tree(root, run_dir, **more), "test")
    run_recipe(config, Console(quiet=True))
    return RunDirectory(str(run_dir))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    site(root)
    return root, run(root, root / "run")


def final_texts(done):
    stages = [s for s in done.plan() if any(p.startswith("edits/") for p in done.stage(s).reader().parts)]
    documents = edited_documents(done.stage("ingest").reader(), [done.stage(s).reader() for s in stages])
    out = {}
    alive = done.stage("pii").reader()
    for part in sorted(p for p in alive.parts if "/" not in p):
        table = documents.read(part).take(alive.read(part, ["row"])["row"])
        kinds = [[s["kind"] for s in row] for row in table["segments"].to_pylist()]
        texts = document_text(one_batch(table)).to_pylist()
        for locator, text, kind in zip(table["locator"].to_pylist(), texts, kinds):
            out[locator["uri"]] = (text, kind)
    return out


def test_every_fault_is_gone_and_the_rest_stays(world):
    texts = final_texts(world[1])
    assert len(texts) == 13  # one page held an evaluation item
    assert "08.md" not in texts
    together = "\n".join(t for t, _ in texts.values())
    for gone in ("HOME SHOP", BASE64[:40], "jane.doe", "Twelve Dollars"):
        assert gone not in together
    assert together.count(BOILERPLATE) == 1
    assert "Write to <EMAIL> about it" in texts["05.md"][0]
    for name, (text, kinds) in texts.items():
        assert prose(int(name[:2])) in text
        assert kinds.count("image") == 1  # the blank one went, its own stayed


def test_every_stage_is_conserved_and_tells_its_edits(world):
    done = world[1]
    manifests = {s: done.stage(s).manifest() for s in done.plan()}
    assert all(m.counts.conserved for m in manifests.values())
    assert manifests["filter"].info["edits"]["capitals"] == 14
    assert manifests["filter"].info["edits"]["blank"] == 14
    assert manifests["noise"].info["edits"] == {"noise_base64": 1}
    assert manifests["dedup_paragraphs"].info["edits"]["duplicate_paragraph"] == 13
    assert manifests["decontaminate"].counts.dropped == {"contaminated": 1}
    assert manifests["pii"].info["edits"] == {"pii_email": 1}
    late = manifests["dedup_semantic"].counts
    assert late.documents_in == 13
    assert manifests["dedup_index"].counts.kept == manifests["order"].counts.kept == late.kept
    assert manifests["tokenize"].counts.documents_in == late.kept


def test_the_life_of_a_masked_page_never_shows_what_was_masked(world):
    done = world[1]
    ids = {
        locator["uri"]: doc_id
        for part in done.stage("ingest").reader().parts
        for doc_id, locator in zip(
            *done.stage("ingest").reader().read(part, ["doc_id", "locator"]).to_pydict().values()
        )
    }
    life = {e["stage"]: e for e in explain(done, ids["05.md"])["life"]}
    assert life["pii"]["edits"] == [{"segment": 0, "reason": "pii_email", "put": "<EMAIL>"}]


@pytest.mark.parametrize("more", [{"workers": 2}, {"part_documents": 3}])
def test_workers_and_parts_change_no_text(world, more):
    root, done = world
    other = run(root, root / f"run-{next(iter(more))}", **more)
    assert final_texts(other) == final_texts(done)
    if "workers" in more:
        assert other.stage("shards").manifest().fingerprint == done.stage("shards").manifest().fingerprint
