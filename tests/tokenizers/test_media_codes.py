"""Media in micro-batches: the same codes whatever is encoded together, and one that is broken fails its document alone."""

import io
import wave as wavefile
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import inspect_audio, inspect_image
from mixloom.tokenizers import devices
from mixloom.tokenizers.codecs import load_image_codec, make_image_codec, make_speech_codec
from mixloom.tokenizers.devices import decoding_only, filled, placed, settled
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.media_codes import encode_media
from mixloom.tokenizers.settings import (
    ImageCodecConfig,
    MicroBatchConfig,
    PatchConfig,
    SpeechCodecConfig,
    SpeechPatchConfig,
    TextTokenizerConfig,
)
from mixloom.tokenizers.text_bytes import make_text_tokenizer
from mixloom.tokenizers.vocab import Vocabulary

SIDE, RATE = 16, 16000
IMAGE = ImageCodecConfig(size=SIDE, steps=3, width=8, blocks=1, crops=16, device="cpu")


def scene(seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((40, 24), Image.Resampling.BICUBIC)


def tone(seed, seconds):
    t = np.arange(round(RATE * seconds)) / RATE
    return (np.sin(2 * np.pi * (200 + 60 * seed) * t * (1 + t)) * 0.4).astype(np.float32)


def as_wav(samples):
    out = io.BytesIO()
    with wavefile.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(RATE)
        f.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Seven documents of pictures and recordings on disk, and the codecs."""
    root = tmp_path_factory.mktemp("media")
    rows = []
    for i in range(7):
        segments = []
        for j in range(i % 4):
            out = io.BytesIO()
            scene(10 * i + j).save(out, "PNG")
            name = f"{i}-{j}.png"
            (root / name).write_bytes(out.getvalue())
            segments.append(segment("image", inspect_image(out.getvalue(), name, max_pixels=10**6)))
        data = as_wav(tone(i, 0.2 + 0.1 * i))
        (root / f"{i}.wav").write_bytes(data)
        segments.append(segment("speech", inspect_audio(data, f"{i}.wav")))
        segments.append(
            {"kind": "text", "text": "some spoken words", "media": None, "attrs": [("role", "transcript")]}
        )
        rows.append({"source": "s", "segments": segments, "meta": []})
    text, _ = make_text_tokenizer(TextTokenizerConfig(kind="bytes", patches=PatchConfig(kind="none")), ["x"])
    image, _ = make_image_codec(IMAGE, [scene(i) for i in range(20)])
    speech, _ = make_speech_codec(SpeechCodecConfig(units=12), [tone(i, 1.0) for i in range(8)])
    codecs = Codecs(text, image, speech, Vocabulary.build(text.size, text.fingerprint))
    return SimpleNamespace(root=root, rows=rows, codecs=codecs)


def segment(kind, media):
    return {"kind": kind, "text": None, "media": asdict(media), "attrs": []}


def encoded(world, rows=None, **more):
    coded, failed = encode_media(rows or world.rows, world.codecs, {"s": str(world.root)}, **more)
    return coded, failed


def same(a, b):
    assert [sorted(x) for x in a] == [sorted(x) for x in b]
    for one, other in zip(a, b):
        for i in one:
            for x, y in zip(one[i], other[i], strict=True):
                assert (x is None and y is None) or np.array_equal(x, y)


@pytest.mark.parametrize("kind", ["none", "fixed", "silence", "aligned"])
@pytest.mark.parametrize(("pixels", "seconds"), [(1, 0.01), (3 * SIDE**2, 0.7), (10**9, 10**6)])
def test_codes_units_and_patches_are_the_same_whatever_the_micro_batch(world, kind, pixels, seconds):
    patches = SpeechPatchConfig(kind=kind)
    wanted = [encoded(world, [row], speech_patches=patches)[0][0] for row in world.rows]
    micro_batch = MicroBatchConfig(pixels=pixels, seconds=seconds)
    found, failed = encoded(world, micro_batch=micro_batch, speech_patches=patches)
    assert not failed
    same(found, wanted)
    for coded, row in zip(found, world.rows):
        i, heard = max(coded.items(), key=lambda x: x[0])
        assert row["segments"][i]["kind"] == "speech"
        assert (heard.patches is None) == (kind == "none")
        assert heard.patches is None or heard.patches.sum() == len(heard.units)


def test_no_more_is_held_than_the_micro_batch_allows(world, monkeypatch):
    held = {"pictures": [], "recordings": []}
    image, speech = world.codecs.image, world.codecs.speech
    real_image, real_speech = image.encode, speech.encode_batch
    monkeypatch.setattr(image, "encode", lambda x: held["pictures"].append(len(x)) or real_image(x))
    monkeypatch.setattr(
        speech,
        "encode_batch",
        lambda x: held["recordings"].append(sum(map(len, x)) / RATE) or real_speech(x),
    )
    encoded(world, micro_batch=MicroBatchConfig(pixels=4 * SIDE**2, seconds=1.0))
    assert held["pictures"] == [4, 4, 1]
    assert max(held["recordings"]) <= 1.0
    assert len(held["recordings"]) == 5


def test_one_broken_recording_fails_its_document_and_no_other_of_its_micro_batch(world, monkeypatch):
    real = world.codecs.speech.encode_batch

    def encode_batch(waves):
        if any(len(w) == round(RATE * 0.4) for w in waves):
            raise ValueError("samples that are not finite")
        return real(waves)

    monkeypatch.setattr(world.codecs.speech, "encode_batch", encode_batch)
    found, failed = encoded(world)
    assert failed == {2: "2.wav: ValueError: samples that are not finite"}
    monkeypatch.undo()
    wanted, _ = encoded(world)
    same([c for i, c in enumerate(found) if i != 2], [c for i, c in enumerate(wanted) if i != 2])


def test_a_pass_of_fixed_shape_gives_a_picture_the_same_codes_in_any_company(world, monkeypatch):
    """What a GPU does, on a processor: three rows to a pass, whatever there is to encode."""
    codec = world.codecs.image
    monkeypatch.setattr(codec, "at_once", 3)
    shapes = set()
    real = codec._model.encode
    monkeypatch.setattr(codec._model, "encode", lambda x: shapes.add(tuple(x.shape)) or real(x))
    pictures = np.stack([codec.prepare(scene(i)) for i in range(8)])
    wanted = [codec.encode(pictures[i : i + 1])[0] for i in range(8)]
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8):
        chosen = rng.permutation(8)[:n]
        assert np.array_equal(codec.encode(pictures[chosen]), np.stack([wanted[i] for i in chosen]))
    assert shapes == {(3, 3, SIDE, SIDE)}


def test_a_codec_that_is_fitted_on_a_gpu_encodes_there_in_passes_of_one_shape(monkeypatch, tmp_path):
    sent = []

    def kept(real):
        def to(self, *args, **more):
            sent.extend(a for a in args if a == "cuda")
            return real(self, *("cpu" if a == "cuda" else a for a in args), **more)

        return to

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "to", kept(kind.to))
    config = IMAGE.model_copy(update={"device": "auto", "micro_batch": 5})
    codec, _ = make_image_codec(config, [scene(i) for i in range(20)])
    codec.save(tmp_path)
    sent.clear()
    again = load_image_codec(tmp_path)
    assert again.config.device == "cuda"
    assert again.at_once == 5
    assert again.fingerprint == codec.fingerprint
    pictures = [scene(i) for i in range(7)]
    ids = again.encode_batch(pictures)
    assert sent.count("cuda") >= 3, "the model and two passes"
    for i, picture in enumerate(pictures):
        assert np.array_equal(again.encode_batch([picture])[0], ids[i])
    other = IMAGE.model_copy(update={"device": "cuda", "micro_batch": 6})
    assert type(codec)(other, codec._model.state_dict()).fingerprint != codec.fingerprint


def test_missing_rows_of_a_pass_are_copies_of_the_first():
    rows = np.arange(6).reshape(3, 2)
    assert filled(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]]
    assert filled(rows, 3).tolist() == filled(rows, 1).tolist() == rows.tolist()


def test_auto_settles_on_a_gpu_where_there_is_one_and_the_choice_is_part_of_the_fingerprint(
    world, monkeypatch, tmp_path
):
    codec = world.codecs.image
    assert settled(ImageCodecConfig(device="auto")).device in ("cpu", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settled(ImageCodecConfig(device="auto")).device == "cuda"
    assert settled(SpeechCodecConfig(device="cpu")).device == "cpu"
    assert placed("cuda", "codec") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert settled(ImageCodecConfig(device="auto")).device == "cpu"
    with pytest.raises(UserError, match="image codec: device 'cuda' is not there") as error:
        placed("cuda", "image codec")
    assert "a codec that was fitted on a GPU encodes on a GPU only" in str(error.value)
    # A codec made on a GPU: its pictures can be drawn here, its codes belong to the GPU.
    codec.save(tmp_path)
    from mixloom.tokenizers.image import ImageCodec

    made = ImageCodec.__new__(ImageCodec)
    with decoding_only():
        made.__init__(IMAGE.model_copy(update={"device": "cuda"}), codec._model.state_dict())
        made.save(tmp_path)
        assert (made.device, made.at_once) == ("cpu", 1)
        assert made.fingerprint != codec.fingerprint
        again = load_image_codec(tmp_path)
    ids = codec.encode_batch([scene(3)])
    assert np.array_equal(again.decode(ids), codec.decode(ids))
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        load_image_codec(tmp_path)
    assert not devices._decoding.get()
