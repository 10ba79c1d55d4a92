"""What `mixloom tokenizer fit` fits to: files, folders, globs, and the documents of a run."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mixloom.pipeline.errors import UserError

Kind = Literal["text", "image", "speech"]

SUFFIXES: dict[str, frozenset[str]] = {
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}),
    "speech": frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus"}),
    "text": frozenset(
        {
            ".txt",
            ".md",
            ".rst",
            ".tex",
            ".html",
            ".htm",
            ".xml",
            ".jsonl",
            ".csv",
            ".tsv",
            ".py",
            ".java",
            ".c",
            ".h",
            ".cc",
            ".cpp",
            ".cs",
            ".rs",
            ".go",
            ".js",
            ".ts",
        }
    ),
}


class Item:
    """One text, picture or clip, named and not yet read."""

    def __init__(self, name: str, read: Any) -> None:
        self.name, self._read = name, read

    def data(self) -> Any:
        """Its bytes (pictures, clips), or its texts as a list of str."""
        return self._read()


def find_items(places: Sequence[str], kind: Kind) -> list[Item]:
    """The items of a kind at the given places, in an order that depends on their names alone, and looks random.

    A place is a file, a folder (searched to its depths by suffix), a glob, or a run directory, whose documents are
    read as `ingest` found them.

    Raises:
        UserError: a place that is not there, or nothing of the kind at any of them.
    """
    found: dict[str, Item] = {}
    for place in places:
        items = _of_run(place, kind) if _is_run(place) else _of_files(place, kind)
        found |= {item.name: item for item in items}
    if not found:
        raise UserError(
            f"no {kind} at {', '.join(places)}",
            fix=f"name a run directory, a glob, or a folder with files such as {', '.join(sorted(SUFFIXES[kind])[:6])}",
        )
    # Fits take the first so many: in order of names they might all come from one corner of a collection.
    return sorted(found.values(), key=lambda item: hashlib.blake2b(item.name.encode()).digest())


def _of_files(place: str, kind: Kind) -> Iterator[Item]:
    path = Path(place)
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES[kind] and p.is_file())
    elif path.is_file():
        paths = [path]
    elif glob.has_magic(place):
        paths = sorted(Path(p) for p in glob.glob(place, recursive=True) if Path(p).is_file())
    else:
        raise UserError(f"{place} does not exist", fix="name a file, a folder, a glob or a run directory")
    base = path if path.is_dir() else path.parent
    for p in paths:
        name = p.relative_to(base).as_posix() if p.is_relative_to(base) else p.as_posix()
        yield Item(name, partial(_texts, p) if kind == "text" else p.read_bytes)


def _texts(path: Path) -> list[str]:
    """The texts of a file: of a .jsonl the field `text` of every line, else the file as one text.

    Raises:
        UserError: not UTF-8, or a line of a .jsonl without a text.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".jsonl":
            return [content]
        return [str(json.loads(line)["text"]) for line in content.splitlines() if line.strip()]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as text: {error}",
            fix="give UTF-8 files; a .jsonl needs one object a line with a field `text`",
        ) from error


def _is_run(place: str) -> bool:
    return (Path(place) / "config.yaml").is_file() and (Path(place) / "ingest").is_dir()


def _of_run(place: str, kind: Kind) -> Iterator[Item]:
    """Each text, or each distinct picture or clip, of the documents of a run."""
    from mixloom.pipeline.config import read_yaml
    from mixloom.pipeline.ingest.media import open_media
    from mixloom.pipeline.run import RunDirectory
    from mixloom.pipeline.storage import resolve

    run = RunDirectory.existing(place)
    tree = read_yaml(run.store.read("config.yaml").decode(), "config.yaml")
    roots = {s["name"]: resolve(tree.get("data_root", "."), s["path"]) for s in tree["sources"]}
    reader = run.stage("ingest").reader()
    seen: set[str] = set()
    for part in sorted(reader.parts):
        if "/" in part:
            continue
        for row in reader.read(part, ["doc_id", "source", "segments"]).to_pylist():
            for at, segment in enumerate(row["segments"]):
                if segment["kind"] != kind:
                    continue
                media = segment["media"]
                name = f"{row['doc_id']}/{at}" if kind == "text" else media["sha256"]
                if name in seen:
                    continue
                seen.add(name)
                if kind == "text":
                    yield Item(name, partial(list, [segment["text"]]))
                else:
                    root = roots[row["source"]]
                    yield Item(name, partial(open_media, root, media["uri"], media["member"] or ""))
