"""Pictures and sound inside the page."""

import base64
import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from mixloom.pipeline.report.media import Budget, Clip, audio, clip, image, pixels, thumbnail


def data_of(tree, path):
    return base64.b64decode(tree.xpath(path)[0].partition("base64,")[2])


@pytest.mark.parametrize(
    ("extent", "expected"), [((640, 480), (160, 120)), ((40, 30), (40, 30)), ((2, 5000), (1, 160))]
)
def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged(extent, expected, audit):
    shown = thumbnail(Image.new("RGB", extent, (200, 30, 30)), "a red field")
    tree = audit(image(shown, Budget(10**6)))
    decoded = Image.open(io.BytesIO(data_of(tree, "//img/@src")))
    assert decoded.size == expected == (shown.width, shown.height)
    assert np.abs(np.asarray(decoded.convert("RGB"), int)[0, 0] - (200, 30, 30)).max() < 12


def test_decoded_pixels_are_kept_exactly_and_shown_larger(audit):
    drawn = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (16, 24, 3), np.uint8)
    tree = audit(image(pixels(drawn, "noise", 3), Budget(10**6)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data_of(tree, "//img/@src")))), drawn)
    assert tree.xpath("//img/@width") == ["72"]
    assert tree.xpath("//img/@class") == ["pixelated"]


def test_hostile_alternative_texts_stay_text(hostile, audit):
    audit(image(thumbnail(Image.new("RGB", (4, 4)), hostile), Budget(10**6)))
    audit(audio(clip(np.zeros(160, np.float32), 16_000, hostile), Budget(10**6)))


def test_a_clip_is_16_bit_mono_and_cut_to_its_limit(audit):
    t = np.arange(10 * 16_000) / 16_000
    made = clip(0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32), 16_000, "tone")
    tree = audit(audio(made, Budget(10**7)))
    samples, rate = soundfile.read(io.BytesIO(data_of(tree, "//audio/@src")))
    assert (rate, samples.ndim, len(samples)) == (16_000, 1, 6 * 16_000)
    assert np.abs(samples - 0.5 * np.sin(2 * np.pi * 440 * t)[: len(samples)]).max() < 1e-3
    assert "10.0 s, first 6.0 s" in tree.text_content()


def test_a_clip_of_a_higher_rate_is_brought_to_16_khz():
    made = clip(np.zeros(2 * 44_100, np.float32), 44_100, "silence")
    samples, rate = soundfile.read(io.BytesIO(made.data))
    assert rate == 16_000
    assert abs(len(samples) - 32_000) <= 1


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.array([np.nan, 2.0, -np.inf], np.float32)])
def test_empty_and_broken_sound_is_still_a_wav_file(samples):
    read, _ = soundfile.read(io.BytesIO(clip(samples, 16_000, "x").data))
    assert len(read) == len(samples)
    assert np.isfinite(read).all()


def test_what_does_not_fit_the_budget_is_left_out_and_said(audit):
    budget = Budget(1000)
    first = audio(Clip(b"x" * 600, 1.0, 1.0, "fits"), budget)
    second = audio(Clip(b"x" * 600, 1.0, 1.0, "does not"), budget)
    assert audit(first).xpath("//audio")
    assert not audit(second).xpath("//audio")
    assert "left out" in second
    assert budget.refused == 1


def test_missing_media_are_said_to_be_missing():
    assert "not at hand" in image(None, Budget(1))
    assert "not at hand" in audio(None, Budget(1))
