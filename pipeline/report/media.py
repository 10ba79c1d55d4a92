"""Pictures and sound inside the page, as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.report.markup import Html, el

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL = 160  # pixels of the longer side
CLIP_SECONDS = 6.0
CLIP_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture. `pixelated`: shown enlarged with its pixels visible."""

    data: bytes
    kind: str  # png, jpeg or webp
    width: int  # as shown, in CSS pixels
    height: int
    alt: str
    pixelated: bool = False


@dataclass(frozen=True, slots=True)
class Clip:
    """A WAV file. `seconds` is the length of the whole recording, of which `shown` are in the file."""

    data: bytes
    seconds: float
    shown: float
    label: str


@dataclass(slots=True)
class Budget:
    """Bytes that pictures and clips may still take. What does not fit is left out, and the page says so."""

    left: int
    refused: int = 0

    def take(self, count: int) -> bool:
        fits = count <= self.left
        self.left -= count if fits else 0
        self.refused += not fits
        return fits


def thumbnail(image: Image.Image, alt: str, side: int = THUMBNAIL) -> Picture:
    """A picture brought to at most `side` pixels (never enlarged), as WebP."""
    from PIL import Image

    small = image.convert("RGB")
    # A picture of 1 x 10,000 stays at least one pixel wide.
    scale = min(1.0, side / max(small.size))
    extent = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    small = small.resize(extent, Image.Resampling.LANCZOS) if extent != small.size else small
    out = io.BytesIO()
    small.save(out, "WEBP", quality=78, method=4)
    return Picture(out.getvalue(), "webp", *extent, alt)


def pixels(array: npt.NDArray[np.uint8], alt: str, enlarge: int = 2) -> Picture:
    """Decoded pixels uint8 [h, w, 3], lossless, shown `enlarge` times larger with hard edges."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", optimize=True)
    height, width = array.shape[:2]
    return Picture(out.getvalue(), "png", width * enlarge, height * enlarge, alt, pixelated=True)


def clip(samples: npt.NDArray[Any], rate: int, label: str, seconds: float = CLIP_SECONDS) -> Clip:
    """The beginning of a recording (mono, -1..1) as 16-bit WAV of at most 16 kHz."""
    whole = len(samples) / rate
    head = np.nan_to_num(np.asarray(samples, np.float32)[: int(seconds * rate)])
    if rate > CLIP_RATE and len(head):
        import soxr

        head, rate = soxr.resample(head, rate, CLIP_RATE), CLIP_RATE
    shown = len(head) / rate
    whole_numbers = np.rint(np.clip(head, -1, 1) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(whole_numbers.tobytes())
    return Clip(out.getvalue(), whole, shown, label)


def image(picture: Picture | None, budget: Budget) -> Html:
    """The picture, or a note where it is missing or does not fit."""
    if picture is None:
        return el("span", "picture not at hand", cls="missing")
    if not budget.take(len(picture.data) * 4 // 3):
        return el("span", "picture left out to keep the page small", cls="missing")
    source = f"data:image/{picture.kind};base64,{base64.b64encode(picture.data).decode()}"
    return el(
        "img",
        src=source,
        alt=picture.alt,
        width=picture.width,
        height=picture.height,
        cls="pixelated" if picture.pixelated else None,
        loading="lazy",
    )


def audio(sound: Clip | None, budget: Budget) -> Html:
    """A player, or a note where the recording is missing or does not fit."""
    if sound is None:
        return el("span", "recording not at hand", cls="missing")
    if not budget.take(len(sound.data) * 4 // 3):
        return el("span", "recording left out to keep the page small", cls="missing")
    source = f"data:audio/wav;base64,{base64.b64encode(sound.data).decode()}"
    cut = f", first {sound.shown:.1f} s" if sound.shown < sound.seconds - 0.05 else ""
    return el(
        "span",
        el("audio", controls=True, preload="none", src=source, aria_label=sound.label),
        el("span", f"{sound.seconds:.1f} s{cut}", cls="small"),
        cls="clip",
    )
