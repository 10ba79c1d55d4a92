r"""What counts as each kind of personal data: exact checks of the places that the pre-scan found.

A check gets the bytes, the bounds of its region (nothing beyond them is looked at) and a candidate, and returns the
span of the value, or None. Patterns are over UTF-8 bytes. Every repetition is bounded, so a check takes constant time,
but for the tail of a token and the body of a private key, which end the search for others inside them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

Span = tuple[int, int]
Check = Callable[[memoryview, int, int, int, int], Span | None]

WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
DIGITS = frozenset(b"0123456789")
LETTERS = WORD - DIGITS
_SPACE = 32


def byte_before(data: memoryview, low: int, at: int, back: int = 1) -> int:
    """The byte `back` places before `at`, or a space where the region begins after it."""
    return data[at - back] if at - back >= low else _SPACE


# ---- e-mail ---------------------------------------------------------------------------------------------

_LETTER = (
    rb"(?:[0-9A-Za-z]|[\xc3-\xdf][\x80-\xbf])"  # two-byte characters from U+00C0: letters of spaced scripts
)
_DOMAIN = re.compile(
    rb"(?:%(l)s(?:(?:%(l)s|-){0,61}%(l)s)?\.){1,8}(?:xn--[0-9A-Za-z-]{2,59}|(?:[A-Za-z]|[\xc3-\xdf][\x80-\xbf]){2,63})"
    rb"(?![0-9A-Za-z]|[\xc3-\xdf][\x80-\xbf])" % {b"l": _LETTER}
)
_LITERAL = re.compile(rb"\[(?:\d{1,3}\.){3}\d{1,3}\]")
# "logo@2x.png" names a file; "git@host" names a service.
_FILE_ENDINGS = frozenset(
    {b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"json", b"html", b"php"}
)


def check_email(data: memoryview, low: int, high: int, at: int, start: int) -> Span | None:
    """An address: the local part found by the pre-scan, "@", and a domain of two labels or more, or [IPv4]."""
    found = _DOMAIN.match(data, at + 1, min(high, at + 320)) or _LITERAL.match(data, at + 1, high)
    if found is None or data[start:at] == b"git":
        return None
    if found.group().rpartition(b".")[2].lower() in _FILE_ENDINGS:
        return None
    return start, found.end()


# ---- IP addresses ---------------------------------------------------------------------------------------

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rb"%(o)s(?:\.%(o)s){3}(?![0-9A-Za-z_]|\.\d|-[A-Za-z])" % {b"o": _OCTET})
# The word before a number that makes it a version or the number of a section.
_NUMBERED = re.compile(
    rb"(?:\b(?:v|oid|ver|version|versions|release|rel|build|revision|rev|firmware|update|section|sections|sec|chapter"
    rb"|clause|article|paragraph|para|figure|fig|table|step|appendix|annex|equation|eq|rule|requirement)|\xc2\xa7)"
    rb"[ \t\n.:=#(\"']{0,3}\Z|[=<>~!^]=[ ]?\Z",  # name==1.2.3.4: a requirement
    re.IGNORECASE,
)
_LINE_START = re.compile(rb"\n[ \t#*]{0,8}\Z")
_TITLE = re.compile(rb"\.?[ \t]{1,4}[A-Za-z]")
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")  # all that is assigned (RFC 4291)


# Four small numbers are a version far more often than an address (one address in 250 is so small): they need a sign.
_ANNOUNCED = re.compile(
    rb"(?:\b(?:ip|ipv4|ips|addr|address|addresses|host|hosts|server|servers|dns|nameserver|resolver|gateway|router|ping"
    rb"|proxy|subnet|client|peer|remote)\b[^\n.<>\[\]{}|]{0,24}|://(?:[^\s/@]{1,40}@)?|[@\[])\Z",
    re.IGNORECASE,
)
_PORT_OR_MASK = re.compile(rb":\d{1,5}(?![0-9A-Za-z_.])|/(?:[89]|[12]\d|3[0-2])(?![0-9A-Za-z_./])|\]")


def _is_announced(data: memoryview, low: int, high: int, start: int, stop: int) -> bool:
    """Whether the text around a number of four parts says that it is an address."""
    before = _ANNOUNCED.search(data[max(low, start - 48) : start])
    return before is not None or _PORT_OR_MASK.match(data, stop, min(high, stop + 8)) is not None


def check_ipv4(data: memoryview, low: int, high: int, at: int, _: int, *, public_only: bool) -> Span | None:
    """Four numbers up to 255 without leading zeros that are no version and no section number.

    Four small numbers count only where the text says that they are an address.
    """
    found = _IPV4.match(data, at, min(high, at + 24))
    if found is None:
        return None
    one, two = byte_before(data, low, at), byte_before(data, low, at, 2)
    if one in WORD or (one == 46 and two in WORD) or (one in b"-/+~" and two in LETTERS):
        return None
    value = ipaddress.IPv4Address(found.group().decode())
    if public_only and (not value.is_global or value.is_multicast):
        return None
    head = data[max(low, at - 24) : at]
    if _NUMBERED.search(head):
        return None
    numbers = value.packed
    small = (
        numbers[0] < 16 and numbers[0] != 10 and max(numbers) < 100
    )  # 10.0.0.0/8 is what private networks use
    if small and not _is_announced(data, low, high, at, found.end()):
        return None
    single = found.end() - at == 7  # four digits at the start of a line: a heading such as "4.1.2.3 Scope"
    if single and _LINE_START.search(head) and _TITLE.match(data, found.end(), min(high, found.end() + 8)):
        return None
    return at, found.end()


def check_ipv6(
    data: memoryview, low: int, high: int, start: int, stop: int, *, public_only: bool
) -> Span | None:
    """An address as RFC 4291 writes it; public: of 2000::/3 and not reserved."""
    while stop > start and data[stop - 1] in b".:" and data[stop - 2 : stop] != b"::":
        stop -= 1
    if stop < high and data[stop] in WORD:
        return None
    text = bytes(data[start:stop])
    try:
        value = ipaddress.IPv6Address(text.decode())
    except ValueError:
        return None
    if public_only and (
        value not in _PUBLIC_V6 or not value.is_global or len(text.strip(b":").split(b":")) < 3
    ):
        return None  # "2000::" is a year more often
    return (start, stop) if any(b in DIGITS for b in text) else None


# ---- accounts and cards ---------------------------------------------------------------------------------

# Length of an IBAN by country: the registry of ISO 13616 (SWIFT, release 98).
_COUNTRIES = """
15 NO 16 BE 18 DK FI FK FO GL NL SD 19 MK SI 20 AT BA EE KZ LT LU MN XK 21 CH HR LI LV 22 BG BH CR DE GB GE IE ME RS VA
23 AE GI IL IQ OM SO TL 24 AD CZ ES MD PK RO SA SE SK TN VG 25 LY PT ST 26 IS TR
27 BI DJ FR GR IT MC MR SM 28 AL AZ BY CY DO GT HU LB NI PL SV 29 BR EG PS QA UA 30 JO KW MU YE 31 MT SC 32 LC 33 RU
"""
IBAN_LENGTHS: dict[str, int] = {
    country: int(length)
    for length, countries in re.findall(r"(\d\d) ([A-Z ]+)", _COUNTRIES.replace("\n", " "))
    for country in countries.split()
}


def check_iban(data: memoryview, low: int, high: int, at: int, _: int) -> Span | None:
    """A country, two check digits and the account, in one piece or in groups of four; length and checksum agree."""
    length = IBAN_LENGTHS.get(bytes(data[at : at + 2]).decode())
    if length is None:
        return None
    stop, chars = at, bytearray()
    while len(chars) < length:
        if chars and len(chars) % 4 == 0:
            stop += _gap(data, stop, high)
        if stop >= high or data[stop] not in WORD or 97 <= data[stop] <= 122 or data[stop] == 95:
            return None
        chars.append(data[stop])
        stop += 1
    if stop < high and data[stop] in WORD:
        return None
    turned = bytes(chars[4:] + chars[:4]).decode()
    return (at, stop) if int("".join(str(int(c, 36)) for c in turned)) % 97 == 1 else None


def _gap(data: memoryview, at: int, high: int) -> int:
    """Bytes of one space, no-break space or hyphen at `at`."""
    if at < high and data[at] in b" -":
        return 1
    two, three = bytes(data[at : min(at + 2, high)]), bytes(data[at : min(at + 3, high)])
    return 2 if two == b"\xc2\xa0" else 3 if three in (b"\xe2\x80\xaf", b"\xe2\x80\x91") else 0


_CARD = re.compile(
    rb"(?:\d{4}(?P<a> |-|\xc2\xa0)\d{4}(?P=a)\d{4}(?P=a)\d{4}(?:(?P=a)\d{3}(?!\d))?"
    rb"|3\d{3}(?P<b> |-|\xc2\xa0)\d{6}(?P=b)\d{4,5}|\d{13,19})(?![0-9A-Za-z_]|[.,/:-]\d)"
)
# Issuer, as the pattern its digits must match as a whole: prefix and length.
ISSUERS: dict[str, re.Pattern[str]] = {
    "visa": re.compile(r"4(?:\d{12}|\d{15}|\d{18})"),
    "mastercard": re.compile(r"(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"),
    "american_express": re.compile(r"3[47]\d{13}"),
    "discover": re.compile(r"(?:6011|64[4-9]\d|65\d\d)\d{12,15}"),
    "diners": re.compile(r"(?:30[0-5]|309|36\d|3[89]\d)\d{11}"),
    "jcb": re.compile(r"35(?:2[89]|[3-8]\d)\d{12,15}"),
    "unionpay": re.compile(r"62\d{14,17}"),
    "maestro": re.compile(r"(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}"),
}
# A row of numbers of four digits goes on before or after these groups.
_ROW_BEFORE = re.compile(rb"\d{4}(?: |\xc2\xa0)\Z")
_ROW_AFTER = re.compile(rb"(?: |\xc2\xa0)\d{4}(?!\d)")


def luhn(digits: str) -> bool:
    """Whether the digits pass the check of ISO/IEC 7812 (Luhn)."""
    doubled = [int(d) * 2 for d in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def check_card(data: memoryview, low: int, high: int, at: int, _: int) -> Span | None:
    """A card number in one piece or in the groups its issuer prints; issuer, length and check digit agree."""
    found = _CARD.match(data, at, min(high, at + 32))
    if found is None:
        return None
    one, two = byte_before(data, low, at), byte_before(data, low, at, 2)
    if one in WORD or (one in b".,-/:+" and two in DIGITS):
        return None
    stop = found.end()
    if found["a"] in (b" ", b"\xc2\xa0") and (
        _ROW_BEFORE.search(data[max(low, at - 6) : at]) or _ROW_AFTER.match(data, stop, min(high, stop + 7))
    ):
        return None
    digits = "".join(chr(b) for b in found.group() if b in DIGITS)
    if not any(p.fullmatch(digits) for p in ISSUERS.values()) or len(set(digits)) == 1 or not luhn(digits):
        return None
    return at, stop


# ---- keys and tokens ------------------------------------------------------------------------------------

_END = rb"(?![0-9A-Za-z_])"
_HEX = rb"[0-9a-f]"
_ALNUM = rb"[0-9A-Za-z]"
_DASHED = rb"[0-9A-Za-z_-]"
# What follows each prefix.
_FOLLOWS: dict[str, bytes] = {
    # clouds
    "AKIA ASIA ABIA": rb"[0-9A-Z]{16}" + _END,
    "AIza": _DASHED + rb"{35}(?![0-9A-Za-z_-])",
    "GOCSPX-": _DASHED + rb"{28}(?![0-9A-Za-z_-])",
    "AccountKey=": rb"[0-9A-Za-z+/]{86}==",
    "dop_v1_ doo_v1_ dor_v1_": _HEX + rb"{64}" + _END,
    "tskey-": rb"[a-z]{3,10}-[0-9A-Za-z-]{16,120}+",
    "pul-": _HEX + rb"{40}" + _END,
    "nvapi-": _DASHED + rb"{60,80}+",
    # code and packages
    "ghp_ gho_ ghu_ ghs_ ghr_": _ALNUM + rb"{36,255}+" + _END,
    "github_pat_": rb"[0-9A-Za-z_]{50,255}+" + _END,
    "glpat- glrt- gldt- glptt- glft- glsoat-": _DASHED + rb"{20,300}+(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?",
    "npm_": _ALNUM + rb"{36}" + _END,
    "pypi-AgEI": _DASHED + rb"{50,1000}+",
    "rubygems_": _HEX + rb"{48}" + _END,
    "dckr_pat_": _DASHED + rb"{27,40}+",
    "hf_": _ALNUM + rb"{30,40}+" + _END,
    # models
    "sk-": rb"(?:[a-z]{2,8}[0-9]*-)*+[0-9A-Za-z_-]{32,300}+",
    "gsk_": _ALNUM + rb"{40,60}+" + _END,
    "xai-": _ALNUM + rb"{60,100}+" + _END,
    "r8_": _ALNUM + rb"{37}" + _END,
    # payment, shops, mail, chat and services
    "sk_live_ rk_live_ whsec_": _ALNUM + rb"{16,255}+" + _END,
    "sq0atp- sq0csp-": _DASHED + rb"{22,60}+",
    "shpat_ shpss_ shpca_ shppa_": rb"[0-9A-Fa-f]{32}" + _END,
    "SG.": _DASHED + rb"{16,32}+\." + _DASHED + rb"{16,64}+",
    "xoxa- xoxb- xoxe- xoxp- xoxr- xoxs-": rb"[0-9A-Za-z-]{20,300}+",
    "xapp-": rb"\d-[0-9A-Za-z-]{20,300}+",
    "lin_api_": _ALNUM + rb"{32,60}+" + _END,
    "glsa_": _ALNUM + rb"{32}_[0-9a-f]{8}" + _END,
    "PMAK-": _HEX + rb"{24}-" + _HEX + rb"{34}" + _END,
    # keys and signed tokens
    "AGE-SECRET-KEY-1": rb"[0-9A-Z]{58}" + _END,
    "eyJ": rb"[0-9A-Za-z_-]{12,}+\.eyJ[0-9A-Za-z_-]{8,}+\.[0-9A-Za-z_-]*+",
    "-----BEGIN": rb"[ A-Z0-9]{0,24} ?PRIVATE KEY(?: BLOCK)?-----",
}
_ANCHORS = b"_-IJGK"


def _anchor(prefix: bytes) -> int:
    """The index of the byte of a prefix that the pre-scan looks for: the rarest kind it has, in the order of `_ANCHORS`."""
    if prefix.startswith(b"-"):
        return len(prefix) - 6  # the last of five hyphens
    return next(prefix.index(c) for c in _ANCHORS if c in prefix)


# Prefix -> (index of its byte that the pre-scan looks for, what must follow the prefix).
SECRETS: dict[bytes, tuple[int, re.Pattern[bytes]]] = {
    prefix.encode(): (_anchor(prefix.encode()), re.compile(follows))
    for prefixes, follows in _FOLLOWS.items()
    for prefix in prefixes.split()
}
_KEY_BODY = re.compile(rb"(?:[0-9A-Za-z+/=\s:,.()\\\"']|-(?!----))*+")
_KEY_LINES = re.compile(rb"(?:\\[rn]|\s){0,8}+(?:[0-9A-Za-z+/=]{16,}+(?:\\[rn]|\s)*+)++")
_KEY_END = re.compile(rb"-----END[ A-Z0-9]{0,40}-----")
_MIXED = (re.compile(rb"[0-9]"), re.compile(rb"[A-Z]"), re.compile(rb"[a-z]"))
_LEAST_KEY = 64  # characters of base64 in the smallest private key


def check_secret(data: memoryview, low: int, high: int, at: int, _: int) -> Span | None:
    """A known prefix and what must follow it; a private key from its first line to its last."""
    if byte_before(data, low, at) == 45 and data[at] != 45:
        return None  # the inside of a longer name; a token is tried once, so that a run of them costs linear time
    for prefix, (_anchor, rest) in SECRETS.items():
        if data[at : min(at + len(prefix), high)] == prefix:
            found = rest.match(data, at + len(prefix), high)
            if found is None:
                return None
            if prefix == b"-----BEGIN":
                return _private_key(data, at, found.end(), high)
            if prefix in (b"sk-", b"hf_", b"SG.") and not all(p.search(found.group()) for p in _MIXED):
                return None  # a name of words
            return at, found.end()
    return None


def _private_key(data: memoryview, at: int, body: int, high: int) -> Span | None:
    """From BEGIN to END, or, where the end is missing, to the last whole line of base64."""
    found = _KEY_BODY.match(data, body, high)
    stop = found.end() if found else body
    if sum(b not in b" \t\r\n\\" for b in data[body : min(stop, body + 400)]) < _LEAST_KEY:
        return None
    last = _KEY_END.match(data, stop, high)
    if last is not None:
        return at, last.end()
    lines = _KEY_LINES.match(data, body, stop)
    if lines is None:
        return None
    return at, body + len(bytes(data[body : lines.end()]).rstrip(b" \t\r\n\\"))


def secret_prefixes() -> tuple[Sequence[bytes], Sequence[int]]:
    """The prefixes and the index of the anchor byte in each."""
    return list(SECRETS), [anchor for anchor, _ in SECRETS.values()]
