"""Sources of the web and of training sets: pages and their main content, WARC files, WebDataset tars."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mixloom.pipeline.ingest.source_base import AltText, BaseSource, Encoding, Model

Extractor = Literal["all", "resiliparse", "trafilatura"]

MARKUP_TAGS = (
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "blockquote", "pre", "ul", "ol", "li", "dl", "dt", "dd"),
    *("table", "caption", "tr", "th", "td", "figure", "figcaption"),
    *("b", "strong", "i", "em", "u", "sub", "sup", "code", "q", "cite"),
)
_NO_ELEMENTS = frozenset(("img", "br", "hr", "wbr", "area", "input", "head", "script", "style"))
DROPPED_ELEMENTS = ("script", "style", "template", "noscript", "nav", "iframe", "object", "svg")


class Extraction(Model):
    """How the text of a page is found."""

    extract: Extractor = Field(
        "all",
        description="all: the whole page as a browser lays it out; resiliparse, trafilatura: its main content, by "
        "that library",
    )
    comments: bool = Field(
        False,
        description="whether readers' comments belong to the main content; does nothing with extract: all",
    )
    max_page_chars: int = Field(
        5_000_000,
        ge=1,
        description="longest page (characters of HTML) given to a main-content extractor; longer ones fail, so "
        "that no page holds up a worker and no clock decides what is read",
    )
    drop: tuple[str, ...] = Field(
        DROPPED_ELEMENTS,
        description="elements left out with all they contain, as tag, .class or tag.class; add header, footer, "
        "aside for web pages",
    )

    markup: bool = Field(
        False,
        description="keep a simplified markup in the text: tags in markup_tags without attributes, and <img alt> before "
        "each image; needs extract: all",
    )
    markup_tags: tuple[str, ...] = Field(
        MARKUP_TAGS,
        description="elements whose tags are kept with markup: true; others are laid out as without",
    )

    @model_validator(mode="after")
    def _markup_fits(self) -> Extraction:
        if self.markup and self.extract != "all":
            raise ValueError(
                f"extract: {self.extract} gives text without markup; with markup: true set extract: all"
            )
        odd = [t for t in self.markup_tags if not re.fullmatch(r"[a-z][a-z0-9]*", t) or t in _NO_ELEMENTS]
        if odd:
            raise ValueError(
                f"markup_tags: {odd[0]!r} is no element with something inside, in lower case, such as p"
            )
        return self

    @model_validator(mode="after")
    def _drop_is_simple(self) -> Extraction:
        for entry in self.drop:
            if not re.fullmatch(r"(?:[A-Za-z][\w-]*)?(?:\.[A-Za-z_-][\w-]*)?", entry) or not entry:
                raise ValueError(f"drop: {entry!r} is not a tag, .class or tag.class")
        return self


def _mime(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9.+-]+/(?:[a-z0-9.+-]+|\*)", value):
        raise ValueError("must be a media type in lower case such as text/html, or image/* for all of a kind")
    return value


Mime = Annotated[str, AfterValidator(_mime)]
Status = Annotated[int, Field(ge=100, le=599)]


class WarcSource(BaseSource, Extraction, AltText):
    """Web archives: WARC 1.0 and 1.1, WET, ARC 1 and 2; plain, gzip or zstd. A document per capture."""

    format: Literal["warc"]
    extract: Extractor = Field(
        "resiliparse", description="all, resiliparse or trafilatura; see the table in docs/ingest.md"
    )
    on_encoding_error: Literal["fail", "replace"] = Field(
        "replace",
        description="replace: bad bytes become U+FFFD, as in a browser; fail: the page becomes a failure",
    )
    encoding: Encoding = Field(
        "cp1252", description="of pages that declare none, are not UTF-8, and whose encoding is not detected"
    )
    status: tuple[Status, ...] = Field(
        (200,), min_length=1, description="HTTP status codes of captures that are kept"
    )
    mime: tuple[Mime, ...] = Field(
        ("text/html", "application/xhtml+xml", "text/plain"),
        min_length=1,
        description="types of captures that become documents: the identified type where the record has one, "
        "else the one the server sent",
    )
    images: Literal["none", "file", "source"] = Field(
        "file",
        description="where images of a page are looked for: in the same file, in any file of the source, or not at "
        "all; file and source read each file once more to find them",
    )
    verify_digests: bool = Field(
        True, description="a capture whose block does not match its WARC-Block-Digest is a failure"
    )

    @model_validator(mode="after")
    def _only_text(self) -> WarcSource:
        for entry in self.mime:
            if not (entry.startswith("text/") or entry in _READABLE):
                raise ValueError(
                    f"mime: {entry} cannot be read as a document; text/* types, {', '.join(sorted(_READABLE))} can"
                )
        return self


_READABLE = frozenset({"application/xhtml+xml", "application/xml"})


def _suffix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", value):
        raise ValueError("must be a suffix without its leading dot, such as jpg, seg.txt or json")
    return value.lower()


Suffix = Annotated[str, AfterValidator(_suffix)]


class SegmentList(Model):
    """A list of {"text": ..}, {"image": member} and {"audio": member} in reading order."""

    kind: Literal["segments"]
    field: str = Field("segments", description="where the list is in the JSON member; dots go into objects")


class ParallelLists(Model):
    """Two lists of one length, of which exactly one has a value at each place (as in OBELICS)."""

    kind: Literal["parallel"]
    texts: str = Field("texts", description="list of texts; null where an image stands")
    images: str = Field("images", description="list of members (or suffixes); null where a text stands")


class MatchedImages(Model):
    """A list of texts, and images that each belong to one of them (as in MMC4)."""

    kind: Literal["matched"]
    texts: str = Field("text_list", description="list of texts")
    images: str = Field("image_info", description="list of objects, one per image")
    name: str = Field("image_name", description="key of the member (or suffix) in such an object")
    index: str = Field("matched_text_index", description="key of the number of its text, from 0")
    place: Literal["before", "after"] = Field(
        "before", description="an image stands before or after its text"
    )


Interleaved = Annotated[SegmentList | ParallelLists | MatchedImages, Field(discriminator="kind")]


class WebDatasetSource(BaseSource, AltText):
    """WebDataset tars: members that share a name up to its first dot are a sample, and a document."""

    format: Literal["webdataset"]
    text: tuple[Suffix, ...] = Field(("txt",), description="suffixes of members that are text, in order")
    images: tuple[Suffix, ...] = Field(
        ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"),
        description="suffixes of members that are images; a sample's images stand in the order of the tar",
    )
    audio: tuple[Suffix, ...] = Field(
        ("wav", "flac", "mp3", "ogg"), description="suffixes of members that are recordings"
    )
    json_member: Suffix = Field("json", description="suffix of the member that holds a JSON object")
    text_field: str | None = Field(
        None, description="field of the JSON member with the text; dots go into objects"
    )
    interleaved: Interleaved | None = Field(
        None, description="the JSON member says in which order texts and images stand"
    )
    order: Literal["media_first", "text_first"] = Field(
        "media_first", description="order of media and text where the sample is not interleaved"
    )
    language_field: str | None = Field(None, description="field of the JSON member with the language")
    timestamp_field: str | None = Field(None, description="field of the JSON member with the time (ISO 8601)")
    meta_fields: tuple[str, ...] = Field((), description="fields of the JSON member copied into meta")

    @model_validator(mode="after")
    def _one_text(self) -> WebDatasetSource:
        if self.interleaved is not None and self.text_field is not None:
            raise ValueError("set text_field or interleaved, not both")
        seen: dict[str, str] = {}
        kinds = {
            "text": self.text,
            "images": self.images,
            "audio": self.audio,
            "json_member": (self.json_member,),
        }
        for key, suffixes in kinds.items():
            for suffix in suffixes:
                if suffix in seen:
                    raise ValueError(
                        f"the suffix {suffix} stands in {seen[suffix]} and in {key}; name it once"
                    )
                seen[suffix] = key
        return self
