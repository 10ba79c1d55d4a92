"""Training: updates that were left out, what they held, and what the activations said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixloom.pipeline.report.charts import Series, line_chart
from mixloom.pipeline.report.markup import Content, el, name, number, plural, significant
from mixloom.pipeline.report.tables import Column, details, table

MOST = 200  # incidents that are listed
DOCUMENTS = 24  # named of one incident
_CAUSES = {
    "data": "a few of its contexts",
    "weights": "the weights: the learning rate may be too high",
    "unclear": "all of its contexts alike",
}


def incidents_section(
    incidents: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], run: str
) -> list[Content]:
    """What went wrong in a training, in words and a table; [] where nothing did.

    Args:
        incidents: as spikes.jsonl has them, in order of their steps. records: as the trainer logs them.
        run: what `mixloom explain` is to be given.
    """
    cautions = [(r["step"], str(r["caution"])) for r in records if r.get("caution")]
    out: list[Content] = []
    if incidents:
        out += [_told(incidents), _table(incidents), _documents(incidents, run)]
    if cautions:
        items = [el("li", f"Step {number(step)}: ", name(text, 400)) for step, text in cautions[-10:]]
        out += [el("h4", plural(len(cautions), "caution")), el("ul", items)]
    return [el("h3", "Spikes and cautions"), *out] if out else []


def looks_charts(records: Sequence[Mapping[str, Any]]) -> list[Content]:
    """Largest attention logit and residual stream over the looks inside the model; [] before the second look."""
    looked = [r for r in records if r.get("attention_logits")]
    if len(looked) < 2:
        return []
    steps = [float(r["step"]) for r in looked]
    made = []
    for title, key in (
        ("Attention logits", "attention_logits"),
        ("Residual stream, root mean square", "residual_rms"),
    ):
        series = [Series("largest of all layers", steps, [max(r[key]) for r in looked], "plain")]
        made.append(line_chart(title, series, x_title="step", y_title="", from_zero=True))
    return list(made)


def _told(incidents: Sequence[Mapping[str, Any]]) -> Content:
    count = len(incidents)
    excluded = sum(len(i["contexts"]) for i in incidents if "excluded_from" in i)
    more = f"; {plural(excluded, 'context')} excluded from then on" if excluded else ""
    return el(
        "p", f"{plural(count, 'update')} left out, neither weights nor moments were touched by them{more}."
    )


def _table(incidents: Sequence[Mapping[str, Any]]) -> Content:
    columns = [
        *(Column("Step"), Column("What", False), Column("At fault", False, wide=True)),
        *(Column("Loss"), Column("Expected"), Column("Gradient norm"), Column("Usual")),
        Column("What was done", False, wide=True),
    ]
    rows: list[list[Content]] = []
    for i in incidents[-MOST:]:
        contexts = ", ".join(str(c["context"]) for c in i["contexts"])
        rows.append(
            [
                number(i["step"]),
                "spike" if i["kind"] == "spike" else "not finite",
                f"context {contexts}" if contexts else _CAUSES.get(i["cause"], name(str(i["cause"]))),
                *(significant(i[key], 4) for key in ("loss", "loss_expected")),
                *(significant(i[key]) for key in ("grad_norm", "grad_norm_usual")),
                _done(i),
            ]
        )
    caption = "Updates left out" + (f", the last {MOST}" if len(incidents) > MOST else "")
    return table(caption, columns, rows)


def _done(incident: Mapping[str, Any]) -> Content:
    if "excluded_from" in incident:
        return f"left out; its contexts excluded from step {number(incident['excluded_from'])} on"
    if "not_excluded" in incident:
        return ["left out; not excluded: ", name(str(incident["not_excluded"]), 200)]
    return "left out"


def _documents(incidents: Sequence[Mapping[str, Any]], run: str) -> Content:
    """The documents of every incident, worst context first."""
    blocks: list[Content] = []
    for i in incidents[-MOST:]:
        lines: list[Content] = [
            el("li", f"context {c['context']}, loss {significant(c['loss'], 4)}: ", _ids(c["documents"]))
            for c in i["contexts"]
        ]
        lines = lines or [el("li", "all of its contexts: ", _ids(i["documents"]))]
        blocks.append(details(f"Documents of step {number(i['step'])}", el("ul", lines)))
    hint = el("p", "The life of a document: ", el("code", f"mixloom explain {run} ID"))
    return el("div", hint, blocks)


def _ids(documents: Sequence[str]) -> Content:
    told = list(dict.fromkeys(documents))
    rest = f" and {number(len(told) - DOCUMENTS)} more" if len(told) > DOCUMENTS else ""
    out: list[Content] = []
    for i, doc in enumerate(told[:DOCUMENTS]):
        out += [", " if i else None, el("code", name(str(doc), 64))]
    return [*out, rest] if told else "no documents are known"
