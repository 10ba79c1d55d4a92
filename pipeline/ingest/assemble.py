"""From what a reader found (text and references, in reading order) to documents and failures."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from mixloom.pipeline.ingest.config import Source, SpeechSource
from mixloom.pipeline.ingest.decode import trim
from mixloom.pipeline.ingest.files import SourceFiles, normalise, source_files
from mixloom.pipeline.ingest.media import MAX_SECONDS, inspect_audio, inspect_image, read_media
from mixloom.pipeline.ingest.problems import Problem, failure, printable
from mixloom.pipeline.schema import Document, Failure, Locator, Media, Segment

Output = Document | Failure
_REMOTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+:)?//|mailto:|file:", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_REMEMBERED = 4096  # inspected media kept per split; figures are often shared between documents


@dataclass(frozen=True, slots=True)
class Text:
    """Text in reading order. Neighbours with `flow` and no attrs become one segment."""

    text: str
    attrs: dict[str, str] = field(default_factory=dict)
    flow: bool = True


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to an image or a recording: a path as the document writes it, or its bytes and member.

    `exact`: the target is already a path relative to the root. `others`: further paths, tried when the target is
    not there. `stored`: file and member it lies in, where the reader knows; the target is then what the document
    calls it. `absent`: the reader knows that it is not where it should be; says where. `before`: text that goes with it.
    """

    kind: Literal["image", "speech"]
    target: str
    attrs: dict[str, str] = field(default_factory=dict)
    data: bytes | None = None
    exact: bool = False
    others: tuple[str, ...] = ()
    stored: tuple[str, str] | None = None
    absent: str = ""
    before: str = ""


Item = Text | Ref


