"""The section 'Order and packing': figures of all cells, a chart by window, and nothing where there is nothing."""

import numpy as np

from mixloom.pipeline.context_similarity import window_table
from mixloom.pipeline.order_facts import OrderFacts, order_facts, pack_facts
from mixloom.pipeline.report.markup import markup
from mixloom.pipeline.report.order import order_section, section

ORDER = [
    {
        "documents": 400,
        "jumps": 8,
        "mean_cosine": 0.5,
        "random_cosine": 0.125,
        "bound": 250.0,
        "path_weight": 225.0,
    }
]


def packs(windows=True):
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((20, 8)), 20, axis=0) + 0.2 * rng.standard_normal((400, 8))
    table = window_table(rng.integers(20, 200, 400), vectors.astype(np.float32), 512, (1, 64))
    return [{"contexts": 90, "fill": 0.98765, "forced_cuts": 2, **({"windows": table} if windows else {})}]


def test_cards_tell_the_order_against_its_bound_and_its_control(audit):
    text = audit(markup(order_section(order_facts(ORDER), None))).text_content()
    assert "Similarity of neighbours (cosine)0.5" in text
    assert "random order0.125" in text
    assert "share of its bound90.0% of at most 250" in text
    assert "8 of 400" in text


def test_every_window_and_order_is_in_the_table_and_the_one_in_use_is_marked(audit):
    facts = pack_facts(packs(), {"window": 64})
    tree = audit(markup(order_section(None, facts)))
    rows = tree.xpath("//tbody/tr")
    assert len(rows) == 6
    assert [r.text_content().startswith("64 in use") for r in rows] == [False] * 3 + [True] * 3
    assert len(tree.xpath("//figure//rect")) == sum(r["similarity"] > 0 for r in facts.rows)
    text = tree.text_content()
    assert "Fill98.8%" in text
    assert "window 64 (in use)" in text
    assert f"{facts.row('path')['similarity']:.3f}".rstrip("0") in text


def test_packing_without_a_table_has_cards_only(audit):
    tree = audit(markup(order_section(None, pack_facts(packs(windows=False)))))
    assert not tree.xpath("//table | //figure")
    assert "Contexts90" in tree.text_content()


def test_contexts_of_one_document_each_have_a_table_and_no_chart(audit):
    table = window_table([400] * 5, np.eye(5, dtype=np.float32), 512, (1, 64), groups=[0] * 5)
    tree = audit(markup(order_section(None, pack_facts([{"contexts": 5, "fill": 0.8, "windows": table}]))))
    assert not tree.xpath("//figure")
    assert not tree.xpath("//*[@class='nothing']")
    assert len(tree.xpath("//tbody/tr")) == 6


def test_names_from_files_stay_text(audit, hostile):
    table = [{**r, "order": hostile} if r["order"] == "cluster" else r for r in packs()[0]["windows"]]
    facts = pack_facts([{"contexts": 1, "fill": 1.0, "windows": table}])
    audit(markup(order_section(OrderFacts(1, 1), facts)))


def test_a_run_without_order_says_so(audit):
    assert "not been ordered yet" in audit(markup(section({}).body)).text_content()
