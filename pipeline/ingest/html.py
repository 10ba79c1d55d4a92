"""HTML and XHTML: text as a browser lays it out, images in reading order."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mixloom.pipeline.ingest.assemble import Assembler, Item, Output, Ref, Text, only_tags
from mixloom.pipeline.ingest.config import HtmlSource
from mixloom.pipeline.ingest.decode import newlines, read_whole
from mixloom.pipeline.ingest.extract import image_ref, main_content, picture_sources
from mixloom.pipeline.ingest.kept_markup import MarkupFlow
from mixloom.pipeline.ingest.layout import Flow, attribute, local_name, walk
from mixloom.pipeline.ingest.markup import decode_markup, parse_html, parse_xml
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.source_base import is_plain_name
from mixloom.pipeline.ingest.split import Split
from mixloom.pipeline.ingest.web_config import Extraction

_HEAD = 1 << 18  # characters in which the title of a page is looked for
_TITLE = re.compile(r"<title\b[^>]*>([^<]*)", re.IGNORECASE)
_HTML = re.compile(r"<html\b[^>]*?\slang\s*=\s*[\"']?([A-Za-z0-9-]+)", re.IGNORECASE)
_BASE = re.compile(r"<base\b[^>]*?\shref\s*=\s*[\"']?([^\s\"'>]+)", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")  # what is no path: a scheme or a host comes first
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_PARAGRAPHS = _HEADINGS | {"p", "pre", "blockquote", "ul", "ol", "dl", "table", "figure", "hr", "address"}
_BLOCKS = frozenset(
    [
        "article",
        "aside",
        "body",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dt",
        "fieldset",
        "figcaption",
        "footer",
        "form",
        "header",
        "hgroup",
        "html",
        "legend",
        "li",
        "main",
        "nav",
        "optgroup",
        "option",
        "search",
        "section",
        "summary",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "caption",
    ]
)
_PREFORMATTED = frozenset(("pre", "textarea", "listing", "xmp"))
_LISTS = frozenset(("ul", "ol", "menu"))
_ALL_BLOCKS = _PARAGRAPHS | _BLOCKS | _LISTS


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a new document starts: the number of the match and the text of the element."""

    number: int
    heading: str


def read(split: Split, source: HtmlSource, root: str) -> Iterator[Output]:
    """Documents and failures of a split of an HTML source."""
    make = Assembler(source, root)

    def one(uri: str) -> Iterator[Output]:
        data = read_whole(make.files, uri, source.max_bytes)
        text = decode_markup(data, source.encoding, source.on_encoding_error, f"'{uri}'", is_html=True)
        page = read_page(newlines(text), source, uri, split_on=source.split_on)
        page = replace(page, items=[_below(page.base, x) for x in page.items])
        yield from _documents(make, source, uri, page)

    yield from make.each_file(split.files, one)


