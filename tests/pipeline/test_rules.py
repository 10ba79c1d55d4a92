"""Rule sets: loading, refusing, judging; and what the rule sets of the package keep and drop."""

from __future__ import annotations

import base64
import random
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.annotate import AnnotateConfig, annotate
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.measures import MEASURE_NAMES
from mixloom.pipeline.rule_sets import SCORE_NAMES
from mixloom.pipeline.rules import (
    Bounds,
    Rule,
    RuleSet,
    combine,
    judge,
    load_ruleset,
    ruleset_names,
    split_at_edits,
)
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

# ---- judging --------------------------------------------------------------------------------------------

measured = st.fixed_dictionaries(
    {
        "words": st.integers(0, 12),
        "newlines_per_word": st.sampled_from([0.0, 0.1, 0.25, 1.0]),
        "min_image_side": st.none() | st.integers(1, 9),
    }
)
bounds = st.builds(
    lambda low, width, one_sided, strict: {
        "min": None if one_sided == "max" else low,
        "max": None if one_sided == "min" else low + width,
        "strict": strict,
    },
    st.sampled_from([0.0, 0.1, 0.25, 3.0, 5.0]),
    st.sampled_from([0.0, 0.15, 2.0]),
    st.sampled_from(["", "min", "max"]),
    st.booleans(),
)
names = st.sampled_from(["words", "newlines_per_word", "min_image_side"])
rules = st.lists(st.tuples(names, bounds, st.dictionaries(names, bounds, max_size=2)), min_size=1, max_size=4)


def table(rows: list[dict[str, object]]) -> pa.RecordBatch:
    schema = pa.schema(
        [("words", pa.int32()), ("newlines_per_word", pa.float32()), ("min_image_side", pa.int32())]
    )
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def inside(value: float | None, low: float | None, high: float | None, strict: bool) -> bool | None:
    if value is None:
        return None
    if strict:
        return (low is None or value > low) and (high is None or value < high)
    return (low is None or value >= low) and (high is None or value <= high)


@settings(max_examples=300, deadline=None)
@given(st.lists(measured, max_size=8), rules)
def test_judging_all_documents_at_once_equals_asking_each_document_each_rule(
    rows: list[dict[str, object]], drawn: list[tuple[str, dict, dict]]
) -> None:
    ruleset = RuleSet(
        rules=tuple(
            Rule(name=f"r{k}", measure=m, when={n: Bounds(**w) for n, w in when.items()}, **b)
            for k, (m, b, when) in enumerate(drawn)
        )
    )
    verdicts = judge(table(rows), ruleset)
    fired = [0] * len(drawn)
    for i, row in enumerate(rows):
        first = -1
        for k, (m, b, when) in enumerate(drawn):
            applies = all(inside(row[n], w["min"], w["max"], w["strict"]) is True for n, w in when.items())  # type: ignore[arg-type]
            if applies and inside(row[m], b["min"], b["max"], b["strict"]) is False:  # type: ignore[arg-type]
                fired[k] += 1
                first = k if first < 0 else first
        assert verdicts.rule[i] == first
        assert verdicts.keep[i] == (first < 0)
        if first < 0:
            assert np.isnan(verdicts.value[i])
            assert np.isnan(verdicts.limit[i])
        else:
            m, b, _ = drawn[first]
            assert verdicts.value[i] == np.float32(row[m])  # type: ignore[arg-type]
            assert verdicts.limit[i] in (b["min"], b["max"])
    assert verdicts.fired.tolist() == fired
    assert (verdicts.keep.dtype, verdicts.rule.dtype, verdicts.fired.dtype) == (np.bool_, np.int16, np.int64)


def test_a_ratio_of_exactly_the_limit_is_kept_unless_the_rule_is_strict() -> None:
    batch = table([{"words": 10, "newlines_per_word": 1 / 10, "min_image_side": None}])
    lenient = RuleSet(rules=(Rule(name="a", measure="newlines_per_word", max=0.1),))
    strict = RuleSet(rules=(Rule(name="a", measure="newlines_per_word", max=0.1, strict=True),))
    assert judge(batch, lenient).keep.tolist() == [True]
    verdict = judge(batch, strict)
    assert verdict.keep.tolist() == [False]
    assert verdict.limit.tolist() == [0.1]


# ---- loading --------------------------------------------------------------------------------------------