class Assembler:
    """Builds the documents of one split: resolves and inspects media, merges text, adds meta."""

    def __init__(self, source: Source, root: str) -> None:
        self.source = source
        self.files: SourceFiles = source_files(root)
        self._path_meta = re.compile(source.meta_from_path) if source.meta_from_path else None
        self._roots: tuple[str, ...] = getattr(source, "media_roots", (".",))
        self._seen: dict[tuple[str, str, str], Media | Problem] = {}
        # Leading white space means something in text and Markdown, nothing once HTML or XML is laid out.
        self._trim = str.strip if source.format in ("html", "xml", "warc") else trim

    def fail(self, problem: Problem, uri: str, **place: Any) -> Failure:
        return failure(self.source.name, problem, uri, **place)

    def document(
        self,
        uri: str,
        items: Sequence[Item],
        *,
        member: str = "",
        offset: int = -1,
        length: int = -1,
        meta: dict[str, str] | None = None,
        language: str | None = None,
        timestamp: str | None = None,
        media_scope: Literal["document", "media"] = "media",
    ) -> Iterator[Output]:
        """The document of some items, and a failure for each media item it had to go without.

        With media_scope "document" the first bad media item costs the whole document. A document with
        nothing in it is a failure "empty_document".
        """
        place = {"offset": offset, "length": length}
        segments: list[Segment] = []
        run: list[str] = []
        ordinal = 0
        for item in items:
            if isinstance(item, Text):
                if item.flow and not item.attrs:
                    run.append(item.text)
                    continue
                self._flush(run, segments)
                self._add_text(item.text, item.attrs, segments)
                continue
            ordinal += 1
            try:
                media = self._media(item, uri)
            except Problem as p:
                yield self._media_failure(p, item, ordinal, uri, member, place, media_scope)
                if media_scope == "document":
                    return
                continue
            if item.before:
                run.append(item.before)
            self._flush(run, segments)
            segments.append(Segment(kind=item.kind, media=media, attrs=_clean(item.attrs)))
        self._flush(run, segments)
        if getattr(self.source, "markup", False) and all(only_tags(s.text) for s in segments):
            segments = []
        if not segments:
            what = "the file" if offset < 0 and not member else "the document"
            problem = Problem(
                "empty_document",
                f"{what} holds no text and no media",
                outcome="dropped",
                fix="remove it, or leave it: it is only counted",
            )
            yield self.fail(problem, uri, member=member, **place)
            return
        if getattr(self.source, "alt_text", False):
            segments = with_alt_texts(segments)
        try:
            checked = self._check_unicode(segments)
        except Problem as p:
            yield self.fail(p, uri, member=member, **place)
            return
        found, path_language = self._meta_of(uri)
        yield Document(
            source=self.source.name,
            locator=Locator(uri=printable(uri), member=printable(member), offset=offset, length=length),
            segments=tuple(checked),
            language=path_language or self.source.language or (printable(language) if language else None),
            timestamp=printable(timestamp) if timestamp else None,
            license=self.source.license,
            meta=_clean({**self.source.meta, **found, **(meta or {})}),
        )

    def _flush(self, run: list[str], segments: list[Segment]) -> None:
        self._add_text("".join(run), {}, segments)
        run.clear()

    def _add_text(self, text: str, attrs: dict[str, str], segments: list[Segment]) -> None:
        text = self._trim(text)
        if text:
            segments.append(Segment(kind="text", text=text, attrs=_clean(attrs)))

    def _media_failure(
        self,
        problem: Problem,
        item: Ref,
        ordinal: int,
        uri: str,
        member: str,
        place: dict[str, int],
        scope: Literal["document", "media"],
    ) -> Failure:
        word = "image" if item.kind == "image" else "recording"
        problem.detail = f"{word} {ordinal} of the document, '{_short(item.target)}': {problem.detail}"
        problem.offset = -1
        where = _short(item.target) if scope == "media" else member
        return self.fail(problem, uri, member=where, scope=scope, **place)

    def _media(self, item: Ref, uri: str) -> Media:
        if item.absent:
            raise Problem(
                "missing_media", f"it is not in {item.absent}", fix="repair the document, or its name"
            )
        if item.data is not None:
            return self._inspect(item.kind, item.data, uri, item.target)
        path, member = item.stored or (item.target if item.exact else self._resolve_any(uri, item), "")
        key = (item.kind, path, member)
        known = self._seen.get(key)
        if known is None:
            try:
                data = read_media(self.files, path, member, self.source.max_bytes)
                known = self._inspect(item.kind, data, path, member)
            except Problem as p:
                known = p
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[key] = known
        if isinstance(known, Problem):
            raise _copy(known)
        return known

    def _inspect(self, kind: str, data: bytes, uri: str, member: str) -> Media:
        if kind == "image":
            return inspect_image(data, uri, member, max_pixels=self.source.max_pixels)
        limit = self.source.max_seconds if isinstance(self.source, SpeechSource) else MAX_SECONDS
        return inspect_audio(data, uri, member, max_seconds=limit)

    def _resolve_any(self, document: str, item: Ref) -> str:
        """The path of the first target that is there; the problem is that of the first."""
        try:
            return self.resolve(document, item.target)
        except Problem as first:
            for target in item.others:
                try:
                    return self.resolve(document, target)
                except Problem:
                    continue
            raise first from None

    def resolve(self, document: str, target: str) -> str:
        """The path, relative to the root, of a media file as a document names it.

        Tried in turn: beside the document (unless the path starts with /), then below each media root; each
        with percent-escapes decoded, then as written.

        Raises:
            Problem: remote_media, inline_media, outside_root or missing_media.
        """
        if target[:5].lower() == "data:":
            raise Problem(
                "inline_media",
                "media written into the document itself (data: URL) are not read",
                fix="save it as a file and refer to that",
                outcome="dropped",
            )
        if _REMOTE.match(target):
            raise Problem(
                "remote_media",
                "it lies on another machine, and ingest fetches nothing",
                fix="download it beside the document and refer to that",
                outcome="dropped",
            )
        names = list(dict.fromkeys([unquote(target.partition("#")[0].partition("?")[0]), target]))
        folders = [*self._roots] if target.startswith("/") else [posixpath.dirname(document), *self._roots]
        tried: list[str] = []
        refused: Problem | None = None
        for name in names:
            for folder in folders:
                candidate = normalise(posixpath.join(folder, name.replace("\\", "/").lstrip("/")))
                if candidate is None:
                    refused = refused or _refusal(target)
                    continue
                try:
                    if candidate not in tried and self.files.is_file(candidate):
                        return candidate
                except Problem as p:
                    refused = refused or p
                    continue
                except (OSError, ValueError):  # a name no file system could hold
                    pass
                tried.append(candidate)
        if refused is not None:
            raise refused
        shown = ", ".join(f"'{_short(t)}'" for t in dict.fromkeys(tried)) or "nothing"
        raise Problem(
            "missing_media",
            f"there is no such file (looked for {shown})",
            fix="restore the file, or set media_roots of the source",
        )

    def _check_unicode(self, segments: list[Segment]) -> list[Segment]:
        """Segments whose text UTF-8 can hold: JSON escapes can spell half a surrogate pair."""
        out = []
        for i, s in enumerate(segments):
            if s.text is not None and not s.text.isascii():
                try:
                    s.text.encode("utf-8")
                except UnicodeEncodeError as e:
                    if self.source.on_encoding_error == "fail":
                        raise Problem(
                            "invalid_unicode",
                            f"the text of segment {i + 1} has half a surrogate pair "
                            f"(U+{ord(s.text[e.start]):04X}) at character {e.start}",
                            fix="repair the source, or set on_encoding_error: replace",
                        ) from None
                    fixed = re.sub("[\ud800-\udfff]", "\ufffd", s.text)
                    s = Segment(kind=s.kind, text=fixed, media=s.media, attrs=s.attrs)
            out.append(s)
        return out

    def _meta_of(self, uri: str) -> tuple[dict[str, str], str | None]:
        match = self._path_meta.search(uri) if self._path_meta else None
        if match is None:
            return {}, None
        groups = {k: v for k, v in match.groupdict().items() if v is not None}
        language = groups.pop("language", None)
        return groups, language

    def each_file(self, uris: Iterable[str], read: Callable[[str], Iterator[Output]]) -> Iterator[Output]:
        """Run a reader file by file; a problem, foreseen or not, costs the rest of that file only."""
        from mixloom.pipeline.ingest.problems import unexpected

        for uri in uris:
            try:
                yield from read(uri)
            except Problem as p:
                yield self.fail(p, uri)
            except Exception as e:
                yield self.fail(unexpected(e), uri)


