import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.duplicate_clusters import (
    BINS,
    CLOSEST,
    LARGEST,
    MEMBERS,
    SAMPLED,
    kept_of,
    stage_duplicates,
    wanted_ids,
)
from mixloom.pipeline.schema import REJECTS


def identifier(n: int) -> str:
    return f"{n:032x}"


def ledger(
    rows: list[tuple[int, str | None, float | None]], reason: str = "near_duplicate", scope: str = "document"
):
    """(number of the dropped document, detail, similarity)."""
    return pa.Table.from_pylist(
        [
            {
                "doc_id": identifier(i),
                "source": f"s{i % 3}",
                "locator": None,
                "stage": "dedup_near",
                "scope": scope,
                "outcome": "dropped",
                "reason": reason,
                "value": value,
                "limit": 0.8,
                "detail": detail,
            }
            for i, detail, value in rows
        ],
        schema=REJECTS,
    )


def test_the_ledger_names_the_kept_document_and_its_run():
    a = identifier(10)
    assert kept_of(a) == (a, "")
    assert kept_of(f"{a} of runs/first of two") == (a, "runs/first of two")
    assert kept_of(f"{a}0") is kept_of("cannot be read") is kept_of(None) is None


clusters = st.lists(st.tuples(st.integers(0, 25), st.sampled_from([0.8, 0.85, 0.9, 1.0])), max_size=120)


@given(clusters)
def test_numbers_cover_the_ledger_and_what_is_shown_is_bounded_and_chosen_well(drawn):
    rows = [(i, identifier(1000 + kept), value) for i, (kept, value) in enumerate(drawn)]
    found = stage_duplicates("dedup_near", ledger(rows))
    if not rows:
        assert found == []
        return
    (s,) = found
    sizes = {k: sum(kept == k for kept, _ in drawn) for k, _ in drawn}
    assert (s.dropped, s.clusters, s.limit) == (len(rows), len(sizes), 0.8)
    assert sum(s.histogram) == len(rows)
    assert len(s.histogram) == BINS
    assert len(s.shown) == min(len(sizes), len({c.kept_id for c in s.shown}))
    assert len(s.shown) <= LARGEST + CLOSEST + SAMPLED
    largest = sorted(sizes.values(), reverse=True)[:LARGEST]
    assert [c.total for c in s.shown if c.why == "largest"] == largest
    least = min(value for _, value in drawn)
    if len(sizes) > LARGEST and least < 1:
        hidden = set(sizes) - {int(c.kept_id, 16) - 1000 for c in s.shown}
        worst = max((c.least for c in s.shown if c.why == "closest"), default=None)
        if worst is not None:
            assert all(worst <= min(v for k, v in drawn if k == h) for h in hidden)
    for c in s.shown:
        values = sorted(v for k, v in drawn if k == int(c.kept_id, 16) - 1000)
        assert c.total == len(values)
        assert [m.similarity for m in c.members] == values[:MEMBERS]
        assert c.least == values[0]
    assert wanted_ids(found) == {c.kept_id for c in s.shown} | {m.doc_id for c in s.shown for m in c.members}


def test_documents_of_earlier_runs_are_named_and_not_looked_for():
    rows = [(1, f"{identifier(9)} of runs/old", 1.0), (2, identifier(9), 1.0)]
    (s,) = stage_duplicates("dedup_against", ledger(rows))
    assert sorted((c.kept_run, c.total) for c in s.shown) == [("", 1), ("runs/old", 1)]
    assert wanted_ids([s]) == {identifier(1), identifier(2), identifier(9)}
    (only_earlier,) = stage_duplicates("dedup_against", ledger(rows[:1]))
    assert wanted_ids([only_earlier]) == {identifier(1)}


def test_what_is_no_duplicate_is_left_out_and_reasons_stand_apart():
    table = pa.concat_tables(
        [
            ledger([(1, identifier(9), 1.0)], "exact_duplicate"),
            ledger([(2, identifier(9), 0.9), (3, "some error", None), (4, None, None)], "near_duplicate"),
            ledger([(5, identifier(9), 1.0)], "image_duplicate", scope="media"),
        ]
    )
    found = stage_duplicates("dedup_near", table)
    assert [(s.reason, s.dropped) for s in found] == [("exact_duplicate", 1), ("near_duplicate", 1)]
    assert stage_duplicates("filter", ledger([])) == []


def test_similarities_that_are_all_one_have_no_histogram():
    table = ledger([(1, identifier(9), 1.0)]).set_column(8, REJECTS.field("limit"), pa.array([1.0]))
    assert stage_duplicates("dedup_exact", table)[0].histogram == ()