def load_text(tmp_path: Path, text: str) -> RuleSet:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_ruleset(path)


def test_the_rule_sets_of_the_package_load_and_only_read_measures_that_exist() -> None:
    assert {"basic", "media", "gopher@datatrove", "fineweb@code"} <= set(ruleset_names())
    for name in ruleset_names():
        ruleset = load_ruleset(name)
        assert ruleset.description
        assert set(ruleset.measures) <= {*MEASURE_NAMES, *SCORE_NAMES}


def test_a_rule_set_of_ones_own_is_loaded_by_its_path(tmp_path: Path) -> None:
    text = "rules: [{name: few, measure: words, min: 5, when: {images: {max: 0}}}]"
    ruleset = load_text(tmp_path, text)
    assert load_ruleset(str(tmp_path / "mine.yaml")) == ruleset
    assert ruleset.measures == ("words", "images")
    assert ruleset.to_json()["rules"][0]["when"] == {"images": {"min": None, "max": 0.0, "strict": False}}


def test_a_top_ngram_share_may_exceed_one_and_loudness_be_negative(tmp_path: Path) -> None:
    load_text(tmp_path, "rules: [{name: a, measure: top_2gram_char_share, max: 1.5}]")
    load_text(tmp_path, "media: [{name: a, measure: loudness_dbfs, min: -60}]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rules: [{name: a, measure: wrods, min: 5}]",
            r"there is no measure 'wrods' \(did you mean 'words'\?\)",
        ),
        ("rules: [{name: a, measure: words, when: {image: {max: 0}}, min: 1}]", "did you mean 'images'"),
        ("rules: [{name: a, measure: words}]", "there is no bound; give min, max or both"),
        ("rules: [{name: a, measure: words, when: {images: {}}, min: 1}]", "there is no bound"),
        ("rules: [{name: a, measure: words, minimum: 5}]", r"unknown key 'rules.a.minimum'"),
        ("rules: [{name: a, measure: words, min: 5, max: 4}]", "min 5 is greater than max 4"),
        ("rules: [{name: a, measure: words, min: -5}]", "min is -5, but 'words' is never below 0"),
        (
            "rules: [{name: a, measure: duplicate_line_share, max: 30}]",
            "max is 30, but 'duplicate_line_share' is between 0 and 1; no value would make a difference",
        ),
        (
            "rules: [{name: a, measure: quality_dclm, min: 1.8}]",
            "min is 1.8, but 'quality_dclm' is between 0 and 1",
        ),
        (
            "rules: [{name: a, measure: words, min: 5, when: {alpha_share: {max: 80}}}]",
            "max is 80, but 'alpha_share'",
        ),
        (
            "lines: [{name: a, measure: upper_share, max: 50}]",
            "max is 50, but 'upper_share' is between 0 and 1",
        ),
        ("media: [{name: a, measure: silence_share, max: 95}]", "max is 95, but 'silence_share'"),
        ("remove: [{what: snippets, when: {digit_share: {max: 5}}}]", "max is 5, but 'digit_share'"),
        ("rules: [{measure: words, min: 5}]", "'rules.0.name' is missing"),
        ("rules: [{name: a, measure: words, min: five}]", "'rules.a.min' is 'five'"),
        ("rules: [{name: a, measure: words, min: .nan}]", "finite number"),
        ("rules: [{name: Bad Name, measure: words, min: 5}]", "should match pattern"),
        ("rules: []", "there is no rule; give at least one in rules, lines, media or remove"),
        (
            "rules: [{name: a, measure: words, min: 5}, {name: a, measure: lines, min: 5}]",
            "two rules are named 'a'",
        ),
        ("- 1", "holds list, not 'key: value' lines"),
    ],
)
def test_a_mistake_in_a_rule_file_is_named_with_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_text(tmp_path, text)


def test_an_unknown_rule_set_or_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no rule set 'basik' \(did you mean 'basic'\?\)") as error:
        load_ruleset("basik")
    assert "gopher@datatrove" in error.value.fix
    with pytest.raises(UserError, match=r"the rule file .*none.yaml cannot be read"):
        load_ruleset(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"description: \xe9")
    with pytest.raises(UserError, match="cannot be read"):
        load_ruleset(tmp_path / "latin.yaml")


