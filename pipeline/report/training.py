"""Training: loss per modality, speed and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixloom.pipeline.report.charts import Series, line_chart
from mixloom.pipeline.report.markup import Content, duration, name, number, plural, significant
from mixloom.pipeline.report.tables import Column, facts, table

COLORS = {"all": "all", "text": "m-text", "image": "m-image", "speech": "m-speech"}


@dataclass(frozen=True, slots=True)
class Ends:
    """Loss at both ends of a training, in nats per target, each over `steps` logged steps."""

    steps: int
    first: Mapping[str, float | None]
    last: Mapping[str, float | None]


def training_section(records: Sequence[Mapping[str, Any]], ends: Ends | None) -> list[Content]:
    """Charts and figures of one training; `records` as the trainer logs them."""
    if not records:
        return []
    names = sorted({n for r in records for n in r.get("loss_by_modality", {})}, key=_rank)
    steps = [float(r["step"]) for r in records]
    curves = [
        Series(n, steps, [r["loss_by_modality"].get(n) for r in records], COLORS.get(n, "plain"))
        for n in names
    ]
    window = max(5, len(records) // 20) if len(records) > 10 else None
    speed = [Series("tokens/s", steps, [r.get("tokens_per_second") for r in records], "plain")]
    rate = [Series("learning rate", steps, [r.get("lr") for r in records], "plain")]
    held_out = _held_out(records)
    return [
        _cards(records),
        ends_table(ends) if ends else None,
        line_chart("Loss by modality", curves, x_title="step", y_title="nats per target", window=window),
        line_chart("Loss on held-out contexts", held_out, x_title="step", y_title="nats per target")
        if held_out
        else None,
        line_chart(
            "Training tokens per second",
            speed,
            x_title="step",
            y_title="tokens/s",
            window=window,
            from_zero=True,
        ),
        line_chart("Learning rate", rate, x_title="step", y_title="rate", from_zero=True),
    ]


def _cards(records: Sequence[Mapping[str, Any]]) -> Content:
    last = records[-1]
    seconds = sum(r.get("seconds") or 0.0 for r in records)
    tokens = sum(r.get("tokens") or 0 for r in records)
    speed = tokens / seconds if seconds else None
    return facts(
        [
            ("Steps", [number(last["step"]), f" of {number(last.get('steps', last['step']))}"]),
            ("Tokens trained on", number(tokens)),
            ("Tokens per second", number(speed)),
            ("Time", duration(seconds)),
        ]
    )


def ends_table(ends: Ends) -> Content:
    """First and last losses."""
    rows: list[list[Content]] = []
    for n in sorted(ends.first, key=_rank):
        first, last = ends.first[n], ends.last.get(n)
        change = significant(last - first) if first is not None and last is not None else "\u2013"
        rows.append([name(n), significant(first, 4), significant(last, 4), change])
    caption = f"Loss at both ends, nats per target, over {plural(ends.steps, 'logged step')} each"
    return table(
        caption, [Column("Modality", False), Column("First"), Column("Last"), Column("Change")], rows
    )


def _held_out(records: Sequence[Mapping[str, Any]]) -> list[Series]:
    with_loss = [r for r in records if r.get("eval_loss")]
    names = sorted({n for r in with_loss for n in r["eval_loss"]}, key=_rank)
    steps = [float(r["step"]) for r in with_loss]
    return [
        Series(n, steps, [r["eval_loss"].get(n) for r in with_loss], COLORS.get(n, "plain")) for n in names
    ]


def _rank(modality: str) -> tuple[int, str]:
    order = list(COLORS)
    return (order.index(modality) if modality in order else len(order), modality)