def _below(base: str | None, item: Any) -> Any:
    """An image with its paths as <base href> has them, if that is a path of the site; then as they are written."""
    if not isinstance(item, Ref) or base is None or _ADDRESS.match(base):
        return item
    folder = base[: base.rfind("/") + 1]
    paths = (item.target, *item.others)
    joined = [p if _ADDRESS.match(p) or p.startswith("/") else folder + p for p in paths]
    first, *others = dict.fromkeys((*joined, *paths))
    return replace(item, target=first, others=tuple(others))


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on a page: its items (and split marks), title, declared language and <base href>."""

    items: list[Any]
    title: str | None
    language: str | None
    base: str | None


def read_page(text: str, how: Extraction, uri: str = "", *, split_on: str | None = None) -> Page:
    """Items of a page: all of it, or its main content, by `how.extract`.

    Raises:
        Problem: bad_html, page_too_long or extractor_failed.
    """
    head = text[:_HEAD]
    base = _BASE.search(head)
    link = html.unescape(base[1]) if base else None
    if how.extract != "all":
        # By the start of the page: a whole tree is not built for these two.
        title, tag = _TITLE.search(head), _HTML.search(head)
        words = " ".join(html.unescape(title[1]).split()) if title else ""
        return Page(main_content(text, how), words or None, tag[1] if tag else None, link)
    tree = _tree(text, uri)
    if tree is None:
        return Page([], None, None, link)
    tags = how.markup_tags if how.markup else None
    items = html_items(tree, drop=how.drop, split_on=split_on, markup=tags)
    return Page(items, _title(tree), attribute(tree, "lang"), link)


def _tree(text: str, uri: str) -> Any | None:
    """XHTML as XML where it is well-formed (an HTML parser misreads <script/>), anything else as HTML."""
    head = text[:1000]
    if (
        uri.removesuffix(".gz").endswith(".xhtml")
        or "<?xml" in head
        or "http://www.w3.org/1999/xhtml" in head
    ):
        try:
            tree = parse_xml(text)
        except Problem:
            return parse_html(text)
        if local_name(tree) == "html":
            return tree
    return parse_html(text)


def _documents(make: Assembler, source: HtmlSource, uri: str, page: Page) -> Iterator[Output]:
    meta = {"title": page.title} if page.title else {}
    items = page.items
    if not source.images:
        items = [x for x in items if not isinstance(x, Ref)]
    items = strip_boilerplate(items, source.boilerplate_start, source.boilerplate_end)
    sections = _sections(items)
    for number, heading, part in sections:
        empty = all(isinstance(x, Text) and (not x.text.strip() or _tags(source, x)) for x in part)
        if number == 0 and empty and len(sections) > 1:
            continue  # nothing stands before the first heading: there is no such document
        member = f"section-{number}" if source.split_on is not None else ""
        extra = {"heading": heading} if heading else {}
        yield from make.document(uri, part, member=member, meta={**meta, **extra}, language=page.language)


def _tags(source: HtmlSource, item: Text) -> bool:
    """Whether a text holds nothing but kept tags."""
    return source.markup and only_tags(item.text)


def _title(tree: Any) -> str | None:
    for element in tree.iter():
        if local_name(element) == "title":
            return " ".join("".join(element.itertext()).split()) or None
        if local_name(element) == "body":
            break
    return None


def html_items(
    tree: Any, *, drop: Iterable[str], split_on: str | None = None, markup: Iterable[str] | None = None
) -> list[Any]:
    """Text, images and split marks below an element, in reading order; with the tags of `markup`, where it is given."""
    flow = Flow() if markup is None else MarkupFlow(markup)
    layout = _Layout(frozenset(drop) | {"head"}, _marks(tree, split_on), flow)
    walk(tree, layout.enter, layout.leave, layout.text)
    return layout.flow.finish()


def html_fragment_items(text: str) -> list[Any]:
    """Items of a piece of HTML held in a field of something else."""
    tree = parse_html(text)
    return [] if tree is None else html_items(tree, drop=("script", "style", "template"))


def _marks(tree: Any, split_on: str | None) -> dict[Any, Mark]:
    if split_on is None:
        return {}
    if is_plain_name(split_on):
        found = [e for e in tree.iter() if local_name(e) == split_on.lower()]
    else:
        found = _xpath(tree, split_on)
    heading = (" ".join("".join(e.itertext()).split()) for e in found)
    return {e: Mark(i + 1, text[:300]) for i, (e, text) in enumerate(zip(found, heading, strict=True))}


def _xpath(tree: Any, expression: str) -> list[Any]:
    strip_namespaces(tree)
    result = tree.xpath(expression)
    found = result if isinstance(result, list) else []
    return [x for x in found if isinstance(getattr(x, "tag", None), str)]


def strip_namespaces(tree: Any) -> None:
    """Rename every element to its local name, so that XPath needs no prefixes."""
    for element in tree.iter():
        if isinstance(element.tag, str) and element.tag.startswith("{"):
            element.tag = local_name(element)


class _Layout:
    def __init__(self, drop: frozenset[str], marks: dict[Any, Mark], flow: Flow) -> None:
        self.flow = flow
        self._drop = frozenset(d for d in drop if "." not in d)
        self._drop_classes = [d.split(".", 1) for d in sorted(drop) if "." in d]
        self._marks = marks
        self._preformatted, self._lists, self._cells = 0, 0, 0

    def enter(self, element: Any) -> bool:
        name = local_name(element)
        mark = self._marks.get(element)
        if mark is not None:
            self.flow.add(mark)
        if name in self._drop or (self._drop_classes and self._dropped_by_class(name, element)):
            return False
        if name == "img":
            self._image(element)
            return False
        if name == "br":
            self.flow.line_break()
            return False
        self.flow.open(name, self._block(name))
        if name in _PREFORMATTED:
            self._preformatted += 1
        elif name in _LISTS:
            self._lists += 1
        elif name == "li":
            self.flow.mark("  " * max(0, self._lists - 1) + "- ")
        elif name == "tr":
            self._cells = 0
        elif name in ("td", "th"):
            if self._cells:
                self.flow.tab()
            self._cells += 1
        elif name == "figcaption":
            self.flow.open_role("caption")
        return True

    def leave(self, element: Any) -> None:
        name = local_name(element)
        if name in _PREFORMATTED:
            self._preformatted -= 1
        elif name in _LISTS:
            self._lists -= 1
        self.flow.close(name, self._block(name))
        if name == "figcaption":
            self.flow.close_role()

    def text(self, value: str, element: Any) -> None:
        self.flow.text(value, preserve=self._preformatted > 0)

    def _dropped_by_class(self, name: str, element: Any) -> bool:
        classes = (element.get("class") or "").split()
        return any(tag in ("", name) and wanted in classes for tag, wanted in self._drop_classes)

    def _block(self, name: str) -> int:
        """Line ends that an element asks for on either side."""
        nested = name in _LISTS and self._lists > 0
        count = 0 if name not in _ALL_BLOCKS else 1 if nested or name in _BLOCKS else 2
        self.flow.lines(count)
        return count

    def _image(self, element: Any) -> None:
        ref = image_ref({n: attribute(element, n) for n in element.attrib}, picture_sources(element))
        if ref is not None:
            self.flow.media(ref)


def _sections(items: list[Any]) -> list[tuple[int, str, list[Item]]]:
    out: list[tuple[int, str, list[Item]]] = [(0, "", [])]
    for item in items:
        if isinstance(item, Mark):
            out.append((item.number, item.heading, []))
        else:
            out[-1][2].append(item)
    return out


def strip_boilerplate(items: list[Any], start: str | None, stop: str | None) -> list[Any]:
    """Drop everything up to the first match of `start` and from the first match of `stop` after it.

    A regex that matches nowhere drops nothing. A match lies inside one run of text, between two images.
    """
    if start is not None:
        pattern = re.compile(start)
        for i, item in enumerate(items):
            match = pattern.search(item.text) if isinstance(item, Text) else None
            if match is not None:
                items = [Text(item.text[match.end() :], item.attrs, item.flow), *items[i + 1 :]]
                break
    if stop is not None:
        pattern = re.compile(stop)
        for i, item in enumerate(items):
            match = pattern.search(item.text) if isinstance(item, Text) else None
            if match is not None:
                return [*items[:i], Text(item.text[: match.start()], item.attrs, item.flow)]
    return items
