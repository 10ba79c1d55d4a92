"""The questions MEDU asks a language model: what a benchmark needs, and what each document is worth for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mixloom.mixers.judge import Answer
from mixloom.mixers.medu_calls import Call, CallLog
from mixloom.mixers.medu_config import MeduConfig
from mixloom.mixers.medu_cost import Cost, CostCounter, token_counter
from mixloom.mixers.medu_documents import Sample
from mixloom.mixers.medu_labels import Label, parse_label
from mixloom.mixers.medu_merge import Described, merge_pairwise
from mixloom.mixers.medu_prompts import Prompts, Request
from mixloom.mixers.medu_skills import Skill
from mixloom.pipeline.console import Advance, Console
from mixloom.pipeline.errors import UserError

_EARLY = 20  # answers after which a judge that has given none of use is not asked further


class _NotKnown(Exception):
    """An answer that only the judge could give."""


class Questioning:
    """Descriptions and labels for some skills and documents, through one ledger."""

    def __init__(
        self, config: MeduConfig, skills: Sequence[Skill], sample: Sample, prompts: Prompts, log: CallLog
    ) -> None:
        self.config, self.skills, self.sample = config, skills, sample
        self.prompts, self.log = prompts, log

    def describe(self, console: Console) -> dict[str, Described]:
        """One description per skill, by name.

        Raises:
            UserError: the judge gave none.
        """
        calls = [c for s in self.skills for c in self._describing(s)]
        with console.progress("describe") as advance:
            done = 0

            def told(call: Call, answer: Answer) -> None:
                nonlocal done
                done += 1
                advance(done, len(calls))

            self.log.ask(calls, told)
        return {s.name: self._described(s, ask=True) for s in self.skills}

    def label(
        self, descriptions: dict[str, Described], console: Console
    ) -> Iterator[tuple[str, str, str, Label | None, str | None]]:
        """(source, doc_id, skill, label, why there is none) of every document and skill.

        Raises:
            UserError: more answers without a label, or more calls without an answer, than allowed; told as soon as
                it is certain.
        """
        calls = self._labelling(descriptions)
        with console.progress("label") as advance:
            watch = _Watch(self.config, calls, self.log, advance)
            answers = self.log.ask(calls, watch.told)
        for call, answer in zip(calls, answers):
            label = parse_label(answer.text) if answer.text is not None else None
            why = None if label is not None else "unparsable" if answer.text is not None else answer.error
            yield call.source, call.doc_id, call.skill, label, why

    def cost(self) -> Cost:
        """What is still to be asked, as far as it can be known now."""
        count = CostCounter(*token_counter(self.config, self.log.judge))
        for skill in self.skills:
            calls = self._describing(skill)
            for call in calls:
                count.add(call.request, self.log.known(call.request) is not None)
            try:
                description = self._described(skill, ask=False)
                written = 0
                count.known += max(len(calls) - 1, 0)  # its merges
            except _NotKnown:
                description, written = Described("", 0), self.config.description_tokens
                merge = self.prompts.merge(("", 0), ("", 0), self.config.description_tokens)
                for _ in range(len(calls) - 1):
                    count.add(merge, extra_tokens=2 * written)
            for call in self._labelling({skill.name: description}):
                count.add(call.request, not written and self.log.known(call.request) is not None, written)
        return count.cost(self.config)

    def _describing(self, skill: Skill) -> list[Call]:
        """The calls that describe a skill from its items; none where its description is given."""
        if skill.description is not None:
            return []
        items = skill.pieces[: self.config.skill_items]
        step, most = self.config.items_per_description, self.config.description_tokens
        chunks = [list(items[i : i + step]) for i in range(0, len(items), step)]
        return [Call("describe", skill.name, self.prompts.describe(c, most)) for c in chunks]

    def _described(self, skill: Skill, ask: bool) -> Described:
        """The merged description of a skill.

        Args:
            ask: False takes answers from the ledger alone.

        Raises:
            _NotKnown: an answer is not in the ledger, and it may not be asked for.
            UserError: the judge gave no description.
        """
        if skill.description is not None:
            return Described(skill.description.strip(), 0)
        calls, step = self._describing(skill), self.config.items_per_description
        left = len(skill.pieces[: self.config.skill_items])
        texts = self._answered(calls, ask)
        parts = [Described(t, min(step, left - i * step)) for i, t in enumerate(texts)]

        def merge(pairs: list[tuple[Described, Described]]) -> list[str]:
            return self._answered([Call("merge", skill.name, self._merging(a, b)) for a, b in pairs], ask)

        return merge_pairwise(parts, merge)

    def _merging(self, a: Described, b: Described) -> Request:
        return self.prompts.merge((a.text, a.items), (b.text, b.items), self.config.description_tokens)

    def _answered(self, calls: list[Call], ask: bool) -> list[str]:
        if not ask and any(self.log.known(c.request) is None for c in calls):
            raise _NotKnown
        out = []
        for call, answer in zip(calls, self.log.ask(calls)):
            text = (answer.text or "").rpartition("</think>")[2].strip()
            if not text:
                why = answer.error or "the answer is empty"
                raise UserError(
                    f"the judge gave no description of skill '{call.skill}': {why}",
                    fix="run the same command again, or give the skill a description of your own",
                )
            out.append(text)
        return out

    def _labelling(self, descriptions: dict[str, Described]) -> list[Call]:
        return [
            Call(
                "label",
                name,
                self.prompts.label(d.text, x.text, self.config.answer_tokens),
                x.source,
                x.doc_id,
            )
            for name, d in descriptions.items()
            for x in self.sample.documents
        ]


class _Watch:
    """Counts answers as they come, and stops as soon as the end is certain: calls cost money."""

    def __init__(self, config: MeduConfig, calls: Sequence[Call], log: CallLog, advance: Advance) -> None:
        self._config, self._log, self._advance = config, log, advance
        self._same: dict[str, int] = {}  # equal questions of several documents are asked once
        for call in calls:
            key = call.request.fingerprint
            self._same[key] = self._same.get(key, 0) + 1
        self._total = len(calls)
        self._asked = self._labelled = self._unparsable = self._failed = 0
        self._settled = 0
        for call in calls:
            known = log.known(call.request)
            if known is not None:
                self._settled += 1
                read = parse_label(known) is not None
                self._labelled += read
                self._unparsable += not read
        self._check()

    def told(self, call: Call, answer: Answer) -> None:
        times = self._same[call.request.fingerprint]
        self._asked += 1
        self._settled += times
        if answer.text is None:
            self._failed += times
        elif parse_label(answer.text) is None:
            self._unparsable += times
        else:
            self._labelled += 1
        self._advance(self._settled, self._total)
        self._check(answer)

    def _check(self, last: Answer | None = None) -> None:
        useless = self._asked >= min(_EARLY, self._total) and not self._labelled and last is not None
        for what, n, share, name, fix in (
            ("calls gave no answer", self._failed, self._config.max_failed_share, "max_failed_share", _FIX_FAILED),
            ("answers held no label", self._unparsable, self._config.max_unparsable_share,
             "max_unparsable_share", _FIX_UNPARSABLE),
        ):  # fmt: skip
            if n > share * self._total or (useless and n >= self._asked and share < 1):
                shown = f"; the last error: {last.error}" if last is not None and last.error else ""
                raise UserError(
                    f"{n} of {self._settled} {what} ({self._total} are to be labelled), {name} is {share:g}{shown}",
                    fix=f"{fix} (the answers are in {self._log.path})",
                )


_FIX_FAILED = "see the errors, then run the same command again: what was answered is kept"
_FIX_UNPARSABLE = "use a model that follows instructions, raise answer_tokens where answers are cut off, or mend the prompts"
