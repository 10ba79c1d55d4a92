"""Thumbnails and hashes of images, and what they survive."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from mixloom.pipeline.image_checks import measure_image
from mixloom.pipeline.image_dedup_config import ImageNearConfig
from mixloom.pipeline.image_pairs import same_picture
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.media_items import THUMB_BYTES
from mixloom.pipeline.perceptual import area_mean, perceptual_hash, thumb_differences, thumbnail

CONFIG = ImageNearConfig()
LABELLED = ImageNearConfig(max_excess=None, max_colour=None)


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft coloured blobs with some grain, as a photo has."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def drawing(seed: int, label: str = "sender") -> Image.Image:
    """Boxes and arrows on white with a label, as a figure has."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (480, 260), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = (int(v) for v in rng.integers(10, (380, 190)))
        colour = tuple(int(v) for v in rng.integers(0, 200, 3))
        draw.rectangle((x, y, x + 70, y + 40), outline=colour, width=4, fill=None if x % 2 else colour)
        draw.line((x, y, *(int(v) for v in rng.integers(10, (470, 250)))), fill="black", width=3)
    draw.text((180, 110), label, fill="black", font_size=34)
    return image


def measured(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return measure_image(out.getvalue(), MediaCheckConfig())


def agree(a: dict[str, Any], b: dict[str, Any], config: ImageNearConfig = CONFIG) -> bool:
    """Whether deduplication takes two measured images for the same picture."""
    if (a["phash"] ^ b["phash"]).bit_count() > config.distance:
        return False
    thumbs = [np.frombuffer(x["thumb"], np.uint8)[None, :] for x in (a, b)]
    ratios = [np.array([x["width"] / x["height"]]) for x in (a, b)]
    return bool(same_picture(thumbs[0], thumbs[1], ratios[0], ratios[1], config)[0])


PICTURES = [*(photo(s) for s in range(6)), *(drawing(s) for s in range(6))]


@pytest.mark.parametrize("quality", [40, 60, 80, 95])
def test_jpeg_of_any_quality_is_the_same_picture(quality: int) -> None:
    for image in PICTURES:
        assert agree(measured(image), measured(image, "JPEG", quality=quality))


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 2.0])
@pytest.mark.parametrize("quality", [None, 40])
def test_another_size_is_the_same_picture(scale: float, quality: int | None) -> None:
    for image in PICTURES:
        other = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
        )
        options: dict[str, Any] = {} if quality is None else {"kind": "JPEG", "quality": quality}
        assert agree(measured(image), measured(other, **options))


def test_webp_and_a_grain_more_or_less_are_the_same_picture() -> None:
    for image in PICTURES:
        assert agree(measured(image), measured(image, "WEBP", quality=50))


def test_different_pictures_are_kept_apart() -> None:
    rows = [measured(image) for image in PICTURES]
    for i, a in enumerate(rows):
        assert not any(agree(a, b) for b in rows[:i])


def test_another_label_is_another_picture_unless_labels_do_not_count() -> None:
    rows = [measured(drawing(3, label)) for label in ("sender", "vysílač", "absender")]
    for other in rows[1:]:
        assert not agree(rows[0], other)
        assert agree(rows[0], other, LABELLED)


def test_another_colour_is_another_picture() -> None:
    image = Image.new("RGB", (200, 200), "white")
    rows = []
    for colour in ((200, 30, 30), (30, 78, 200)):  # of nearly one luminance
        copy = image.copy()
        draw = ImageDraw.Draw(copy)
        draw.ellipse((40, 40, 160, 160), fill=colour)
        draw.rectangle((10, 10, 60, 30), fill="black")
        rows.append(measured(copy))
    assert (rows[0]["phash"] ^ rows[1]["phash"]).bit_count() <= CONFIG.distance
    assert not agree(rows[0], rows[1])


def test_another_aspect_ratio_is_another_picture() -> None:
    image = photo(1)
    assert not agree(measured(image), measured(image.resize((320, 200))))


def plain_mean(values: np.ndarray, side: int) -> np.ndarray:
    """Area means by cutting every pixel into side x side equal pieces."""
    pieces = np.repeat(np.repeat(values.astype(np.int64), side, axis=0), side, axis=1)
    h, w = values.shape[:2]
    sums = pieces.reshape(side, h, side, w, -1).sum(axis=(1, 3))
    return np.floor(sums / (h * w) + 0.5).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 23), st.integers(1, 23), st.just(2))),
    st.sampled_from([1, 3, 8]),
)
def test_area_means_are_exact(values: np.ndarray, side: int) -> None:
    assert np.array_equal(area_mean(values, side), plain_mean(values, side))


def test_a_thumbnail_of_one_colour_is_that_colour() -> None:
    thumb = thumbnail(np.full((5, 7, 3), 77, np.uint8))
    assert thumb.shape == (THUMB_BYTES,)
    assert set(thumb[:1024].tolist()) == {77}
    assert set(thumb[1024:].tolist()) == {128}


def test_the_hash_does_not_change_with_brightness_or_contrast() -> None:
    values = np.asarray(photo(4)).astype(np.float64)
    darker = (values * 0.8 + 10).round().astype(np.uint8)
    a, b = (perceptual_hash(thumbnail(v.astype(np.uint8))) for v in (values, darker))
    assert (a ^ b).bit_count() <= 2


def test_half_of_the_bits_of_a_hash_are_set() -> None:
    for image in PICTURES:
        assert perceptual_hash(thumbnail(np.asarray(image))).bit_count() == 32


def test_differences_tell_a_local_change_from_a_spread_one() -> None:
    base = np.full((1, THUMB_BYTES), 100, np.uint8)
    spread, local = base.copy(), base.copy()
    spread[0, :1024] += 3
    local[0, 500] += 60
    mean, excess, colour = thumb_differences(np.concatenate([base, base]), np.concatenate([spread, local]))
    assert mean.tolist() == pytest.approx([3.0, 60 / 1024])
    assert excess[0] < 0 < CONFIG.max_excess < excess[1]  # type: ignore[operator]
    assert colour.tolist() == [0.0, 0.0]


def test_thumbnails_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two arrays"):
        thumb_differences(np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.uint8))
