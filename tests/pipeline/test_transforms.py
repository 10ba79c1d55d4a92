"""The curation transforms: samples by id alone, decisions with reasons, paths per cell."""

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.decide import RulePlan, decide
from mixloom.pipeline.engine import run_pipeline, with_part
from mixloom.pipeline.order_transform import split_by
from mixloom.pipeline.rules import RuleSet
from mixloom.pipeline.sampling import sampled, threshold
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.transforms import (
    Annotate,
    ApplyRules,
    decision_output,
    sample_segments,
)

TEXTS = ["one two three four five six", "short", "one two three four five six seven eight", ""]
SHORT = RuleSet.model_validate({"rules": [{"name": "too_short", "measure": "words", "min": 3}]})
LONG = RuleSet.model_validate({"rules": [{"name": "too_long", "measure": "words", "max": 6}]})


def documents(texts=TEXTS, source="a"):
    made = [
        Document(source=source, locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
        for i, t in enumerate(texts)
    ]
    return with_part(documents_batch(made), "part-3")


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_sample_is_of_the_wanted_size_and_the_same_however_ids_are_split(total, wanted):
    rng = np.random.default_rng(total)
    ids = pa.array([f"{a:016x}{b:016x}" for a, b in rng.integers(0, 2**63, (total, 2), dtype=np.uint64) * 2])
    bound = threshold(total, wanted)
    mask = sampled(ids, bound)
    assert (
        mask.to_pylist()
        == sampled(ids.slice(0, total // 3), bound).to_pylist()
        + sampled(ids.slice(total // 3), bound).to_pylist()
    )
    if wanted >= total:
        assert all(mask.to_pylist())
    else:
        assert abs(sum(mask.to_pylist()) - wanted) <= 5 * np.sqrt(max(wanted, 1)) + 5


def test_each_source_is_judged_by_its_own_rules_and_every_drop_has_its_numbers():
    annotations = pa.concat_batches(
        [annotate(documents(), AnnotateConfig()), annotate(documents(source="b"), AnnotateConfig())]
    )
    made = decide(annotations, RulePlan((SHORT,), {"b": (LONG,)}, {}))
    assert made.keep.tolist() == [True, False, True, False, True, True, False, True]
    assert made.reason == [
        None,
        "too_short",
        None,
        "too_short",
        None,
        None,
        "too_long",
        None,
    ]
    assert made.value[~made.keep].tolist() == [1.0, 0.0, 8.0]
    assert made.limit[~made.keep].tolist() == [3.0, 3.0, 6.0]
    assert np.isnan(made.value[made.keep]).all()
    assert made.fired == {"too_long": 1, "too_short": 2}


def test_survivors_keep_their_rows_and_the_dropped_stand_in_the_ledger():
    annotations = with_part(annotate(documents(), AnnotateConfig()), "part-3")
    made = decide(annotations, RulePlan((SHORT,), {}, {}))
    output = decision_output(annotations, made, "part-3", "filter")
    assert output.tables[0].table["row"].to_pylist() == [0, 2]
    assert output.kept == 2
    assert [(r["stage"], r["outcome"], r["reason"], r["value"]) for r in output.rejects.to_pylist()] == [
        ("filter", "dropped", "too_short", 1.0),
        ("filter", "dropped", "too_short", 0.0),
    ]


def _annotations(output):
    table = output.tables[0].table
    return with_part(table.to_batches()[0], output.unit)


def _summary(output):
    return output.unit, output.tables[0].table["row"].to_pylist()


def test_annotate_and_rules_work_in_any_pipeline_and_keep_the_part_with_its_batch():
    def build(pipeline):
        made = (
            pipeline
            | beam.Create([documents()])
            | Annotate(AnnotateConfig())
            | "Table" >> beam.Map(_annotations)
            | ApplyRules(RulePlan((SHORT,), {}, {}))
            | beam.Map(_summary)
        )
        assert_that(made, equal_to([("part-3", [0, 2])]))

    run_pipeline(build)


def test_media_are_drawn_apart_from_documents_and_each_kind_up_to_its_share():
    def picture(i):
        return Segment(
            kind="image", media=Media(uri=f"{i}.png", sha256=f"{i:064x}", bytes=1, width=1, height=1)
        )

    made = [
        Document(
            source="a",
            locator=Locator(uri=str(i)),
            segments=(Segment(kind="text", text=f"t{i}"), picture(9 - i)),
        )
        for i in range(10)
    ]
    batch = documents_batch(made)
    chosen = pa.array([i == 4 for i in range(10)])
    rows = sample_segments(batch, chosen, media=3).to_pylist()
    assert [r["text"] for r in rows if r["kind"] == "text"] == ["t4"]
    assert [r["uri"] for r in rows if r["kind"] == "image"] == ["0.png", "1.png", "2.png"]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_splitting_by_a_key_keeps_every_row_once_and_in_order(keys):
    batch = pa.RecordBatch.from_pydict({"x": pa.array(range(len(keys)), pa.int64())})
    pieces = list(split_by(batch, np.array(keys, dtype=np.int64)))
    assert [k for k, _ in pieces] == sorted(set(keys))
    for key, rows in pieces:
        assert rows.column("x").to_pylist() == [i for i, k in enumerate(keys) if k == key]


@pytest.mark.parametrize("n", [0, 1])
def test_a_part_with_no_document_or_one_goes_through_the_rules(n):
    annotations = annotate(documents(TEXTS[:n]), AnnotateConfig())
    assert len(decide(annotations, RulePlan((SHORT,), {}, {})).keep) == n
