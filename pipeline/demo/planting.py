"""What is planted in the prose: near-duplicates, pairs that only look like it, and noise.

Every pair is measured with the exact similarity of `shingles` after it is made; a pair outside the wanted
range is made again, so what the truth file claims is what lies in the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from mixloom.pipeline.demo.shingles import jaccard, words

NEAR = 0.8  # a planted near-duplicate is at least this similar to its original
DISTINCT = (0.3, 0.6)  # a planted hard negative is between these
_TRIES = 200

_SWAPS = {
    "the": "this", "this": "the", "a": "one", "is": "was", "are": "were", "will": "shall", "may": "might",
    "returns": "gives", "return": "give", "value": "result", "used": "employed", "first": "initial",
    "if": "when", "and": "plus", "not": "never", "called": "invoked", "given": "supplied", "must": "should",
}  # fmt: skip
_CLOSINGS = (
    "Copied from the manual page of the same name.",
    "Last checked against the printed edition.",
    "See the next chapter for the remaining details.",
    "Posted again by request of several readers.",
    "This text was mirrored from another server.",
)


def near_duplicate(text: str, rng: np.random.Generator) -> tuple[str, float]:
    """A changed copy and its exact similarity to `text`, in [0.8, 1]; never equal byte for byte.

    One to four edits out of: words exchanged, a sentence left out, case or spacing changed, a line added.

    Raises:
        ValueError: the text is too short for any edit to leave it this similar.
    """
    for _ in range(_TRIES):
        copy = text
        for edit in rng.choice(len(_EDITS), size=int(rng.integers(1, 5))):
            copy = _EDITS[edit](copy, rng)
        alike = jaccard(text, copy)
        if copy != text and alike >= NEAR:
            return copy, alike
    raise ValueError(f"no near-duplicate of a text of {len(words(text))} words at similarity {NEAR}")


def hard_negative(text: str, donor: str, rng: np.random.Generator) -> tuple[str, float] | None:
    """A text that shares about half of `text`, the rest being from `donor`, and its similarity in [0.3, 0.6].

    None when no cut of the two texts falls into the range.
    """
    own, other = _sentences(text), _sentences(donor)
    cuts = [(i, j) for i in range(1, len(own)) for j in range(1, len(other) + 1)]
    for n in rng.permutation(len(cuts))[:_TRIES]:
        i, j = cuts[n]
        mixed = "".join(own[:i]).rstrip() + "\n\n" + "".join(other[-j:]).strip() + "\n"
        alike = jaccard(text, mixed)
        if DISTINCT[0] <= alike <= DISTINCT[1]:
            return mixed, alike
    return None


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?:])(?=\s)|(?<=\n)\n", text) if s.strip()]


def _exchange_words(text: str, rng: np.random.Generator) -> str:
    spots = [m for m in re.finditer(r"\b[a-z]+\b", text) if m.group() in _SWAPS]
    wanted = min(len(spots), int(rng.integers(1, 4)))
    chosen = sorted(rng.permutation(len(spots))[:wanted].tolist(), reverse=True)
    for n in chosen:
        m = spots[n]
        text = text[: m.start()] + _SWAPS[m.group()] + text[m.end() :]
    return text


def _drop_sentence(text: str, rng: np.random.Generator) -> str:
    parts = _sentences(text)
    if len(parts) < 3:
        return text
    del parts[int(rng.integers(1, len(parts)))]
    return "".join(parts)


def _change_case(text: str, rng: np.random.Generator) -> str:
    lines = text.split("\n")
    n = int(rng.integers(len(lines)))
    lines[n] = lines[n].upper() if rng.random() < 0.5 else lines[n].lower()
    return "\n".join(lines)


def _change_spacing(text: str, rng: np.random.Generator) -> str:
    return (
        text.replace("\n\n", "\n\n\n")
        if rng.random() < 0.5
        else text.replace(". ", ".  ").replace("\n", "\n ")
    )


def _add_line(text: str, rng: np.random.Generator) -> str:
    return text.rstrip("\n") + "\n\n" + _CLOSINGS[int(rng.integers(len(_CLOSINGS)))] + "\n"


_EDITS: tuple[Callable[[str, np.random.Generator], str], ...] = (
    _exchange_words,
    _exchange_words,  # twice: the edit that real copies show most
    _drop_sentence,
    _change_case,
    _change_spacing,
    _add_line,
)


def _random_characters(rng: np.random.Generator) -> str:
    alphabet = list("bcdfghjklmnpqrstvwxzaeiouBCDFGHJKLMNPQRSTVWXZ0123456789")
    return "\n".join(
        " ".join("".join(rng.choice(alphabet, size=rng.integers(3, 12))) for _ in range(12))
        for _ in range(10)
    )


def _symbol_soup(rng: np.random.Generator) -> str:
    symbols = list("#@$%^&*(){}[]<>|\\/~+=_-!?;:.,")
    return "\n".join(
        " ".join("".join(rng.choice(symbols, size=rng.integers(1, 6))) for _ in range(16)) for _ in range(9)
    )


def _repeated_line(rng: np.random.Generator) -> str:
    who = ("buyer", "reader", "visitor", "customer", "member", "guest", "player", "driver")
    what = ("the best offer of the week", "a free sample of our goods", "the prize that you have won")
    where = ("on our site", "at the store", "with this code", "before the end of the day", "by post")
    pick = [options[int(rng.integers(len(options)))] for options in (who, what, where)]
    line = f"Dear {pick[0]} number {int(rng.integers(100, 10_000))}, claim {pick[1]} {pick[2]} and be happy."
    return "\n".join([line] * int(rng.integers(25, 50)))


def _keyboard_mash(rng: np.random.Generator) -> str:
    rows = ("asdfghjkl", "qwertyuiop", "zxcvbnm", "sdfjkl", "hjklasdf")
    out = []
    for _ in range(int(rng.integers(70, 120))):
        row = rows[int(rng.integers(len(rows)))]
        start = int(rng.integers(len(row) - 3))
        out.append((row[start:] + row[:start])[: int(rng.integers(3, 9))] * int(rng.integers(1, 3)))
    return " ".join(out)


def _control_characters(rng: np.random.Generator) -> str:
    controls = [chr(c) for c in (*range(1, 9), *range(14, 32), 127)]
    return "".join(
        str(rng.choice(controls)) + "xk7"[int(rng.integers(3))] * int(rng.integers(0, 2)) for _ in range(700)
    )


NOISE: dict[str, Callable[[np.random.Generator], str]] = {
    "random_characters": _random_characters,
    "symbol_soup": _symbol_soup,
    "repeated_line": _repeated_line,
    "keyboard_mash": _keyboard_mash,
    "control_characters": _control_characters,
}
