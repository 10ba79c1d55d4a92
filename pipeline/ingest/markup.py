"""Encodings and safe parsers of HTML and XML: no network, no entity expansion, no huge trees."""

from __future__ import annotations

import codecs
import functools
import re
from typing import Any

from mixloom.pipeline.ingest.decode import canonical, decode, split_bom
from mixloom.pipeline.ingest.problems import Problem

_PROLOG = re.compile(rb"\A\s*<\?xml[^>]*?\bencoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_META = re.compile(rb"<meta\b[^>]*?\bcharset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# What browsers take these labels to mean (WHATWG Encoding Standard, section 4.2).
_BROWSER = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
_BROWSER |= {"shift_jis": "cp932", "euc_kr": "cp949", "iso8859-9": "cp1254", "tis-620": "cp874"}


def declared_encoding(data: bytes, default: str, *, is_html: bool) -> tuple[int, str]:
    """Length of a byte order mark, and the encoding: by that mark, the XML prolog, <meta charset>, or the default."""
    bom, encoding = split_bom(data, "")
    if bom:
        return bom, encoding
    head = data[:4096]
    match = _PROLOG.search(head) or (_META.search(head) if is_html else None)
    if match is None:
        if head[:4] in (b"<\0?\0", b"\0<\0?"):  # UTF-16 without a mark, as XML 1.0 appendix F tells it
            return 0, "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        return 0, default
    label = match[1].decode("ascii", "replace")
    name = browser_encoding(label) if is_html else _known(label)
    if name is None:
        return 0, default
    if name.startswith(("utf-16", "utf-32")):  # the declaration was readable as bytes: it is wrong
        return 0, "utf-8"
    return 0, name


def _known(label: str) -> str | None:
    try:
        info = codecs.lookup(label)
    except (LookupError, UnicodeError):
        return None
    return info.name if info._is_text_encoding else None


def browser_encoding(label: str) -> str | None:
    """The encoding browsers take a label to mean, by Python's name; None for a label nobody knows."""
    name = _known(label)
    return _BROWSER.get(name, name) if name else None


@functools.cache
def _windows_1252() -> str:
    """Windows-1252 as browsers read it: the five bytes it leaves open keep their Latin-1 meaning."""
    pairs = ((bytes([i]).decode("cp1252", "ignore"), chr(i)) for i in range(256))
    return "".join(known or same for known, same in pairs)


def decode_windows_1252(data: bytes) -> str:
    """Text of any bytes in Windows-1252, as browsers read it; never fails."""
    return codecs.charmap_decode(data, "strict", _windows_1252())[0]


def decode_markup(data: bytes, default: str, errors: str, what: str, *, is_html: bool) -> str:
    """Text of an HTML or XML file. Raises Problem as `decode`."""
    bom, encoding = declared_encoding(data, default, is_html=is_html)
    body = data[bom:]
    if canonical(encoding) == "cp1252" and is_html:
        return decode_windows_1252(body)
    return decode(body, encoding, errors, base=bom, what=what)


def parse_html(text: str, *, plain: bool = True) -> Any | None:
    """The root element of an HTML text; None when there is no element in it.

    Args:
        plain: False: elements are those of lxml.html, with its methods.

    Raises:
        Problem: "bad_html": nested too deeply, or a text too long, for the parser's limits.
    """
    from lxml import etree

    if plain:
        make: Any = etree.HTMLParser
    else:
        from lxml import html

        make = html.HTMLParser
    parser = make(encoding="utf-8", no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)
    raw = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    if not raw.strip():
        return None
    try:
        root = etree.fromstring(raw, parser)
    except etree.XMLSyntaxError as e:
        if "empty" in str(e).lower():
            return None
        raise _bad_html(str(e)) from None
    for error in parser.error_log:
        # The parser stops here and says so only in its log: what follows would be lost in silence.
        if (
            error.level_name == "FATAL"
            or "xcessive depth" in error.message
            or "huge" in error.message.lower()
        ):
            raise _bad_html(f"line {error.line}: {error.message}")
    return root


def _bad_html(message: str) -> Problem:
    return Problem("bad_html", f"the HTML cannot be parsed: {message}", fix="repair the page or exclude it")


def xml_parser_options() -> dict[str, Any]:
    return {
        "resolve_entities": False,
        "no_network": True,
        "huge_tree": False,
        "remove_comments": True,
        "remove_pis": True,
    }


def parse_xml(text: str) -> Any:
    """The root element of an XML text.

    Raises:
        Problem: "bad_xml", with line and column.
    """
    from lxml import etree

    parser = etree.XMLParser(encoding="utf-8", **xml_parser_options())
    try:
        return etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as e:
        raise bad_xml(e) from None


def bad_xml(e: Any) -> Problem:
    """The problem of an lxml XMLSyntaxError."""
    line, column = e.position if e.lineno is not None else (0, 0)
    text = re.sub(r", line \d+, column \d+.*$", "", e.msg or "not well-formed")
    return Problem(
        "bad_xml",
        f"line {line}, column {column}: {text}",
        fix="repair the file (xmllint shows the place), or exclude it",
    )
