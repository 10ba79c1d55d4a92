"""Stage `embed` in a run: the embedders of a configuration, what the manifest says, and what redoes the stage."""

import hashlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixloom.pipeline.config import validate
from mixloom.pipeline.embed import vectors_of
from mixloom.pipeline.embed_config import EmbedConfig, TfidfConfig
from mixloom.pipeline.embed_stage import EmbedStage
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import Document, Locator, Media, Segment


def checkpoint(kind, folder):
    """A small random checkpoint, as the tests of its embedder make it."""
    path = Path(__file__).with_name(f"test_{kind}.py")
    spec = importlib.util.spec_from_file_location(f"make_{kind}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder.mkdir()
    return module.make(folder)


def png(seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """(folder, documents): words alone, images alone, both, neither."""
    folder = tmp_path_factory.mktemp("pages")
    out = []
    for i in range(40):
        rng = np.random.Generator(np.random.PCG64(i))
        segments = []
        if i % 4 < 2 or i % 8 == 6:
            words = " ".join(f"{'ab'[i % 2]}{c}{rng.integers(4)}x" for c in "klmnpqrs")
            segments.append(Segment(kind="text", text=words))
        if i % 4 in (1, 2):
            data = png(i)
            (folder / f"{i}.png").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            segments.append(
                Segment(kind="image", media=Media(uri=f"{i}.png", sha256=digest, bytes=len(data)))
            )
        if not segments:
            segments.append(Segment(kind="text", text=f"1{i}"))
        out.append(Document(source="pages", locator=Locator(uri=str(i)), segments=tuple(segments)))
    return folder, out


def vectors(run):
    reader = run.directory.stage("embed").reader()
    tables = [reader.read(n) for n in sorted(reader.parts) if n.startswith("part-")]
    return {d: v.tobytes() for t in tables for d, v in zip(t["doc_id"].to_pylist(), vectors_of(t))}


def model_files(manifest):
    return {p.name: p.sha256 for p in manifest.parts if p.name.startswith("model/")}


def test_words_counted_here_or_by_beam_in_any_parts_make_the_same_model(
    pages, tmp_path, small_run, monkeypatch
):
    config = EmbedConfig(text=TfidfConfig(dim=5, sample_documents=25, max_df=1.0))
    found = []
    for name, per_part, workers, few in (("a", 40, 1, 10**9), ("b", 11, 2, 0)):
        monkeypatch.setattr("mixloom.pipeline.tfidf_sample.fit_on_sample.__defaults__", (few,))
        run = small_run(tmp_path / name, pages[1], per_part)
        manifest = run.run(EmbedStage(config, "filter"), workers)
        sampled = manifest.info["model"]["sampled_documents"]
        assert 15 <= sampled < 35
        assert any(p.name.startswith("terms/") for p in manifest.parts) == (few == 0)
        found.append((model_files(manifest), sampled, vectors(run)))
    assert found[0] == found[1]
    assert len(found[0][2]) == 40


def test_limits_that_leave_no_term_are_lifted_by_beam_as_well(tmp_path, small_run, document, monkeypatch):
    two = [document("apple pear plum", "1"), document("fig kiwi lemon", "2")]
    models = []
    for name, few in (("a", 10**9), ("b", 0)):
        monkeypatch.setattr("mixloom.pipeline.tfidf_sample.fit_on_sample.__defaults__", (few,))
        run = small_run(tmp_path / name, two, 1)
        manifest = run.run(EmbedStage(EmbedConfig(text=TfidfConfig(dim=2)), "filter"))
        models.append(model_files(manifest))
        assert manifest.info["zero_vectors"] == 0
    assert models[0] == models[1]


def test_the_manifest_tells_embedder_length_and_zero_vectors(pages, tmp_path, small_run):
    clip, bert = checkpoint("encoder_images", tmp_path / "clip"), checkpoint("encoder", tmp_path / "bert")
    tfidf = {"dim": 6, "max_df": 1.0}
    seen = {"kind": "clip", "path": str(clip), "device": "cpu"}
    read = {"kind": "encoder", "path": str(bert), "device": "cpu", "max_tokens": 20}
    run = small_run(tmp_path / "run", pages[1], 9)
    expected = {
        "tfidf": ({"text": tfidf}, 6, 15),
        "clip": ({"text": None, "image": seen}, 12, 20),
        "tfidf+clip": ({"text": tfidf, "image": seen}, 18, 10),
        "encoder+clip": ({"text": read, "image": seen, "image_weight": 0.2}, 36, 0),
    }
    for name, (tree, dim, zero) in expected.items():
        config = validate(EmbedConfig, tree, "config.yaml")
        manifest = run.run(EmbedStage(config, "filter", {"pages": str(pages[0])}), workers=2)
        told = manifest.info["model"]
        assert (told["embedder"], told["dim"], manifest.info["zero_vectors"]) == (name, dim, zero)
        lengths = [np.linalg.norm(np.frombuffer(v, np.float32)) for v in vectors(run).values()]
        assert sum(x == 0 for x in lengths) == zero
        assert np.allclose([x for x in lengths if x], 1, atol=1e-6)


def test_vectors_of_models_do_not_depend_on_parts_or_workers(pages, tmp_path, small_run):
    clip, bert = checkpoint("encoder_images", tmp_path / "clip"), checkpoint("encoder", tmp_path / "bert")
    tree = {
        "text": {"kind": "encoder", "path": str(bert), "device": "cpu", "max_tokens": 20},
        "image": {"kind": "clip", "path": str(clip), "device": "cpu"},
    }
    config = validate(EmbedConfig, tree, "config.yaml")
    found = []
    for name, per_part, workers in (("a", 40, 1), ("b", 6, 2)):
        run = small_run(tmp_path / name, pages[1], per_part)
        manifest = run.run(EmbedStage(config, "filter", {"pages": str(pages[0])}), workers)
        found.append((model_files(manifest), vectors(run)))
    assert found[0] == found[1]


def test_a_stage_is_redone_when_what_lies_at_a_path_changes_and_not_when_it_is_only_touched(tmp_path):
    folder = checkpoint("encoder", tmp_path / "bert")
    config = validate(EmbedConfig, {"text": {"kind": "encoder", "path": str(folder)}}, "config.yaml")
    before = EmbedStage(config, "filter").settings()
    (folder / "config.json").touch()
    (folder / "README.md").write_text("words for people")
    assert EmbedStage(config, "filter").settings() == before
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "hidden_act": "relu"}))
    assert EmbedStage(config, "filter").settings() != before


