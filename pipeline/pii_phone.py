"""What counts as a telephone number: groups of digits in a form people write, valid in the numbering plans.

Forms: +49 30 1234567 and 0049 30 1234567; (212) 555-0143, 212-555-0143, 1.212.555.0143; 01 23 45 67 89; (030) 1234567,
0171/1234567, 020 7946 0958, (11) 91234-5678; and any 7 to 15 digits after a word such as "Tel." or "电话". Plans: the `phonenumbers`
package (Google's libphonenumber).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import phonenumbers

from mixloom.pipeline.pii_checks import DIGITS, LETTERS, WORD, Span, byte_before

_SPACED = (
    *(
        "tel",
        "tels",
        "telephone",
        "phone",
        "phones",
        "telephones",
        "ph",
        "fax",
        "telefax",
        "mobile",
        "cell",
        "cellphone",
    ),
    *(
        "hotline",
        "whatsapp",
        "telefon",
        "telefono",
        "teléfono",
        "téléphone",
        "tél",
        "telefone",
        "tlf",
        "movil",
        "móvil",
    ),
    *("celular", "handy", "mobil", "тел", "телефон", "факс", "моб", "전화"),
    *(
        "τηλ",
        "τηλέφωνο",
        "κινητό",
        "φαξ",
        "هاتف",
        "تلفون",
        "جوال",
        "موبايل",
        "فاکس",
        "تلفن",
        "טלפון",
        "טל",
        "נייד",
        "פקס",
    ),
    *(
        "फ़ोन",
        "फोन",
        "मोबाइल",
        "दूरभाष",
        "ফোন",
        "மொபைல்",
        "ስልክ",
        "telefón",
        "puhelin",
        "puh",
        "điện thoại",
        "sđt",
        "tlp",
    ),
)
_UNSPACED = (
    "电话",
    "電話",
    "手机",
    "手機",
    "传真",
    "傳真",
    "热线",
    "携帯",
    "โทร",
    "โทรศัพท์",
    "휴대폰",
)  # may follow other letters
_COUNTS = ("no", "nos", "number", "numbers", "nr", "num", "号码", "號碼", "番号")  # "phone number: ..."


def _written(words: Sequence[str]) -> bytes:
    """The words in small letters, with a capital, and in capitals, as alternatives of a pattern."""
    forms = {form.encode() for w in words for form in (w, w.capitalize(), w.upper())}
    return b"|".join(sorted(map(re.escape, forms)))


_LABEL = re.compile(
    rb"(?:(?<![0-9A-Za-z])(?<![\xc3-\xdf][\x80-\xbf])(?:%s)|(?:%s))(?:[ .]{0,2}(?:%s))?(?:[ \t:.#()=-]|\xef\xbc\x9a){0,4}\Z"
    % (_written(_SPACED), _written(_UNSPACED), _written(_COUNTS))
)
_NO_BREAK = rb"\xc2\xa0|\xe2\x80[\x90-\x93\xaf]"
_JOINT = rb"(?:(?:\)(?: |%s)?[-/]?| - |[ ./-]|%s)\(?|\()" % (_NO_BREAK, _NO_BREAK)
_GROUPS = re.compile(rb"\d{1,15}(?:%s\d{1,15}){0,7}" % _JOINT)
_RUN = re.compile(rb"\d+")
_SPACES = (b" ", b"\xc2\xa0", b"\xe2\x80\xaf")
_HYPHENS = (b"-", b" - ", b"\xe2\x80\x90", b"\xe2\x80\x91", b"\xe2\x80\x93")
_YEARS = re.compile(rb"(?:1[5-9]|20)\d\d")
_MOST_DIGITS = 15  # of a number with its country code (E.164)


def label_ends() -> Sequence[bytes]:
    """The last two bytes of every word that may announce a number, in lower case."""
    words = (form for w in (*_SPACED, *_UNSPACED, *_COUNTS) for form in (w, w.upper()))
    return sorted({w.encode()[-2:].lower() for w in words})


@dataclass(frozen=True, slots=True)
class _Number:
    """Groups of digits at a place: where each begins and ends, what joins it to the one before, and what is around."""

    data: memoryview
    high: int
    spans: Sequence[Span]
    joints: Sequence[bytes]  # one fewer than groups
    opened: bool  # the first group stands in brackets
    after_row: bool  # a digit and a space stand before: the middle of a row of numbers

    def digits(self, groups: int) -> str:
        return "".join(bytes(self.data[a:b]).decode() for a, b in self.spans[:groups])

    def ends(self, groups: int) -> bool:
        """Whether a number may end after so many groups: neither a letter nor a joined digit follows."""
        stop = self.spans[groups - 1][1]
        after = self.data[stop] if stop < self.high else 32
        if after in WORD:
            return False
        return not (after in b"./-" and stop + 1 < self.high and self.data[stop + 1] in DIGITS)

    def row_goes_on(self, groups: int) -> bool:
        """Whether a space and a digit follow."""
        return groups < len(self.spans) and self.joints[groups - 1] in _SPACES

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in self.spans)


def _parse(data: memoryview, low: int, high: int, at: int) -> _Number:
    found = _GROUPS.match(data, at, min(high, at + 160))
    stop = found.end() if found else at
    spans = [m.span() for m in _RUN.finditer(data, at, stop)]
    joints = [bytes(data[a[1] : b[0]]) for a, b in pairwise(spans)]
    # A bracket that closes elsewhere belongs to the sentence.
    opened = byte_before(data, low, at) == 40 and bool(joints) and joints[0].startswith(b")")
    first = at - opened
    after_row = byte_before(data, low, first) == 32 and byte_before(data, low, first, 2) in DIGITS
    return _Number(data, high, spans, joints, opened, after_row)


def _valid(digits: str, regions: Sequence[str | None]) -> bool:
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(digits, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


def _international(number: _Number, exit_code: bool) -> int:
    """Groups of a number with its country code: the longest valid one, else all of it if the length is possible."""
    kept, fits = "", []
    for k, (a, b) in enumerate(number.spans):
        if k > 2 and number.joints[k - 1].endswith(b"("):
            break  # the next number
        group = bytes(number.data[a:b]).decode()
        trunk = group == "0" and k > 0 and number.joints[k - 1].endswith(b"(")  # +49 (0)30
        kept += "" if trunk else group[2:] if exit_code and k == 0 else group
        if len(kept) > _MOST_DIGITS:
            break
        if len(kept) >= 8 and number.ends(k + 1):
            fits.append((k + 1, "+" + kept))
    for groups, digits in reversed(fits):
        if _valid(digits, [None]):
            return groups
    if fits and not exit_code and 3 <= fits[-1][0] == len(number.spans):
        # Numbers reserved for films and examples are in no plan.
        try:
            whole = phonenumbers.parse(fits[-1][1], None)
        except phonenumbers.NumberParseException:
            return 0
        return fits[-1][0] if phonenumbers.is_possible_number(whole) else 0
    return 0


def _american(number: _Number) -> int:
    """(212) 555-0143, 212-555-0143, 212.555.0143, 212/555-0143; 212 555 0143 if the area exists; 1 may stand before."""
    lengths = number.lengths
    lead = int(lengths[:4] == (1, 3, 3, 4) and number.data[number.spans[0][0]] == 49)
    if lengths[lead : lead + 3] != (3, 3, 4) or not number.ends(lead + 3):
        return 0
    opened = number.joints[0].endswith(b"(") if lead else number.opened
    one, two = number.joints[lead], number.joints[lead + 1]
    if opened:
        return lead + 3 if one.startswith(b")") and two in (*_SPACES, *_HYPHENS, b".") else 0
    if one in (*_HYPHENS, b".", b"/") and two in (*_HYPHENS, b"."):
        return lead + 3
    row = number.after_row or number.row_goes_on(lead + 3)
    spaced = one in _SPACES and two in (*_SPACES, *_HYPHENS)
    return lead + 3 if spaced and not row and _valid(number.digits(lead + 3), ["US"]) else 0


def _national(number: _Number, regions: Sequence[str]) -> int:
    """Groups of a number with the trunk prefix 0 or an area in brackets, valid in one of the regions."""
    lengths, joints = number.lengths, number.joints
    if number.after_row or not 2 <= lengths[0] <= 6 or number.digits(1).startswith("00"):
        return 0
    if number.opened and _YEARS.fullmatch(number.digits(1).encode()):
        return 0  # (2019) 123-456: the year and the pages of a reference
    if lengths[:5] == (2,) * 5 and len(set(joints[:4])) == 1 and joints[0] in (*_SPACES, *_HYPHENS, b"."):
        pairs = [int(number.digits(5)[i : i + 2]) for i in range(0, 10, 2)]
        counting = all(b == a + 1 for a, b in pairwise(pairs))
        five = number.ends(5) and not number.row_goes_on(5) and not counting
        return 5 if five and _valid(number.digits(5), regions) else 0
    if lengths[:2] == (5, 4) and joints[0] in _HYPHENS:
        return 0  # an American postal code
    if lengths[:3] == (4, 4, 4):
        return 0  # a row of numbers
    best = 0
    for k in range(1, min(len(lengths), 5)):
        first = (
            joints[0].startswith(b")") if number.opened else joints[0] in (*_SPACES, *_HYPHENS, b"/")
        ) or k > 1
        if not first or (k > 1 and joints[k - 1] not in (*_SPACES, *_HYPHENS)) or not 2 <= lengths[k] <= 8:
            break
        if 9 <= sum(lengths[: k + 1]) <= 12 and number.ends(k + 1):
            best = k + 1 if _valid(number.digits(k + 1), regions) else best
    return best


def _labelled(number: _Number, low: int, start: int) -> int:
    """Groups of 7 to 15 digits after a word that announces a telephone number."""
    if _LABEL.search(number.data[max(low, start - 64) : start]) is None:
        return 0
    groups = [bytes(number.data[a:b]) for a, b in number.spans]
    if len(groups) >= 2 and _YEARS.fullmatch(groups[0]) and _YEARS.fullmatch(groups[1]):
        return 0
    for k in range(len(groups), 0, -1):
        if 7 <= sum(map(len, groups[:k])) <= _MOST_DIGITS and number.ends(k):
            return k
    return 0


def check_phone(
    data: memoryview, low: int, high: int, at: int, _: int, *, regions: Sequence[str] = ()
) -> Span | None:
    """The span of the telephone number whose first digit is at `at`, with its "+" or "(", or None."""
    number = _parse(data, low, high, at)
    plus = byte_before(data, low, at) == 43
    start = at - (plus or number.opened)
    one, two = byte_before(data, low, start), byte_before(data, low, start, 2)
    if one == 47 and two in WORD and not plus:
        return None  # inside an address
    if (one in WORD or one in b"$+") or (one in b".,-/:" and two in DIGITS) or (one == 45 and two in LETTERS):
        return None
    if plus:
        groups = _international(number, exit_code=False) if data[at] != 48 else 0
    else:
        groups = _american(number)
        if groups == 0 and (data[at] == 48 or number.opened):
            exit_code = (
                data[at] == data[at + 1] == 48 and 4 <= number.lengths[0] <= 6 and len(number.spans) > 1
            )
            groups = _international(number, exit_code=True) if exit_code else _national(number, regions)
    groups = groups or _labelled(number, low, start)
    if groups == 0:
        return None
    return start + (number.opened and groups == 1), number.spans[groups - 1][1]
