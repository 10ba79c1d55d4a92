"""The ledger of calls to a judge, which is its memory too: what was answered once is not asked again.

`calls.jsonl` in the working folder gets a line per call as soon as it is answered, so that a run that was killed goes on
where it stopped, and one with a further source or skill asks only what is new. A call is known by the hash of its
question and of everything else that decides the answer. Keys of endpoints never come here.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from mixloom.mixers.judge import Answer, ChatJudge
from mixloom.mixers.medu_config import MeduConfig
from mixloom.mixers.medu_cost import price
from mixloom.mixers.medu_labels import parse_label
from mixloom.mixers.medu_prompts import Request
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import canonical_json, sha256_hex

LEDGER = "calls.jsonl"
Purpose = Literal["describe", "merge", "label"]


@dataclass(frozen=True, slots=True)
class Call:
    """A question, and what it is asked for. `source` and `doc_id` are empty where no document is judged."""

    purpose: Purpose
    skill: str
    request: Request
    source: str = ""
    doc_id: str = ""


class CallLog:
    """The calls made to one judge, on disk.

    Args:
        folder: the working folder; made when the first call is.
        judge: who answers.

    Raises:
        UserError: the ledger there cannot be read.
    """

    def __init__(self, folder: Path, judge: ChatJudge) -> None:
        self.path = folder / LEDGER
        self.judge = judge
        self._identity = judge.identity
        self._known: dict[str, str] = {}
        self._made = self._failed = self._uncounted = 0
        self._tokens = [0, 0]
        for line in self._lines():
            if _counts(line["purpose"], line["answer"]):
                self._known[line["key"]] = line["answer"]

    def key(self, request: Request) -> str:
        """sha256 over the judge and the question."""
        return sha256_hex(canonical_json([self._identity, request.fingerprint]))

    def known(self, request: Request) -> str | None:
        """The answer to a question that was asked before, by this run or an earlier one."""
        return self._known.get(self.key(request))

    def ask(self, calls: Sequence[Call], told: Callable[[Call, Answer], None] | None = None) -> list[Answer]:
        """The answers to some calls, in their order; what is known is not asked, what is equal is asked once.

        Args:
            told: called after every answer that was not known, once it is in the ledger; it may raise to stop.
        """
        keys = [self.key(c.request) for c in calls]
        new: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key not in self._known:
                new.setdefault(key, i)
        failed: dict[str, Answer] = {}
        if new:
            asked = list(new.items())
            answers = self.judge.answers([calls[i].request for _, i in asked])
            # Closed, so that a judge stops asking when `told` stops the run.
            with self._writing() as file, closing(answers):
                for n, answer in answers:
                    key, i = asked[n]
                    self._write(file, key, calls[i], answer)
                    if answer.text is not None and _counts(calls[i].purpose, answer.text):
                        self._known[key] = answer.text
                    else:
                        failed[key] = answer
                    if told is not None:
                        told(calls[i], answer)
        return [failed[k] if k in failed else Answer(self._known[k]) for k in keys]

    def spent(self, config: MeduConfig) -> str:
        """What was asked through this object, in words; not what the ledger knew before."""
        said = f"{self._made:,} calls made, {self._failed:,} without an answer: {self._tokens[0]:,} tokens of prompts and"
        said += f" {self._tokens[1]:,} of answers, as the judge counted them"
        if self._uncounted:
            said += f" (it did not for {self._uncounted:,} calls)"
        cost = price(config, *self._tokens)
        return f"{said}; price {cost:,.2f}" if cost is not None else said

    def _write(self, file: IO[bytes], key: str, call: Call, answer: Answer) -> None:
        labelled = call.purpose == "label" and answer.text is not None
        line = {
            "key": key,
            "prompt": call.request.fingerprint,
            "judge": self.judge.name,
            "purpose": call.purpose,
            "skill": call.skill,
            "source": call.source,
            "doc_id": call.doc_id,
            "label": parse_label(answer.text or "") if labelled else None,
            "answer": answer.text,
            "prompt_tokens": answer.prompt_tokens,
            "answer_tokens": answer.answer_tokens,
            "seconds": answer.seconds,
            "tries": answer.tries,
            "error": answer.error,
        }
        self._made += 1
        self._failed += answer.text is None
        counted = (answer.prompt_tokens, answer.answer_tokens)
        self._uncounted += answer.text is not None and None in counted
        self._tokens = [a + (b or 0) for a, b in zip(self._tokens, counted)]
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    return  # the process was killed while it wrote this line
                try:
                    line = json.loads(raw)
                    line["key"], line["answer"], line["purpose"]
                except (ValueError, KeyError, TypeError):
                    raise UserError(
                        f"{self.path}, line {number}, is not what was written there",
                        fix="remove that line: what it answered is asked again",
                    ) from None
                yield line

    @contextmanager
    def _writing(self) -> Iterator[IO[bytes]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is asking a judge in {self.path.parent}",
                    fix="wait for it, or give another folder with --work",
                ) from None
            _drop_half_line(file)
            yield file


def _counts(purpose: str, answer: str | None) -> bool:
    """Whether an answer is kept. Without a word it describes nothing, and is asked for again; as a label it is unparsable."""
    return answer is not None and (purpose == "label" or bool(answer.strip()))


def _drop_half_line(file: IO[bytes]) -> None:
    """Cut off what a killed process left of its last line."""
    size = end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - (1 << 16))
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    file.seek(0, 2)
