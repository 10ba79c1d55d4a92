"""What every test may count on: a pinned environment, and one small corpus of every modality, run once."""

from __future__ import annotations

import gzip
import io
import json
import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch, faiss or a BLAS is imported. Two threads at most: tests share the machine, and none needs more.
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["OMP_WAIT_POLICY"] = (
    "PASSIVE"  # a thread that spins at a barrier takes the processor from the other
)
os.environ["OPENBLAS_NUM_THREADS"] = "2"
os.environ["MKL_NUM_THREADS"] = "2"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched, whatever a test does
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["COLUMNS"] = "200"  # tables of the command line are not folded

import numpy as np
import pytest
from hypothesis import settings

# The same examples for the same code: what passes once passes again. `make fuzz` looks for others.
settings.register_profile(
    "mixloom", deadline=None, database=None, print_blob=True, derandomize="MIXLOOM_FUZZ" not in os.environ
)
settings.load_profile("mixloom")

TOPICS = {
    "sea": (
        "harbour lighthouse fisherman anchor sailor tide lagoon schooner captain seagull",
        "drifting salty weathered northern sunken patient barnacled",
        "hauled moored sighted rowed charted rescued followed",
        "nets ropes lanterns herring charts barrels compasses oysters",
    ),
    "kitchen": (
        "baker oven kettle saucepan pantry chef dough ladle cook butcher",
        "buttery fragrant simmering crusty peppered golden roasted",
        "kneaded whisked tasted seasoned served sliced poured",
        "onions noodles pastries spices dumplings lentils apricots biscuits",
    ),
    "sky": (
        "astronomer telescope comet planet galaxy observatory meteor satellite nebula moon",
        "distant luminous orbiting frozen spinning invisible radiant",
        "measured orbited photographed discovered catalogued eclipsed illuminated",
        "craters spectra asteroids parallaxes eclipses quasars constellations orbits",
    ),
}


