"""Sections of the report about utilities: the matrix, what it rests on, and what the mixture came to on held-out sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from mixloom.mixers.stage import UTILITIES_NAME
from mixloom.mixers.utility import METHODS
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.report.markup import Content, el, name, number, percent, plural, significant
from mixloom.pipeline.report.page import Section
from mixloom.pipeline.report.tables import Column, table
from mixloom.pipeline.run import RunDirectory, StageManifest


def sections(
    run: RunDirectory, manifests: Mapping[str, StageManifest], shards: ShardManifest | None
) -> list[Section]:
    """What stages `utilities` and `heldout` found, where they ran."""
    out = []
    if "utilities" in manifests:
        data = yaml.safe_load(run.stage("utilities").store.read(UTILITIES_NAME))
        out.append(_utilities(data, _mostly(shards)))
    if "heldout" in manifests:
        out.append(_heldout(manifests["heldout"].info["heldout"]))
    return out


def _mostly(shards: ShardManifest | None) -> dict[str, str]:
    """The source that gives most of each domain, with its share."""
    out = {}
    for d in shards.domains if shards is not None else ():
        if d.tokens_by_source:
            source, n = max(d.tokens_by_source.items(), key=lambda x: (x[1], x[0]))
            out[d.name] = f"{source} {percent(n / max(1, d.tokens))}"
    return out


def _utilities(data: Mapping[str, Any], mostly: Mapping[str, str]) -> Section:
    skills, details = data["skills"], data["details"]
    rows = []
    for source, values in data["values"].items():
        cells = [el("span", f"{v:.2f}", cls=f"heat h{round(4 * v)}") for v in values]
        rows.append([name(source), mostly.get(source, ""), number(details["contexts"][source]), *cells])
    columns = [
        Column("Domain", False),
        Column("Mostly", False),
        Column("Contexts read"),
        *(Column(s) for s in skills),
    ]
    body: list[Content] = [table("Utilities: 1 is the best domain for a skill, 0 the worst", columns, rows)]
    losses = details.get("losses")
    if losses:
        lost = [[name(s), *(significant(x, 4) for x in row)] for s, row in losses.items()]
        units = sorted(set(details["units"].values()))
        caption = f"Held-out losses of the small models, in {' or '.join(units)}"
        body.append(table(caption, [Column("Domain", False), *(Column(s) for s in skills)], lost))
    about = details["skills"]
    sets = [[name(s), number(about[s]["documents"]), number(about[s]["tokens"])] for s in skills]
    body.append(table("Held-out sets", [Column("Skill", False), Column("Documents"), Column("Tokens")], sets))
    notes = [
        f"{plural(details['seeds'], 'training')} per domain, of {number(details['small_contexts'])} contexts each"
        + _simulated(details)
        + ".",
        *(["Rests on losses alone: a lower loss need not mean a better model."] if data["loss_only"] else []),
        *data["notes"],
    ]
    body += [el("p", n, cls="note", dir="auto") for n in notes]
    return Section(
        "utilities", "Utilities", body, f"How much each domain is worth: {METHODS[data['method']]}."
    )


def _simulated(details: Mapping[str, Any]) -> str:
    run = details["run_contexts"]
    if not run:
        return ", over everything the domain holds"
    return f", standing for a run of {number(run)}: each domain is cut so that it repeats as often as it would there"


def _heldout(info: Mapping[str, Any]) -> Section:
    trained, by_skill = info.get("trained", {}), info.get("by_skill", {})
    skills: Sequence[str] = list(info["units"])
    columns = [Column("Skill", False), Column("Unit", False)]
    columns += [Column("Trained model")] if trained else []
    columns += (
        [Column("Small, this mixture"), Column("Small, UniMax"), Column("Difference")] if by_skill else []
    )
    rows = []
    for skill in skills:
        row: list[Content] = [name(skill), info["units"][skill]]
        row += [significant(trained[skill], 4)] if trained else []
        if by_skill:
            own, base = (float(np.mean(by_skill[skill][side])) for side in ("loss", "unimax"))
            row += [significant(own, 4), significant(base, 4), f"{own - base:+.4f}"]
        rows.append(row)
    body: list[Content] = [table("Losses on the held-out sets; below 0 the mixture is better", columns, rows)]
    if "verdict" in info:
        body.append(el("p", info["verdict"], cls="note", dir="auto"))
    return Section(
        "heldout",
        "Held-out losses",
        body,
        "What the mixture came to on sets that no model was trained on. Small models differ in their mixture alone.",
    )
