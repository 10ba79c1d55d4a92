"""Reading the web: what each extractor keeps of pages with gold text and at what speed; how fast archives are read.

    python benchmarks/extraction.py --data ROOT [--quick] [--json FILE]

Pages: the set web-html-cc (14 pages, mostly German, with snippets that must and must not be in the text; one with
the whole article). "With" is the share of the first kept, "without" the share of the second avoided, F1 that of
words against the article. Books are HTML without boilerplate (web page furniture): the share of their words kept
shows what an extractor takes away from what is all content. Archives: the same pages as a WARC file with one gzip
member per record, read by this project's reader, FastWARC and warcio, each decoding every response. Everything is
single-threaded CPU time, the median of several turns taken in rotation.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recording import options_parser, save

from mixloom.pipeline.ingest.assemble import Ref, Text
from mixloom.pipeline.ingest.charset import decode_page
from mixloom.pipeline.ingest.config import WarcSource
from mixloom.pipeline.ingest.files import source_files
from mixloom.pipeline.ingest.html import read_page
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.ingest.warc_payload import capture_of, payload
from mixloom.pipeline.ingest.warc_records import Record, records
from mixloom.pipeline.ingest.web_config import Extraction
from mixloom.pipeline.schema import Document

EXTRACTORS = ("all", "resiliparse", "trafilatura")
PACKAGES = ("resiliparse", "fastwarc", "trafilatura", "warcio", "lxml")
WORD = re.compile(r"\w+")


def load_pages(root: Path) -> list[tuple[dict[str, Any], bytes, str]]:
    """(gold, bytes, text) of each page of the set."""
    folder = root / "web-html-cc"
    out = []
    for line in (folder / "gold.jsonl").read_text(encoding="utf-8").splitlines():
        gold = json.loads(line)
        data = (folder / gold["file"]).read_bytes()
        out.append((gold, data, decode_page(data, None, "utf-8", "replace", "the page")[0]))
    return out


def words_of(html: str, how: Extraction) -> tuple[str, int]:
    """(text, images) of a page."""
    items = read_page(html, how).items
    return "".join(x.text for x in items if isinstance(x, Text)), sum(isinstance(x, Ref) for x in items)


def f1(found: list[str], gold: list[str]) -> float:
    """F1 of words as bags."""
    both = sum((Counter(found) & Counter(gold)).values())
    return 2 * both / (len(found) + len(gold)) if both else 0.0


def quality(pages: list[tuple[dict[str, Any], bytes, str]], root: Path, how: Extraction) -> dict[str, Any]:
    """Shares and F1 of one extractor on the gold pages."""
    kept: list[bool] = []
    avoided: list[bool] = []
    scores: list[float] = []
    images = 0
    for gold, _, html in pages:
        text, count = words_of(html, how)
        images += count
        flat = " ".join(text.split())
        kept += [" ".join(s.split()) in flat for s in gold.get("with", [])]
        avoided += [" ".join(s.split()) not in flat for s in gold.get("without", [])]
        if gold.get("expected"):
            article = (root / "web-html-cc" / gold["expected"]).read_text(encoding="utf-8")
            scores.append(
                f1(WORD.findall(text), WORD.findall(words_of(article, Extraction(extract="all"))[0]))
            )
    return {
        "with": f"{sum(kept)}/{len(kept)}",
        "without": f"{sum(avoided)}/{len(avoided)}",
        "f1": round(statistics.mean(scores), 3),
        "images": images,
    }


def books(root: Path) -> list[str]:
    """HTML books: pages that are all content."""
    files = sorted([*root.glob("text-books/**/*.*htm*"), *root.glob("inter-pg-legendland/**/*.htm*")])
    return [decode_page(f.read_bytes(), None, "utf-8", "replace", "the page")[0] for f in files]


def timed(turns: int, runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median CPU seconds of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:  # the first turn loads libraries
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(x) for name, x in seconds.items()}


def extractors(root: Path, turns: int) -> list[dict[str, Any]]:
    """One row per extractor."""
    pages = load_pages(root)
    texts = [html for _, _, html in pages]
    hows = {name: Extraction(extract=name) for name in EXTRACTORS}  # type: ignore[arg-type]
    seconds = timed(turns, {n: lambda h=h: [read_page(t, h) for t in texts] for n, h in hows.items()})  # type: ignore[misc]
    shelf = books(root)
    whole = [len(WORD.findall(words_of(b, hows["all"])[0])) for b in shelf]
    rows = []
    for name, how in hows.items():
        kept = [len(WORD.findall(words_of(b, how)[0])) for b in shelf]
        share = (
            statistics.median(min(1.0, k / w) for k, w in zip(kept, whole, strict=True)) if shelf else None
        )
        rows.append(
            {
                "extractor": name,
                **quality(pages, root, how),
                "book_words_kept": round(share, 3) if share is not None else None,
                "pages_per_s": round(len(texts) / seconds[name]),
                "mb_per_s": round(sum(map(len, texts)) / seconds[name] / 1e6, 1),
            }
        )
    return rows


def make_archive(pages: list[bytes], count: int) -> bytes:
    """A WARC file of requests and responses, one gzip member per record."""
    out = io.BytesIO()
    for i in range(count):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
        for kind, block in (
            ("request", b"GET / HTTP/1.1\r\n\r\n"),
            ("response", head + pages[i % len(pages)]),
        ):
            about = (
                f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://example.org/{i}\r\n"
                f"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype={kind}\r\n"
                f"Content-Length: {len(block)}\r\n\r\n"
            )
            out.write(gzip.compress(about.encode() + block + b"\r\n\r\n", 6, mtime=0))
    return out.getvalue()


def archives(root: Path, turns: int, count: int) -> list[dict[str, Any]]:
    """One row per reader of archives, and one for ingest of the archive with the default extractor."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from warcio.archiveiterator import ArchiveIterator as WarcioIterator

    pages = [data for _, data, _ in load_pages(root)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.warc.gz"
        path.write_bytes(make_archive(pages, count))
        files = source_files(folder)

        def ours() -> int:
            size = 0
            for r in records(files, path.name, lambda kind, fields, start: kind == "response"):
                if isinstance(r, Record) and r.block is not None:
                    size += len(payload(capture_of(r.kind, r.fields, r.block), r, 1 << 30))
            return size

        def fastwarc() -> int:
            with path.open("rb") as f:
                found = ArchiveIterator(f, record_types=WarcRecordType.response, auto_decode="all")
                return sum(len(r.reader.read()) for r in found)

        def warcio() -> int:
            with path.open("rb") as f:
                return sum(
                    len(r.content_stream().read()) for r in WarcioIterator(f) if r.rec_type == "response"
                )

        source = WarcSource(name="web", path=folder, format="warc")

        def ingest() -> int:
            found = (x for s in plan_splits(source, folder) for x in read_split(s, source, folder))
            return sum(isinstance(x, Document) for x in found)

        size = sum(len(pages[i % len(pages)]) for i in range(count))
        assert ours() == fastwarc() == warcio() == size
        assert ingest() == count
        runs = {"mixloom records": ours, "fastwarc": fastwarc, "warcio": warcio, "mixloom ingest": ingest}
        seconds = timed(turns, runs)
    return [
        {"reader": n, "mb_per_s": round(size / s / 1e6, 1), "captures_per_s": round(count / s)}
        for n, s in seconds.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[n]) for n in names) + " |")
    print()


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    turns = 3 if options.quick else 9
    figures = {
        "extractors": extractors(options.data, turns),
        "archives": archives(options.data, turns, 200 if options.quick else 1000),
    }
    for rows in figures.values():
        show(rows)
    save(options.json, options.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
