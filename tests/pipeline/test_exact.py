import hashlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.doc_ids import hash_columns, pack_ids
from mixloom.pipeline.engine import part_of, with_part
from mixloom.pipeline.exact import ExactDuplicates, exact_drops, exact_survivors


def digest(*values: object) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=16).digest()


# (content, document, priority): few contents, so that most are repeated
documents = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 50), st.integers(0, 2)), max_size=40, unique_by=lambda d: d[1]
)


@settings(deadline=None)
@given(documents)
def test_of_equal_content_the_preferred_source_then_the_smallest_id_is_kept(rows):
    hashes = hash_columns(pa.array([digest("c", c) for c, _, _ in rows], pa.binary(16)))
    names = [digest("d", d).hex() for _, d, _ in rows]
    rest = np.array([(p, i) for i, (_, _, p) in enumerate(rows)], dtype=np.uint64).reshape(-1, 2)
    ids = pack_ids(pa.array(names, pa.string()))
    keeper = exact_survivors(np.concatenate([hashes, rest[:, :1], ids, rest[:, 1:]], axis=1))
    for i, (content, _, _) in enumerate(rows):
        same = [j for j, r in enumerate(rows) if r[0] == content]
        assert keeper[i] == min(same, key=lambda j: (rows[j][2], names[j]))


def part(name: str, rows: list[tuple[int, int, int]]) -> pa.RecordBatch:
    columns = {
        "doc_id": pa.array([digest("d", d).hex() for _, d, _ in rows]),
        "row": pa.array(range(len(rows)), pa.int32()),
        "content_hash": pa.array([digest("c", c) for c, _, _ in rows], pa.binary(16)),
        "source": pa.array([f"s{p}" for _, _, p in rows]),
    }
    return with_part(pa.RecordBatch.from_pydict(columns), name, 1.0)


def test_a_document_that_was_sent_twice_is_no_copy_of_itself():
    rows = np.array([(7, 7, 0, 1, 2, 5)] * 2 + [(7, 7, 0, 1, 3, 6)], dtype=np.uint64)
    drops = exact_drops(rows[[2, 0, 1]], ["only"])
    assert drops.column("row").to_pylist() == [6]


def drops_of(batches: list[pa.RecordBatch], partitions: int, name: str, pipeline: beam.Pipeline) -> object:
    created = pipeline | f"{name} in" >> beam.Create(batches).with_output_types(pa.RecordBatch)
    parts = sorted(part_of(b) for b in batches)
    drops = created | f"{name} drops" >> ExactDuplicates(parts, ("s0", "s1", "s2"), partitions)
    return drops | f"{name} rows" >> beam.FlatMap(lambda b: b.to_pylist())


def test_every_copy_but_one_is_dropped_whatever_the_parts_partitions_and_order():
    rng = np.random.default_rng(5)
    rows = [(int(c), i, int(p)) for i, (c, p) in enumerate(rng.integers(0, [40, 3], (200, 2)))]
    best: dict[int, tuple[int, str]] = {}
    for content, document, priority in rows:
        rank = (priority, digest("d", document).hex())
        best[content] = min(best.get(content, rank), rank)
    expected = {(digest("d", d).hex(), best[c][1]) for c, d, _ in rows if digest("d", d).hex() != best[c][1]}
    assert len(expected) == 200 - len(best) > 100

    whole = [part("part-0", rows)]
    pieces = [part(f"part-{i}", rows[i * 40 : (i + 1) * 40]) for i in range(5)]

    def only_the_copies(found):
        assert {(d["doc_id"], d["kept_id"]) for d in found} == expected
        assert len(found) == len(expected)
        assert {d["similarity"] for d in found} == {1.0}

    def where_they_lie(found):
        only_the_copies(found)
        for d in found:
            assert digest("d", 40 * int(d["part"][-1]) + d["row"]).hex() == d["doc_id"]

    with beam.Pipeline(runner=FnApiRunner()) as p:
        assert_that(drops_of(whole, 1, "one", p), only_the_copies, label="check one")
        assert_that(drops_of(pieces[::-1], 7, "many", p), where_they_lie, label="check many")
