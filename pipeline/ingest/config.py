"""What a source is: one model per format, told apart by `format`.

Paths inside a source (globs, tables, media roots) are relative to its `path`. Regular expressions are
Python's; they are compiled when the configuration is read, so a bad one is an error at once.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mixloom.pipeline.ingest.globs import check_glob


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(
            f"not a regular expression: {e.msg} at position {e.pos} (single quotes keep \\ in YAML)"
        ) from None
    return pattern


def _codec(name: str) -> str:
    try:
        info = codecs.lookup(name)
    except LookupError:
        raise ValueError(
            "not an encoding Python knows; common ones: utf-8, latin-1, cp1252, shift_jis, gb18030"
        ) from None
    if not info._is_text_encoding:
        raise ValueError("not a text encoding; common ones: utf-8, latin-1, cp1252, shift_jis, gb18030")
    return name


def _inside(path: str) -> str:
    parts = path.replace("\\", "/").split("/")
    if path.startswith("/") or "://" in path or ".." in parts:
        raise ValueError(
            "must be relative to the path of the source and stay inside it (no leading /, no ..)"
        )
    return path


def _one_character(text: str) -> str:
    if len(text) != 1:
        raise ValueError('must be one character, for example "|", "," or "\\t" (in double quotes)')
    return text


def _glob(pattern: str) -> str:
    check_glob(pattern)
    return pattern


Regex = Annotated[str, AfterValidator(_regex)]
Encoding = Annotated[str, AfterValidator(_codec)]
InsidePath = Annotated[str, AfterValidator(_inside)]
Delimiter = Annotated[str, AfterValidator(_one_character)]
Glob = Annotated[str, Field(min_length=1), AfterValidator(_inside), AfterValidator(_glob)]
Column = int | str
Match = Literal["stem", "name", "path"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseSource(_Model):
    """What every format has in common."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="name of the source; part of every doc_id")
    path: str = Field(min_length=1, description="folder, file or URL that is the root of the source")
    glob: Glob | tuple[Glob, ...] | None = Field(
        None,
        description="which files, relative to path; ** crosses folders, {a,b} is either; default by format",
    )
    exclude: tuple[Glob, ...] = Field((), description="files that match one of these globs are left out")
    license: str | None = Field(
        None, description="licence of every document, as an SPDX name where there is one"
    )
    language: str | None = Field(None, description="language of every document; a path group may override it")
    encoding: Encoding = Field("utf-8", description="text encoding, where the file itself declares none")
    on_encoding_error: Literal["fail", "replace"] = Field(
        "fail", description="fail: the document becomes a failure; replace: bad bytes become U+FFFD"
    )
    meta: dict[str, str] = Field({}, description="added to the meta of every document")
    meta_from_path: Regex | None = Field(
        None,
        description="regex searched in the relative path; named groups become meta, `language` sets the language",
    )
    max_documents: int | None = Field(
        None, ge=1, description="read only the first so many documents (trials)"
    )
    max_bytes: int = Field(
        1 << 30,
        ge=1,
        description="most bytes of one file (decompressed), line or media file held in memory; larger ones fail",
    )
    max_pixels: int = Field(
        89_478_485, ge=1, le=178_956_970, description="largest image, width x height; larger ones fail unread"
    )


class _Media(_Model):
    media_roots: tuple[InsidePath, ...] = Field(
        (".",),
        description="folders, relative to path, against which site-absolute and bare media paths are resolved",
    )


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


class _Fields(_Media):
    text_field: str | None = Field("text", description="where the text is; dots go into nested objects")
    join: str = Field(" ", description="put between the items when the text field is a list of strings")
    segments_field: str | None = Field(
        None, description='interleaved document: a list of {"text": ..}, {"image": path} and {"audio": path}'
    )
    image_field: str | None = Field(None, description="path (or list of paths) of images of the document")
    audio_field: str | None = Field(None, description="path (or list of paths) of recordings of the document")
    media_order: Literal["media_first", "text_first"] = Field(
        "media_first", description="order of image_field and audio_field against text_field"
    )
    language_field: str | None = Field(None, description="field with the language of the document")
    timestamp_field: str | None = Field(None, description="field with the time of the document (ISO 8601)")
    meta_fields: tuple[str, ...] = Field((), description="fields copied into meta under their own names")

    @model_validator(mode="after")
    def _has_content(self) -> _Fields:
        if not (self.text_field or self.segments_field or self.image_field or self.audio_field):
            raise ValueError("nothing to read: set text_field, segments_field, image_field or audio_field")
        return self