def test_combined_rule_sets_are_asked_in_order_and_a_shared_rule_once() -> None:
    a, b = Rule(name="a", measure="words", min=1), Rule(name="b", measure="lines", min=1)
    both = combine([RuleSet(rules=(b,)), RuleSet(rules=(a, b))])
    assert both.rules == (b, a)
    with pytest.raises(UserError, match="two different rules are named 'a'"):
        combine([RuleSet(rules=(a,)), RuleSet(rules=(Rule(name="a", measure="words", min=2),))])
    with pytest.raises(UserError, match="no rule set is given"):
        combine([])


# ---- what the rule sets do ------------------------------------------------------------------------------


def verdict(name: str, texts: list[str], *extra: Segment) -> list[str | None]:
    docs = [
        Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t), *extra))
        for i, t in enumerate(texts)
    ]
    ruleset = load_ruleset(name)
    rule = judge(annotate(documents_batch(docs), AnnotateConfig()), ruleset).rule
    return [ruleset.rules[r].name if r >= 0 else None for r in rule]


ORDINARY = [
    "A man rides a wave on top of a surfboard.",
    "Yes.",
    "Hmm!!!",
    "Wait... what?",
    "2 + 2 = 4",
    "Bring 500 g flour, 3 eggs, 1/2 tsp salt and 250 ml milk to room temperature.\n\n- Mix.\n- Fry.\n- Eat.",
    "Der Angstschweiß stand ihm auf der Stirn, als Rechtsschutzversicherungsgesellschaften anriefen.",
    "Strč prst skrz krk.",
    "猫が窓のそばで眠っている。",
    "ฉันชอบกินข้าวผัดกับเพื่อนในวันหยุด",
    "أحب القراءة في المساء.",
    "मुझे हिन्दी में लिखना अच्छा लगता है।",
    "❤️👍🎉",
    "for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }",
    "HTTP 404: https://example.org/index.html was not found (XML, HTML and JSON were tried).",
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "| name | size |\n|------|------|\n| left | 10   |\n| right| 12   |",
    "We study stochastic gradient descent for overparameterised networks and prove that it converges.",
]


def test_basic_keeps_every_ordinary_short_document() -> None:
    assert dict(zip(ORDINARY, verdict("basic", ORDINARY))) == dict.fromkeys(ORDINARY)


def noise() -> dict[str, list[str]]:
    r = random.Random(5)

    def words(alphabet: str, count: int = 60) -> str:
        return " ".join("".join(r.choices(alphabet, k=r.randint(3, 10))) for _ in range(count))

    keyboard = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
    mashed = [
        "".join(row[i : i + 4] for row in r.sample(keyboard, 2) for i in [r.randrange(4)]) for _ in range(60)
    ]
    printable = string.ascii_letters + string.digits + string.punctuation
    return {
        "empty": ["", " \n\t "],
        "letters": [words(string.ascii_lowercase), words("asdfghjkl"), " ".join(mashed)],
        "letters and digits": [
            words(string.ascii_letters + string.digits),
            words(string.ascii_lowercase + "0123456789"),
        ],
        "printable": ["".join(r.choices(printable, k=600)), words(printable)],
        "symbols": ["".join(r.choices("!@#$%^&*()_+-=[]{};:,.<>/?~ ", k=200))],
        "bytes": [r.randbytes(400).decode("utf-8", "replace"), r.randbytes(400).decode("latin-1")],
        "encoded": [
            base64.b64encode(r.randbytes(600)).decode(),
            " ".join(r.randbytes(16).hex() for _ in range(12)),
        ],
        "repeated": [
            "\n".join(["Click here to subscribe to our newsletter"] * 12),
            "buy cheap watches " * 30,
            "a" * 300,
            "=" * 300,
            "ha " * 80,
        ],
    }


def test_basic_drops_noise_of_every_kind() -> None:
    for sort, texts in noise().items():
        assert None not in verdict("basic", texts), sort


