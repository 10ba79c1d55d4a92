import hashlib
import io
import struct

import numpy as np
import pytest
import soundfile
from PIL import Image

from mixloom.pipeline.ingest.media import inspect_audio, inspect_image, load_audio, load_image
from mixloom.pipeline.ingest.problems import Problem


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_is_measured(make_png, format):
    data = make_png(7, 4, format=format)
    media = inspect_image(data, "a/b", "m")
    assert (media.width, media.height, media.bytes) == (7, 4, len(data))
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    assert (media.uri, media.member, media.seconds) == ("a/b", "m", None)
    assert load_image(data).size == (7, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation):
    from PIL import ImageOps

    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "PNG", exif=exif)
    data = out.getvalue()
    media = inspect_image(data)
    assert (media.width, media.height) == ((6, 4) if orientation < 5 else (4, 6))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(load_image(data)), np.asarray(expected))


def test_transparency_is_laid_over_white(make_png):
    assert np.asarray(load_image(make_png(3, 3, (10, 20, 30, 0)))).min() == 255
    out = io.BytesIO()
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    palette.save(out, "PNG", transparency=0)
    assert np.asarray(load_image(out.getvalue()))[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(out, "PNG")
    assert np.asarray(load_image(out.getvalue()))[0, :, 0].tolist() == [0, 128, 255]


SVG = b"<?xml version='1.0'?>\n<!-- x --><svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty_image", "the image file is empty (0 bytes)"),
        (SVG, "svg_not_rasterised", "convert it to PNG beside the original"),
        (b"hello world", "unknown_image_format", "it starts with b'hello wo'"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "unknown_image_format",
            "not an image of a supported",
        ),
    ],
)
def test_what_is_no_image_says_so(data, reason, words):
    with pytest.raises(Problem) as e:
        inspect_image(data)
    assert e.value.reason == reason
    assert words in e.value.detail


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_truncated_image_is_found_by_decoding_all_of_it(make_png, format):
    data = make_png(120, 90, format=format)
    for size in (len(data) // 3, len(data) * 2 // 3):
        with pytest.raises(Problem) as e:
            inspect_image(data[:size])
        assert e.value.reason in ("truncated_image", "undecodable_image", "unknown_image_format")


def test_a_truncated_png_is_called_truncated(make_png):
    data = make_png(120, 90)
    with pytest.raises(
        Problem, match=r"truncated_image: the PNG image \(\d+ bytes, 120 x 90\) does not decode"
    ):
        inspect_image(data[: len(data) // 2])


def test_an_image_of_too_many_pixels_is_not_decoded(make_png):
    data = make_png(100, 100)
    with pytest.raises(Problem, match=r"the image is 100 x 100 pixels; max_pixels is 9999"):
        inspect_image(data, max_pixels=9999)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    import zlib

    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(Problem, match="too_many_pixels"):
        inspect_image(bomb)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG"])
def test_a_recording_is_measured(make_sound, format):
    data = make_sound(0.5, 16000, format=format)
    media = inspect_audio(data, "a.x")
    assert media.rate == 16000
    assert media.seconds == pytest.approx(0.5, abs=0.15 if format == "MP3" else 1e-9)
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    assert media.width is None


def test_a_recording_is_loaded_mono_at_the_rate_asked_for(make_sound):
    data = make_sound(0.5, 8000, channels=2)
    same = load_audio(data, 8000)
    assert (same.dtype, same.shape) == (np.float32, (4000,))
    assert np.allclose(same, soundfile.read(io.BytesIO(data), dtype="float32")[0].mean(axis=1))
    up = load_audio(data, 16000)
    assert up.shape == (8000,)
    spectrum = np.abs(np.fft.rfft(up))
    assert abs(np.argmax(spectrum) * 16000 / len(up) - 440) < 4


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_truncated_recording_is_found(make_sound, format):
    data = make_sound(2.0, format=format)
    with pytest.raises(Problem) as e:
        inspect_audio(data[: len(data) // 2])
    assert e.value.reason in ("truncated_audio", "undecodable_audio")
    if format == "WAV":
        assert "the header promises 32000 bytes of sound, 15978 are there" in e.value.detail


def test_a_wav_from_a_pipe_with_no_length_is_read(make_sound):
    data = bytearray(make_sound())
    data[40:44] = b"\xff\xff\xff\xff"
    assert inspect_audio(bytes(data)).seconds == 0.25


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty_audio", "the audio file is empty (0 bytes)"),
        (b"not audio", "undecodable_audio", "starts with b'not '"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "undecodable_audio", "does not decode"),
    ],
)
def test_what_is_no_recording_says_so(data, reason, words):
    with pytest.raises(Problem) as e:
        inspect_audio(data)
    assert e.value.reason == reason
    assert words in e.value.detail


def test_a_recording_without_samples_too_long_or_not_finite_is_refused(make_sound):
    with pytest.raises(Problem, match="the recording holds no samples"):
        inspect_audio(make_sound(0.0))
    with pytest.raises(Problem, match=r"lasts more than max_seconds \(0.1 s\)"):
        inspect_audio(make_sound(0.25), max_seconds=0.1)
    out = io.BytesIO()
    soundfile.write(out, np.array([0.0, np.nan, 0.1]), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(Problem, match="NaN or infinity"):
        inspect_audio(out.getvalue())
