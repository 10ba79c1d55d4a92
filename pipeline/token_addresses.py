"""What a chunk that stands for an address looks like to spaCy's English tokenizer, which cuts none of those.

Called by the kernel of `token_kernel`, on parts of a chunk as that describes them. Kernels keep all they call in their own
file because numba's cache looks at the changes of one file only: after a change here, delete the cached kernels.
"""

from __future__ import annotations

from numba import njit

from mixloom.pipeline import english_tokens as en
from mixloom.pipeline.lean import LEAN

_LOWER, _ALPHA, _NUMBER = en.LOWER, en.ALPHA, en.NUMBER


@njit(**LEAN, inline="always")
def is_digit(code):  # type: ignore[no-untyped-def]
    return 48 <= code <= 57


@njit(**LEAN, inline="always")
def _in_host(code):  # type: ignore[no-untyped-def]
    return 97 <= code <= 122 or 65 <= code <= 90 or is_digit(code) or 0xA1 <= code <= 0xFFFF


@njit(**LEAN, forceinline=True)
def _ends_host(codes, i, hi):  # type: ignore[no-untyped-def]
    """Whether nothing but a port and a path follows from i on."""
    if i < hi and codes[i] == 58:
        i += 1
        first = i
        while i < hi and is_digit(codes[i]):
            i += 1
        if not 2 <= i - first <= 5:
            return False
    return i == hi or codes[i] == 47 or codes[i] == 63 or codes[i] == 35


@njit(**LEAN)
def _is_name(codes, flags, lo, hi):  # type: ignore[no-untyped-def]
    """Whether a host name with a top-level domain begins at lo and nothing but a port and a path follows."""
    i, label, labels = lo, lo, 0
    while i < hi and (_in_host(codes[i]) or codes[i] in (45, 46, 95)):
        if codes[i] == 46:
            if not (1 <= i - label <= 64 and _in_host(codes[label]) and _in_host(codes[i - 1])):
                return False
            label, labels = i + 1, labels + 1
        i += 1
    if labels == 0 or not 2 <= i - label <= 63:
        return False
    for k in range(label, i):
        if flags[codes[k]] & _LOWER == 0:
            return False
    return _ends_host(codes, i, hi)


@njit(**LEAN)
def _is_ip(codes, flags, lo, hi):  # type: ignore[no-untyped-def]
    """Whether a public IPv4 address begins at lo and nothing but a port and a path follows."""
    i, first, second = lo, 0, 0
    for part in range(4):
        start, value = i, 0
        while i < hi and is_digit(codes[i]) and i - start < 4:
            value = value * 10 + int(codes[i]) - 48
            i += 1
        zero = start < hi and codes[start] == 48
        outer = part == 0 or part == 3
        most = 223 if part == 0 else (254 if part == 3 else 255)
        if i == start or i - start > 3 or value > most or (zero and (outer or i - start == 3)):
            return False
        if part == 0:
            first = value
        if part == 1:
            second = value
        if part < 3:
            if i >= hi or codes[i] != 46:
                return False
            i += 1
    if first in (10, 127) or (first == 169 and second == 254) or (first == 192 and second == 168):
        return False
    return not (first == 172 and 16 <= second <= 31) and _ends_host(codes, i, hi)


@njit(**LEAN)
def is_address(codes, flags, lo, hi, signed):  # type: ignore[no-untyped-def]
    """Whether lo:hi, with a "@" in it if `signed`, is an address: [scheme://][user@](host.domain|IPv4)[:port][/path]."""
    if _is_name(codes, flags, lo, hi) or _is_ip(codes, flags, lo, hi):
        return True
    i = lo
    while i < hi and (flags[codes[i]] & (_ALPHA | _NUMBER) != 0 or codes[i] in (43, 45, 46, 95)):
        i += 1
    scheme = i - lo >= 2 and i + 2 < hi and codes[i] == 58
    scheme = scheme and codes[i + 1] == 47 and codes[i + 2] == 47
    if scheme and (_is_name(codes, flags, i + 3, hi) or _is_ip(codes, flags, i + 3, hi)):
        return True
    for k in range(lo + 1, hi if signed else lo):
        if codes[k] == 64 and (_is_name(codes, flags, k + 1, hi) or _is_ip(codes, flags, k + 1, hi)):
            return True
    return False
