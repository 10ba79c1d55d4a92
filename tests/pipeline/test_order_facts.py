from __future__ import annotations

import pytest

from mixloom.pipeline.order_facts import merged, order_facts, pack_facts, told


def cell(documents, **figures):
    return {"documents": documents, **figures}


def row(window, order, **figures):
    sums = dict.fromkeys(
        ("contexts", "slots", "tokens", "extra", "documents", "cut_documents", "long_documents", "pairs"), 0
    )
    return {"window": window, "order": order, **sums, "cosine": 0.0, **figures}


CELLS = [
    cell(100, mean_cosine=0.8, random_cosine=0.2, bound=90.0, path_weight=81.0, jumps=3),
    cell(300, mean_cosine=0.4, random_cosine=0.1, bound=110.0, path_weight=99.0, jumps=5),
    cell(10),
]
PACKS = [
    {
        "contexts": 10,
        "fill": 0.9,
        "forced_cuts": 1,
        "windows": [row(64, "path", pairs=4, cosine=2.0), row(64, "random", pairs=4)],
    },
    {
        "contexts": 30,
        "fill": 0.5,
        "windows": [row(64, "path", pairs=6, cosine=1.0), row(64, "random", pairs=6)],
    },
    {"totals": {}},
    {
        "contexts": 0,
        "windows": [row(64, "path", pairs=2, cosine=0.6)],
    },  # all of it was joined with other cells
]


def test_order_is_averaged_over_documents_and_the_bound_is_shared_by_all_cells():
    facts = order_facts(CELLS)
    assert (facts.cells, facts.documents, facts.jumps) == (3, 410, 8)
    assert facts.mean_cosine == pytest.approx(0.5)
    assert facts.random_cosine == pytest.approx(0.125)
    assert facts.bound_share == pytest.approx(180 / 200)
    assert (facts.cluster_cosine, facts.near_duplicate_pairs) == (None, None)


def test_fill_is_averaged_over_contexts_and_similarity_over_pairs():
    facts = pack_facts(PACKS, {"window": 64})
    assert (facts.contexts, facts.forced_cuts) == (40, 1)
    assert facts.fill == pytest.approx(0.6)
    assert facts.row("path")["similarity"] == pytest.approx(3.6 / 12)
    assert facts.row("random")["similarity"] == 0.0
    assert facts.row("cluster") is None
    assert pack_facts(PACKS).row("path") is None, "no window is known to be in use"


def test_nothing_yields_nothing():
    assert order_facts([]) is None
    assert order_facts([{"other": 1}]) is None
    assert pack_facts([{"contexts": 0}]) is None
    assert merged([]) == []
    assert [told(stage, []) for stage in ("order", "pack", "filter")] == ["", "", ""]
    assert told("order", [cell(5)]) == ""


def test_one_line_tells_figures_and_their_controls():
    assert told("order", CELLS) == (
        "neighbours have a cosine of 0.500 (random order 0.125), 90.0% of the bound, 8 jumps"
    )
    assert told("pack", PACKS, {"window": 64}) == (
        "40 contexts, fill 60.00%, documents of a context have a cosine of 0.300 (random order 0.000)"
    )
    assert told("pack", [{"contexts": 4, "fill": 1.0}]) == "4 contexts, fill 100.00%"


def test_rows_of_an_unknown_order_are_kept_last():
    table = [row(64, "other"), row(64, "random"), row(1, "path"), row(64, "path")]
    assert [(r["window"], r["order"]) for r in merged([table])] == [
        (1, "path"),
        (64, "path"),
        (64, "random"),
        (64, "other"),
    ]
