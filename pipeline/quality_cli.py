"""`mixloom quality`: fit a quality classifier, and score the documents of a run with one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mixloom.pipeline.quality.apply import Applied

app = typer.Typer(help="Fit and apply quality classifiers.", no_args_is_help=True, add_completion=False)
_BLOCKS = " ▁▂▃▄▅▆▇█"


@app.command("fit")
def fit_command(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file; see docs/language-and-quality.md.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example fasttext.epochs=10.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Train a fastText classifier from declared good and ordinary documents, calibrate it, and report on it.

    Writes model.bin, quality.json and report.html. The same documents and settings give the same bytes.
    """
    from mixloom.pipeline.config import load_config
    from mixloom.pipeline.console import Console
    from mixloom.pipeline.quality.config import QualityFitConfig
    from mixloom.pipeline.quality.fit import fit_quality
    from mixloom.pipeline.storage import Store

    console = Console(quiet)
    started = time.perf_counter()
    settings = load_config(QualityFitConfig, config, overrides or [])
    header = fit_quality(settings, console)
    m = header["metrics"]
    console.say(
        f"held-out AUC {m['auc']:.4f}, calibration error {m['calibration_error']:.4f} "
        f"(before: {m['calibration_error_raw']:.4f}), {time.perf_counter() - started:.1f} s; "
        f"see {Store.at(settings.out).url('report.html')}"
    )


@app.command("apply")
def apply_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder of `fit`, or a fastText .bin or .ftz.")
    ],
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run directory.")],
    out: Annotated[
        str | None, typer.Option(help="Where to write the scores; default: RUN/quality.parquet.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The good label of a bare file, e.g. __label__hq.")
    ] = None,
    survivors: Annotated[str | None, typer.Option(help="Only documents left after this stage.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Score the documents of a run: histogram by source, thresholds by share, and a Parquet file of scores."""
    import json

    from mixloom.pipeline.quality.apply import apply_quality
    from mixloom.pipeline.quality.classifier import Classifier
    from mixloom.pipeline.run import RunDirectory, parquet_bytes
    from mixloom.pipeline.storage import Store

    store = RunDirectory.existing(run).store
    applied = apply_quality(Classifier.load(model, label), run, survivors)
    folder, slash, name = (out or store.url("quality.parquet")).rpartition("/")
    target = Store.at(folder + slash or ".")
    target.write(name, parquet_bytes(applied.table, applied.row_groups or None))
    if as_json:
        found: dict[str, Any] = {"scores": target.url(name), "sources": applied.summary()}
        print(json.dumps({**found, "thresholds": applied.thresholds}, indent=1))
        return
    _show(applied)
    print(f"wrote {target.url(name)}")


def _show(applied: Applied) -> None:
    rows = applied.summary()
    width = max([6, *(len(r["source"]) for r in rows)])
    print(f"{'source':<{width}}  {'documents':>10}  {'no words':>8}  {'mean':>6}  score 0 to 1")
    for r in rows:
        counts = r["histogram"]
        most = max([1, *counts])
        line = "".join(_BLOCKS[0 if not c else 1 + (c * 7) // most] for c in counts)
        mean = "-" if r["mean"] is None else f"{r['mean']:.3f}"
        print(f"{r['source']:<{width}}  {r['documents']:>10,}  {r['without_words']:>8,}  {mean:>6}  |{line}|")
    print(f"{'keep':>6}  {'threshold':>12}  {'kept':>7}")
    for t in applied.thresholds:
        print(f"{t['share']:>6.0%}  {t['threshold']:>12.6g}  {t['kept']:>7.2%}")
