"""MEDU: the utility of a source for a skill is what a judge thinks of its documents (Held et al., arXiv 2501.11747).

Benchmarks are described from their items and the descriptions merged pairwise; documents of every source are labelled
Great to Useless with respect to each description; the mean of the labels, mapped to 0..1, is the utility. The lexical
judge has no use for descriptions: it compares words with the items themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixloom.mixers.judge import ChatJudge, open_judge
from mixloom.mixers.medu_calls import CallLog
from mixloom.mixers.medu_config import LexicalConfig, MeduConfig
from mixloom.mixers.medu_cost import Cost, cut_to_tokens, read_tokenizer
from mixloom.mixers.medu_documents import Sample, draw
from mixloom.mixers.medu_labels import LABELS
from mixloom.mixers.medu_prompts import Prompts
from mixloom.mixers.medu_questions import Questioning
from mixloom.mixers.medu_skills import read_skill
from mixloom.mixers.medu_table import Verdict, means, tally
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.console import Console
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.storage import Store

LABELS_FILE = "labels.jsonl"
FEW = 32  # documents of a source, or items of a skill, below which a result is told to be rough
NOTE_LEXICAL = (
    "lexical judge: it compares words with the items of each skill and reads no meaning or quality; its labels are"
    " relative to the sources and skills judged together"
)


class Medu:
    """One judging of some documents for some skills, from the estimate to the table.

    Args:
        config: all settings.
        sample: the documents, drawn by `medu_documents.draw`.
        work: folder of the ledger and of the labels.
        judge: who answers, where it is not to be opened from the configuration.

    Raises:
        UserError: a skill that cannot be read, a judge that cannot be opened, or settings that do not go together.
    """

    def __init__(
        self, config: MeduConfig, sample: Sample, work: str | Path, judge: ChatJudge | None = None
    ) -> None:
        self.config, self.work = config, Path(work)
        self.sample = _cut(sample, config)
        self.skills = [
            read_skill(name, s, characters=config.item_characters, seed=config.seed)
            for name, s in config.skills.items()
        ]
        self.prompts = Prompts(config.prompts)
        self.questions: Questioning | None = None
        if not isinstance(config.judge, LexicalConfig):
            chat = judge or open_judge(config.judge, config.seed)
            log = CallLog(self.work, chat)
            self.questions = Questioning(config, self.skills, self.sample, self.prompts, log)

    @property
    def offline(self) -> bool:
        """Whether nothing leaves this machine."""
        return self.questions is None or self.questions.log.judge.offline

    def cost(self) -> Cost | None:
        """What is still to be asked; None for the lexical judge, which asks nobody."""
        return None if self.questions is None else self.questions.cost()

    def run(self, console: Console | None = None) -> Utilities:
        """Judge, write `labels.jsonl`, and return the utilities.

        Raises:
            UserError: more answers without a label, or more calls without an answer, than allowed.
        """
        console = console or Console(quiet=True)
        if self.questions is None:
            verdicts, found = self._lexical(console)
        else:
            descriptions = self.questions.describe(console)
            verdicts = [Verdict(*v) for v in self.questions.label(descriptions, console)]
            found = {"descriptions": {n: d.text for n, d in descriptions.items()}}
            console.say(self.questions.log.spent(self.config))
        self._write(verdicts)
        return self._utilities(verdicts, found)

    def _lexical(self, console: Console) -> tuple[list[Verdict], dict[str, Any]]:
        from mixloom.mixers.judge_lexical import LexicalJudge

        assert isinstance(self.config.judge, LexicalConfig)
        texts: dict[str, list[str]] = {s: [] for s in self.sample.sources}
        ids: dict[str, list[str]] = {s: [] for s in self.sample.sources}
        for d in self.sample.documents:
            texts[d.source].append(d.text)
            ids[d.source].append(d.doc_id)
        judge = LexicalJudge(texts, {s.name: s.pieces[: self.config.judge.items] for s in self.skills})
        verdicts, anchors, apart = [], {}, []
        with console.progress("judge") as advance:
            for done, skill in enumerate(self.skills):
                advance(done, len(self.skills))
                v = judge.judge(skill.name)
                for source in self.sample.sources:
                    rows = zip(ids[source], v.labels[source], v.scores[source].tolist())
                    verdicts += [Verdict(source, i, skill.name, x, score=_finite(s)) for i, x, s in rows]
                anchors[skill.name] = {
                    "lower": _finite(v.lower),
                    "upper": _finite(v.upper),
                    "words": list(v.words),
                }
                if not v.apart:
                    apart.append(skill.name)
        found: dict[str, Any] = {"anchors": anchors}
        if apart:
            found["notes"] = [
                f"the lexical judge cannot tell the items of {', '.join(apart)} from the documents: do not rely on it there"
            ]
        return verdicts, found

    def _write(self, verdicts: Sequence[Verdict]) -> None:
        """All verdicts, in the order of source, document and skill: the same judging gives the same bytes."""
        rows = sorted(verdicts, key=lambda v: (v.source, v.doc_id, v.skill))
        lines = [
            {
                "source": v.source,
                "doc_id": v.doc_id,
                "skill": v.skill,
                "label": v.label,
                **({"why": v.why} if v.label is None else {}),
                **({"score": v.score} if self.questions is None else {}),
            }
            for v in rows
        ]
        data = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines).encode()
        Store.at(str(self.work)).write(LABELS_FILE, data)

    def _utilities(self, verdicts: Sequence[Verdict], found: Mapping[str, Any]) -> Utilities:
        sources, skills = self.sample.sources, tuple(s.name for s in self.skills)
        counts = tally(verdicts, sources, skills)
        values, errors = means(counts, sources, skills)
        lexical = self.questions is None
        notes = [*self._about_the_judge(), *found.get("notes", []), *self._about_the_data(counts)]
        details = {
            "judge": {"kind": "lexical"} if self.questions is None else self.questions.log.judge.identity,
            "settings": self.config.model_dump(mode="json", exclude={"judge", "go_on"}, exclude_none=True),
            "inputs": {
                "documents": self.sample.fingerprint,
                "skills": {s.name: s.fingerprint for s in self.skills},
                **({} if lexical else {"prompts": self.prompts.fingerprint}),
            },
            "documents": self._documents(),
            "standard_errors": {s: [_finite(e) for e in errors[i]] for i, s in enumerate(sources)},
            "labels": {
                s: {t: counts[i, j].tolist() for j, t in enumerate(skills)} for i, s in enumerate(sources)
            },
            "label_columns": [*LABELS, "unparsable", "failed"],
            **{k: v for k, v in found.items() if k != "notes"},
        }
        return Utilities(
            sources, skills, values, "lexical" if lexical else "medu", False, tuple(notes), details
        )

    def _about_the_judge(self) -> list[str]:
        return [NOTE_LEXICAL if self.questions is None else f"labels by {self.questions.log.judge.name}"]

    def _about_the_data(self, counts: NDArray[np.int64]) -> list[str]:
        """What a reader should know of the documents, the items and the answers."""
        notes = []
        pieces = {s.name: len(s.pieces) for s in self.skills if s.description is None}
        for what, sizes in (("documents", self._documents()), ("items", pieces)):
            few = [f"{name} ({n})" for name, n in sizes.items() if n < FEW]
            if few:
                notes.append(
                    f"few {what}, so a rough result: {', '.join(few[:5])}{', ...' if len(few) > 5 else ''}"
                )
        if self.sample.without_text:
            notes.append(f"left out, as no document drawn has text: {', '.join(self.sample.without_text)}")
        unparsable, failed = counts[:, :, len(LABELS) :].sum(axis=(0, 1)).tolist()
        if unparsable or failed:
            notes.append(
                f"{unparsable} answers held no label and {failed} calls gave no answer; means are over the rest"
            )
        return notes

    def _documents(self) -> dict[str, int]:
        out = dict.fromkeys(self.sample.sources, 0)
        for d in self.sample.documents:
            out[d.source] += 1
        return out


def judged(
    place: str,
    config: MeduConfig,
    work: str | Path,
    *,
    confirmed: bool = False,
    console: Console | None = None,
    text_field: str = "text",
    source_field: str = "source",
    id_field: str | None = None,
) -> Utilities:
    """Draw documents of a run or of JSONL, show what judging them will cost, and judge them.

    Args:
        place, text_field, source_field, id_field: see `medu_documents.draw`.
        work: folder of the ledger and of the labels.
        confirmed: the calls of a judge that is not offline may be made.

    Raises:
        UserError: see `Medu`; or calls that leave this machine are to be made and were not confirmed.
    """
    console = console or Console(quiet=True)
    sample = draw(
        place,
        per_source=config.documents_per_source,
        characters=config.document_characters,
        seed=config.seed,
        group=config.group,
        text_field=text_field,
        source_field=source_field,
        id_field=id_field,
    )
    medu = Medu(config, sample, work)
    cost = medu.cost()
    if cost is not None:
        for line in cost.lines():
            console.say(line)
        if cost.calls and not (medu.offline or confirmed or config.go_on):
            raise UserError(
                "nothing was asked yet: " + "; ".join(cost.lines()),
                fix="add --yes (or go_on: true in the configuration) to make these calls; fewer documents_per_source"
                " cost less",
            )
    return medu.run(console)


def _cut(sample: Sample, config: MeduConfig) -> Sample:
    """The documents, cut to the tokens declared."""
    if config.document_tokens is None:
        return sample
    tokenizer = read_tokenizer(str(config.tokenizer))
    cut = [
        replace(d, text=cut_to_tokens(d.text, tokenizer, config.document_tokens)) for d in sample.documents
    ]
    return replace(sample, documents=tuple(cut))


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
