"""report.html of a classifier: how well it tells the classes apart, how honest its scores are, where to cut."""

from __future__ import annotations

from typing import Any

from mixloom.pipeline.report.charts import Series, line_chart
from mixloom.pipeline.report.markup import Html, name, number, percent, significant
from mixloom.pipeline.report.page import Section, page
from mixloom.pipeline.report.tables import Column, facts, table

_COLORS = 12


def report_page(header: dict[str, Any]) -> str:
    """The page of a classifier, from the content of its quality.json."""
    m, test = header["metrics"], header["splits"]["test"]
    sections = [
        Section("summary", "Summary", [_facts(header), _splits(header)]),
        Section(
            "roc",
            "Positives against negatives",
            _roc(header),
            f"On {number(test['positives'])} positives and {number(test['negatives'])} negatives that neither trained "
            f"nor calibrated the classifier. The area under the curve is the chance that a positive scores higher "
            f"than a negative: {m['auc']:.4f}.",
        ),
        Section(
            "calibration",
            "Calibration",
            _calibration(header),
            "Held-out documents in ten groups by score: how sure the classifier is, and how often it is right. On the "
            "diagonal both agree. It holds for as many positives as negatives as there were here.",
        ),
        Section("scores", "Scores by source", _histograms(header), "Of the held-out documents."),
        Section(
            "thresholds",
            "Thresholds",
            _thresholds(header),
            "A document is kept when its score is at least the threshold. The share is of the held-out negatives, "
            "which stand for ordinary documents; `mixloom quality apply` gives the same table for a run.",
        ),
    ]
    return page("Quality classifier", f"{header['positive']} against {header['labels'][1]}", sections)


def _facts(header: dict[str, Any]) -> Html:
    m = header["metrics"]
    return facts(
        [
            ("area under the ROC", f"{m['auc']:.4f}"),
            ("calibration error", f"{m['calibration_error']:.4f}"),
            ("before calibration", f"{m['calibration_error_raw']:.4f}"),
            ("Brier score", f"{m['brier']:.4f}"),
            ("calibrated by", header["calibration"]["method"]),
            ("model", header["sha256"][:8]) if "sha256" in header else ("seed", str(header["seed"])),
        ]
    )


def _splits(header: dict[str, Any]) -> list[Html]:
    rows = [(k, number(v["positives"]), number(v["negatives"])) for k, v in header["splits"].items()]
    counts = [(k.replace("_", " "), number(v)) for k, v in header["counts"].items()]
    return [
        table("Documents", [Column("part", False), Column("positives"), Column("negatives")], rows),
        table("Documents read and left out", [Column("what", False), Column("documents")], counts),
    ]


def _roc(header: dict[str, Any]) -> Html:
    x = [100 * a for a, _ in header["roc"]]
    curve = Series("classifier", x, [100 * b for _, b in header["roc"]], "c0")
    chance = Series("chance", [0, 100], [0, 100], "c11")
    return line_chart(
        "ROC", [curve, chance], x_title="% of negatives kept", y_title="% of positives kept", from_zero=True
    )


def _calibration(header: dict[str, Any]) -> Html:
    lines = [
        Series(
            kind,
            [100 * g["probability"] for g in header["reliability"][kind]],
            [100 * g["positive"] for g in header["reliability"][kind]],
            color,
        )
        for kind, color in (("calibrated", "c0"), ("raw", "c1"))
    ]
    lines.append(Series("perfect", [0, 100], [0, 100], "c11"))
    return line_chart(
        "Reliability",
        lines,
        x_title="mean score of the group, %",
        y_title="% that are positives",
        from_zero=True,
    )


def _histograms(header: dict[str, Any]) -> list[Html]:
    kept = {k: v for k, v in header["histograms"].items() if sum(v)}
    lines = []
    for i, (source, counts) in enumerate(kept.items()):
        total = sum(counts)
        middle = [100 * (b + 0.5) / len(counts) for b in range(len(counts))]
        lines.append(Series(source, middle, [100 * c / total for c in counts], f"c{i % _COLORS}"))
    chart = line_chart(
        "Scores", lines, x_title="score, %", y_title="% of the documents of a source", from_zero=True
    )
    rows = [
        (name(source), number(sum(c)), *(percent(sum(c[k : k + 4]) / sum(c)) for k in range(0, len(c), 4)))
        for source, c in kept.items()
    ]
    columns = [
        Column("source", False),
        Column("documents"),
        *(Column(f"{k / 5:.1f} to {(k + 1) / 5:.1f}") for k in range(5)),
    ]
    return [chart, table("Share of the documents by score", columns, rows)]


def _thresholds(header: dict[str, Any]) -> Html:
    rows = [
        (
            percent(t["share"], 0),
            significant(t["threshold"], 4),
            percent(t["kept"]),
            percent(t["positives_kept"]),
        )
        for t in header["thresholds"]
    ]
    columns = [
        Column("share to keep"),
        Column("threshold"),
        Column("negatives kept"),
        Column("positives kept"),
    ]
    return table("Threshold by the share of ordinary documents that is kept", columns, rows)
