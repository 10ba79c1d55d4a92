"""Commands on a trained model, on a small run with real tokenizers: evaluate, generate, export, experts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixloom.cli import main
from mixloom.mixers.estimate import MixtureConfig, estimate
from mixloom.mixers.objective_stream import with_objectives
from mixloom.mixers.sources import Sources
from mixloom.mixers.stream import Stream
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.tokenizers.image import fit_image_codec
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.objective_settings import CausalMask
from mixloom.tokenizers.settings import ImageCodecConfig, TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.vocab import END_DOC, Vocabulary
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.evaluate import ALL, evaluate
from mixloom.trainers.stage import StreamSource
from mixloom.trainers.trained import load_trained
from mixloom.trainers.trainer import train

SEQ_LEN = 96
WORDS = {
    "domain-000": "the turtle walks over a hill and home again to sleep",
    "domain-001": "a model reads tokens of every kind in one stream of ids",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory: tokenizers for text and images, shards of two domains, one of them with images, a training."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("run")
    (root / "config.yaml").write_text("run_dir: here\n", encoding="utf-8")
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 255, (12, 16, 16, 3)).astype(np.uint8)
    text = train_text_tokenizer([*WORDS.values()] * 20, TextTokenizerConfig(vocab_size=320))
    image = fit_image_codec(pictures, ImageCodecConfig(size=16, downsample=4, steps=5, batch=8))
    folder = root / "tokenizer"
    text.save(folder / "text")
    image.save(folder / "image")
    vocabulary = Vocabulary.build(
        text.size,
        text.fingerprint,
        image_size=image.codebook_size,
        image_fingerprint=image.fingerprint,
    )
    vocabulary.save(folder / "vocab.json")
    codes = image.encode(pictures)
    entries = []
    for d, (domain, words) in enumerate(WORDS.items()):
        rows = []
        for i in range(12):
            said = words.split()
            texts = text.encode_batch([" ".join(rng.permutation(said)) for _ in range(2)])
            kinds, drawn = (["text", "image", "text"], [codes[i]]) if d else (["text", "text"], [])
            ids, _ = encode_document(kinds, texts, drawn, [], vocabulary)
            assert len(ids) <= SEQ_LEN
            rows.append(Context(ids.astype(np.uint16), [len(ids)], [f"{domain}-{i}"], ["s"], [0]))
        common = {"seq_len": SEQ_LEN, "vocabulary": vocabulary.to_json()}
        name = shard_name(domain, 0, 1)
        entries.append(
            write_shard(root / "shards", name, domain, rows, prefix=key_prefix(d, 0), block=4, **common)
        )
    build_manifest(entries, vocabulary.to_json(), seq_len=SEQ_LEN).save(root / "shards")
    reader = ShardReader(root / "shards")
    mixture = estimate(Sources.from_manifest(reader.manifest), MixtureConfig(max_epochs=99), 5_000)
    objectives = (CausalMask(rate=0.5),)
    config = TrainConfig(
        steps=6, batch_contexts=4, lr=1e-2, min_lr=1e-3, warmup=1, device="cpu", objectives=objectives
    )
    stream = Stream(reader, mixture, seed=0, batch_contexts=4, steps=6)
    train(
        StreamSource(with_objectives(stream, objectives)),
        vocabulary.to_json(),
        ModelConfig(dim=16, layers=1, heads=2),
        config,
        root / "train",
        on_record=lambda r: None,
    )
    return root


def test_evaluate_writes_losses_by_domain_and_modality(run, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["evaluate", str(run), str(run / "shards"), "--json", str(file), "--device", "cpu"]) == 0
    told = json.loads(file.read_text())
    rows = {(r["domain"], r["modality"]): r for r in told["on"][0]["rows"]}
    assert told["step"] == 6
    assert ("domain-001", "image") in rows
    assert ("domain-000", "image") not in rows
    both = [rows["domain-000", "text"], rows["domain-001", ALL]]
    total = rows[ALL, ALL]
    assert total["targets"] == sum(r["targets"] for r in both)
    assert total["loss"] * total["targets"] == pytest.approx(sum(r["loss"] * r["targets"] for r in both))
    shown = capsys.readouterr().out
    assert "domain-001" in shown
    assert f"{total['loss']:.4f}" in shown


def test_the_losses_are_those_of_a_plain_forward_pass(run):
    trained, reader = load_trained(run, "cpu"), ShardReader(run / "shards")
    rows = evaluate(trained.model, trained.vocabulary, reader, domains=["domain-001"], batch_contexts=5)
    sums, count = 0.0, 0
    for i in range(12):
        ids, lengths = reader.context("domain-001", i)
        n = int(lengths[0])
        batch = make_batch(ids[None, :n], [lengths], modality_table(trained.vocabulary))
        hidden = trained.model(trained.model.rows(batch, "mask", torch.float32, causal=True))[batch.inverse]
        logits = torch.log_softmax(hidden @ trained.model.head_weight.T, -1).detach()
        sums -= float(logits[torch.arange(n - 1), batch.input_ids[1:]].sum())
        count += n - 1
    whole = next(r for r in rows if r.modality == ALL)
    assert whole.targets == count
    assert whole.loss == pytest.approx(sums / count, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "{run}", "--domain", "domain-01"], "no domain 'domain-01' (did you mean 'domain-001'?)"),
        (["{run}/shards", "{run}"], "holds no trained model"),
        (["{run}", "{run}", "--device", "tpu"], "--device is 'tpu'; allowed: auto, cpu, cuda"),
    ],
)
def test_mistakes_of_evaluate_are_told_with_their_fix(run, capsys, arguments, said):
    assert main(["evaluate", *[a.format(run=run) for a in arguments]]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "fix:" in told


def test_shards_of_another_vocabulary_are_refused_by_both_fingerprints(run, tmp_path, capsys):
    other = Vocabulary.build(300, "another")
    rows = [Context(np.array([1, 300, 2], np.uint16), [3], ["d"], ["s"], [0])]
    common = {"seq_len": 8, "vocabulary": other.to_json()}
    entry = write_shard(
        tmp_path, shard_name("x", 0, 1), "x", rows, prefix=key_prefix(0, 0), block=4, **common
    )
    build_manifest([entry], other.to_json(), seq_len=8).save(tmp_path)
    assert main(["evaluate", str(run), str(tmp_path)]) == 2
    assert f"does not match vocabulary {other.fingerprint[:16]}" in capsys.readouterr().err


def test_generate_writes_text_pictures_and_a_page(run, tmp_path, capsys):
    picture = tmp_path / "prompt.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(picture)
    out = tmp_path / "out"
    options = [
        "--prompt",
        "the turtle",
        "--prompt",
        f"@{picture}",
        "-n",
        "3",
        "--top-k",
        "40",
        "--top-p",
        "0.9",
    ]
    assert main(["generate", str(run), "--out", str(out), *options, "--seed", "5", "--device", "cpu"]) == 0
    told = json.loads((out / "samples.json").read_text())
    assert [s["seed"] for s in told["samples"]] == [5, 6, 7]
    for i, sample in enumerate(told["samples"]):
        assert sample["ids"][-1] == END_DOC
        assert sample["text"].startswith("the turtle[sample-")
        assert (out / f"sample-{i:03d}.txt").read_text() == sample["text"]
        first = Image.open(out / sample["files"][0])
        assert first.size == (16, 16)  # the prompt as its codes draw it, the same in every sample
        assert (out / sample["files"][0]).read_bytes() == (out / told["samples"][0]["files"][0]).read_bytes()
    page = (out / "index.html").read_text()
    assert page.count("data:image/png") >= 3
    assert "turtle" in page
    assert "3 samples of" in capsys.readouterr().out
    assert main(["generate", str(run), "--out", str(tmp_path / "again"), *options, "--seed", "5"]) == 0
    assert json.loads((tmp_path / "again" / "samples.json").read_text())["samples"] == told["samples"]


def test_only_the_modalities_asked_for_are_sampled(run, tmp_path):
    vocabulary = Vocabulary.load(run / "tokenizer" / "vocab.json")
    for only, never in (("text", vocabulary.image), ("image", vocabulary.text)):
        out = tmp_path / only
        arguments = ["--only", only, "-n", "4", "--max-tokens", "60", "--temperature", "3"]
        assert main(["generate", str(run), "--out", str(out), *arguments]) == 0
        for sample in json.loads((out / "samples.json").read_text())["samples"]:
            assert not any(never.start <= i < never.stop for i in sample["ids"])


@pytest.mark.parametrize("infill", ["cm3", "fim"])
def test_a_gap_is_filled_and_the_document_comes_back_in_reading_order(run, tmp_path, infill):
    out = tmp_path / infill
    options = ["--prompt", "the turtle", "--prompt", "@gap", "--prompt", " home again", "--infill", infill]
    assert main(["generate", str(run), "--out", str(out), *options, "-n", "3"]) == 0
    for sample in json.loads((out / "samples.json").read_text())["samples"]:
        assert sample["text"].startswith("the turtle")
        assert sample["text"].endswith(" home again")
        assert not any(8 <= i < 96 for i in sample["ids"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "@{run}/none.png"], "cannot read the prompt"),
        (["--prompt", "@{run}/notes.pdf"], "neither a picture nor a recording"),
        (["--prompt", "@gap", "--prompt", "@gap"], "the prompt has 2 gaps"),
        (["--top-p", "1.5"], "top_p 1.5"),
        (["--only", "txt"], "'txt' is no modality (did you mean 'text'?)"),
        (["--max-tokens", "9999"], "was trained on"),
    ],
)
def test_mistakes_of_generate_are_told_with_their_fix(run, tmp_path, capsys, arguments, said):
    filled = [a.format(run=run) for a in arguments]
    assert main(["generate", str(run), "--out", str(tmp_path / "x"), *filled]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "fix:" in told


def test_an_exported_run_evaluates_like_the_run_itself(run, tmp_path):
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    reader = ShardReader(run / "shards")
    mine, theirs = load_trained(run, "cpu"), load_trained(tmp_path / "hf", "cpu")
    assert theirs.decoders().image is not None
    rows = [evaluate(t.model, t.vocabulary, reader) for t in (mine, theirs)]
    assert rows[0] == rows[1]
    assert main(["generate", str(tmp_path / "hf"), "--out", str(tmp_path / "s"), "-n", "1"]) == 0


def test_nothing_that_is_there_is_written_over(run, tmp_path, capsys):
    checkpoint = sorted((run / "train" / "checkpoints").glob("step-*"))[-1]
    before = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    (tmp_path / "file").write_text("mine")
    for there, said in ((checkpoint, "exists already and is not empty"), (tmp_path / "file", "is no folder")):
        assert main(["export", str(run), str(there)]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert "name a folder that does not exist yet" in told
    assert {p.name: p.read_bytes() for p in checkpoint.iterdir()} == before
    assert main(["generate", str(run), "--out", str(tmp_path / "file"), "-n", "1"]) == 2
    assert "file is no folder" in capsys.readouterr().err


def test_a_mixture_of_transformers_is_not_written_as_a_llama(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "hf"), "--llama"]) == 2
    assert "only a dense model" in capsys.readouterr().err


def test_experts_are_branched_merged_and_compared(run, tmp_path, capsys):
    config = tmp_path / "experts.yaml"
    config.write_text(
        f"run_dir: {run}\ntrain: {{steps: 4, batch_contexts: 4, lr: 1.0e-2, min_lr: 1.0e-3, warmup: 1, device: cpu}}\n"
        "merge: fisher\nfisher_contexts: 2\ncontexts: 0\n",
        encoding="utf-8",
    )
    assert main(["experts", str(config), "--quiet"]) == 0
    told = json.loads((run / "experts" / "experts.json").read_text())
    assert {n: e["steps"] for n, e in told["experts"].items()} == {"domain-000": 4, "domain-001": 4}
    assert sum(e["weight"] for e in told["experts"].values()) == pytest.approx(1.0, abs=1e-5)
    reader = ShardReader(run / "shards")
    own = {}
    for name in WORDS:
        expert, start = load_trained(run / "experts" / name, "cpu"), load_trained(run / "train", "cpu")
        own[name] = [
            evaluate(t.model, t.vocabulary, reader, domains=[name])[-1].loss for t in (start, expert)
        ]
        assert own[name][1] < own[name][0]  # an expert reads its own domain better than the model it began as
    merged = load_trained(run / "experts" / "merged", "cpu")
    whole = next(
        r for r in evaluate(merged.model, merged.vocabulary, reader) if (r.domain, r.modality) == (ALL, ALL)
    )
    assert told["losses"]["merged"]["all"] == pytest.approx(whole.loss, rel=1e-4)
    assert set(told["losses"]) == {"start", "merged"}  # no clustering in this run, so nothing to route by
    assert "on contexts of the run itself" in capsys.readouterr().out
    stamp = (run / "experts" / "domain-000" / "checkpoints" / "latest").stat().st_mtime_ns
    assert main(["experts", str(config), "--quiet", "merge=average"]) == 0
    assert (run / "experts" / "domain-000" / "checkpoints" / "latest").stat().st_mtime_ns == stamp


def test_a_domain_too_small_for_one_update_keeps_the_weights_of_the_start(run, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(
        f"run_dir: {run}\nname: small\ndomains: [domain-000]\nmax_epochs: 0.5\ntrain: {{batch_contexts: 8, device: cpu}}\n",
        encoding="utf-8",
    )
    assert main(["experts", str(config), "--quiet"]) == 0
    told = json.loads((run / "small" / "experts.json").read_text())
    assert told["experts"] == {"domain-000": {"steps": 0, "weight": 1.0}}
    assert told["losses"]["merged"] == pytest.approx(told["losses"]["start"])
