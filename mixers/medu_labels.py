"""The five labels of a judge, what each is worth, and the one way an answer is read.

The labels are those of MEDU (Held et al., arXiv 2501.11747). Their order is published; that they stand at equal steps
between 0 and 1 is ours.
"""

from __future__ import annotations

import re
from typing import Literal

Label = Literal["Great", "Good", "Okay", "Poor", "Useless"]

LABELS: tuple[Label, ...] = ("Great", "Good", "Okay", "Poor", "Useless")
VALUES: dict[Label, float] = {"Great": 1.0, "Good": 0.75, "Okay": 0.5, "Poor": 0.25, "Useless": 0.0}

_THINKING_ENDS = "</think>"
_EMPHASIS = "*_`# \t"
_MARKED = re.compile(r"label\s*:", re.IGNORECASE)
_LABEL_LINE = re.compile(r"label\s*:\s*(great|good|okay|poor|useless)\.?", re.IGNORECASE)
_BY_NAME: dict[str, Label] = {label.lower(): label for label in LABELS}


def parse_label(answer: str) -> Label | None:
    """The label of an answer, or None where it does not hold exactly one on the line asked for.

    That line is the last one that is not blank. It must read "Label:" and one of the five words; case, the emphasis
    signs of Markdown around either and one full stop are let through. An answer with a second line that begins with
    "Label:" is refused too: it may quote the document, and which line is the judge's own would be a guess. What a model
    writes while it thinks, up to "</think>", is not part of its answer.
    """
    lines = [_bare(x) for x in answer.rpartition(_THINKING_ENDS)[2].splitlines()]
    lines = [x for x in lines if x]
    if sum(1 for x in lines if _MARKED.match(x)) != 1:
        return None
    found = _LABEL_LINE.fullmatch(lines[-1])
    return _BY_NAME[found[1].lower()] if found else None


def _bare(line: str) -> str:
    """A line without emphasis: around it, and around the value after "Label:"."""
    line = line.strip().strip(_EMPHASIS)
    head, colon, value = line.partition(":")
    return f"{head.strip(_EMPHASIS)}:{value.strip().strip(_EMPHASIS)}" if colon else line