def test_the_seed_counts_only_where_something_draws(tmp_path):
    folder = checkpoint("encoder", tmp_path / "bert")

    def settings(tree):
        return EmbedStage(validate(EmbedConfig, tree, "c"), "filter").settings()

    encoder = {"kind": "encoder", "path": str(folder)}
    assert settings({"text": encoder}) == settings({"text": encoder, "seed": 4})
    assert settings({}) != settings({"seed": 4})
    assert settings({}) == settings({"image_weight": 0.1})


def test_mistakes_in_the_section_are_told(tmp_path):
    for tree, message in (
        ({"dim": 3}, r"dim is a setting of the text embedder: write embed\.text\.dim"),
        ({"text": {"dimm": 3}}, r"unknown key 'text\.dimm' \(did you mean 'dim'\?\)"),
        ({"text": {"kind": "bert"}}, r"'text\.kind' is 'bert'"),
        ({"text": {"kind": "encoder"}}, r"the key 'text\.path' is missing"),
        ({"text": None}, "text and image are both null"),
        ({"image_weight": 1}, "'image_weight' is 1"),
    ):
        with pytest.raises(UserError, match=message):
            validate(EmbedConfig, tree, "c.yaml")
    missing = validate(EmbedConfig, {"image": {"kind": "clip", "path": str(tmp_path / "none")}}, "c.yaml")
    with pytest.raises(UserError, match=r"there is no model in .*none: no such folder"):
        EmbedStage(missing, "filter").settings()


def test_a_part_without_a_sampled_document_writes_nothing_and_no_document_at_all_makes_a_model(
    pages, tmp_path, small_run
):
    run = small_run(tmp_path / "few", pages[1], 2)
    manifest = run.run(EmbedStage(EmbedConfig(text=TfidfConfig(dim=3, sample_documents=2)), "filter"))
    sampled = [p for p in manifest.parts if p.name.startswith("sample/")]
    assert 0 < len(sampled) < 10
    assert sum(p.rows for p in sampled) == manifest.info["model"]["sampled_documents"]
    run = small_run(tmp_path / "none", pages[1], 40, without={d.doc_id for d in pages[1]})
    manifest = run.run(EmbedStage(EmbedConfig(text=TfidfConfig(dim=3)), "filter"))
    assert manifest.info["model"] | {"fingerprint": ""} == {
        "embedder": "tfidf",
        "dim": 3,
        "fingerprint": "",
        "sampled_documents": 0,
    }
