"""The main content of a page as text and images in reading order, by one of three extractors.

`all` is the layout of the whole page. Resiliparse and Trafilatura choose what belongs to the main content;
neither gives images in place, so images are marked before and found again after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.assemble import Item, Ref, Text
from mixloom.pipeline.ingest.layout import Flow, local_name, walk
from mixloom.pipeline.ingest.problems import Problem
from mixloom.pipeline.ingest.web_config import Extraction, Extractor

# Unicode noncharacters, which no text may hold: brackets around the number of an image, and around a caption.
_OPEN, _CLOSE, _CAPTION, _END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_MARKS = (_OPEN, _CLOSE, _CAPTION, _END)
_NONCHARACTERS = re.compile("[\ufdd0-\ufdd3]")
_NOT_TEXT = re.compile("[\ufdd0-\ufdd3\ud800-\udfff]")
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}|{_CAPTION}([^{_OPEN}{_CAPTION}{_END}]*){_END}")
# Letters in both cases rather than IGNORECASE, which would hide from the engine that each match starts with "<".
_TAGS = re.compile(
    r"<(?:(?P<figcaption>/?[fF][iI][gG][cC][aA][pP][tT][iI][oO][nN]\b[^<>]*>)"
    r"|(?P<picture>/?[pP][iI][cC][tT][uU][rR][eE]\b[^<>]*>)"
    r"|[sS][oO][uU][rR][cC][eE]\b(?:(?P<source>[^<>]*)>)?"
    r"|(?:[iI][mM][gG]|[iI][mM][aA][gG][eE])\b(?:(?P<rest>[^<>]*)>)?)"
)
_VALUE = r"\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'`]+)"
_ATTRIBUTES = re.compile(rf"(?:[\s/]+[^\s\"'/=]+(?:{_VALUE})?)*[\s/]*")
_ATTRIBUTE = re.compile(r"([^\s\"'/=]+)(\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'`]+)))?")
_CANDIDATE = re.compile(r",\s+|(?<=[0-9][wx]),")  # between the candidates of a srcset; a URL may hold commas
_LONE_BULLET = re.compile(rf"(?m)^[ \t]*(?:\u2022|\d+\.)[ \t]*(?=(?:{_OPEN}\d+{_CLOSE}[ \t]*)+$)")
_LINE_ENDS = re.compile(r"[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")
# Resiliparse looks at every ancestor of these two for every one of them: time grows with the square of the depth.
_NESTING = re.compile(r"<(/?)(?:[dD][iI][vV]|[aA][rR][tT][iI][cC][lL][eE])\b")
_MAX_DEPTH = 1000


def extractor_version(extract: Extractor) -> str:
    """Library and version: part of the settings of a run, so that another version reads the source anew.

    Raises:
        UserError: the library is not installed.
    """
    # Trafilatura uses jusText, which fails to import without the last.
    needed = ("resiliparse",) if extract == "resiliparse" else ("trafilatura", "lxml_html_clean")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"extract: {extract} needs the package {missing[0]}, which is not installed",
            fix=f"pip install {missing[0]}, or set extract of the source to another extractor",
        )
    return f"{extract} {version(extract)}"


def main_content(html: str, how: Extraction) -> list[Item]:
    """Text and images of the main content of a page, in reading order; empty when there is none.

    Args:
        html: the page.
        how: `extract` is "resiliparse" or "trafilatura".

    Raises:
        Problem: bad_html, page_too_long, or extractor_failed with the error of the library.
    """
    if len(html) > how.max_page_chars:
        raise Problem(
            "page_too_long",
            f"the page has {len(html)} characters, more than max_page_chars ({how.max_page_chars})",
            fix="raise max_page_chars of the source, or use extract: all",
        )
    if any(c in html for c in _MARKS) or not _is_unicode(html):
        html = _NOT_TEXT.sub("\ufffd", html)
    try:
        return _resiliparse(html, how) if how.extract == "resiliparse" else _trafilatura(html, how)
    except Problem:
        raise
    except Exception as e:
        text = " ".join(str(e).split())[:300]
        raise Problem(
            "extractor_failed",
            f"{extractor_version(how.extract)} failed on the page ({type(e).__name__}: {text})",
            fix="use another extractor for this source, or leave it: it is only counted",
        ) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(html: str) -> None:
    if sum(html.count(start) for start in ("<d", "<D", "<ar", "<aR", "<AR", "<Ar")) <= _MAX_DEPTH:
        return
    depth = 0
    for match in _NESTING.finditer(html):
        depth = max(0, depth - 1) if match[1] else depth + 1
        if depth > _MAX_DEPTH:
            raise Problem(
                "bad_html",
                f"the page nests div and article elements deeper than {_MAX_DEPTH}",
                fix="repair the page or exclude it",
            )


def _resiliparse(html: str, how: Extraction) -> list[Item]:
    from resiliparse.extract.html2text import extract_plain_text

    _check_depth(html)
    marked, images = _mark_text(html) or _mark_tree(html)
    text = extract_plain_text(
        marked,
        preserve_formatting=True,
        main_content=True,
        comments=how.comments,
        post_meta=False,
        alt_texts=True,
        skip_elements=[*how.drop, "area"],  # the alternative text of an area is no image
    )
    return _split(text, images)


def _mark_text(html: str) -> tuple[str, list[Ref]] | None:
    """The page with the number of each image as its alternative text, and marks around captions.

    None when a tag cannot be told for sure without parsing the page: it may stand in an attribute, or hold
    brackets. (Going through the tree costs three times what extraction does.)
    """
    images: list[Ref] = []
    inside, sources = False, list[dict[str, str | None]]()  # of the <picture> that is open
    out: list[str] = []
    at = 0
    for match in _TAGS.finditer(html):
        start = match.start()
        if html.rfind("<", at, start) > html.rfind(">", at, start):
            return None
        out.append(html[at:start])
        at = match.end()
        if match["figcaption"] is not None:
            tag = match[0]
            out.append(f"<img alt={_END}>{tag}" if tag[1] == "/" else f"{tag}<img alt={_CAPTION}>")
            continue
        if match["picture"] is not None:
            out.append(match[0])
            inside, sources = match[0][1] != "/", []
            continue
        is_source = match[0][1:7].lower() == "source"
        rest = match["source" if is_source else "rest"]
        if rest is None or _ATTRIBUTES.fullmatch(rest) is None:
            return None
        attributes: dict[str, str | None] = {}
        for name, _, *values in _ATTRIBUTE.findall(rest):
            attributes.setdefault(name.lower(), unescape("".join(values)))
        if is_source:
            out.append(match[0])
            sources += [attributes] if inside else []  # others belong to recordings and films
            continue
        ref = image_ref(attributes, sources)
        # Of two attributes of one name the first counts.
        out.append(f"<img alt={_OPEN}{len(images)}{_CLOSE}{rest}>" if ref else f'<img alt=""{rest}>')
        images += [ref] if ref else []
    return "".join([*out, html[at:]]), images


def _mark_tree(html: str) -> tuple[Any, list[Ref]]:
    """As `_mark_text`, for any page."""
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    document: Any = tree.document
    images: list[Ref] = []
    for element in list(document.query_selector_all("img, figcaption")) if document is not None else []:
        if (element.tag or "").lower() == "figcaption":
            for put, mark in ((element.prepend, _CAPTION), (element.append, _END)):
                node = document.create_element("img")
                node.setattr("alt", mark)
                put(node)
            continue
        sources = []
        if element.parent is not None and (element.parent.tag or "").lower() == "picture":
            sources = [
                {n: e.getattr(n) for n in e.attrs} for e in element.parent.query_selector_all("source")
            ]
        ref = image_ref({name: element.getattr(name) for name in element.attrs}, sources)
        element.setattr("alt", f"{_OPEN}{len(images)}{_CLOSE}" if ref else "")
        images += [ref] if ref else []
    return tree, images


def _split(text: str, images: list[Ref]) -> list[Item]:
    """Text with marks to items; a mark of half a caption is dropped."""
    text = _BLANK_LINES.sub("\n\n", _LINE_ENDS.sub("\n", _LONE_BULLET.sub("", text)))
    out: list[Item] = []
    at = 0
    for match in _MARK.finditer(text):
        out.append(Text(_NONCHARACTERS.sub("", text[at : match.start()])))
        if match[1] is not None:
            out.append(images[int(match[1])])
        else:
            out.append(Text(_NONCHARACTERS.sub("", match[2]), {"role": "caption"}, flow=False))
        at = match.end()
    out.append(Text(_NONCHARACTERS.sub("", text[at:])))
    return [x for x in out if isinstance(x, Ref) or x.text.strip()]


def image_ref(attributes: dict[str, str | None], sources: Sequence[dict[str, str | None]] = ()) -> Ref | None:
    """The reference of an <img>, None when it names no source.

    Pages that load images late keep the real source in data-src, and a tiny data: URL in src.

    Args:
        sources: attributes of the <source> elements of the <picture> it stands in; a browser would have fetched one of
            theirs instead.
    """
    names = ("src", "data-src", "data-lazy-src", "data-original")
    targets = [t for name in names if (t := (attributes.get(name) or "").strip())]
    for element in (attributes, *sources):
        for name in ("srcset", "data-srcset", "data-lazy-srcset"):
            parts = _CANDIDATE.split((element.get(name) or "").strip())
            targets += [part.split()[0] for part in parts if part.strip()]
    if not targets:
        return None
    targets.sort(key=lambda t: t[:5].lower() == "data:")  # stable: only data: URLs go to the end
    attrs = {k: " ".join(v.split()) for k in ("alt", "title") if (v := attributes.get(k)) and v.strip()}
    return Ref("image", targets[0], attrs, others=tuple(dict.fromkeys(targets[1:])))


def picture_sources(element: Any) -> list[dict[str, str | None]]:
    """The attributes of the <source> elements of the <picture> in which an <img> of an lxml tree stands.

    libxml2 does not know that a <source> has no content: what follows one stands inside it.
    """
    above = element.getparent()
    while above is not None and local_name(above) == "source":
        above = above.getparent()
    if above is None or local_name(above) != "picture":
        return []
    return [dict(e.attrib) for e in above.iter() if isinstance(e.tag, str) and local_name(e) == "source"]


def _trafilatura(html: str, how: Extraction) -> list[Item]:
    from trafilatura import bare_extraction

    from mixloom.pipeline.ingest.markup import parse_html

    tree = parse_html(html, plain=False)
    if tree is None:
        return []
    images: list[Ref] = []
    drop = [entry.partition(".")[::2] for entry in how.drop]
    for element in list(tree.iter()):
        classes = (element.get("class") or "").split()
        if any(tag in ("", element.tag) and (not name or name in classes) for tag, name in drop):
            element.drop_tree()
        elif element.tag == "img":
            ref = image_ref(dict(element.attrib), picture_sources(element))
            element.attrib.clear()
            if ref is not None:  # only what looks like the URL of an image file is kept
                element.set("src", f"https://image/{len(images)}.png")
                images.append(ref)
    found: Any = bare_extraction(tree, include_comments=how.comments, include_images=True)
    if found is None:
        return []
    layout = _Layout(images)
    for body in (found.body, found.commentsbody if how.comments else None):
        if body is not None:
            walk(body, layout.enter, layout.leave, layout.text)
            layout.flow.lines(2)
    return layout.flow.finish()


class _Layout:
    """Trafilatura's tree (TEI-like: p, head, list, item, table, row, cell, quote, code, graphic) to text."""

    def __init__(self, images: list[Ref]) -> None:
        self.flow = Flow()
        self._images = images
        self._code, self._cells = 0, 0

    def enter(self, element: Any) -> bool:
        name = local_name(element)
        if name == "graphic":
            number = re.fullmatch(r"https://image/(\d+)\.png", element.get("src") or "")
            if number:
                self.flow.media(self._images[int(number[1])])
            return False
        if name == "lb":
            self.flow.line_break()
        self._block(name)
        if name == "code":
            self._code += 1
        elif name == "item":
            self.flow.mark("- ")
        elif name == "row":
            self._cells = 0
        elif name == "cell":
            if self._cells:
                self.flow.tab()
            self._cells += 1
        return True

    def leave(self, element: Any) -> None:
        name = local_name(element)
        self._code -= name == "code"
        self._block(name)

    def text(self, value: str, element: Any) -> None:
        self.flow.text(value, preserve=self._code > 0)

    def _block(self, name: str) -> None:
        if name in ("p", "head", "list", "table", "quote"):
            self.flow.lines(2)
        elif name in ("item", "row"):
            self.flow.lines(1)
