"""`mixloom tokenizer`: what is fitted loads as a codec, and every mistake is answered with what to do."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixloom.cli import main
from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codecs import load_image_codec, load_speech_codec
from mixloom.tokenizers.described import describe
from mixloom.tokenizers.fit_sources import find_items
from mixloom.tokenizers.text_bytes import load_text_tokenizer

IMAGE = ["size=16", "steps=3", "crops=16", "width=8", "blocks=0", "levels=[4,4]"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.Generator(np.random.PCG64(0))
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for i in range(12):
        place = folder / ("deep" if i % 2 else "") / f"{i:02}.png"
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(place)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_an_image_codec_is_fitted_to_a_folder_and_shown(pictures, tmp_path, capsys):
    out = tmp_path / "codec"
    assert main(["tokenizer", "fit", "image", str(pictures), *IMAGE, "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "broken.jpg passed over" in told.err
    assert "psnr_held_out" in told.out
    codec = load_image_codec(out)
    assert (codec.size, codec.codebook_size, codec.tokens) == (16, 16, 16)
    with Image.open(out / "reconstructions.png") as sheet:
        assert sheet.format == "PNG"
    assert main(["tokenizer", "show", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], shown["codes"], shown["tokens_per_image"]) == ("fsq", 16, 16)
    assert (shown["fit"]["fitted_on"], shown["fit"]["held_out"]) == (11, 1)
    assert shown["fingerprint"] == codec.fingerprint
    assert shown["reconstructions"].endswith("reconstructions.png")


def test_the_same_pictures_give_the_same_codec_wherever_they_lie(pictures, tmp_path):
    moved = tmp_path / "elsewhere" / "pictures"
    moved.parent.mkdir()
    main(["tokenizer", "fit", "image", str(pictures), *IMAGE, "--out", str(tmp_path / "a"), "--quiet"])
    pictures.rename(moved)
    main(["tokenizer", "fit", "image", str(moved), *IMAGE, "--out", str(tmp_path / "b"), "--quiet"])
    for name in ("model.safetensors", "reconstructions.png", "fit.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_text_tokenizers_of_both_kinds_are_fitted(tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the warp and the weft " * 20)
    (folder / "b.jsonl").write_text(
        "".join(json.dumps({"text": f"line {i} of the loom"}) + "\n" for i in range(9))
    )
    for kind, size in (("bpe", 270), ("bytes", 256)):
        out = tmp_path / kind
        settings = [f"kind={kind}", "vocab_size=270"]
        assert main(["tokenizer", "fit", "text", str(folder), *settings, "--out", str(out), "--quiet"]) == 0
        assert load_text_tokenizer(out).size == size
        capsys.readouterr()
        assert main(["tokenizer", "show", str(out)]) == 0
        assert kind in capsys.readouterr().out
    assert describe(tmp_path / "bytes")["patches"]["kind"] == "entropy"
    assert describe(tmp_path / "bpe")["encoded_by"] == "tiktoken"


def test_speech_units_are_fitted_by_a_glob(tmp_path):
    rng = np.random.Generator(np.random.PCG64(0))
    for i in range(3):
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(16_000)
            f.writeframes((rng.normal(0, 3000, 8000)).astype("<i2").tobytes())
    out = tmp_path / "units"
    assert (
        main(["tokenizer", "fit", "speech", str(tmp_path / "*.wav"), "units=6", "--out", str(out), "--quiet"])
        == 0
    )
    assert load_speech_codec(out).codebook_size == 6
    assert describe(out)["kind"] == "logmel"


def test_a_run_gives_its_own_texts_and_each_picture_once(tmp_path, make_corpus, make_tree):
    from pydantic import TypeAdapter

    from mixloom.pipeline.console import Console
    from mixloom.pipeline.ingest.config import SourceConfig
    from mixloom.pipeline.ingest_stage import IngestStage
    from mixloom.pipeline.run import RunDirectory
    from mixloom.pipeline.stage import RunSettings, run_stage

    corpus = make_corpus(tmp_path / "corpus", "notes", "scenes", "clips")
    tree = make_tree(tmp_path / "corpus", tmp_path / "run", ["notes", "scenes", "clips"])
    sources = [TypeAdapter(SourceConfig).validate_python(s) for s in tree["sources"]]
    run = RunDirectory(str(tmp_path / "run"))
    roots = {s.name: str(corpus.root / s.path) for s in sources}
    run_stage(IngestStage(sources, roots, 20, 1 << 20), run, RunSettings(), Console(quiet=True), {})
    (tmp_path / "run" / "config.yaml").write_text(
        json.dumps(
            {"data_root": str(corpus.root), "sources": [{"name": s.name, "path": s.path} for s in sources]}
        )
    )
    found = {kind: find_items([str(tmp_path / "run")], kind) for kind in ("text", "image", "speech")}
    assert (len(found["image"]), len(found["speech"])) == (8, 6)
    assert len(found["text"]) > 10
    assert all(len(i.data()) > 100 for i in found["image"] + found["speech"])
    assert all(isinstance(t, str) for i in found["text"] for t in i.data())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "imgae", "x", "--out", "o"], "there is no 'imgae' to fit (did you mean 'image'?)"),
        (["fit", "image", "nowhere", "--out", "o"], "nowhere does not exist"),
        (["fit", "image", ".", "--out", "o"], "no image at ."),
        (["fit", "image", ".", "size=13", "--out", "o"], "size"),
        (["fit", "image", ".", "path=x", "--out", "o"], "fitted already"),
        (["fit", "image", ".", "--out", "full"], "not an empty folder"),
        (["show", "full"], "holds no tokenizer"),
    ],
)
def test_mistakes_are_answered(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    assert main(["tokenizer", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "fix:" in told


def test_a_damaged_codec_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "fsq"}')
    with pytest.raises(UserError, match="is damaged"):
        describe(tmp_path)


def test_the_tokenizers_of_a_run_are_told_with_their_vocabulary(tmp_path):
    from mixloom.tokenizers.settings import TextTokenizerConfig
    from mixloom.tokenizers.text import train_text_tokenizer
    from mixloom.tokenizers.vocab import Vocabulary

    text = train_text_tokenizer(["the loom " * 50], TextTokenizerConfig(vocab_size=300))
    text.save(tmp_path / "tokenizer" / "text")
    vocabulary = Vocabulary.build(text.size, text.fingerprint)
    vocabulary.save(tmp_path / "tokenizer" / "vocab.json")
    found = describe(tmp_path)
    assert found["vocabulary"]["fingerprint"] == vocabulary.fingerprint
    assert found["text"]["fingerprint"] == text.fingerprint
