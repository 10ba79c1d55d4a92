"""What every ingest test needs: read a source made in tmp_path, and small real media."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from mixloom.pipeline.ingest.config import Source, SourceConfig
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.schema import Document, Failure, documents_batch, failures_batch

ADAPTER: TypeAdapter[Source] = TypeAdapter(SourceConfig)


class Workbench:
    """A folder that is the root of a source."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def source(self, format: str, **settings: Any) -> Source:
        return ADAPTER.validate_python({"name": "s", "path": "x", "format": format, **settings})

    def read(self, format: str, **settings: Any) -> tuple[list[Document], list[Failure]]:
        source = self.source(format, **settings)
        out = [x for s in plan_splits(source, str(self.root)) for x in read_split(s, source, str(self.root))]
        documents = [x for x in out if isinstance(x, Document)]
        failures = [x for x in out if isinstance(x, Failure)]
        documents_batch(documents)  # everything a reader yields must fit the schema
        failures_batch(failures, "ingest")
        return documents, failures


def shown(document: Document) -> list[tuple[str, str]]:
    """(kind, text or media path) of each segment."""
    return [
        (s.kind, s.text if s.text is not None else s.media.uri if s.media else "") for s in document.segments
    ]


def png(width: int = 5, height: int = 3, color: tuple[int, ...] = (200, 10, 10), **save: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    mode = "RGBA" if len(color) == 4 else "RGB"
    noise = np.random.Generator(np.random.PCG64(7)).integers(
        0, 40, (height, width, len(color)), dtype=np.uint8
    )
    pixels = np.clip(np.array(color, dtype=np.int16) - noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels, mode).save(out, **{"format": "PNG", **save})
    return out.getvalue()


def sound(seconds: float = 0.25, rate: int = 8000, channels: int = 1, format: str = "WAV") -> bytes:
    import soundfile

    t = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * t)
    out = io.BytesIO()
    soundfile.write(out, np.stack([wave] * channels, axis=1), rate, format=format)
    return out.getvalue()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    root = tmp_path / "root"
    root.mkdir()
    return Workbench(root)


@pytest.fixture
def make_png() -> Callable[..., bytes]:
    return png


@pytest.fixture
def make_sound() -> Callable[..., bytes]:
    return sound


@pytest.fixture
def segments() -> Callable[[Document], list[tuple[str, str]]]:
    return shown
