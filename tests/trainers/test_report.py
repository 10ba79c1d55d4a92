"""report.html of real runs: small, hostile, text-only, partial and damaged ones."""

import io
import json
import re
import shutil
import wave

import numpy as np
import pytest
from lxml import html
from PIL import Image

from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory
from mixloom.trainers.recipe import RunConfig, run_recipe
from mixloom.trainers.report import write_report

ATTACK = '<script>alert(1)</script> "\' onmouseover="alert(2)" </style> \u202eevil\u202c \u05d0\u05d1'
WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "letter",
    "music",
    "winter",
    "bridge",
    "candle",
    "forest",
    "market",
    "silver",
]


def sentence(rng, n=60):
    return " ".join(rng.choice(WORDS, n).tolist()) + "."


def write_corpus(root, *, media=True):
    rng = np.random.Generator(np.random.PCG64(5))
    lines = [{"text": f"{ATTACK} {sentence(rng)}", "label": ATTACK if i % 2 else "plain"} for i in range(24)]
    lines.append(dict(lines[0]))  # an exact duplicate
    lines.append({"text": lines[1]["text"] + " more", "label": "plain"})  # a near duplicate
    lines.append({"text": "", "label": "<b>empty</b>"})
    lines += [{"text": "%$#@! " * 40, "label": "noise"}]
    root.mkdir()
    text = "\n".join(json.dumps(x) for x in lines) + "\n{broken <img src=x onerror=alert(3)>\n"
    (root / "a <i> & 'b'.jsonl").write_text(text)
    if not media:
        return
    (root / "scenes").mkdir()
    captions = ["file,caption"]
    for i in range(8):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, : 8 * i + 4] = (220, 30 * i % 256, 40)
        Image.fromarray(picture).save(root / "scenes" / f"s{i}.png")
        captions.append(f"s{i}.png,<img src=x onerror=alert({i})> a red field number {i} {rng.choice(WORDS)}")
    (root / "scenes" / "cut.png").write_bytes((root / "scenes" / "s1.png").read_bytes()[:60])
    captions.append("cut.png,a damaged picture")
    (root / "scenes" / "captions.csv").write_text("\n".join(captions) + "\n")
    (root / "clips").mkdir()
    said = ["file,text"]
    for i in range(6):
        t = np.arange(int(0.6 * 16_000)) / 16_000
        tone = np.sin(2 * np.pi * (220 + 60 * i) * t) * 0.4
        out = io.BytesIO()
        with wave.open(out, "wb") as f:
            f.setparams((1, 2, 16_000, 0, "NONE", ""))
            f.writeframes((tone * 32767).astype("<i2").tobytes())
        (root / "clips" / f"c{i}.wav").write_bytes(out.getvalue())
        said.append(f"c{i}.wav,tone <u>number</u> {i} {rng.choice(WORDS)}")
    (root / "clips" / "transcripts.csv").write_text("\n".join(said) + "\n")