class JsonlSource(BaseSource, _Fields):
    """JSON Lines, plain, .gz or .zst: a document per line."""

    format: Literal["jsonl"]


class ParquetSource(BaseSource, _Fields):
    """Parquet: a document per row; only the columns named are read.

    An image or audio column may hold paths, bytes, or the {bytes, path} structs common on model hubs.
    """

    format: Literal["parquet"]


class MarkdownSource(BaseSource, _Media):
    """Markdown, kept verbatim; images become segments in reading order."""

    format: Literal["markdown"]
    images: bool = Field(
        True, description="false: images are left in the text as they are spelt, and not read"
    )
    front_matter: bool = Field(
        True, description="parse a YAML (---) or TOML (+++) header into meta and strip it"
    )
    timestamp_field: str | None = Field("date", description="front-matter key with the time of the document")


class HtmlSource(BaseSource, _Media):
    """HTML and XHTML: text as a browser lays it out, images in reading order."""

    format: Literal["html"]
    drop: tuple[str, ...] = Field(
        ("script", "style", "template", "noscript", "nav", "iframe", "object", "svg"),
        description="elements left out with all they contain, as tag, .class or tag.class; add header, footer, "
        "aside for web pages",
    )
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
        _check_xpath(self.split_on, "split_on")
        return self


class TextEntry(_Model):
    """An element or attribute whose text is taken, and whether that text is itself HTML."""

    path: str = Field(
        pattern=r"^[\w.-]+(@[\w.-]+)?$", description="`element` or `element@attribute`, local names"
    )
    html: bool = Field(False, description="the value is escaped HTML: parse it")


class XmlSource(BaseSource, _Media):
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
        _check_xpath(self.record, "record")
        for entry in self.text or ():
            if isinstance(entry, str):
                TextEntry(path=entry, html=False)
        return self

    def text_entries(self) -> tuple[TextEntry, ...]:
        """Text entries in their long form; () when all text is taken."""
        out = [x if isinstance(x, TextEntry) else TextEntry(path=x, html=False) for x in self.text or ()]
        return tuple(TextEntry(path=x.path, html=x.html or self.html) for x in out)


class CocoCaptions(_Model):
    """A COCO captions file: `images` and `annotations` with `image_id` and `caption`."""

    kind: Literal["coco"]
    path: InsidePath = Field(description="the JSON file, relative to the path of the source")
    match: Match = Field(
        "name", description="how file_name finds its file: stem, name, or path from the root"
    )
    meta_fields: tuple[str, ...] = Field(
        (), description="keys of the image entries copied to meta; license is resolved to its name"
    )


class TableCaptions(_Model):
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


class SidecarCaptions(_Model):
    """A text file beside each image, with the same stem."""

    kind: Literal["sidecar"]
    suffix: str = Field(".txt", pattern=r"^\.[A-Za-z0-9._-]+$", description="suffix of the caption files")


class FileNameCaptions(_Model):
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


class TranscriptTable(_Model):
    """A table with a row per recording."""

    path: InsidePath = Field(description="the table, relative to the path of the source")
    delimiter: Delimiter = Field("|", description="one character between columns")
    quoting: bool = Field(False, description='fields may stand in double quotes ("")')
    header: bool | None = Field(
        None, description="the first row names the columns; default: when one is named"
    )
    id_column: Column = Field(0, description="column that names the recording, by number from 0 or by name")
    text_column: Column = Field(1, description="column of the transcript, by number from 0 or by name")
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
    | ParquetSource
    | MarkdownSource
    | HtmlSource
    | XmlSource
    | ImageCaptionSource
    | SpeechSource,
    Field(discriminator="format"),
]
# For signatures: a type checker wants the plain union.
Source = (
    TextSource
    | JsonlSource
    | ParquetSource
    | MarkdownSource
    | HtmlSource
    | XmlSource
    | ImageCaptionSource
    | SpeechSource
)

_NAME = re.compile(r"[\w.-]+\Z")


def is_plain_name(expression: str) -> bool:
    """Whether an XPath setting is just an element name."""
    return _NAME.match(expression) is not None


def _check_xpath(expression: str | None, key: str) -> None:
    if expression is None or is_plain_name(expression):
        return
    from lxml import etree

    try:
        etree.XPath(expression)
    except etree.XPathError as e:
        raise ValueError(
            f"{key} is neither an element name nor an XPath expression: {e} (names are local, without prefixes)"
        ) from None
