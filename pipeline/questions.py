"""Question documents beside the document they ask about (pre-instruction-tuning, Jiang et al., arXiv 2402.12847).

There, models that saw questions before the documents with the answers remembered more of them. A document is a question
when its `meta` names another document. Called by `order_rows.order_rows`: the other documents of a cell are ordered as
ever, and questions are put in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mixloom.pipeline.order_config import QuestionsConfig


def names_and_links(
    batch: pa.RecordBatch, config: QuestionsConfig
) -> tuple[list[str | None], list[str | None]]:
    """What each document of a DOCUMENTS batch is called, and what its link calls another; null where there is nothing.

    A locator is called by its `uri`, followed by `#` and its `member` where it has one. Needs the columns doc_id,
    locator and meta.
    """
    meta = [dict(m or ()) for m in batch.column("meta").to_pylist()]
    links = [m.get(config.field) for m in meta]
    if config.names == "doc_id":
        return batch.column("doc_id").to_pylist(), links
    if config.names == "locator":
        found = batch.column("locator").to_pylist()
        return [x["uri"] + (f"#{x['member']}" if x["member"] else "") for x in found], links
    return [m.get(config.names) for m in meta], links


def resolve(names: Sequence[str | None], links: Sequence[str | None]) -> np.ndarray:
    """The row of the document each question asks about, int64 [n]; -1 for those that are no questions of these documents.

    A name that several documents have names none of them. A question may be asked about; questions that ask about each
    other in a circle are none.
    """
    at: dict[str, int] = {}
    for i, name in enumerate(names):
        if name is not None:
            at[name] = -1 if name in at else i
    answers = np.array([-1 if link is None else at.get(link, -1) for link in links], np.int64)
    answers[answers == np.arange(len(answers))] = -1
    state = np.zeros(
        len(answers), np.int8
    )  # 1: on the way that is followed now, 2: known to end at a document
    for first in np.flatnonzero(answers >= 0):
        way, here = [], int(first)
        while here >= 0 and not state[here]:
            state[here] = 1
            way.append(here)
            here = int(answers[here])
        if here >= 0 and state[here] == 1:
            answers[way[way.index(here) :]] = -1
        state[way] = 2
    return answers


def place_questions(path: np.ndarray, answers: np.ndarray, before: bool) -> np.ndarray:
    """The path (int64, over the documents that are no questions) with every question beside its document.

    Questions of one document stand in the order of their rows, and questions about a question beside that.

    Args:
        answers: int64 [n], see `resolve`.
        before: directly before the document; otherwise directly after it.
    """
    asked: dict[int, list[int]] = {}
    for q in np.flatnonzero(answers >= 0).tolist():
        asked.setdefault(int(answers[q]), []).append(q)
    if not asked:
        return path
    out: list[int] = []
    stack = path[::-1].tolist()
    while stack:
        here = stack.pop()
        questions = asked.pop(here, None)
        if questions is None:
            out.append(here)
        elif before:  # the document comes back once its questions are out
            stack.append(here)
            stack.extend(reversed(questions))
        else:
            out.append(here)
            stack.extend(reversed(questions))
    return np.array(out, np.int64)
