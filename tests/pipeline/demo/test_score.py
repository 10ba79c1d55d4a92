"""The score of hand-made runs: a perfect one, and one for every way a pipeline can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mixloom.pipeline.demo.score import DocumentRow, DropRow, Facts, FailureRow, score
from mixloom.pipeline.demo.truth import Corrupt, Place, Planted, Truth

FILES = {  # id: (file, domain); the noise and the broken file have no domain
    "x1": ("a/x1.txt", "a"), "x2": ("a/x2.txt", "a"), "x3": ("a/x3.txt", "a"),  # exact copies
    "n1": ("b/n1.txt", "b"), "n2": ("b/n2.txt", "b"), "n3": ("b/n3.txt", "b"),  # n1~n2~n3
    "h1": ("a/h1.txt", "a"), "h2": ("a/h2.txt", "a"),  # alike, but not near
    "s1": ("b/s1.txt", "b"), "s2": ("b/s2.txt", "b"),  # equal words, other media
    "z1": ("u/z1.txt", None), "z2": ("u/z2.txt", None),  # noise
}  # fmt: skip


def _place(doc_id: str) -> Place:
    return Place("src", FILES[doc_id][0])


LINE = Place("jsonl", "r.jsonl.gz", 40)
TRUTH = Truth(
    seed=0,
    scale=1.0,
    python="3",
    sources={"src": "text"},
    missing_domains=(),
    documents=(
        *(Planted(_place(i), "noise" if d is None else "text", d) for i, (_, d) in FILES.items()),
        Planted(LINE, "text", "b", 3),
    ),
    exact_duplicate_groups=((_place("x1"), _place("x2"), _place("x3")),),
    near_duplicate_pairs=((_place("n1"), _place("n2"), 0.9), (_place("n2"), _place("n3"), 0.85)),
    hard_negative_pairs=((_place("h1"), _place("h2"), 0.5),),
    same_words_pairs=((_place("s1"), _place("s2")),),
    noise=(_place("z1"), _place("z2")),
    corrupt=(
        Corrupt(Place("jsonl", "r.jsonl.gz", 80), "malformed", ("malformed_json",), 4),
        Corrupt(Place("src", "u/broken.txt"), "not UTF-8", ("invalid_utf8",)),
    ),
)
PERFECT = Facts(
    documents=[*(DocumentRow(i, "src", f, -1) for i, (f, _) in FILES.items()), DocumentRow("j1", "jsonl", "r.jsonl.gz", 40)],
    failures=[
        FailureRow("jsonl", "r.jsonl.gz", 80, "malformed_json", "line 4"),
        FailureRow("src", "u/broken.txt", -1, "invalid_utf8", "byte 3"),
    ],
    drops=[DropRow("z1", "filter", "symbols", ""), DropRow("z2", "filter", "repeated", "")],
    kept_exact={"x1", "n1", "n2", "n3", "h1", "h2", "s1", "s2", "j1"},
    kept_near={"x1", "n2", "h1", "h2", "s1", "s2", "j1"},
    domains={"x1": 0, "h1": 0, "h2": 0, "n2": 1, "s1": 1, "s2": 1, "j1": 1},
)  # fmt: skip


def test_a_perfect_run_has_perfect_figures():
    assert score(TRUTH, PERFECT) == {
        "documents_planted": 13,
        "documents_found": 13,
        "exact_duplicates_planted": 2,
        "exact_duplicates_judged": 2,
        "exact_duplicate_recall": 1.0,
        "distinct_documents_lost": 0,
        "near_pairs_planted": 2,
        "near_pairs_judged": 2,
        "near_duplicate_recall": 1.0,
        "near_duplicate_precision": 1.0,
        "near_documents_lost": 0,
        "hard_negatives_merged": 0,
        "same_words_merged": 0,
        "noise_planted": 2,
        "noise_recall": 1.0,
        "clean_documents_dropped": 0,
        "domain_documents": 7,
        "domains_planted": 2,
        "domains_found": 2,
        "domain_purity": 1.0,
        "domain_purity_prose": 1.0,
        "domain_unity": 1.0,
        "corrupt_planted": 2,
        "corrupt_in_ledger": 2,
        "corrupt_named": 2,
        "failures_unplanted": 0,
    }


def _changed(**facts) -> dict[str, float | int]:
    """What differs from the perfect figures."""
    good, bad = score(TRUTH, PERFECT), score(TRUTH, replace(PERFECT, **facts))
    return {k: bad[k] for k in bad if bad[k] != good[k]}


def test_a_run_without_exact_deduplication_recalls_nothing():
    keeps = PERFECT.kept_exact | {"x2", "x3"}
    assert _changed(kept_exact=keeps, kept_near=PERFECT.kept_near | {"x2", "x3"}) == {
        "exact_duplicate_recall": 0.0
    }


def test_one_copy_left_over_costs_its_share():
    both = {"x2"}
    found = _changed(kept_exact=PERFECT.kept_exact | both, kept_near=PERFECT.kept_near | both)
    assert found == {"exact_duplicate_recall": 0.5}


def test_removing_every_copy_loses_the_document():
    found = _changed(kept_exact=PERFECT.kept_exact - {"x1"}, kept_near=PERFECT.kept_near - {"x1"})
    assert found == {"distinct_documents_lost": 1}


def test_removing_a_document_that_has_no_copy_is_a_loss():
    found = _changed(kept_exact=PERFECT.kept_exact - {"h1"}, kept_near=PERFECT.kept_near - {"h1"})
    assert found == {"distinct_documents_lost": 1}


def test_a_document_that_is_no_part_of_the_truth_can_be_lost_too():
    more = [*PERFECT.documents, DocumentRow("extra", "src", "u/extra.txt", -1)]
    assert _changed(documents=more) == {"distinct_documents_lost": 1}


def test_a_run_without_near_deduplication_recalls_nothing_and_removes_nothing():
    assert _changed(kept_near=PERFECT.kept_exact) == {"near_duplicate_recall": 0.0}


def test_a_chain_may_keep_both_its_ends():
    # n1 and n3 were never planted as near each other.
    assert _changed(kept_near=PERFECT.kept_near - {"n2"} | {"n1", "n3"}) == {}


def test_one_missed_pair_costs_its_share():
    assert _changed(kept_near=PERFECT.kept_near | {"n3"}) == {"near_duplicate_recall": 0.5}


def test_merging_a_hard_negative_shows_in_three_figures():
    found = _changed(kept_near=PERFECT.kept_near - {"h2"})
    assert found == {
        "hard_negatives_merged": 1,
        "near_documents_lost": 1,
        "near_duplicate_precision": pytest.approx(2 / 3),
    }


def test_merging_different_media_with_equal_words_is_seen():
    assert _changed(kept_near=PERFECT.kept_near - {"s1"})["same_words_merged"] == 1


def test_removing_a_whole_group_of_near_duplicates_loses_it():
    found = _changed(kept_near=PERFECT.kept_near - {"n2"})
    assert found["near_documents_lost"] == 1
    assert found["near_duplicate_precision"] < 1


def test_noise_that_no_rule_dropped_is_not_recalled():
    drops = PERFECT.drops[:1]
    alive = PERFECT.kept_exact | {"z2"}
    found = _changed(drops=drops, kept_exact=alive, kept_near=PERFECT.kept_near | {"z2"})
    assert found == {"noise_recall": 0.5}


def test_noise_that_ingest_refused_is_recalled_and_no_surprise():
    documents = [d for d in PERFECT.documents if d.doc_id != "z2"]
    failures = [*PERFECT.failures, FailureRow("src", FILES["z2"][0], -1, "control_characters", "")]
    found = _changed(documents=documents, failures=failures, drops=PERFECT.drops[:1])
    assert found == {"documents_found": 12}


def test_rules_that_drop_clean_documents_are_seen_and_cost_no_deduplication():
    drops = [*PERFECT.drops, DropRow("h1", "filter", "too_short", "")]
    found = _changed(
        drops=drops, kept_exact=PERFECT.kept_exact - {"h1"}, kept_near=PERFECT.kept_near - {"h1"}
    )
    assert found == {"clean_documents_dropped": 1}


def test_rules_that_drop_everything_leave_no_recall_to_be_proud_of():
    drops = [DropRow(d.doc_id, "filter", "all", "") for d in PERFECT.documents]
    bad = score(TRUTH, replace(PERFECT, drops=drops, kept_exact=set(), kept_near=set(), domains={}))
    assert bad["exact_duplicate_recall"] == bad["near_duplicate_recall"] == bad["domain_purity"] == 0.0
    assert bad["exact_duplicates_judged"] == bad["near_pairs_judged"] == 0
    assert bad["clean_documents_dropped"] == 11


def test_one_domain_for_everything_is_impure():
    found = _changed(domains=dict.fromkeys(PERFECT.domains, 0))
    assert found == {
        "domains_found": 1,
        "domain_purity": pytest.approx(4 / 7),
        "domain_purity_prose": pytest.approx(4 / 7),
    }


def test_a_domain_for_every_document_is_pure_but_not_united():
    found = _changed(domains={d: i for i, d in enumerate(PERFECT.domains)})
    assert found == {"domains_found": 7, "domain_unity": pytest.approx(2 / 7)}


def test_a_corrupt_file_without_a_failure_is_missing_from_the_ledger():
    assert _changed(failures=PERFECT.failures[:1]) == {"corrupt_in_ledger": 1, "corrupt_named": 1}


def test_a_failure_at_the_wrong_line_is_not_the_planted_one():
    moved = [PERFECT.failures[0]._replace(offset=40), PERFECT.failures[1]]
    assert _changed(failures=moved) == {"corrupt_in_ledger": 1, "corrupt_named": 1, "failures_unplanted": 1}


def test_a_failure_with_the_wrong_reason_is_in_the_ledger_but_not_named():
    wrong = [PERFECT.failures[0], PERFECT.failures[1]._replace(reason="unreadable")]
    assert _changed(failures=wrong) == {"corrupt_named": 1}


def test_documents_that_ingest_never_read_are_missing():
    assert _changed(documents=PERFECT.documents[:-1])["documents_found"] == 12