def prose(topic: str, number: int, sentences: int = 9) -> str:
    """English of one topic, different for every number: about a hundred words."""
    nouns, adjectives, verbs, things = (words.split() for words in TOPICS[topic])
    rng = np.random.Generator(np.random.PCG64([number, sorted(TOPICS).index(topic)]))

    def one(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    lines = [
        f"The {one(adjectives)} {one(nouns)} {one(verbs)} {int(rng.integers(2, 900))} {one(adjectives)} "
        f"{one(things)} beside the {one(nouns)} and its {one(things)}."
        for _ in range(sentences)
    ]
    return f"{topic.capitalize()} note {number}.\n\n" + "\n".join(lines) + "\n"


def picture(number: int, side: int = 48) -> np.ndarray:
    """A coloured disc on a coloured ground, different for every number: uint8 [side, side, 3]."""
    rng = np.random.Generator(np.random.PCG64([number, 77]))
    ground, ink = rng.integers(40, 250, 3), rng.integers(0, 200, 3)
    y, x = np.mgrid[:side, :side]
    centre = rng.integers(side // 4, 3 * side // 4, 2)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side // 4) ** 2
    return np.where(inside[..., None], ink, ground).astype(np.uint8)


def picture_file(number: int, format: str = "PNG", side: int = 48) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture(number, side)).save(out, format)
    return out.getvalue()


def tone_file(number: int, seconds: float = 0.5, rate: int = 16_000) -> bytes:
    """A WAV of two tones one after the other, different for every number."""
    t = np.arange(int(seconds * rate)) / rate
    pitch = np.where(t < seconds / 2, 180 + 40 * number, 900 - 30 * number)
    samples = (0.4 * np.sin(2 * np.pi * pitch * t) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes(samples.tobytes())
    return out.getvalue()


class Corpus:
    """A folder of small sources; `bad` lists what was planted broken as (source, uri, offset, reason)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bad: list[tuple[str, str, int, str]] = []
        self.bad_media: list[tuple[str, str]] = []  # (uri of the document, what it names)

    def write(self, name: str, data: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def notes(self) -> None:
        """Text files: 3 topics of 8, an exact copy, a near copy, noise, and files no one can read."""
        for topic in TOPICS:
            for i in range(8):
                self.write(f"notes/{topic}/{i}.txt", prose(topic, i))
        self.write("notes/sea/copy-of-3.txt", prose("sea", 3))
        self.write("notes/sky/nearly-2.txt", prose("sky", 2).replace("beside", "behind", 1))
        self.write("notes/sky/noise.txt", "%$#@! ^&*( ~~ |}{ <<>> " * 30)
        self.write("notes/bad/latin.txt", "caf\xe9 au lait ".encode("latin-1") * 20)
        self.write("notes/bad/empty.txt", b"")
        self.write("notes/bad/blank.txt", " \n\t\n")
        self.write("notes/bad/broken.txt.gz", b"\x1f\x8b\x08\x00 this is no gzip stream")
        self.bad += [
            ("notes", "bad/latin.txt", -1, "invalid_utf8"),
            ("notes", "bad/empty.txt", -1, "empty_document"),
            ("notes", "bad/blank.txt", -1, "empty_document"),
            ("notes", "bad/broken.txt.gz", -1, "broken_gzip"),
        ]

    def records(self) -> None:
        """JSON Lines, plain and compressed, with a line that is no JSON and an archive that ends too early."""
        good = [json.dumps({"text": prose("kitchen", 20 + i), "topic": "kitchen"}) for i in range(4)]
        lines = [good[0], '{"text": "never closed', *good[1:]]
        self.write("records/a.jsonl", "\n".join(lines) + "\n")
        sky = [json.dumps({"text": prose("sky", 20 + i), "topic": "sky"}) + "\n" for i in range(6)]
        self.write("records/b.jsonl.gz", gzip.compress("".join(sky[:4]).encode(), mtime=0))
        rng = np.random.Generator(np.random.PCG64(3))
        noise = json.dumps({"text": rng.bytes(4000).hex()})  # does not shrink: the cut goes through it
        cut = gzip.compress("".join([*sky[4:], noise, "\n"]).encode(), mtime=0)
        where = len("".join(sky[4:]))  # bytes of text before the line that is cut
        self.write("records/c.jsonl.gz", cut[: len(cut) - 1000])
        self.bad += [
            ("records", "a.jsonl", len(good[0]) + 1, "malformed_json"),
            ("records", "c.jsonl.gz", where, "truncated_gzip"),
        ]

    def pages(self) -> None:
        """A Markdown and an HTML page with their pictures between the words; one image cut short, one missing."""
        self.write("pages/img/one.png", picture_file(1))
        self.write("pages/img/two.jpg", picture_file(2, "JPEG"))
        self.write("pages/img/cut.jpg", picture_file(3, "JPEG", 96)[:700])
        text = [prose("sea", 30 + i, 4) for i in range(4)]
        self.write(
            "pages/walk.md",
            f"# A walk\n\n{text[0]}\n![one](img/one.png)\n\n{text[1]}\n![two](img/two.jpg)\n\n{text[2]}\n",
        )
        self.write(
            "pages/torn.md",
            f"# Torn\n\n{text[3]}\n![cut](img/cut.jpg)\n\n![gone](img/gone.png)\n\nThe end.\n",
        )
        self.write(
            "pages/page.html",
            f"<html><body><p>{prose('sky', 31, 4)}</p><img src='img/one.png'><p>After it.</p></body></html>",
        )
        self.bad_media += [("torn.md", "img/cut.jpg"), ("torn.md", "img/gone.png")]

    def scenes(self) -> None:
        """Pictures with captions in a table; one file is cut short, one row has no file."""
        rows = ["file,caption"]
        for i in range(8):
            self.write(f"scenes/s{i}.png", picture_file(10 + i))
            rows.append(f"s{i}.png,a coloured disc of the number {i} seen over the {list(TOPICS)[i % 3]}")
        self.write("scenes/cut.jpg", picture_file(30, "JPEG", 96)[:900])
        rows += ["cut.jpg,a picture that ends too early", "lost.png,a picture that is not there"]
        self.write("scenes/captions.csv", "\n".join(rows) + "\n")
        self.bad += [
            ("scenes", "cut.jpg", -1, "truncated_image"),
            ("scenes", "captions.csv", 11, "missing_media"),  # the number of the row
        ]

    def clips(self) -> None:
        """Recordings with transcripts in a table; one has no sample in it, one no byte."""
        rows = ["file,text"]
        for i in range(6):
            self.write(f"clips/c{i}.wav", tone_file(i))
            rows.append(f"c{i}.wav,two tones of the number {i}")
        self.write("clips/zero.wav", tone_file(0, seconds=0.0))
        self.write("clips/nothing.wav", b"")
        rows += ["zero.wav,silence", "nothing.wav,nothing at all"]
        self.write("clips/transcripts.csv", "\n".join(rows) + "\n")
        self.bad += [("clips", "zero.wav", -1, "empty_audio"), ("clips", "nothing.wav", -1, "empty_audio")]


SOURCES: dict[str, dict[str, Any]] = {
    "notes": {"format": "text", "path": "notes", "meta_from_path": "^(?P<topic>[^/]+)/", "language": "en"},
    "records": {"format": "jsonl", "path": "records", "meta_fields": ["topic"]},
    "pages": {"format": "markdown", "path": "pages", "license": "CC0-1.0"},
    "web": {"format": "html", "path": "pages"},
    "scenes": {
        "format": "image_caption",
        "path": "scenes",
        "captions": {
            "kind": "table",
            "path": "captions.csv",
            "image_column": "file",
            "caption_column": "caption",
        },
    },
    "clips": {
        "format": "speech",
        "path": "clips",
        "transcripts": {
            "path": "transcripts.csv",
            "delimiter": ",",
            "id_column": "file",
            "text_column": "text",
        }
        | {"match": "name"},
    },
}


def small_tree(corpus: Path, run_dir: Path, sources: list[str] | None = None) -> dict[str, Any]:
    """A configuration that runs the sources of a `Corpus` in seconds."""
    return {
        "run_dir": str(run_dir),
        "data_root": str(corpus),
        "sources": [{"name": name, **SOURCES[name]} for name in sources or SOURCES],
        "part_documents": 10,
        "cluster": {"k": 3},
        "tokenizer": {
            "text": {"vocab_size": 400},
            "image": {"size": 16, "steps": 20, "crops": 64, "width": 16, "levels": [5, 5, 5]},
            "speech": {"units": 12},
        },
        "shards": {"seq_len": 128, "window": 8, "block": 4, "contexts_per_shard": 12},
        "mixture": {"max_epochs": 100},
        "model": {"dim": 16, "layers": 1, "heads": 2, "ffn_hidden": 32},
        "train": {"steps": 6, "batch_contexts": 8, "lr": 0.01, "warmup": 1, "log_every": 1},
    }


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Corpus]:
    """Writes the named sources of a small corpus into a folder (all of them by default)."""

    def make(root: Path, *names: str) -> Corpus:
        corpus = Corpus(root)
        for name in names or ("notes", "records", "pages", "scenes", "clips"):
            getattr(corpus, name)()
        return corpus

    return make


@pytest.fixture(scope="session")
def make_tree() -> Callable[..., dict[str, Any]]:
    return small_tree