def config(tmp, *, media=True, train=True):
    sources = [
        {"name": "lines", "format": "jsonl", "path": ".", "glob": "*.jsonl", "text_field": "text"}
        | {"meta_fields": ["label"]}
    ]
    if media:
        captions = {
            "kind": "table",
            "path": "captions.csv",
            "image_column": "file",
            "caption_column": "caption",
        }
        sources.append(
            {"name": "scenes", "format": "image_caption", "path": "scenes", "glob": "*.png"}
            | {"captions": {**captions, "match": "name"}}
        )
        transcripts = {"path": "transcripts.csv", "delimiter": ",", "quoting": True, "match": "name"}
        sources.append(
            {"name": "clips", "format": "speech", "path": "clips", "glob": "*.wav"}
            | {"transcripts": {**transcripts, "id_column": "file", "text_column": "text"}}
        )
    tree = {
        "run_dir": str(tmp / "run"),
        "data_root": str(tmp / "corpus"),
        "sources": sources,
        "max_failed_share": 0.5,
        "cluster": {"k": 2},
        "tokenizer": {
            "text": {"vocab_size": 320},
            "image": {"size": 32, "steps": 3, "crops": 32, "width": 16},
            "speech": {"units": 8},
        },
        "shards": {"seq_len": 128, "window": 8},
        "mixture": {"max_epochs": 100},
        "model": {"dim": 16, "layers": 1, "heads": 2, "ffn_hidden": 32},
    }
    if train:
        tree["train"] = {"steps": 3, "batch_contexts": 2, "log_every": 1}
    return RunConfig.model_validate(tree)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with text, pictures, sound and a training; tests only read it."""
    tmp = tmp_path_factory.mktemp("whole")
    write_corpus(tmp / "corpus")
    run_recipe(config(tmp), Console(quiet=True))
    return tmp / "run"


def report(run_dir):
    """Write the report and parse it; nothing in it may run or lead anywhere."""
    path = write_report(str(run_dir))
    assert path == str(run_dir / "report.html")
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    tree = html.document_fromstring(text)
    assert len(tree.xpath("//script")) == len(tree.xpath("//style")) == 1
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on"), (element.tag, name)
            assert name != "style", element.tag
            if name in ("src", "href"):
                assert re.match(r"#|data:(image/(png|webp)|audio/wav);base64,", value), value[:60]
    assert not [n for n in (run_dir).iterdir() if ".tmp-" in n.name]
    return tree


def section(tree, anchor):
    (found,) = tree.xpath(f"//section[@id='{anchor}']")
    return found


def test_every_section_of_a_whole_run_has_something_to_show(whole):
    tree = report(whole)
    assert not tree.xpath("//*[@class='nothing']")
    assert "conserved: yes" in section(tree, "overview").text_content()
    assert len(section(tree, "training-0").xpath(".//svg")) >= 3


def test_updates_that_were_left_out_stand_beside_the_curves(whole, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(whole, copied)
    contexts = [{"context": 1, "loss": 9.5, "targets": 30, "documents": ["0123abc"]}]
    incident = {
        "step": 2,
        "kind": "spike",
        "cause": "data",
        "contexts": contexts,
        "documents": [],
        "loss": 8.1,
    }
    incident |= {"loss_expected": 3.2, "grad_norm": 2.0, "grad_norm_usual": 0.4, "excluded_from": 3}
    (copied / "train" / "spikes.jsonl").write_text(json.dumps(incident) + "\n" + '{"step": 3, "cut')
    text = section(report(copied), "training-0").text_content()
    assert "1 update left out" in text
    assert "0123abc" in text
    assert "excluded from step 3 on" in text


def test_the_attack_is_shown_as_text(whole):
    kept = section(report(whole), "kept").text_content()
    assert "<script>alert(1)</script>" in kept
    assert "onerror=alert(" in kept
    assert "\u202e" not in kept


def test_every_reason_of_the_ledger_has_its_figure_and_its_samples(whole):
    tree = report(whole)
    run = RunDirectory(str(whole))
    wanted = set()
    for stage in ("ingest", "annotate", "filter", "dedup_exact", "dedup_near", "tokenize"):
        counts = run.stage(stage).manifest().counts
        wanted |= {(r, str(n)) for by in (counts.dropped, counts.failed) for r, n in by.items()}
    assert {"exact_duplicate", "near_duplicate", "malformed_json"} <= {r for r, _ in wanted}
    cells = [
        tuple(c.text_content() for c in r.xpath("th|td"))[2:4] for r in section(tree, "funnel").xpath(".//tr")
    ]
    assert wanted <= set(cells)
    titles = {b.text for b in section(tree, "dropped").xpath(".//summary/bdi")}
    assert {r for r, _ in wanted} <= titles


def test_a_duplicate_stands_beside_the_document_kept_in_its_place(whole):
    (card,) = [
        d.xpath(".//article")[0]
        for d in section(report(whole), "dropped").xpath(".//details[@class='reason']")
        if d.xpath("string(summary)").startswith("exact_duplicate")
    ]
    ids = [c.get("title") for c in card.xpath(".//code")]
    assert len(ids) == 2
    assert len(set(ids)) == 2
    texts = [side.xpath("string(.//p[@class='text'])") for side in card.xpath("./div[@class='side']")]
    assert texts[0] == texts[1] != ""


def test_a_failure_names_its_place_and_error(whole):
    text = section(report(whole), "dropped").text_content()
    assert "a <i> & 'b'.jsonl" in text
    assert "cut.png" in text


def test_pictures_and_sound_are_decoded_from_the_shards_beside_their_originals(whole):
    decoded = section(report(whole), "decoded")
    pairs = [f.xpath("string(figcaption)") for f in decoded.xpath(".//div[@class='beside']/figure[.//img]")]
    assert any(p.startswith("decoded, PSNR") for p in pairs)
    assert "original" in pairs
    assert decoded.xpath(".//figure[figcaption='decoded']//audio")
    assert decoded.xpath(".//figure[figcaption='original']//audio")
    assert "<doc>" in decoded.text_content()


def test_the_same_run_gives_the_same_page(whole):
    report(whole)
    first = (whole / "report.html").read_bytes()
    report(whole)
    assert (whole / "report.html").read_bytes() == first
    assert len(first) < 6_000_000


def test_missing_originals_leave_their_place_empty_and_the_rest_whole(whole, tmp_path):
    import shutil

    moved = tmp_path / "run"
    shutil.copytree(whole, moved)
    text = (moved / "config.yaml").read_text().replace("/corpus", "/gone")
    (moved / "config.yaml").write_text(text)
    tree = report(moved)
    assert "not at hand" in section(tree, "kept").text_content()
    decoded = section(tree, "decoded")
    assert decoded.xpath(".//figure//img")
    assert not decoded.xpath(".//figure[figcaption='original']")


def test_a_text_only_run_without_training_says_so(tmp_path):
    write_corpus(tmp_path / "corpus", media=False)
    run_recipe(config(tmp_path, media=False, train=False), Console(quiet=True))
    tree = report(tmp_path / "run")
    assert "Nothing has been trained yet" in section(tree, "training-0").text_content()
    assert "not finished" not in section(tree, "overview").text_content()
    assert not tree.xpath("//img")
    assert "alert(1)" in section(tree, "decoded").text_content()


@pytest.mark.parametrize(
    "last", ["nothing", "ingest", "filter", "dedup_near", "cluster", "tokenize", "shards"]
)
def test_a_run_stopped_anywhere_shows_what_there_is(whole, tmp_path, last):
    import shutil

    plan = json.loads((whole / "plan.json").read_text())["stages"]
    done = plan[: plan.index(last) + 1] if last in plan else []
    partial = tmp_path / "run"
    shutil.copytree(whole, partial, ignore=lambda d, names: {n for n in names if n in plan and n not in done})
    tree = report(partial)
    overview = section(tree, "overview").text_content()
    assert f"Still to do: {plan[len(done)]}" in overview
    assert bool(section(tree, "kept").xpath(".//article")) == bool(done)
    assert bool(section(tree, "decoded").xpath(".//article")) == ("shards" in done)
    assert bool(section(tree, "domains").xpath(".//circle")) == ("cluster" in done)


def test_a_damaged_part_is_named_and_the_old_page_stays(whole, tmp_path):
    import shutil

    damaged = tmp_path / "run"
    shutil.copytree(whole, damaged)
    report(damaged)
    before = (damaged / "report.html").read_bytes()
    part = next((damaged / "cluster").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match=re.escape(str(part))):
        write_report(str(damaged))
    assert (damaged / "report.html").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        write_report(str(tmp_path))
