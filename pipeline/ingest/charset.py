"""The encoding of a page: what the bytes prove, then what was declared, then what a detector says.

Bytes that are valid UTF-8 beyond ASCII are UTF-8, whatever the server said: text in another encoding hardly
ever is. Otherwise the order is that of the WHATWG Encoding Standard (byte order mark, HTTP header, <meta>),
then a detector (uchardet, as resiliparse ships it), then the encoding of the source; the first that decodes
without error. A declared encoding (or UTF-8) that errs in few places is still believed.
"""

from __future__ import annotations

import codecs
import re

from mixloom.pipeline.ingest.decode import bad_bytes, canonical
from mixloom.pipeline.ingest.markup import browser_encoding, declared_encoding, decode_windows_1252

_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_MOST_REPLACED = 0.1  # of the characters beyond ASCII, for a declared encoding to be believed
_SAMPLE = 1 << 16  # bytes shown to the detector


def header_charset(content_type: str) -> str | None:
    """The encoding that a Content-Type names, as browsers take its label; None when it names none we know."""
    match = _CHARSET.search(content_type)
    return browser_encoding(match[1]) if match else None


def decode_page(
    data: bytes, declared: str | None, default: str, errors: str, what: str
) -> tuple[str, str, int]:
    """(text, encoding, characters replaced) of a page.

    Args:
        declared: encoding of the HTTP header, if any.
        default: encoding when nothing else is known.
        errors: "fail" or "replace".

    Raises:
        Problem: with "fail", bytes that the encoding does not have.
    """
    bom, named = declared_encoding(data, "", is_html=True)
    body = data[bom:]
    if not bom and not body.isascii():
        try:
            return body.decode("utf-8"), "utf-8", 0
        except UnicodeDecodeError:
            pass
    said = _names([named] if bom else [declared, named])
    text = _first_without_error(body, said)
    if text is not None:
        return *text, 0
    for encoding in dict.fromkeys([*said, "utf-8"]):  # right but for some damage, as at the end of a cut page
        replaced, count = _replaced(body, encoding)
        if count <= _MOST_REPLACED * (len(replaced) - len(replaced.encode("ascii", "ignore"))):
            return _with_errors(body, bom, encoding, errors, what)
    text = _first_without_error(body, _names([_detected(body), default]))
    return (*text, 0) if text is not None else _with_errors(body, bom, [*said, default][0], errors, what)


def _names(encodings: list[str | None]) -> list[str]:
    return list(dict.fromkeys(canonical(e) for e in encodings if e))


def _first_without_error(body: bytes, encodings: list[str]) -> tuple[str, str] | None:
    for encoding in encodings:
        try:
            return _strict(body, encoding), encoding
        except UnicodeError:
            continue
    return None


def _replaced(body: bytes, encoding: str) -> tuple[str, int]:
    text = body.decode(encoding, "replace")
    return text, text.count("\ufffd")


def _with_errors(body: bytes, base: int, encoding: str, errors: str, what: str) -> tuple[str, str, int]:
    if errors == "fail":
        try:
            _strict(body, encoding)
        except UnicodeDecodeError as e:
            raise bad_bytes(body, e, encoding, base, what) from None
    text, count = _replaced(body, encoding)
    return text, encoding, count


def _strict(body: bytes, encoding: str) -> str:
    if encoding == "cp1252":
        return decode_windows_1252(body)
    return codecs.decode(body, encoding, "strict")


def _detected(body: bytes) -> str:
    if body.isascii():
        return "utf-8"
    from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(body, max_len=_SAMPLE, html5_compatible=False, from_html_meta=False)
    return (browser_encoding(name) or "") if name else ""
