"""The rule sets over images and recordings: every rule has an item that it alone removes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.annotate import annotations_schema
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.judgement import Judgement, judge_document
from mixloom.pipeline.media_items import ITEMS
from mixloom.pipeline.rules import load_ruleset

IMAGE: dict[str, Any] = {
    "kind": "image", "decoded": 1, "truncated": 0, "web_format": 1, "width": 640, "height": 480, "min_side": 480,
    "max_side": 640, "aspect": 4 / 3, "luminance_std": 50.0, "top_colour_share": 0.1, "transparent_share": 0.0,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "kind": "speech", "decoded": 1, "truncated": 0, "seconds": 6.0, "rate": 16000, "channels": 1, "peak": 0.5,
    "loudness_dbfs": -20.0, "dc_offset": 0.0, "clipped_share": 0.0, "silence_share": 0.1, "transcript_words": 15,
    "words_per_second": 2.5, "chars_per_second": 13.0,
}  # fmt: skip


def judged(rules: str, items: list[dict[str, Any]], words: int = 500) -> Judgement:
    """One document with these items and so many words, judged."""
    schema = annotations_schema(AnnotateConfig())
    counts = {"images": "image", "speech_clips": "speech"}
    values = {name: sum(i["kind"] == kind for i in items) for name, kind in counts.items()} | {"words": words}
    columns = {
        f.name: pa.array([values[f.name]], f.type) if f.name in values else pa.nulls(1, f.type)
        for f in schema
    }
    found = [{"row": 0, "segment": k} | item for k, item in enumerate(items)]
    table = pa.RecordBatch.from_pylist(found, schema=ITEMS)
    return judge_document(pa.RecordBatch.from_pydict(columns), None, table, load_ruleset(rules))


def removed(verdict: Judgement) -> list[dict[str, Any]]:
    return verdict.edits.select(["segment", "start", "reason", "value", "limit"]).to_pylist()


def reason(verdict: Judgement) -> str | None:
    first = int(verdict.verdicts.rule[0])
    return None if first < 0 else verdict.names[first]


@pytest.mark.parametrize(
    ("changes", "rule", "limit"),
    [
        ({"decoded": 0, "luminance_std": None}, "undecodable_media", 1),
        ({"min_side": 31}, "image_tiny", 32),
        ({"aspect": 10.5}, "image_very_long", 10),
        ({"luminance_std": 3.9}, "image_blank", 4),
        ({"top_colour_share": 0.995}, "image_one_colour", 0.99),
        ({"transparent_share": 0.99}, "image_invisible", 0.98),
    ],
)
def test_a_bad_image_goes_and_its_document_stays(changes: dict[str, Any], rule: str, limit: float) -> None:
    verdict = judged("media_checks", [IMAGE, IMAGE | changes])
    value = next(iter(changes.values()))
    assert removed(verdict) == [
        {
            "segment": 1,
            "start": -1,
            "reason": rule,
            "value": pytest.approx(value),
            "limit": pytest.approx(limit),
        }
    ]
    assert reason(verdict) is None
    assert dict(zip(verdict.names, verdict.verdicts.fired.tolist(), strict=True))[rule] == 1
    assert verdict.verdicts.fired.sum() == 1, "no other rule fires"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"decoded": 0}, "undecodable_media"),
        ({"seconds": 0.05}, "speech_very_short"),
        ({"seconds": 601.0}, "speech_very_long"),
        ({"rate": 4000}, "speech_low_rate"),
        ({"silence_share": 0.96}, "speech_silent"),
        ({"loudness_dbfs": -61.0}, "speech_faint"),
        ({"clipped_share": 0.03}, "speech_clipped"),
        ({"dc_offset": 0.2}, "speech_offset"),
        ({"words_per_second": 8.5}, "speech_too_fast"),
        ({"chars_per_second": 41.0}, "speech_too_dense"),
        ({"chars_per_second": 0.4}, "speech_too_slow"),
    ],
)
def test_a_document_goes_with_its_only_recording(changes: dict[str, Any], rule: str) -> None:
    verdict = judged("media_checks", [CLIP | changes], words=15)
    fired = dict(zip(verdict.names, verdict.verdicts.fired.tolist(), strict=True))
    assert {name for name, n in fired.items() if n} == {rule, "speech_lost"}
    assert reason(verdict) == "speech_lost"


def test_good_media_stay() -> None:
    verdict = judged("media_checks", [IMAGE, CLIP])
    assert verdict.edits.num_rows == 0
    assert reason(verdict) is None


def test_one_word_may_be_said_fast_and_a_short_clip_may_be_wordless() -> None:
    quick = CLIP | {"transcript_words": 1, "words_per_second": 9.0, "chars_per_second": 45.0, "seconds": 0.11}
    silent = CLIP | {"seconds": 2.0, "chars_per_second": 0.4}
    verdict = judged("media_checks", [quick, silent])
    assert verdict.edits.num_rows == 0
    assert reason(verdict) is None


def test_a_caption_does_not_stand_without_its_image_but_prose_does() -> None:
    blank = IMAGE | {"luminance_std": 0.0}
    assert reason(judged("media_checks", [blank], words=12)) == "images_lost"
    assert reason(judged("media_checks", [blank], words=300)) is None
    assert reason(judged("media_checks", [blank, IMAGE], words=12)) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"decoded": 0}, "undecodable_image"),
        ({"web_format": 0}, "image_format"),
        ({"min_side": 149}, "image_too_small"),
        ({"max_side": 20001}, "image_too_large"),
        ({"aspect": 2.1}, "image_too_long"),
    ],
)
def test_obelics_removes_images(changes: dict[str, Any], rule: str) -> None:
    verdict = judged("obelics", [IMAGE, IMAGE | changes])
    assert [(r["segment"], r["reason"]) for r in removed(verdict)] == [(1, rule)]
    assert verdict.verdicts.fired.sum() == 1


@pytest.mark.parametrize(
    ("images", "why"), [(0, "too_few_images"), (1, None), (30, None), (31, "too_many_images")]
)
def test_obelics_keeps_documents_of_one_to_thirty_images(images: int, why: str | None) -> None:
    small = [IMAGE | {"min_side": 100}] * 2
    assert reason(judged("obelics", [IMAGE] * images + small)) == why


def test_values_at_the_bounds_of_obelics_are_kept() -> None:
    edge = IMAGE | {"min_side": 150, "max_side": 20000, "aspect": np.float32(2.0)}
    assert judged("obelics", [edge]).edits.num_rows == 0