def only_tags(text: str | None) -> bool:
    """Whether nothing is left of a text with kept markup when its tags are taken out."""
    return text is not None and not _TAG.sub("", text).strip()


def with_alt_texts(segments: Sequence[Segment]) -> list[Segment]:
    """Segments with the alternative text of each image as a text after it, unless a caption beside it says the same."""
    out: list[Segment] = []
    for i, s in enumerate(segments):
        out.append(s)
        alt = s.attrs.get("alt", "").strip() if s.kind == "image" else ""
        beside = (segments[k] for k in (i - 1, i + 1) if 0 <= k < len(segments))
        said = {" ".join((n.text or "").split()) for n in beside if n.attrs.get("role") == "caption"}
        if alt and " ".join(alt.split()) not in said:
            out.append(Segment(kind="text", text=alt, attrs={"role": "alt"}))
    return out


def _copy(p: Problem) -> Problem:
    return Problem(p.reason, p.detail, offset=p.offset, outcome=p.outcome)


def _refusal(target: str) -> Problem:
    return Problem(
        "outside_root",
        f"'{_short(target)}' leads outside the root of the source and was not read",
        fix="put the file inside the root, or set the path of the source to a folder that holds both",
    )


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _clean(strings: dict[str, str]) -> dict[str, str]:
    return {printable(k): printable(v) for k, v in strings.items()}


def as_text(value: Any) -> str | None:
    """A value of some table or header as a meta string; None when there is nothing to say."""
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(x, str | int | float | bool) for x in value):
        return ", ".join(as_text(x) or "" for x in value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return str(value)
