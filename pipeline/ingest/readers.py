"""The readers, one per format, behind one call."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from mixloom.pipeline.ingest.config import HtmlSource, Source, WarcSource
from mixloom.pipeline.ingest.problems import failure, unexpected
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.schema import Document, Failure

# Modules by name, so that reading text does not load an XML parser.
FORMATS: dict[str, str] = {
    "text": "mixloom.pipeline.ingest.text",
    "jsonl": "mixloom.pipeline.ingest.jsonl",
    "keyframes": "mixloom.pipeline.ingest.keyframes",
    "parquet": "mixloom.pipeline.ingest.parquet",
    "csv": "mixloom.pipeline.ingest.csv_rows",
    "markdown": "mixloom.pipeline.ingest.markdown",
    "html": "mixloom.pipeline.ingest.html",
    "xml": "mixloom.pipeline.ingest.xml",
    "warc": "mixloom.pipeline.ingest.warc",
    "webdataset": "mixloom.pipeline.ingest.webdataset",
    "image_caption": "mixloom.pipeline.ingest.image_caption",
    "speech": "mixloom.pipeline.ingest.speech",
}


def reader_settings(source: Source) -> dict[str, str]:
    """What, beside its own settings, decides the documents of a source: the extractor of pages and its version."""
    if not isinstance(source, HtmlSource | WarcSource) or source.extract == "all":
        return {}
    from mixloom.pipeline.ingest.extract import extractor_version

    return {"extractor": extractor_version(source.extract)}


def read_split(split: Split, source: Source, root: str) -> Iterator[Document | Failure]:
    """Read a split: every document in it, and a failure for everything that could not be read.

    Args:
        split: from `plan_splits` of the same source and root.
        root: absolute path or URL of the source.

    Never raises for anything in the files: what no reader foresaw becomes a failure "unreadable".
    """
    read: Callable[[Split, Any, str], Iterator[Document | Failure]]
    read = importlib.import_module(FORMATS[source.format]).read
    count = 0
    if split.limit == 0:
        return
    try:
        for item in read(split, source, root):
            yield item
            count += isinstance(item, Document)
            if count == split.limit:
                return
    except Exception as e:
        place = split.files[0] if split.files else ""
        yield failure(source.name, unexpected(e), place)
