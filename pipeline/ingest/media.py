"""Images and recordings: proof that they decode, their measures, and the arrays that tokenizers ask for.

Inspection decodes every byte, so that a truncated file is found at ingest and not weeks later. Limits on
pixels and seconds are checked from the header, before anything large is allocated.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import struct
from typing import TYPE_CHECKING, Any

from mixloom.pipeline.ingest.files import SourceFiles, source_files
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.schema import Media

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MAX_PIXELS = 89_478_485
MAX_SECONDS = 4 * 3600.0
# Only decoders that run in this process on plain bytes; EPS, for one, would start Ghostscript.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_BLOCK = 1 << 16  # frames decoded at a time while inspecting
_PLACE = re.compile(r"(?P<name>.*)@(?P<offset>\d+)(?:\+(?P<inside>\d+))?", re.DOTALL)
_UNKNOWN_LENGTH = (0xFFFFFFFF, 0x7FFFFFFF)  # what encoders write into a pipe


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(f for f in _FORMATS if f in Image.OPEN)


def _looks_like_svg(data: bytes) -> bool:
    head = data[:2048].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!--", b"<!doctype")) and b"<svg" in head
    )


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """An image whose header is read and whose pixels are not.

    Raises:
        Problem: svg_not_rasterised, unknown_image_format, too_many_pixels or empty_image.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise Problem("empty_image", "the image file is empty (0 bytes)", fix="restore it or remove it")
    if _looks_like_svg(data):
        raise Problem(
            "svg_not_rasterised",
            "SVG is a drawing, not pixels, and is not rasterised here",
            fix="convert it to PNG beside the original and refer to that",
            outcome="dropped",
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise Problem(
            "unknown_image_format",
            f"not an image of a supported format ({', '.join(_formats())}); it starts with {data[:8]!r}",
            fix="convert it to PNG or JPEG",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise _too_many_pixels(str(e), max_pixels) from None
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(f"the image is {image.width} x {image.height} pixels", max_pixels)
    return image


def _too_many_pixels(what: str, limit: int) -> Problem:
    return Problem(
        "too_many_pixels",
        f"{what.rstrip('.')}; max_pixels is {limit}",
        fix="make the image smaller, or raise max_pixels of the source (at most 178956970)",
    )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where none is stated."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def decode_image(image: Image.Image, size: int) -> None:
    """Decode the pixels of an opened image of `size` bytes; Problem: truncated_image or undecodable_image."""
    try:
        image.load()
    except Exception as e:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        text = " ".join(str(e).split()) or type(e).__name__
        reason = "truncated_image" if "truncated" in text.lower() else "undecodable_image"
        raise Problem(
            reason,
            f"the {image.format} image ({size} bytes, {image.width} x {image.height}) does not decode: {text}",
            fix="fetch it again or remove it",
        ) from None


def inspect_image(data: bytes, uri: str = "", member: str = "", *, max_pixels: int = MAX_PIXELS) -> Media:
    """Decode an image completely and measure it (first frame; width and height after EXIF orientation).

    Raises:
        Problem: svg_not_rasterised, unknown_image_format, too_many_pixels, truncated_image,
            undecodable_image or empty_image.
    """
    try:
        image = open_image(data, max_pixels)
        decode_image(image, len(data))
    except Problem:
        raise
    except Exception as e:
        raise Problem(
            "undecodable_image",
            f"the image header is damaged ({type(e).__name__}: {e})",
            fix="fetch it again or remove it",
        ) from None
    width, height = image.size
    if orientation_of(image) >= 5:
        width, height = height, width
    return Media(
        uri=uri,
        member=member,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        width=width,
        height=height,
    )


def load_image(data: bytes, *, max_pixels: int = 178_956_970) -> Image.Image:
    """The image as RGB (PIL, 8 bit): EXIF orientation applied, transparency over white, first frame.

    Raises:
        Problem: as `inspect_image`.
    """
    image = open_image(data, max_pixels)
    orientation = orientation_of(image)
    decode_image(image, len(data))
    return upright_rgb(image, orientation)


def upright_rgb(image: Image.Image, orientation: int) -> Image.Image:
    """A decoded image as RGB (PIL, 8 bit), transparency over white, turned upright from an EXIF orientation."""
    from PIL import Image

    rgb = _to_rgb(image)
    T = Image.Transpose
    turns = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE}
    turns |= {6: T.ROTATE_270, 7: T.TRANSVERSE, 8: T.ROTATE_90}
    return rgb.transpose(turns[orientation]) if orientation in turns else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey; a plain convert would clip everything above 255 to white
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode.startswith("I") and values.max(initial=0.0) > 255 else 255.0
        grey = np.clip(np.nan_to_num(values) * (255.0 / top), 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def wav_missing(data: bytes) -> tuple[int, int] | None:
    """(declared, present) bytes of the data chunk of a WAV file that is shorter than it says.

    libsndfile reads such a file to its end without a word.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"data":
            present = len(data) - at - 8
            return (size, present) if size > present and size not in _UNKNOWN_LENGTH else None
        at += 8 + size + (size & 1)
    return None


def inspect_audio(data: bytes, uri: str = "", member: str = "", *, max_seconds: float = MAX_SECONDS) -> Media:
    """Decode a recording completely (WAV, FLAC, MP3, OGG) and measure it.

    Raises:
        Problem: empty_audio, truncated_audio, undecodable_audio, too_long or non_finite_audio.
    """
    import numpy as np
    import soundfile

    if not data:
        raise Problem("empty_audio", "the audio file is empty (0 bytes)", fix="restore it or remove it")
    missing = wav_missing(data)
    if missing is not None:
        raise _cut_short(f"the header promises {missing[0]} bytes of sound, {missing[1]} are there")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as f:
            rate, channels, declared, kind = f.samplerate, f.channels, f.frames, f.format
            _check_length(declared / rate if rate else 0.0, max_seconds)
            block = np.empty((_BLOCK, channels), dtype=np.float32)
            frames, finite = 0, True
            while len(part := f.read(out=block)):
                frames += len(part)
                finite = finite and bool(np.isfinite(part).all())
                _check_length(frames / rate, max_seconds)
    except Problem:
        raise
    except Exception as e:
        text = " ".join(str(getattr(e, "error_string", e)).split()) or type(e).__name__
        raise Problem(
            "undecodable_audio",
            f"the audio ({len(data)} bytes, starts with {data[:4]!r}) does not decode: {text}",
            fix="convert it to WAV or FLAC, fetch it again, or remove it",
        ) from None
    if frames == 0:
        raise Problem("empty_audio", "the recording holds no samples", fix="restore it or remove it")
    if frames < declared and kind != "MPEG":  # the length of an MP3 without an index is an estimate
        raise _cut_short(f"the header promises {declared} samples, {frames} decode")
    if not finite:
        raise Problem("non_finite_audio", "the samples contain NaN or infinity", fix="export it again as PCM")
    return Media(
        uri=uri,
        member=member,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        seconds=frames / rate,
        rate=rate,
    )


def _cut_short(what: str) -> Problem:
    return Problem(
        "truncated_audio", f"the recording is cut short: {what}", fix="fetch it again or remove it"
    )


def _check_length(seconds: float, limit: float) -> None:
    if seconds > limit:
        raise Problem(
            "too_long",
            f"the recording lasts more than max_seconds ({limit:g} s)",
            fix="cut it up, or raise max_seconds of the source",
        )


def load_audio(data: bytes, rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples as float32 mono [T] at `rate`: channels averaged, resampled by soxr (HQ).

    Raises:
        Problem: "undecodable_audio".
    """
    import numpy as np
    import soundfile
    import soxr

    try:
        samples, original = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except Exception as e:
        text = " ".join(str(getattr(e, "error_string", e)).split()) or type(e).__name__
        raise Problem(
            "undecodable_audio", f"the audio does not decode: {text}", fix="run ingest again"
        ) from None
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if original != rate:
        mono = soxr.resample(mono, original, rate, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def open_media(root: str, uri: str, member: str = "", *, max_bytes: int = 1 << 30) -> bytes:
    """The bytes of a media reference of a source.

    Args:
        root: root of the source, a path or URL.
        uri, member: as in `Media`; a member is `column:row` of a Parquet file, `@offset` or `@offset+inside` of a
            web archive (the body of the response there), or `name@offset` of a tar file.

    Raises:
        Problem: outside the root, missing, or larger than `max_bytes`.
    """
    return read_media(source_files(root), uri, member, max_bytes)


def read_media(files: SourceFiles, uri: str, member: str, limit: int) -> bytes:
    """As `open_media`, for files already at hand."""
    if not member:
        return files.read(uri, limit)
    place = _PLACE.fullmatch(member)
    if place is not None and not place["name"]:
        from mixloom.pipeline.ingest.warc_payload import read_capture

        return read_capture(files, uri, int(place["offset"]), int(place["inside"] or 0), limit)
    if place is not None:
        from mixloom.pipeline.ingest.tars import read_member

        return read_member(files, uri, place["name"], int(place["offset"]), limit)
    from mixloom.pipeline.ingest.parquet import read_cell

    column, _, row = member.rpartition(":")
    if not column or not row.isdigit():
        raise Problem("bad_member", f"'{member}' names no place in '{uri}'", fix="run ingest again")
    return read_cell(files, uri, column, int(row))
