import numpy as np

from mixloom.pipeline.report.domains import domain_sections, tried_chart
from mixloom.pipeline.report.markup import markup

TRIED = [{"k": k, "silhouette": 0.1 * k, "inertia": 1.0 / k, "balance": 0.9} for k in (2, 4, 8)]


def test_what_the_manifest_tells_of_the_whole_is_shown(audit):
    told = {
        "model": {"k": 8, "tried": TRIED, "cells": 31, "cut_cells": 2, "largest_cell": 49_990},
        "domains": {"purity": 0.9876, "nmi": 0.8123, "balance": 0.951, "largest": 2.07},
    }
    text = audit(markup(domain_sections([], [], {}, told))).text_content()
    for shown in (
        "98.8%",
        "0.812",
        "0.951",
        "2.07",
        "2 cut to fit",
        "49,990",
        "8 has the highest silhouette",
    ):
        assert shown in text


def test_a_manifest_without_these_facts_shows_none_of_them(audit):
    assert "Purity" not in audit(markup([*domain_sections([], [], {}, {}), "x"])).text_content()
    assert tried_chart(TRIED[:1], 2) is None
    assert "highest" not in audit(markup(tried_chart(TRIED, None))).text_content()


def test_the_curve_has_a_line_for_each_of_its_three_measures(audit):
    tree = audit(markup(tried_chart(TRIED, 8)))
    assert len(tree.xpath("//path[contains(@class, 'line')]")) == 3
    assert all(np.isfinite(t["silhouette"]) for t in TRIED)
