"""Measures of images and recordings, on media made for each of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mixloom.pipeline.image_checks import measure_image
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.media_checks import measure_media, paired_transcripts
from mixloom.pipeline.media_items import ITEM_MEASURES, ITEMS
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.speech_checks import measure_speech

CONFIG = MediaCheckConfig()
RATE = 16_000


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth field of colours with a hard-edged box in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 20), (width // 4, height // 4, width // 2, height // 2))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def measured(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    return measure_image(encoded(image, kind, **options), CONFIG)


def wave(samples: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype="PCM_16")
    return out.getvalue()


def tone(seconds: float = 1.0, level: float = 0.3, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 220.0 * t)).astype(np.float32)


def test_every_measure_of_a_photo_is_told() -> None:
    row = measured(picture(96, 64), "JPEG", quality=90)
    assert (row["decoded"], row["truncated"], row["width"], row["height"]) == (1, 0, 96, 64)
    assert (row["min_side"], row["max_side"], row["aspect"]) == (64, 96, 1.5)
    assert (row["web_format"], row["frames"], row["has_alpha"], row["colour_channels"]) == (1, 1, 0, 3)
    assert row["bytes_per_pixel"] == pytest.approx(row["file_bytes"] / (96 * 64))
    assert row["luminance_std"] > 20
    assert row["sharpness"] > 10
    assert len(row["pixel_hash"]) == 16
    assert 0 <= row["phash"] < 2**64


def test_a_blank_image_has_no_spread_and_one_colour() -> None:
    row = measured(Image.new("RGB", (64, 64), (90, 90, 90)))
    assert (row["luminance_std"], row["top_colour_share"], row["sharpness"]) == (0.0, 1.0, 0.0)


def test_noise_a_viewer_cannot_see_leaves_an_image_near_constant() -> None:
    rng = np.random.default_rng(0)
    row = measured(Image.fromarray(rng.integers(128, 130, (64, 64, 3), dtype=np.uint8)))
    assert row["luminance_std"] < 1
    assert row["top_colour_share"] == 1.0


def test_the_most_frequent_colour_is_measured_by_its_share() -> None:
    image = Image.new("RGB", (40, 40), (255, 255, 255))
    image.paste((0, 0, 200), (0, 0, 40, 10))
    assert measured(image)["top_colour_share"] == 0.75


def test_a_blurred_image_is_less_sharp_than_the_original() -> None:
    image = picture(128, 128)
    small = image.resize((16, 16), Image.Resampling.BOX).resize((128, 128), Image.Resampling.BICUBIC)
    assert measured(small)["sharpness"] < measured(image)["sharpness"] / 10


def test_an_animated_gif_tells_its_frames() -> None:
    frames = [picture(seed=s) for s in range(3)]
    row = measured(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (row["frames"], row["web_format"], row["decoded"]) == (3, 0, 1)


def test_alpha_is_told_with_the_share_that_is_transparent() -> None:
    rgba = picture(40, 40).convert("RGBA")
    rgba.paste((0, 0, 0, 0), (0, 0, 40, 10))
    row = measured(rgba)
    assert (row["has_alpha"], row["transparent_share"], row["mode"]) == (1, 0.25, "RGBA")


def test_what_is_transparent_is_measured_as_white() -> None:
    row = measured(Image.new("RGBA", (32, 32), (10, 20, 30, 0)))
    assert (row["luminance_std"], row["transparent_share"]) == (0.0, 1.0)
    white = measured(Image.new("RGB", (32, 32), (255, 255, 255)))
    assert row["pixel_hash"] == white["pixel_hash"]


def test_a_truncated_jpeg_is_not_decoded_but_its_header_is_told() -> None:
    row = measure_image(encoded(picture(200, 150), "JPEG")[:-1500], CONFIG)
    assert (row["decoded"], row["truncated"], row["width"]) == (0, 1, 200)
    assert row["error"].startswith("truncated_image: ")
    assert "phash" not in row


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_image"),
        (b"no image at all", "unknown_image_format"),
        (b"<svg></svg>", "svg_not_rasterised"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "u"),  # unknown or undecodable, by the version of the decoder
    ],
)
def test_what_is_no_image_is_a_row_with_an_error(data: bytes, reason: str) -> None:
    row = measure_image(data, CONFIG)
    assert row["decoded"] == 0
    assert row["error"].startswith(reason)


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    row = measure_image(encoded(picture(100, 100)), MediaCheckConfig(max_pixels=5000))
    assert row["decoded"] == 0
    assert "max_pixels" in row["error"]


def test_an_image_of_one_pixel_is_measured() -> None:
    row = measured(Image.new("RGB", (1, 1), (1, 2, 3)))
    assert (row["decoded"], row["max_side"], row["sharpness"], row["luminance_std"]) == (1, 1, 0.0, 0.0)


def test_a_cmyk_image_has_four_channels() -> None:
    row = measured(picture().convert("CMYK"), "JPEG")
    assert (row["decoded"], row["colour_channels"], row["mode"]) == (1, 4, "CMYK")


def test_sixteen_bits_of_grey_are_not_clipped_to_white() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    row = measured(Image.fromarray(ramp))
    assert row["colour_channels"] == 1
    assert row["luminance_std"] > 60


def test_exif_orientation_turns_size_and_pixels() -> None:
    image = picture(96, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    row = measured(image, "PNG", exif=exif)
    upright = measured(image.transpose(Image.Transpose.ROTATE_270))
    assert (row["width"], row["height"], row["exif_orientation"]) == (64, 96, 6)
    assert (row["pixel_hash"], row["phash"]) == (upright["pixel_hash"], upright["phash"])


def test_equal_pixels_in_other_formats_have_one_pixel_hash() -> None:
    image = picture()
    hashes = {measured(image, kind)["pixel_hash"] for kind in ("PNG", "BMP", "TIFF")}
    hashes.add(measured(image, "WEBP", lossless=True)["pixel_hash"])
    assert len(hashes) == 1
    reshaped = Image.frombytes("RGB", (image.height, image.width), image.tobytes())
    assert measured(reshaped)["pixel_hash"] not in hashes


def test_a_large_jpeg_is_measured_from_fewer_pixels() -> None:
    data = encoded(picture(1200, 900), "JPEG", quality=92)
    whole, part = (measure_image(data, MediaCheckConfig(reduce_above=n)) for n in (4_000_000, 250_000))
    assert (part["width"], part["height"]) == (1200, 900)
    assert part["pixel_hash"] != whole["pixel_hash"]  # so fewer pixels were decoded
    assert part["luminance_std"] == pytest.approx(whole["luminance_std"], rel=0.05)
    assert (part["phash"] ^ whole["phash"]).bit_count() <= 4


def test_a_tone_is_measured() -> None:
    row = measure_speech(wave(tone(1.5)), CONFIG)
    assert (row["decoded"], row["truncated"], row["rate"], row["channels"]) == (1, 0, RATE, 1)
    assert row["seconds"] == 1.5
    assert row["peak"] == pytest.approx(0.3, abs=1e-3)
    assert row["loudness_dbfs"] == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.05)
    assert (row["clipped_share"], row["silence_share"]) == (0.0, 0.0)
    assert row["dc_offset"] < 1e-3


def test_digital_silence_is_all_silent_and_not_clipped() -> None:
    row = measure_speech(wave(np.zeros(RATE, np.float32)), CONFIG)
    assert (row["silence_share"], row["peak"], row["clipped_share"], row["loudness_dbfs"]) == (
        1.0,
        0.0,
        0.0,
        -120.0,
    )


def test_the_share_of_silence_follows_the_declared_level() -> None:
    samples = np.concatenate([tone(0.5), tone(0.5, level=1e-3)])
    assert measure_speech(wave(samples), CONFIG)["silence_share"] == 0.5
    assert measure_speech(wave(samples), MediaCheckConfig(silence_dbfs=-80))["silence_share"] == 0.0


def test_clipping_is_found_at_full_scale_and_below_it() -> None:
    loud = np.clip(tone(1.0, level=2.0), -1.0, 1.0)
    at_scale, turned_down = (measure_speech(wave(loud * gain), CONFIG) for gain in (1.0, 0.5))
    expected = np.mean(np.abs(tone(1.0, level=2.0)) >= 1.0)
    assert at_scale["clipped_share"] == pytest.approx(expected, abs=0.02)
    assert turned_down["clipped_share"] == pytest.approx(expected, abs=0.02)


def test_a_whisper_of_few_bits_is_not_clipped() -> None:
    assert measure_speech(wave(tone(1.0, level=2.0 / 32768)), CONFIG)["clipped_share"] == 0.0


def test_a_constant_added_to_the_wave_is_its_offset() -> None:
    assert measure_speech(wave(tone() + 0.1), CONFIG)["dc_offset"] == pytest.approx(0.1, abs=1e-3)


def test_stereo_in_opposite_phase_is_not_silent() -> None:
    row = measure_speech(wave(np.stack([tone(), -tone()], axis=1)), CONFIG)
    assert (row["channels"], row["silence_share"], row["seconds"]) == (2, 0.0, 1.0)


def test_eight_kilohertz_and_flac_are_measured_at_their_rate() -> None:
    row = measure_speech(wave(tone(0.7, rate=8000), 8000, "FLAC"), CONFIG)
    assert (row["rate"], row["format"], row["decoded"]) == (8000, "FLAC", 1)
    assert row["seconds"] == pytest.approx(0.7)


def test_measures_do_not_depend_on_where_blocks_end() -> None:
    long = np.concatenate([tone(10.3), np.zeros(RATE, np.float32), tone(10.3)])
    row = measure_speech(wave(long), CONFIG)
    assert row["seconds"] == pytest.approx(21.6)
    assert row["silence_share"] == pytest.approx(1 / 21.6, abs=1e-3)


def test_a_recording_that_is_cut_short_is_truncated_and_measured_as_far_as_it_goes() -> None:
    row = measure_speech(wave(tone(1.0))[:RATE], CONFIG)
    assert (row["decoded"], row["truncated"]) == (0, 1)
    assert row["error"].startswith("truncated_audio: ")
    assert row["seconds"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"ID3 no music", wave(tone())[:30]])
def test_what_is_no_recording_is_a_row_with_an_error(data: bytes) -> None:
    row = measure_speech(data, CONFIG)
    assert row["decoded"] == 0
    assert "error" in row


def test_a_recording_longer_than_allowed_is_not_decoded() -> None:
    row = measure_speech(wave(tone(2.0)), MediaCheckConfig(max_seconds=1.0))
    assert row["error"].startswith("too_long: ")


def text(words: str, role: str | None = None) -> Segment:
    return Segment(kind="text", text=words, attrs={"role": role} if role else {})


def put(root: Path, name: str, data: bytes, kind: str, attrs: dict[str, str] | None = None) -> Segment:
    (root / name).write_bytes(data)
    media = Media(uri=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    return Segment(kind=kind, media=media, attrs=attrs or {})  # type: ignore[arg-type]


def documents(*contents: tuple[Segment, ...]) -> Any:
    return documents_batch(
        [Document(source="s", locator=Locator(uri=f"d{i}"), segments=c) for i, c in enumerate(contents)]
    )


def test_a_batch_gives_one_row_per_item_in_order(tmp_path: Path) -> None:
    a = put(tmp_path, "a.png", encoded(picture()), "image")
    clip = put(tmp_path, "c.wav", wave(tone(2.0)), "speech")
    batch = documents(
        (text("x"), a, text("y"), a), (text("no media"),), (clip, text("one two three four", "transcript"))
    )
    out = measure_media(batch, {"s": str(tmp_path)}, CONFIG)
    assert out.schema.equals(ITEMS)
    assert out.column("row").to_pylist() == [0, 0, 2]
    assert out.column("segment").to_pylist() == [1, 3, 0]
    assert out.column("kind").to_pylist() == ["image", "image", "speech"]
    assert out.column("words_per_second").to_pylist() == [None, None, 2.0]
    assert out.column("seconds").to_pylist() == [None, None, 2.0]
    assert out.column("width").to_pylist() == [96, 96, None]
    assert out.column("error").null_count == 3


def test_a_batch_without_media_gives_no_rows() -> None:
    out = measure_media(documents((text("x"),)), {}, CONFIG)
    assert out.num_rows == 0
    assert out.schema.equals(ITEMS)


def test_rows_are_those_of_the_part(tmp_path: Path) -> None:
    import pyarrow as pa

    a = put(tmp_path, "a.png", encoded(picture()), "image")
    batch = documents((a,), (a,)).append_column("row", pa.array([7, 3], pa.int32()))
    assert measure_media(batch, {"s": str(tmp_path)}, CONFIG).column("row").to_pylist() == [3, 7]


def test_items_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    changed = put(tmp_path, "a.png", encoded(picture()), "image")
    (tmp_path / "a.png").write_bytes(encoded(picture(seed=1)))
    gone = put(tmp_path, "b.png", encoded(picture(seed=2)), "image")
    (tmp_path / "b.png").unlink()
    outside = Segment(kind="image", media=Media(uri="../b.png", sha256="", bytes=1))
    out = measure_media(documents((changed, gone, outside)), {"s": str(tmp_path)}, CONFIG)
    assert out.column("decoded").to_pylist() == [0, 0, 0]
    reasons = [e.split(":")[0] for e in out.column("error").to_pylist()]
    assert reasons == ["changed", "missing_file", "outside_root"]
    unknown = measure_media(documents((changed,)), {}, CONFIG)
    assert unknown.column("error")[0].as_py().startswith("unknown_source: ")


def test_one_content_at_two_places_is_read_where_it_can_be(tmp_path: Path) -> None:
    here = put(tmp_path, "a.png", encoded(picture()), "image")
    assert here.media is not None
    there = Segment(kind="image", media=Media(uri="gone.png", sha256=here.media.sha256, bytes=1))
    out = measure_media(documents((there, here)), {"s": str(tmp_path)}, CONFIG)
    assert out.column("decoded").to_pylist() == [0, 1]


def shape(*kinds: str) -> list[dict[str, Any]]:
    """Segments from letters: S a clip, T a transcript, x other text."""
    roles = {"T": [("role", "transcript")], "S": [], "x": []}
    return [
        {"kind": "speech" if k == "S" else "text", "text": f"{k}{i}", "attrs": roles[k]}
        for i, k in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("ST", {0: "T1"}),
        ("TS", {1: "T0"}),
        ("STST", {0: "T1", 2: "T3"}),
        ("TSTS", {1: "T0", 3: "T2"}),
        ("Sx", {0: "x1"}),
        ("SxS", {0: None, 2: None}),
        ("SSTxT", {0: "T2", 1: "T4"}),
        ("SSxT", {0: None, 1: None}),
        ("STS", {0: "T1", 2: "T1"}),
        ("x", {}),
    ],
)
def test_clips_are_paired_with_their_transcripts(kinds: str, expected: dict[int, str | None]) -> None:
    assert paired_transcripts(shape(*kinds)) == expected


def test_a_transcript_in_the_attributes_of_a_clip_goes_first() -> None:
    segments = shape("S", "T")
    segments[0]["attrs"] = [("transcript", "said")]
    assert paired_transcripts(segments) == {0: "said"}


def test_every_measure_is_described_and_stands_in_the_table() -> None:
    for name, (dtype, description) in ITEM_MEASURES.items():
        assert ITEMS.field(name).type == dtype
        assert description.endswith(".")
