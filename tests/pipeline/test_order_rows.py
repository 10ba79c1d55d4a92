import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.order import ORDER, order_cell
from mixloom.pipeline.order_config import LongConfig, OrderConfig, QuestionsConfig
from mixloom.pipeline.order_rows import order_rows, unit


def rows_of(n, links=(), characters=None, seed=0):
    """n documents of a cell as they come out of the shuffle; links: row -> row."""
    r = np.random.default_rng(seed)
    x = r.normal(size=(max(n // 8, 1), 12))[r.integers(0, max(n // 8, 1), n)] + 0.7 * r.normal(size=(n, 12))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    ids = [f"{i:032x}" for i in range(n)]
    columns = {
        "doc_id": ids,
        "part": [f"part-{i % 3}" for i in range(n)],
        "row": pa.array(np.arange(n, dtype=np.int32)),
        "domain": pa.array(np.full(n, 4, np.int32)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 12),
    }
    if links:
        links = dict(links)
        columns |= {"name": ids, "link": pa.array([links.get(i) for i in range(n)], pa.string())}
    if characters is not None:
        columns["characters"] = pa.array(characters)
    return pa.RecordBatch.from_pydict(columns)


def test_rows_come_out_in_path_order_with_their_vectors_beside_them():
    rows = rows_of(200)
    table, vectors, info = order_rows(rows, 17, OrderConfig())
    assert table.schema.equals(ORDER)
    assert sorted(table["doc_id"].to_pylist()) == rows.column("doc_id").to_pylist()
    assert vectors["doc_id"].to_pylist() == table["doc_id"].to_pylist()
    at = [int(d, 16) for d in table["doc_id"].to_pylist()]
    assert vectors["vector"].to_pylist() == [rows.column("vector")[i].as_py() for i in at]
    assert table["part"].to_pylist() == [f"part-{i % 3}" for i in at]
    assert set(table["cell"].to_pylist()) == {17}
    assert table["copy"].to_pylist() == [0] * 200
    assert info["documents"] == 200
    half = np.asarray(rows.column("vector").flatten()).reshape(200, 12)
    plain = order_cell(unit(half), rows.column("doc_id").to_pylist(), OrderConfig())
    assert at == plain.path.tolist()
    assert table["similarity"].to_pylist() == plain.similarity.tolist()


def test_no_product_of_half_precision_vectors_is_above_one():
    x = unit(np.asarray(rows_of(300).column("vector").flatten()).reshape(300, 12))
    assert abs(np.linalg.norm(x.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert not unit(np.zeros((2, 5), np.float16)).any()


@pytest.mark.parametrize("place", ["before", "after"])
def test_questions_stand_beside_their_document_and_the_rest_is_ordered_as_ever(place):
    links = {3: f"{50:032x}", 4: f"{50:032x}", 60: f"{9:032x}", 70: "somewhere else", 8: f"{8:032x}"}
    rows = rows_of(100, links)
    config = OrderConfig(questions=QuestionsConfig(place=place))
    table, _, info = order_rows(rows, 0, config)
    at = [int(d, 16) for d in table["doc_id"].to_pylist()]
    assert sorted(at) == list(range(100))
    i, j = at.index(50), at.index(9)
    if place == "before":
        assert at[i - 2 : i] == [3, 4]
        assert at[j - 1] == 60
    else:
        assert at[i + 1 : i + 3] == [3, 4]
        assert at[j + 1] == 60
    assert info["questions"] == 3
    assert info["questions_elsewhere"] == 2
    assert info["documents"] == 100
    others = np.array([v for v in range(100) if v not in (3, 4, 60)])
    half = np.asarray(rows.column("vector").flatten()).reshape(100, 12)
    plain = order_cell(unit(half)[others], [f"{v:032x}" for v in others], config)
    assert [v for v in at if v in others] == others[plain.path].tolist()
    x = unit(half).astype(np.float64)
    q = i - 2 if place == "before" else i + 1
    assert table["similarity"][q + 1].as_py() == pytest.approx(x[3] @ x[4], abs=1e-6)


def test_long_documents_are_repeated_and_flagged_and_everything_else_stands_once():
    characters = np.where(np.arange(300) % 50 == 0, 9000, 100)
    config = OrderConfig(upsample_long=LongConfig(min_characters=9000, factor=3, apart=40))
    table, vectors, info = order_rows(rows_of(300, characters=characters), 0, config)
    at = np.array([int(d, 16) for d in table["doc_id"].to_pylist()])
    copies = np.asarray(table["copy"])
    assert sorted(at[copies == 0]) == list(range(300))
    assert (np.bincount(at)[characters == 9000] == 3).all()
    assert (np.bincount(at)[characters < 9000] == 1).all()
    assert (info["documents"], info["long_documents"], info["copies"], info["copies_left_out"]) == (
        300,
        6,
        12,
        0,
    )
    assert table["rank"].to_pylist() == list(range(312))
    assert vectors["doc_id"].to_pylist() == table["doc_id"].to_pylist()
    groups = np.asarray(table["near_duplicates"])
    for v in np.flatnonzero(characters == 9000):
        assert len(set(groups[at == v])) == 1
        assert groups[at == v][0] >= 0
        assert (np.diff(np.flatnonzero(at == v)) > 40).all()


def test_a_cell_too_small_for_copies_tells_how_many_are_left_out():
    config = OrderConfig(upsample_long=LongConfig(min_characters=10, factor=4, apart=100))
    table, _, info = order_rows(rows_of(20, characters=np.full(20, 50)), 0, config)
    assert table.num_rows == 20
    assert (info["copies"], info["copies_left_out"]) == (0, 60)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_question_and_what_it_asks_about_stay_together_and_are_not_repeated(place):
    config = OrderConfig(
        questions=QuestionsConfig(place=place), upsample_long=LongConfig(min_characters=10, factor=2, apart=5)
    )
    rows = rows_of(60, {3: f"{50:032x}"}, np.full(60, 50))
    table, _, info = order_rows(rows, 0, config)
    at = [int(d, 16) for d in table["doc_id"].to_pylist()]
    assert at.count(3) == at.count(50) == 1
    assert at[at.index(50) + (1 if place == "after" else -1)] == 3
    assert info["long_documents"] == 58


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_cells(n):
    config = OrderConfig(questions=QuestionsConfig(), upsample_long=LongConfig(min_characters=1))
    rows = rows_of(n, {0: f"{1:032x}"}, np.full(n, 5))
    table, _, info = order_rows(rows, 0, config)
    assert table.num_rows == n
    assert info["documents"] == n