def test_a_document_is_not_judged_on_the_text_it_does_not_have() -> None:
    picture = Segment(kind="image", media=Media(uri="i", sha256="0" * 64, bytes=1, width=300, height=200))
    clip = Segment(kind="speech", media=Media(uri="i", sha256="0" * 64, bytes=1, seconds=2.0))
    assert verdict("basic", ["", "x"], picture) == [None, None]
    assert verdict("basic", [""], clip) == [None]
    assert verdict("basic", ["", "x"]) == ["empty_document", None]


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ({"width": 640, "height": 480}, None),
        ({"width": 8, "height": 480}, "image_too_small"),
        ({"width": 3000, "height": 100}, "image_too_long"),
        ({"seconds": 3.0}, None),
        ({"seconds": 0.01}, "speech_too_short"),
        ({"seconds": 5000.0}, "speech_too_long"),
        ({}, None),
    ],
)
def test_media_judges_images_by_their_sides_and_speech_by_its_length(media: dict, reason: str | None) -> None:
    kind = "speech" if "seconds" in media else "image"
    segment = Segment(kind=kind, media=Media(uri="m", sha256="0" * 64, bytes=1, **media))  # type: ignore[arg-type]
    assert verdict("media", ["text"], segment) == [reason]
    assert verdict("media", ["no media at all"]) == [None]


PROSE = (
    "The committee met on Tuesday to talk about the plans that we have for the river. It was agreed to wait, "
    "and to ask those who live with the water every day what they think of it. No one spoke against that. "
    "The next meeting will be held in the spring, when the snow has gone and the paths are open again. Until then "
    "three engineers walk along both banks, measuring depth, width and speed, noting fallen trees, broken fences, "
    "flooded cellars, and sheep on roads."
)


def test_gopher_keeps_prose_and_gives_the_reason_for_what_it_drops() -> None:
    varied = " ".join(f"alpha{i} of beta{i} and" for i in range(40))
    cases = {
        PROSE: None,
        PROSE[:100]: "top_4_gram",  # datatrove lets an n-gram that occurs once be the top one
        PROSE[:200]: "gopher_short_doc",
        "\n\n".join([PROSE] * 3): "dup_para_frac",
        "\n".join(["Home page of the town", *["Read more about this"] * 4, PROSE]): "dup_line_frac",
        " ".join(w if i % 4 else f"{w}..." for i, w in enumerate(PROSE.split())): "gopher_too_many_ellipsis",
        PROSE.replace("the ", "").replace("and ", "").replace("of ", "").replace("that ", "").replace("have ", "")
        .replace(" to ", " ").replace("with ", "").replace("be ", ""): "gopher_enough_stop_words",
        varied.replace("alpha", "a").replace("beta", "b"): "gopher_below_avg_threshold",
        " ".join(w if i % 2 else f"{w} {i * 7919}" for i, w in enumerate(PROSE.split())): "gopher_below_alpha_threshold",
    }  # fmt: skip
    got = dict(zip(cases, verdict("gopher@datatrove", list(cases))))
    assert got == cases


def test_fineweb_judges_the_shape_of_lines() -> None:
    lines = [s.strip() + "." for s in PROSE.split(".") if s.strip()]
    menu = ["Home and garden", "About our company", "Contact us today", "Careers", "Press", "Help"]
    cases = {
        "\n".join(lines): None,
        " \n ": "empty",
        "\n".join(line.rstrip(".") + " and so" for line in lines): "line_punct_ratio",
        "\n".join([*menu, *(m + "." for m in menu)]): "short_line_ratio",
        "\n".join([*lines, lines[0], *lines[1:3]]): "char_dup_ratio",
        "\n".join(
            f"{i} is a very-long-line-of-few-words, number{i}." + "\n" * 8 for i in range(8)
        ): "list_ratio",
    }
    got = dict(zip(cases, verdict("fineweb@code", list(cases))))
    assert got == cases


