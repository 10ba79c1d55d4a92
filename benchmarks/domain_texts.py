"""Eight kinds of real text as short clean documents, each with its source: for what is trained or clustered on them.

Markup, headers and data fields are taken off, so that a model of language reads language.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

_TAG = re.compile(r"<[^>]+>")
_BLANKS = re.compile(r"[ \t\u00a0]+")
_LINES = re.compile(r"\n\s*\n+")
_HEADING = re.compile(r"^ = [^=].* = $", re.M)
LEAST = 200  # characters of a document


def _clean(text: str) -> str:
    return _LINES.sub("\n\n", _BLANKS.sub(" ", text.replace("\r", ""))).strip()


def _newsgroups(folder: Path) -> Iterator[str]:
    for path in sorted(p for p in folder.glob("*/*") if p.is_file()):
        text = path.read_text(encoding="latin-1")
        yield text.partition("\n\n")[2]


def _medquad(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.xml")):
        for pair in ET.parse(path).iter("QAPair"):
            yield "\n".join(pair.findtext(tag) or "" for tag in ("Question", "Answer"))


def _proposals(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("eip-*.md")):
        head, _, body = path.read_text(encoding="utf-8").removeprefix("---").partition("\n---")
        title = re.search(r"^title: *(.*)$", head, re.M)
        yield f"{title[1] if title else ''}\n{body}"


def _wiki(folder: Path) -> Iterator[str]:
    for name in ("valid.txt", "test.txt"):
        text = (folder / name).read_text(encoding="utf-8")
        starts = [m.start() for m in _HEADING.finditer(text)] + [len(text)]
        for start, stop in pairwise(starts):
            yield from re.split(r"\n(?= = = [^=])", text[start:stop])


def _abstracts(folder: Path) -> Iterator[str]:
    for name in ("dev.jsonl", "test.jsonl"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            yield " ".join(json.loads(line)["source"])


def _statutes(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.xml")):
        root = ET.parse(path).getroot()
        for child in [c for c in root if c.tag.endswith("annotations")]:
            root.remove(child)
        yield " ".join(" ".join(root.itertext()).split())


def _reviews(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*/*.txt")):
        yield path.read_text(encoding="utf-8")


def _beer(folder: Path) -> Iterator[str]:
    for _, row in ET.iterparse(folder / "Posts.xml"):
        if row.tag == "row":
            body = html.unescape(_TAG.sub(" ", row.get("Body", "")))
            yield f"{row.get('Title', '')}\n{body}".strip()
            row.clear()


SETS: dict[str, Callable[[Path], Iterator[str]]] = {
    "text-20news": _newsgroups,
    "text-medquad": _medquad,
    "text-eips": _proposals,
    "text-wikitext2": _wiki,
    "text-scitldr": _abstracts,
    "text-dccode": _statutes,
    "text-movie-reviews": _reviews,
    "text-se-beer": _beer,
}


def documents(root: Path, each: int, longest: int) -> list[tuple[str, str]]:
    """(source, text) of at most `each` documents of every set under `root`, cut to `longest` characters at a blank.

    A draw by hash of the text, in the order of the hash; equal texts come once, and those under 200 characters never.
    """
    found: list[tuple[str, str]] = []
    for name, read in SETS.items():
        if not (root / name).is_dir():
            continue
        texts = {_cut(_clean(t), longest) for t in read(root / name)}
        drawn = sorted((t for t in texts if len(t) >= LEAST), key=_key)[:each]
        found += [(name.removeprefix("text-"), t) for t in drawn]
    if not found:
        raise SystemExit(f"{root} has none of {', '.join(SETS)}")
    return sorted(found, key=lambda x: _key(x[1]))


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[:longest].rpartition(" ")[0] or text[:longest]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
