"""The pictures, illustrated pages and recordings of a demo corpus, with their copies and broken files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixloom.pipeline.demo.corrupt import broken_images, broken_speech, encoded
from mixloom.pipeline.demo.drawing import draw_scene
from mixloom.pipeline.demo.guides import compose, html, markdown
from mixloom.pipeline.demo.scenes import NUMBERS, Scene, caption, moved, sample_scene, spoken
from mixloom.pipeline.demo.shingles import ShingleIndex, words
from mixloom.pipeline.demo.text_part import scaled, write_broken
from mixloom.pipeline.demo.truth import Corrupt, Place, Planted
from mixloom.pipeline.demo.voices import RATE, VOICES, Voice, speak

DOMAIN = "scenes"  # captions, pages and transcripts all tell of scenes
_SCENES, _GUIDES, _CLIPS = 300, 50, 240
_COPIES = (2, 2, 2, 2, 2, 2, 3, 3)  # sizes of the groups of exact duplicates, pictures and clips alike
_GUIDE_COPIES = 4
_SAME_WORDS = 6  # pairs with equal words but another picture or voice
_ALIKE = 0.5  # no two captions, pages or transcripts are more alike, but for the planted ones


@dataclass
class MediaPart:
    """What has been written so far."""

    documents: list[Planted] = field(default_factory=list)
    exact: list[tuple[Place, ...]] = field(default_factory=list)
    same_words: list[tuple[Place, Place]] = field(default_factory=list)
    corrupt: list[Corrupt] = field(default_factory=list)

    def add(self, source: str, uri: str, kind: str) -> Place:
        place = Place(source, uri)
        self.documents.append(Planted(place, kind, DOMAIN))
        return place


@dataclass(frozen=True, slots=True)
class _Entry:
    """A media file to be written: its bytes, and the row of the table after the file name."""

    data: bytes
    suffix: str
    row: tuple[str, ...]
    group: int = -1  # of exact duplicates
    pair: int = -1  # of equal words on different media


# A new entry, and how to make another one with equal words.
_Draft = Callable[[], tuple[_Entry, Callable[[], _Entry]]]


def write_scenes(
    out: MediaPart, root: Path, index: ShingleIndex, scale: float, rng: np.random.Generator
) -> None:
    """`scenes/`: PNG and JPEG files and `captions.csv` (file, caption)."""

    def draft() -> tuple[_Entry, Callable[[], _Entry]]:
        scene, text = sample_scene(rng), ""
        while not text or not _is_new(index, text):
            scene = sample_scene(rng)
            text = caption(scene, rng)
        kind, suffix = ("JPEG", ".jpg") if rng.random() < 0.5 else ("PNG", ".png")

        def entry(shown: Scene) -> _Entry:
            return _Entry(encoded(draw_scene(shown), kind), suffix, (text,))

        return entry(scene), lambda: entry(moved(scene, rng))

    rows = _write_entries(out, root / "scenes", "scenes", "scene", _gather(draft, _SCENES, scale), rng)
    for broken in broken_images(draw_scene(sample_scene(rng, (160, 120)))):
        write_broken(root / "scenes", broken, out.corrupt)
        rows.append((broken.uri, broken.table_text or ""))
    rows.append(("gone.png", "a picture that was deleted"))
    line = _write_table(root / "scenes" / "captions.csv", ("file", "caption"), rows)
    damage, reasons = "a caption whose picture is missing", ("missing_media", "missing_file")
    out.corrupt.append(Corrupt(Place("scenes", "captions.csv"), damage, reasons, line))


def write_speech(
    out: MediaPart, root: Path, index: ShingleIndex, scale: float, rng: np.random.Generator
) -> None:
    """`speech/`: WAV and FLAC files and `transcripts.csv` (file, text, voice)."""

    def draft() -> tuple[_Entry, Callable[[], _Entry]]:
        text = ""
        while not text or not _is_new(index, text):
            text = _sentence(rng)
        first = int(rng.integers(len(VOICES)))

        def entry(voice: Voice) -> _Entry:
            data, suffix = recorded(speak(text, voice, rng), "FLAC" if rng.random() < 0.4 else "WAV")
            return _Entry(data, suffix, (text, voice.name))

        return entry(VOICES[first]), lambda: entry(VOICES[(first + 1) % len(VOICES)])

    rows = _write_entries(out, root / "speech", "speech", "clip", _gather(draft, _CLIPS, scale), rng)
    sample = recorded(speak("red circle above blue square", VOICES[0], rng), "WAV")[0]
    for broken in broken_speech(sample):
        write_broken(root / "speech", broken, out.corrupt)
        rows.append((broken.uri, broken.table_text or "", VOICES[0].name))
    _write_table(root / "speech" / "transcripts.csv", ("file", "text", "voice"), rows)


def write_guides(
    out: MediaPart, root: Path, index: ShingleIndex, scale: float, rng: np.random.Generator
) -> None:
    """`guides/`: Markdown and HTML pages, their pictures in `guides/images/`."""
    folder = root / "guides"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pictures, count = 0, scaled(_GUIDES, scale)
    for n in range(count):
        wanted = int(rng.integers(2, 5))
        files = [f"images/{pictures + i + 1:04d}.png" for i in range(wanted)]
        pictures += wanted
        page = None
        while page is None or not _is_new(index, page.text):
            shown = [sample_scene(rng) for _ in files]
            page = compose(shown, files, rng)
        for scene, file in zip(shown, files, strict=True):
            (folder / file).write_bytes(encoded(draw_scene(scene), "PNG"))
        source, suffix, text = ("guides-md", ".md", markdown(page))
        if n % 2:
            source, suffix, text = ("guides-html", ".html", html(page))
        names = [f"page-{n + 1:03d}"] + (
            [f"page-{count + n + 1:03d}"] if n < scaled(_GUIDE_COPIES, scale) else []
        )
        for name in names:
            (folder / (name + suffix)).write_text(text, encoding="utf-8")
        places = tuple(out.add(source, name + suffix, "guide") for name in names)
        if len(places) > 1:
            out.exact.append(places)
    _break_guides(out, folder, index, rng)


def _break_guides(out: MediaPart, folder: Path, index: ShingleIndex, rng: np.random.Generator) -> None:
    """A page that names a picture which is gone, and one with a picture that ends in the middle."""
    whole, cut = "images/whole.png", "images/cut.png"
    shown = [sample_scene(rng, (128, 96)), sample_scene(rng, (128, 96))]
    data = encoded(draw_scene(shown[0]), "PNG")
    (folder / whole).write_bytes(data)
    (folder / cut).write_bytes(data[: len(data) // 2])
    one, other = (compose(shown, (whole, bad), rng) for bad in ("images/gone.png", cut))
    index.add(one.text)
    index.add(other.text)
    (folder / "broken-gone.html").write_text(html(one), encoding="utf-8")
    (folder / "broken-cut.md").write_text(markdown(other), encoding="utf-8")
    missing, spoiled = ("missing_media", "missing_file"), ("truncated_image", "undecodable_image")
    gone = out.add("guides-html", "broken-gone.html", "guide")  # the page itself stays a document
    out.corrupt.append(Corrupt(gone, "HTML page with a missing image", missing))
    half = out.add("guides-md", "broken-cut.md", "guide")
    out.corrupt.append(Corrupt(half, "Markdown page with a truncated image", spoiled))


def _sentence(rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        return " ".join(
            ["number", *(NUMBERS[int(d)] for d in rng.integers(0, 10, size=int(rng.integers(2, 5))))]
        )
    return spoken(sample_scene(rng), rng)


def _is_new(index: ShingleIndex, text: str) -> bool:
    """Whether nothing like it was written before; it is remembered if so. Too short for shingles: the words count."""
    key = " ".join(words(text))
    return index.add_if_new(text if len(words(text)) >= 5 else f"{key} " * 5, _ALIKE)


def _gather(draft: _Draft, count: int, scale: float) -> list[_Entry]:
    """As many entries as a kind of media has at this scale, planted copies and pairs among them."""
    copies = _COPIES[: scaled(len(_COPIES), min(scale, 1.0))]
    pairs = scaled(_SAME_WORDS, min(scale, 1.0))
    out: list[_Entry] = []
    for group, size in enumerate(copies):
        out += [replace(draft()[0], group=group)] * size
    for pair in range(pairs):
        first, another = draft()
        out += [replace(first, pair=pair), replace(another(), pair=pair)]
    return out + [draft()[0] for _ in range(scaled(count, scale) - len(copies) - pairs)]


def _write_entries(
    out: MediaPart, folder: Path, source: str, kind: str, entries: list[_Entry], rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Write the entries under names that tell nothing; returns the rows of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    groups: dict[int, list[Place]] = {}
    pairs: dict[int, list[Place]] = {}
    for number, n in enumerate(rng.permutation(len(entries)).tolist(), start=1):
        entry = entries[n]
        name = f"{kind}-{number:04d}{entry.suffix}"
        (folder / name).write_bytes(entry.data)
        place = out.add(source, name, kind)
        rows.append((name, *entry.row))
        if entry.group >= 0:
            groups.setdefault(entry.group, []).append(place)
        if entry.pair >= 0:
            pairs.setdefault(entry.pair, []).append(place)
    out.exact += [tuple(groups[g]) for g in sorted(groups)]
    out.same_words += [(pairs[p][0], pairs[p][1]) for p in sorted(pairs)]
    return rows


def _write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> int:
    """Write a CSV file; returns the number of its last row, the header being 1."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.write_text(text.getvalue(), encoding="utf-8")
    return len(rows) + 1


def recorded(samples: NDArray[np.int16], kind: str) -> tuple[bytes, str]:
    """A recording as the bytes of a 16 kHz mono "WAV" or "FLAC" file, and the suffix of its name."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, RATE, format=kind, subtype="PCM_16")
    return out.getvalue(), "." + kind.lower()