# ---- rule sets that edit, names and scores ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lines: [{name: a, measure: upper_shares, max: 1}]",
            r"there is no measure of lines 'upper_shares' \(did you mean 'upper_share'\?\)",
        ),
        (
            "media: [{name: a, measure: min_sides, max: 1}]",
            r"no measure of images and recordings 'min_sides' \(did you mean 'min_side'\?\)",
        ),
        (
            "{lines: [{name: a, measure: words, min: 2}], rules: [{name: b, measure: kept_line, min: 1}]}",
            "did you mean 'kept_lines'",
        ),
        ("rules: [{name: a, measure: kept_lines, min: 1}]", "'a' asks what is left of the document, but"),
        ("lines: [{name: a, measure: words, min: 2, action: segment}]", "'line' or 'document'"),
        ("media: [{name: a, measure: width, min: 2, action: line}]", "'segment' or 'document'"),
        ("remove: [urls]", "'citations' or 'snippets'"),
        ("remove: [{what: snippets, when: {wrods: {max: 10}}}]", "did you mean 'words'"),
        ("remove: [citations, snippets]", "at most 1 item"),
        (
            "{media: [{name: a, measure: width, min: 2}], layout: joined}",
            "layout and max_empty_lines are for sets with a lines or remove section",
        ),
        ("{remove: [citations], layout: joined, max_empty_lines: 1}", "joined leaves no empty line"),
        (
            "{lines: [{name: a, measure: words, min: 2}], rules: [{name: a, measure: words, min: 2}]}",
            "two rules are named 'a'",
        ),
        (
            "rules: [{name: a, measure: language, min: 2}]",
            r"'language' holds names; write it as \{in: \[en, de\]\}",
        ),
        (
            "rules: [{name: a, measure: words, in: [en]}]",
            "'words' is a number; give min, max or both, not 'in'",
        ),
        ("rules: [{name: a, measure: language, in: [en], max: 2}]", "give one of them"),
        ("rules: [{name: a, measure: qualities, min: 2}]", "there is no measure 'qualities'"),
    ],
)
def test_a_section_that_cannot_be_right_is_refused_with_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_text(tmp_path, text)


def test_languages_and_scores_of_a_run_can_be_asked() -> None:
    ruleset = RuleSet.model_validate(
        {
            "rules": [
                {"name": "other_language", "measure": "language", "in": ["en", "de"]},
                {"name": "unsure", "measure": "language_score", "min": 0.5},
                {"name": "poor", "measure": "quality_web", "min": 0.2, "when": {"language": {"in": ["en"]}}},
            ]
        }
    )
    assert ruleset.measures == ("language", "language_score", "quality_web")
    assert ruleset.to_json()["rules"][0]["in"] == ["en", "de"]
    assert "in" not in ruleset.to_json()["rules"][1]
    batch = pa.record_batch(
        {
            "language": ["en", "fr", "de", None, "en", "de"],
            "language_score": pa.array([0.9, 0.9, 0.4, None, 0.9, 0.9], pa.float32()),
            "quality_web": pa.array([0.3, 0.3, 0.3, 0.1, 0.1, 0.1], pa.float32()),
        }
    )
    verdicts = judge(batch, ruleset)
    assert verdicts.rule.tolist() == [-1, 0, 1, -1, 2, -1]
    assert np.isnan(verdicts.value[1])
    assert np.isnan(verdicts.limit[1])
    assert verdicts.limit[4] == 0.2
    assert verdicts.fired.tolist() == [1, 1, 1]


def test_rule_sets_are_split_behind_each_one_that_edits() -> None:
    def one(section: str, name: str, measure: str) -> RuleSet:
        return RuleSet.model_validate({section: [{"name": name, "measure": measure, "min": 2}]})

    a, c, e = (one("rules", name, "words") for name in "ace")
    b, d = one("lines", "b", "words"), one("media", "d", "width")
    split = [r.names for r in split_at_edits([a, b, c, d, e])]
    assert split == [("a", "b"), ("c", "d"), ("e",)]
    assert [r.names for r in split_at_edits([a, b])] == [("a", "b")]
    assert [r.names for r in split_at_edits([a, c])] == [("a", "c")]
    joined = combine([a, load_ruleset("c4@datatrove")])
    assert (joined.layout, joined.edits_text, joined.needs_lines, joined.needs_items) == (
        "joined",
        True,
        True,
        False,
    )
    assert joined.rules[0].name == "a"
    with pytest.raises(UserError, match="has another rule set behind it"):
        combine([b, a])
    with pytest.raises(UserError, match="two different rules are named 'b'"):
        combine([one("rules", "b", "words"), b])
    with pytest.raises(UserError, match="no rule set is given"):
        split_at_edits([])


def test_a_rule_set_that_edits_is_not_judged_by_annotations_alone() -> None:
    with pytest.raises(ValueError, match="judgement"):
        judge(pa.record_batch({"x": [1]}), load_ruleset("c4@fineweb"))


def test_the_json_of_a_rule_set_that_edits_holds_all_that_decides() -> None:
    told = load_ruleset("c4@fineweb").to_json()
    assert told["layout"] == "joined"
    assert told["remove"] == [{"what": "citations", "when": {}}]
    assert told["lines"][2]["action"] == "document"
    assert set(load_ruleset("basic").to_json()) == {"rules"}
