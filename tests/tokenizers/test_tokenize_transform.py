"""Tokenizing inside Beam: codecs loaded once, patches beside the tokens, the same bytes whatever the micro-batch."""

import io
import wave as wavefile

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import test_pipeline
from PIL import Image

from mixloom.pipeline.engine import with_part
from mixloom.pipeline.ingest.media import inspect_audio, inspect_image
from mixloom.pipeline.run import PartReader, RunDirectory
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import decode_tokens
from mixloom.tokenizers.settings import (
    ImageCodecConfig,
    MicroBatchConfig,
    PatchConfig,
    SpeechCodecConfig,
    SpeechPatchConfig,
    TextTokenizerConfig,
)
from mixloom.tokenizers.stages import TokenizeStage
from mixloom.tokenizers.text_bytes import make_text_tokenizer
from mixloom.tokenizers.tokenize_transform import Tokenize
from mixloom.tokenizers.vocab import Vocabulary

RATE, PARTS = 16000, 4
TIMES = '[["a", 0.0, 0.2], ["high", 0.2, 0.5], ["tone", 0.6, 0.8]]'
ALIGNED = SpeechPatchConfig(kind="aligned")


def wav(hertz, seconds=0.8):
    t = np.arange(int(RATE * seconds)) / RATE
    out = io.BytesIO()
    with wavefile.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        f.writeframes((np.sin(2 * np.pi * hertz * t * (1 + t)) * 12000).astype("<i2").tobytes())
    return out.getvalue()


def png(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Parts of documents with media on disk, fitted tokenizers of bytes, pictures and speech, and the cells."""
    root = tmp_path_factory.mktemp("tokenize")
    patches = PatchConfig(kind="space")
    text, _ = make_text_tokenizer(TextTokenizerConfig(kind="bytes", patches=patches), ["none"])
    pictures = [Image.open(io.BytesIO(png(i))).convert("RGB") for i in range(12)]
    config = ImageCodecConfig(size=16, steps=2, width=8, blocks=0, crops=8, device="cpu")
    image, _ = make_image_codec(config, pictures)
    t = np.arange(RATE) / RATE
    waves = [np.sin(2 * np.pi * f * t * (1 + t)).astype(np.float32) for f in (200, 300, 400, 500)]
    speech, _ = make_speech_codec(SpeechCodecConfig(units=20), waves)
    run = RunDirectory(str(root / "run"))
    folder = root / "run" / "tokenizer"
    for name, codec in (("text", text), ("image", image), ("speech", speech)):
        codec.save(folder / name)
    Vocabulary.build(
        text.size,
        text.fingerprint,
        image_size=image.codebook_size,
        image_fingerprint=image.fingerprint,
        speech_size=speech.codebook_size,
        speech_fingerprint=speech.fingerprint,
    ).save(folder / "vocab.json")
    batches, cells = [], {}
    cluster = run.stage("cluster")
    for part in range(PARTS):
        documents = []
        for i in range(3):
            seed = 10 * part + i
            (root / f"{seed}.png").write_bytes(png(seed))
            (root / f"{seed}.wav").write_bytes(wav(200 + 40 * seed))
            picture = inspect_image(png(seed), f"{seed}.png", max_pixels=10**6)
            sound = inspect_audio(wav(200 + 40 * seed), f"{seed}.wav")
            segments = (
                Segment(kind="text", text=f"picture {seed} of many"),
                Segment(kind="image", media=picture),
                Segment(kind="speech", media=sound, attrs={"word_times": TIMES} if i else {}),
                Segment(kind="text", text="a high tone", attrs={"role": "transcript"}),
            )
            documents.append(Document(source="s", locator=Locator(uri=f"{seed}"), segments=segments))
        name = f"part-{part}"
        batches.append(with_part(documents_batch(documents), name))
        table = pa.table({"domain": pa.array([0] * 3, pa.int32()), "cell": pa.array([0, 1, 0], pa.int32())})
        cells[name] = cluster.write_table(f"{name}.parquet", name, table)
    return run.stage("tokenizer").store, PartReader(cluster.store, cells), {"s": str(root)}, batches


def run(world, **options):
    """The rows of all parts, by part."""
    tokenizer, assignments, roots, batches = world
    found = {}

    def look(out):
        assert out.kept == 3
        found[out.unit] = out.tables[0].table

    _LOOKS.append(look)
    with test_pipeline.TestPipeline(runner="FnApiRunner") as p:
        rows = p | beam.Create(batches, reshuffle=False) | Tokenize(tokenizer, assignments, roots, **options)
        rows | beam.Map(_look)
    _LOOKS.clear()
    assert sorted(found) == [f"part-{i}" for i in range(PARTS)]
    return found


_LOOKS = []  # workers are threads of this process; what is handed to Beam itself would be a copy


def _look(out):
    _LOOKS[0](out)


def test_every_token_lies_in_a_patch_of_its_own_segment(world):
    vocabulary = Vocabulary.from_json(world[0].read_json("vocab.json"))
    for table in run(world, speech_patches=ALIGNED).values():
        for row in table.to_pylist():
            assert sum(row["patch_lengths"]) == row["length"]
            edges = set(np.cumsum([0, *row["patch_lengths"]]).tolist())
            assert all(s["start"] in edges and s["stop"] in edges for s in row["spans"])
            segments = decode_tokens(np.array(row["input_ids"]), vocabulary)
            assert [s.kind for s in segments] == ["text", "image", "speech", "text"]
            for s in segments:
                inside = [e for e in edges if s.start <= e < s.start + len(s.ids)]
                if s.kind == "image":
                    assert len(inside) == len(s.ids)
                if s.kind == "text":
                    assert len(inside) < len(s.ids)


def test_without_speech_patches_units_are_patches_of_one_and_bytes_are_not(world):
    (table, *_) = run(world).values()
    vocabulary = Vocabulary.from_json(world[0].read_json("vocab.json"))
    row = table.to_pylist()[0]
    edges = np.cumsum([0, *row["patch_lengths"]])
    speech = next(s for s in decode_tokens(np.array(row["input_ids"]), vocabulary) if s.kind == "speech")
    assert np.isin(np.arange(speech.start, speech.start + len(speech.ids)), edges).all()
    assert len(row["patch_lengths"]) < row["length"]


def test_rows_are_the_same_whatever_the_micro_batch_and_codecs_are_loaded_once(world, monkeypatch):
    loads = []
    real = Codecs.load.__func__
    monkeypatch.setattr(Codecs, "load", classmethod(lambda cls, store: loads.append(1) or real(cls, store)))
    wanted = run(world, speech_patches=ALIGNED)
    assert len(loads) == 1, "all parts and threads of a process share one set of codecs"
    for micro_batch in (MicroBatchConfig(pixels=1, seconds=0.1), MicroBatchConfig(pixels=1000, seconds=2)):
        assert run(world, speech_patches=ALIGNED, micro_batch=micro_batch) == wanted


def test_speech_patches_are_a_setting_of_the_stage_and_the_micro_batch_is_none():
    assert TokenizeStage({}).settings() == {}
    assert TokenizeStage({}, micro_batch=MicroBatchConfig(pixels=1)).settings() == {}
    settings = TokenizeStage({}, speech_patches=ALIGNED).settings()
    assert settings["speech_patches"]["kind"] == "aligned"
