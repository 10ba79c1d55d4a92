"""What the models of all sources share: checked kinds of string, and the settings every format has.

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


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseSource(Model):
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


class AltText(Model):
    alt_text: bool = Field(
        False,
        description="the alternative text of an image becomes a text of role alt right after it, unless a caption beside it "
        "says the same",
    )


class MediaRoots(AltText):
    media_roots: tuple[InsidePath, ...] = Field(
        (".",),
        description="folders, relative to path, against which site-absolute and bare media paths are resolved",
    )


class Fields(MediaRoots):
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
    def _has_content(self) -> Fields:
        if not (self.text_field or self.segments_field or self.image_field or self.audio_field):
            raise ValueError("nothing to read: set text_field, segments_field, image_field or audio_field")
        return self


_NAME = re.compile(r"[\w.-]+\Z")


def is_plain_name(expression: str) -> bool:
    """Whether an XPath setting is just an element name."""
    return _NAME.match(expression) is not None


def check_xpath(expression: str | None, key: str) -> None:
    if expression is None or is_plain_name(expression):
        return
    from lxml import etree

    try:
        etree.XPath(expression)
    except etree.XPathError as e:
        raise ValueError(
            f"{key} is neither an element name nor an XPath expression: {e} (names are local, without prefixes)"
        ) from None
