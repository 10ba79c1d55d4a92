"""What a source is: one model per format, told apart by `format`.

Paths inside a source (globs, tables, media roots) are relative to its `path`. Regular expressions are
Python's; they are compiled when the configuration is read, so a bad one is an error at once.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixloom.pipeline.ingest.source_base import (
    BaseSource,
    Column,
    Delimiter,
    Fields,
    InsidePath,
    Match,
    MediaRoots,
    Model,
    Regex,
    check_xpath,
)
from mixloom.pipeline.ingest.timed_config import KeyframesSource
from mixloom.pipeline.ingest.web_config import Extraction, WarcSource, WebDatasetSource


class TextSource(BaseSource):
    """Plain text: a document per file, per line, or from each match of a regex to the next."""

    format: Literal["text"]
    split: Regex | None = Field(
        None,
        description="`lines`: a document per non-empty line; else a regex (multiline) each match of which starts "
        "a document; default: one document per file",
    )
    strip_headers: bool = Field(
        False, description="drop an RFC 822 header block; Subject goes to meta, Date to the timestamp"
    )

    @model_validator(mode="after")
    def _one_way(self) -> TextSource:
        if self.strip_headers and self.split is not None:
            raise ValueError("strip_headers works on whole files only; leave out split")
        return self


class JsonlSource(BaseSource, Fields):
    """JSON Lines, plain, .gz or .zst: a document per line."""

    format: Literal["jsonl"]


class CsvSource(BaseSource, Fields):
    """CSV or TSV with a header, plain, .gz or .zst: a document per row; quoted fields may hold line ends."""

    format: Literal["csv"]
    delimiter: Delimiter | None = Field(None, description="default: tab for .tsv and .tab, comma otherwise")
    quoting: bool = Field(True, description='fields may stand in double quotes ("")')

    @model_validator(mode="after")
    def _no_lists(self) -> CsvSource:
        if self.segments_field is not None:
            raise ValueError("a cell of a CSV file is no list; leave out segments_field")
        return self


class ParquetSource(BaseSource, Fields):
    """Parquet: a document per row; only the columns named are read.

    An image or audio column may hold paths, bytes, or the {bytes, path} structs common on model hubs.
    """

    format: Literal["parquet"]


class MarkdownSource(BaseSource, MediaRoots):
    """Markdown, kept verbatim; images become segments in reading order."""

    format: Literal["markdown"]
    images: bool = Field(
        True, description="false: images are left in the text as they are spelt, and not read"
    )
    front_matter: bool = Field(
        True, description="parse a YAML (---) or TOML (+++) header into meta and strip it"
    )
    timestamp_field: str | None = Field("date", description="front-matter key with the time of the document")


class HtmlSource(BaseSource, MediaRoots, Extraction):
    """HTML and XHTML: the whole page as a browser lays it out, or its main content; images in reading order."""

    format: Literal["html"]
    images: bool = Field(True, description="false: images are passed over")
    split_on: str | None = Field(
        None,
        description='element name ("h2") or XPath; each match starts a new document, what precedes is one too',
    )
    boilerplate_start: Regex | None = Field(
        None, description="regex; everything up to and with the first match is dropped"
    )
    boilerplate_end: Regex | None = Field(
        None, description="regex; everything from the first match (after boilerplate_start) on is dropped"
    )

    @model_validator(mode="after")
    def _paths_parse(self) -> HtmlSource:
        check_xpath(self.split_on, "split_on")
        if self.split_on is not None and self.extract != "all":
            raise ValueError("split_on cuts whole pages: set extract: all, or leave out split_on")
        return self


class TextEntry(Model):
    """An element or attribute whose text is taken, and whether that text is itself HTML."""

    path: str = Field(
        pattern=r"^[\w.-]+(@[\w.-]+)?$", description="`element` or `element@attribute`, local names"
    )
    html: bool = Field(False, description="the value is escaped HTML: parse it")


class XmlSource(BaseSource, MediaRoots):
    """XML of any vocabulary, by local names (namespaces are ignored)."""

    format: Literal["xml"]
    record: str | None = Field(
        None,
        description="element name (read as a stream) or XPath: a document per match; default: the whole file",
    )
    text: tuple[str | TextEntry, ...] | None = Field(
        None,
        description="elements (or element@attribute) taken as blocks of text in document order; default: all text",
    )
    html: bool = Field(False, description="every text entry is escaped HTML: parse it")
    image: str | None = Field(
        None, pattern=r"^[\w.-]+@[\w.-]+$", description="element and attribute of images, e.g. image@src"
    )
    alt: str | None = Field(
        None,
        pattern=r"^[\w.-]+@[\w.-]+$",
        description="where the alt text is: nearest element@attribute around",
    )
    caption: str | None = Field("caption", description="element whose text becomes a segment of role caption")
    drop: tuple[str, ...] = Field((), description="elements left out with all they contain")
    meta_fields: dict[str, str] = Field(
        {}, description="meta key: `element`, `element@attribute` or `@attribute` (of the record itself)"
    )
    timestamp_field: str | None = Field(None, description="time of the document, written like meta_fields")

    @model_validator(mode="after")
    def _paths_parse(self) -> XmlSource:
        check_xpath(self.record, "record")
        for entry in self.text or ():
            if isinstance(entry, str):
                TextEntry(path=entry, html=False)
        return self

    def text_entries(self) -> tuple[TextEntry, ...]:
        """Text entries in their long form; () when all text is taken."""
        out = [x if isinstance(x, TextEntry) else TextEntry(path=x, html=False) for x in self.text or ()]
        return tuple(TextEntry(path=x.path, html=x.html or self.html) for x in out)


class CocoCaptions(Model):
    """A COCO captions file: `images` and `annotations` with `image_id` and `caption`."""

    kind: Literal["coco"]
    path: InsidePath = Field(description="the JSON file, relative to the path of the source")
    match: Match = Field(
        "name", description="how file_name finds its file: stem, name, or path from the root"
    )
    meta_fields: tuple[str, ...] = Field(
        (), description="keys of the image entries copied to meta; license is resolved to its name"
    )


class TableCaptions(Model):
    """A CSV or TSV file with a row per caption."""

    kind: Literal["table"]
    path: InsidePath = Field(description="the table, relative to the path of the source")
    delimiter: Delimiter | None = Field(None, description="default: tab for .tsv, comma otherwise")
    quoting: bool = Field(True, description='fields may stand in double quotes ("")')
    header: bool | None = Field(
        None, description="the first row names the columns; default: when one is named"
    )
    image_column: Column = Field(description="column of the image, by number from 0 or by name")
    caption_column: Column = Field(description="column of the caption, by number from 0 or by name")
    match: Match = Field("name", description="how the image column finds its file: stem, name, or path")


class SidecarCaptions(Model):
    """A text file beside each image, with the same stem."""

    kind: Literal["sidecar"]
    suffix: str = Field(".txt", pattern=r"^\.[A-Za-z0-9._-]+$", description="suffix of the caption files")


class FileNameCaptions(Model):
    """The caption is in the file name."""

    kind: Literal["file_name"]
    pattern: Regex = Field(
        description="regex searched in the relative path; its group `caption` is the caption"
    )
    separators: str = Field("_-", description="characters of the caption that become spaces")

    @model_validator(mode="after")
    def _has_group(self) -> FileNameCaptions:
        if "caption" not in re.compile(self.pattern).groupindex:
            raise ValueError("pattern needs a group named caption, for example (?P<caption>[^/]+)\\.jpg$")
        return self


Captions = Annotated[
    CocoCaptions | TableCaptions | SidecarCaptions | FileNameCaptions, Field(discriminator="kind")
]


class ImageCaptionSource(BaseSource):
    """Images with captions: a document per image."""

    format: Literal["image_caption"]
    captions: Captions = Field(description="where the captions are")
    captions_policy: Literal["all", "first"] = Field("all", description="which captions of an image are kept")
    order: Literal["image_first", "caption_first"] = Field("image_first", description="order of the segments")


class TranscriptTable(Model):
    """A table with a row per recording."""

    path: InsidePath = Field(description="the table, relative to the path of the source")
    delimiter: Delimiter = Field("|", description="one character between columns")
    quoting: bool = Field(False, description='fields may stand in double quotes ("")')
    header: bool | None = Field(
        None, description="the first row names the columns; default: when one is named"
    )
    id_column: Column = Field(0, description="column that names the recording, by number from 0 or by name")
    text_column: Column = Field(1, description="column of the transcript, by number from 0 or by name")
    times_column: Column | None = Field(
        None,
        description="column that tells when words are said, as JSON: [[word, begin, end], ...] in seconds; an empty cell: "
        "not known",
    )
    match: Match = Field("stem", description="how the id finds its file: stem, name, or path from the root")


class SpeechSource(BaseSource):
    """Recordings, with a transcript from a table, from the file name, or none: a document per recording."""

    format: Literal["speech"]
    transcripts: TranscriptTable | None = Field(None, description="table of transcripts")
    label_from_path: Regex | None = Field(
        None, description="regex searched in the relative path; its group `label` gives the transcript"
    )
    label_split: str | None = Field(None, description="cut the label at this text; each piece is looked up")
    label_map: dict[str, str] = Field(
        {}, description="label: word; empty: the label itself is the transcript"
    )
    order: Literal["speech_first", "transcript_first", "speech_only"] = Field(
        "speech_first", description="order of the segments"
    )
    max_seconds: float = Field(4 * 3600.0, gt=0, description="longest recording; longer ones fail")

    @model_validator(mode="after")
    def _one_transcript(self) -> SpeechSource:
        if self.transcripts is not None and self.label_from_path is not None:
            raise ValueError("set transcripts or label_from_path, not both")
        if self.transcripts is None and self.label_from_path is None and self.order != "speech_only":
            raise ValueError("no transcripts: set transcripts or label_from_path, or order: speech_only")
        if self.label_from_path is not None and "label" not in re.compile(self.label_from_path).groupindex:
            raise ValueError("label_from_path needs a group named label, for example (?P<label>\\d)_")
        return self


SourceConfig = Annotated[
    TextSource
    | JsonlSource
    | KeyframesSource
    | ParquetSource
    | CsvSource
    | MarkdownSource
    | HtmlSource
    | WarcSource
    | WebDatasetSource
    | XmlSource
    | ImageCaptionSource
    | SpeechSource,
    Field(discriminator="format"),
]
# For signatures: a type checker wants the plain union.
Source = (
    TextSource
    | JsonlSource
    | KeyframesSource
    | ParquetSource
    | CsvSource
    | MarkdownSource
    | HtmlSource
    | WarcSource
    | WebDatasetSource
    | XmlSource
    | ImageCaptionSource
    | SpeechSource
)
