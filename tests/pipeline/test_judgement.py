"""Rule sets that edit: what goes, what stays, why, and that the edited text is the text of the dialect."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.edits import EDITS, apply_edits
from mixloom.pipeline.judgement import CHANGES, Judgement, judge_document, line_column
from mixloom.pipeline.line_measures import LINE_MEASURES, REST_MEASURES
from mixloom.pipeline.lines import line_table, segment_lines
from mixloom.pipeline.media_items import ITEMS
from mixloom.pipeline.rules import RuleSet, load_ruleset
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")


def ruleset(**sections: object) -> RuleSet:
    return RuleSet.model_validate(sections)


def apply_spans(text: str, spans: list[dict[str, object]]) -> str:
    """The text with byte spans replaced: the slow definition of what an edit is."""
    raw, out, done = text.encode(), [], 0
    for span in spans:
        assert done <= span["start"] <= span["stop"] <= len(raw)
        out += [raw[done : span["start"]], span["replacement"].encode()]
        done = span["stop"]
    return b"".join([*out, raw[done:]]).decode()


def judge_texts(texts: list[str], rules: RuleSet, **measures: list[float]) -> Judgement:
    columns = {"text_chars": [len(t) for t in texts], **measures}
    return judge_document(pa.record_batch(columns), line_table(pa.array(texts, pa.string())), None, rules)


def edited(texts: list[str], judged: Judgement) -> list[str]:
    spans = defaultdict(list)
    for edit in judged.edits.to_pylist():
        assert edit["segment"] == 0
        spans[edit["row"]].append(edit)
    return [apply_spans(text, spans[i]) for i, text in enumerate(texts)]


# ---- the edited text is that of the dialect ------------------------------------------------------------------

pieces = st.sampled_from(
    [
        *(
            "word",
            "two words",
            "a b c",
            "javascript",
            "[1]",
            "[edit]",
            " [2] ",
            "[x]",
            "x[3]y",
            "{",
            "items in cart",
        ),
        *(
            "Sign-in",
            "Read more...",
            " ",
            "  ",
            "\t",
            "\n",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            "\u2028",
            "\x0c",
            "é",
            "中",
            ".",
        ),
    ]
)
texts = st.lists(pieces, max_size=30).map("".join)

C4_LIKE = ruleset(
    lines=[
        {"name": "few", "measure": "words", "min": 2},
        {"name": "brace", "measure": "curly_brackets_uncited", "max": 0, "action": "document"},
        {"name": "script", "measure": "javascript_uncited", "max": 0},
    ],
    remove=["citations"],
    layout="joined",
)


def joined(text: str) -> str | None:
    kept = []
    for line in text.splitlines():
        line = line.strip()
        words = len(line.split())
        line = CITATION.sub("", line)
        if words < 2:
            continue
        if "{" in line:
            return None
        if "javascript" not in line:
            kept.append(line)
    return "\n".join(kept).strip()


@settings(max_examples=500, deadline=None)
@given(st.lists(texts, max_size=4))
def test_a_joined_layout_gives_the_lines_that_stay_joined_by_newlines(documents: list[str]) -> None:
    judged = judge_texts(documents, C4_LIKE)
    expected = [joined(text) for text in documents]
    assert judged.verdicts.keep.tolist() == [e is not None for e in expected]
    for before, after, want in zip(documents, edited(documents, judged), expected):
        assert after == (before if want is None else want)  # a document that goes has no edits
    assert judged.edits.schema == CHANGES
    for name in ("kept_words", "kept_lines"):
        assert (judged.left[name] >= 0).all()


IN_PLACE = ruleset(
    lines=[
        {"name": "few", "measure": "words", "min": 2},
        {"name": "script", "measure": "javascript", "max": 0},
    ],
    remove=[{"what": "snippets", "when": {"words": {"max": 6}}}],
    max_empty_lines=1,
)


def in_place(text: str) -> str:
    out, empty = [], 0
    for whole in text.splitlines(keepends=True):
        line = re.sub("(\r\n|[\n\r\u2028\x0c])$", "", whole)
        empty = empty + 1 if not line else 0
        if empty > 1 or (line and (len(line.split()) < 2 or "javascript" in line)):
            continue
        if len(line.split()) <= 6:
            rest = re.sub(r"^sign-in\s?", "", line, flags=re.I)
            rest = re.sub(r"\s?items in cart", "", rest, flags=re.I)
            rest = re.sub(r"\s?read more...\Z", "", rest, flags=re.I | re.S)
            if line and not rest.strip() and rest != line:
                continue
            whole = rest + whole[len(line) :]
        out.append(whole)
    return "".join(out).strip()


@settings(max_examples=500, deadline=None)
@given(st.lists(texts, max_size=4))
def test_a_layout_in_place_takes_lines_with_their_line_breaks_and_leaves_all_else(
    documents: list[str],
) -> None:
    judged = judge_texts(documents, IN_PLACE)
    # A text whose snippets overlap another way when they are taken out one after the other is not compared.
    plain = [d for d in documents if len(re.findall("(?i)sign-in|items in cart|read more", d)) <= 1]
    after = dict(zip(documents, edited(documents, judged)))
    assert [after[d] for d in plain] == [in_place(d) for d in plain]


@settings(max_examples=200, deadline=None)
@given(texts)
def test_the_counts_of_what_is_left_are_those_of_the_edited_text(text: str) -> None:
    rules = ruleset(
        lines=[{"name": "few", "measure": "words", "min": 2}], remove=["citations"], layout="joined"
    )
    judged = judge_texts([text], rules)
    after = edited([text], judged)[0]
    left = {name: values[0] for name, values in judged.left.items()}
    assert left["kept_words"] == len(after.split())
    assert left["kept_lines"] == sum(bool(line.strip()) for line in after.splitlines())
    words = len(text.split())
    assert left["removed_word_share"] == ((words - len(after.split())) / words if words else 0)
    assert left["kept_text_segments"] == bool(after)


def test_the_edits_of_a_golden_page_tell_each_line_by_its_reason_value_and_limit() -> None:
    page = (
        "  Home\n\nHops are flowers[1] of a plant.\r\nThey give beer its taste.  \nEnable JavaScript to vote today.\n"
        "Read our privacy policy, it is long.\nIs that all? No, it is not. They also keep it fresh.\n\n"
    )
    judged = judge_texts([page], load_ruleset("c4@datatrove"))
    assert edited([page], judged) == [
        "Hops are flowers of a plant.\nThey give beer its taste.\n"
        "Is that all? No, it is not. They also keep it fresh."
    ]
    raw = page.encode()
    told = [
        (raw[e["start"] : e["stop"]].decode(), e["replacement"], e["reason"], e["value"], e["limit"])
        for e in judged.edits.to_pylist()
    ]
    assert told == [
        ("  Home\n\n", "", "no_terminal_punctuation", 0.0, 1.0),
        ("[1]", "", "citation", None, None),
        ("\r\n", "\n", "white_space", None, None),
        ("  \nEnable JavaScript to vote today.\n", "\n", "javascript", 1.0, 0.0),
        ("Read our privacy policy, it is long.\n", "", "policy", 1.0, 0.0),
        ("\n\n", "", "white_space", None, None),
    ]
    assert judged.verdicts.keep.tolist() == [True]


# ---- every rule of the sets alone ------------------------------------------------------------------------------

GOOD = "This line is fine. So is this one. It has a third sentence. And here comes a fourth. The last is this one."
LONG = "One two three four five six seven eight nine ten. " * 40
LINES_ALONE = [
    # rule set, rule, the line it removes, value, limit
    ("c4@datatrove", "too_long_word", f"a b {'x' * 1000}.", 1001, 1000),
    ("c4@datatrove", "no_terminal_punctuation", "This line just stops", 0, 1),
    ("c4@datatrove", "ends_in_three_dots", "This line goes on...", 1, 0),
    ("c4@datatrove", "too_few_words", "Two words.", 2, 3),
    ("c4@datatrove", "javascript", "Please enable JavaScript now.", 1, 0),
    ("c4@datatrove", "policy", "We use cookies, see our Privacy Policy.", 2, 0),
    ("c4@fineweb", "too_long_word", f"a b {'x' * 1001}", 1001, 1000),
    ("c4@fineweb", "too_few_words", "Two words", 2, 3),
    ("c4@fineweb", "javascript", "Please enable JavaScript now", 1, 0),
    ("c4@fineweb", "policy", "Read the terms of use", 1, 0),
    ("c4@tfds", "too_long_word", f"a b c d {'x' * 1000}.", 1001, 1000),
    ("c4@tfds", "no_terminal_punctuation", "Five words in single 'quotes'", 0, 1),
    ("c4@tfds", "ends_in_three_dots", "This line still goes on...", 1, 0),
    ("c4@tfds", "too_few_words", "Four words [1] are here.", 4, 5),
    ("c4@tfds", "javascript", "Please do enable JavaScript now.", 1, 0),
    ("c4@tfds", "policy", "This site uses cookies for you.", 1, 0),
    ("refinedweb", "upper_case_line", "CLICK HERE NOW", 12 / 14, 0.5),
    ("refinedweb", "numeric_line", "١٢٣٤", 1, 0.999999),
    ("refinedweb", "counter_line", "* 12.5K likes!", 1, 0),
    ("refinedweb", "one_word_line", "Contact", 1, 2),
]


@pytest.mark.parametrize(("name", "rule", "line", "value", "limit"), LINES_ALONE)
def test_a_line_rule_alone_removes_its_line(
    name: str, rule: str, line: str, value: float, limit: float
) -> None:
    rules = load_ruleset(name)
    around = LONG.strip() if name == "refinedweb" else GOOD
    judged = judge_texts([f"{around}\n{line}\n{around}"], rules)
    fired = {n: k for n, k in zip(judged.names, judged.verdicts.fired.tolist()) if k}
    # A number alone is one word too; every other rule has its line to itself.
    assert fired == ({rule: 1, "one_word_line": 1} if rule == "numeric_line" else {rule: 1})
    assert judged.verdicts.keep.tolist() == [True]
    (edit,) = judged.edits.to_pylist()
    assert (edit["reason"], edit["limit"]) == (rule, limit)
    assert edit["value"] == pytest.approx(value)
    assert edited([f"{around}\n{line}\n{around}"], judged) == [f"{around}\n{around}"]


def test_every_line_rule_of_the_package_has_such_a_line() -> None:
    named = {(name, rule) for name, rule, *_ in LINES_ALONE}
    for name in ("c4@datatrove", "c4@fineweb", "c4@tfds", "refinedweb"):
        assert {(name, r.name) for r in load_ruleset(name).lines if r.action == "line"} <= named


@pytest.mark.parametrize(
    ("name", "text", "rule", "value", "limit"),
    [
        ("c4@datatrove", f"{GOOD}\nLorem ipsum dolor sit amet.", "lorem_ipsum", 1, 0),
        ("c4@datatrove", f"{GOOD}\nThe code is int main() {{ }} or so.", "curly_bracket", 1, 0),
        (
            "c4@datatrove",
            "This is one. This is two.\nThis is three. And this is four.",
            "too_few_sentences",
            4,
            5,
        ),
        ("c4@fineweb", f"{GOOD}\nLorem ipsum dolor sit amet", "lorem_ipsum", 1, 0),
        ("c4@fineweb", f"{GOOD}\nint main() {{ }}", "curly_bracket", 1, 0),
        (
            "c4@fineweb",
            "Four lines here\nWhich end in\nNothing at all\nAs you see",
            "too_few_sentences",
            4,
            5,
        ),
        ("c4@tfds", f"{GOOD}\nLorem ipsum dolor sit amet.", "lorem_ipsum", 1, 0),
        ("c4@tfds", f"{GOOD}\nThe code is int main() {{ }} or so.", "curly_bracket", 1, 0),
        ("c4@tfds", "This page has just one. And this is the second.", "too_few_sentences", 2, 3),
        ("c4@tfds", f"{GOOD} " * 2000, "too_long_page", 2000 * (len(GOOD) + 1), 190000),
        ("refinedweb", "Sign-in\n\nitems in cart", "nothing_left", 0, 1),
        ("refinedweb", f"{GOOD}\nHome\nAbout\nContact\nShop\nHelp", "too_many_words_removed", 5 / 28, 0.05),
    ],
)
def test_a_rule_alone_drops_its_document(name: str, text: str, rule: str, value: float, limit: float) -> None:
    judged = judge_texts([GOOD if name != "refinedweb" else LONG, text], load_ruleset(name))
    assert judged.verdicts.keep.tolist() == [True, False]
    assert judged.names[judged.verdicts.rule[1]] == rule
    assert judged.verdicts.value[1] == pytest.approx(value)
    assert judged.verdicts.limit[1] == limit
    drops = {r.name for r in load_ruleset(name).rules}
    drops |= {r.name for r in load_ruleset(name).lines if r.action == "document"}
    fired = {n for n, k in zip(judged.names, judged.verdicts.fired) if k and n in drops}
    assert fired == ({rule} if rule != "nothing_left" else {"nothing_left", "too_many_words_removed"})
    assert judged.edits.num_rows == 0 or set(judged.edits["row"].to_pylist()) == {0}


def test_a_document_action_is_silent_on_a_line_that_an_earlier_rule_removed() -> None:
    rules = load_ruleset("c4@datatrove")
    text = f"{GOOD}\nfunction() {{ }}"  # no terminal punctuation: the line goes before its bracket is seen
    judged = judge_texts([text], rules)
    assert judged.verdicts.keep.tolist() == [True]
    assert edited([text], judged) == [GOOD]
    assert dict(zip(judged.names, judged.verdicts.fired))["curly_bracket"] == 1


def test_the_first_line_that_drops_a_document_gives_the_reason() -> None:
    text = f"{GOOD}\nThere is a {{ here.\nLorem ipsum dolor sit amet."
    judged = judge_texts([text], load_ruleset("c4@datatrove"))
    assert judged.names[judged.verdicts.rule[0]] == "curly_bracket"


@pytest.mark.parametrize(
    ("line", "left", "reason"),
    [
        ("3 items in cart now", "3 now", "items_in_cart"),
        ("Beer is good Read more...", "Beer is good", "read_more"),
        ("Sign-in to see it", "to see it", "sign_in"),
        ("Items in cart", None, "items_in_cart"),
        ("Read more...", None, "read_more"),
    ],
)
def test_refinedweb_takes_boilerplate_out_of_short_lines_only(
    line: str, left: str | None, reason: str
) -> None:
    rules = load_ruleset("refinedweb")
    text = f"{LONG.strip()}\n{line}\nend of it"
    judged = judge_texts([text], rules)
    middle = "" if left is None else f"{left}\n"
    assert edited([text], judged) == [f"{LONG.strip()}\n{middle}end of it"]
    assert judged.edits["reason"].to_pylist() == [reason]
    long = f"{line} one two three four five six seven eight items in cart"
    assert edited([long], judge_texts([long], rules)) == [long]


def test_empty_lines_beyond_the_allowed_go_as_such() -> None:
    text = f"{LONG.strip()}\n\n\n\nend of it"
    judged = judge_texts([text], load_ruleset("refinedweb"))
    assert edited([text], judged) == [f"{LONG.strip()}\n\nend of it"]
    assert judged.edits["reason"].to_pylist() == ["empty_lines"] * 2


# ---- several documents, segments and media ---------------------------------------------------------------------

ONE_LINE = {"name": "few", "measure": "words", "min": 2}


def items(rows: list[tuple[int, int, str, int | None]]) -> pa.RecordBatch:
    names = ("row", "segment", "kind", "min_side")
    return pa.RecordBatch.from_pylist([dict(zip(names, row)) for row in rows], schema=ITEMS)


def test_a_removed_image_leaves_its_document_while_the_rest_stands() -> None:
    rules = ruleset(
        media=[{"name": "tiny", "measure": "min_side", "min": 32}],
        rules=[{"name": "no_image_left", "measure": "kept_images", "min": 1}],
    )
    table = items([(0, 1, "image", 8), (0, 2, "image", 64), (1, 0, "image", 8), (2, 0, "image", None)])
    judged = judge_document(pa.record_batch({"x": [0, 1, 2]}), None, table, rules)
    assert judged.verdicts.keep.tolist() == [True, False, True]
    assert judged.verdicts.fired.tolist() == [1, 2]
    assert judged.edits.to_pylist() == [
        {
            "row": 0,
            "segment": 1,
            "start": -1,
            "stop": -1,
            "replacement": "",
            "reason": "tiny",
            "value": 8,
            "limit": 32,
        }
    ]
    assert judged.left["removed_media_share"].tolist() == [0.5, 1.0, 0.0]


def test_a_media_rule_can_drop_the_document() -> None:
    rules = ruleset(media=[{"name": "tiny", "measure": "min_side", "min": 32, "action": "document"}])
    table = items([(0, 1, "image", 64), (1, 0, "image", 8), (1, 1, "image", 9)])
    judged = judge_document(pa.record_batch({"x": [0, 1]}), None, table, rules)
    assert judged.verdicts.keep.tolist() == [True, False]
    assert (judged.verdicts.value[1], judged.verdicts.limit[1]) == (8, 32)
    assert judged.edits.num_rows == 0


def test_segments_are_edited_each_by_itself_and_counted_together() -> None:
    texts = pa.array(["one\ntwo words", "three", "four words\n"])
    lines = line_table(texts, np.array([5, 5, 9], np.int32), np.array([0, 2, 1], np.int32))
    rules = ruleset(
        lines=[ONE_LINE],
        layout="joined",
        rules=[{"name": "few_segments", "measure": "kept_segments", "min": 2}],
    )
    table = items([(5, 1, "image", 64), (7, 0, "image", 1)])
    batch = pa.record_batch({"x": [0, 1]})
    judged = judge_document(batch, lines, table, rules, rows=np.array([9, 5], np.int32))
    assert judged.left["kept_segments"].tolist() == [1, 2]
    assert judged.verdicts.keep.tolist() == [False, True]
    places = [(e["row"], e["segment"], e["start"], e["stop"]) for e in judged.edits.to_pylist()]
    assert places == [(5, 0, 0, 4), (5, 2, 0, 5)]


def test_the_edits_applied_to_documents_leave_their_segments_as_judged() -> None:
    image = Segment(kind="image", media=Media(uri="a.png", sha256="0" * 64, bytes=1))
    first, second, third = (
        Segment(kind="text", text=t) for t in ("one\ntwo words [1]\n", "x", " more\nand é words ")
    )
    documents = documents_batch(
        [
            Document(source="s", locator=Locator(uri=f"f{i}"), segments=parts)
            for i, parts in enumerate([(first, image, second), (image, third)])
        ]
    )
    rules = ruleset(lines=[ONE_LINE], layout="joined", remove=["citations"])
    judged = judge_document(documents, segment_lines(documents), None, rules)
    ids = documents.column("doc_id").take(judged.edits["row"].combine_chunks())
    after = apply_edits(documents, judged.edits.add_column(0, EDITS.field("doc_id"), ids).cast(EDITS))
    texts = [[s["text"] for s in segments] for segments in after.column("segments").to_pylist()]
    assert texts == [["two words", None], [None, "and é words"]]  # a segment with nothing left is gone


def test_documents_without_lines_and_batches_without_documents_are_judged() -> None:
    rules = load_ruleset("c4@fineweb")
    judged = judge_texts(["", "\n \n"], rules)
    assert [judged.names[k] for k in judged.verdicts.rule] == ["too_few_sentences"] * 2
    assert judge_texts([], rules).verdicts.keep.tolist() == []


def test_the_verdicts_do_not_depend_on_how_documents_are_batched() -> None:
    documents = [GOOD, f"{GOOD}\nTwo words", "short", f"  x\n{GOOD} [1]", "\n\n", GOOD.upper()]
    rules = load_ruleset("c4@datatrove")
    whole = judge_texts(documents, rules)
    tables = pa.Table.from_batches([line_table(pa.array(documents))])
    for i, document in enumerate(documents):
        alone = judge_texts([document], rules)
        assert alone.verdicts.rule[0] == whole.verdicts.rule[i]
        part = judge_document(pa.record_batch({"x": [0]}), tables, None, rules, rows=np.array([i], np.int32))
        assert edited([document], alone) == [edited(documents, whole)[i]]
        assert part.edits.drop_columns(["row"]) == alone.edits.drop_columns(["row"])


def test_rules_of_the_annotations_come_before_the_lines_and_rules_of_what_is_left_behind_them() -> None:
    rules = ruleset(
        lines=[{"name": "brace", "measure": "curly_brackets", "max": 0, "action": "document"}, ONE_LINE],
        rules=[
            {"name": "all_removed", "measure": "kept_lines", "min": 1},
            {"name": "long", "measure": "text_chars", "max": 20},
        ],
    )
    judged = judge_texts(["x", "{ is a brace", "{ is a brace " * 3, "two words"], rules)
    assert [judged.names[k] if k >= 0 else "" for k in judged.verdicts.rule] == [
        "all_removed",
        "brace",
        "long",
        "",
    ]


def test_a_table_that_a_set_needs_must_be_given() -> None:
    batch = pa.record_batch({"x": [0]})
    with pytest.raises(ValueError, match="tables of lines"):
        judge_document(batch, None, None, ruleset(lines=[ONE_LINE]))
    with pytest.raises(ValueError, match="images and recordings"):
        judge_document(batch, None, None, ruleset(media=[{"name": "tiny", "measure": "min_side", "min": 2}]))


def test_every_measure_of_lines_and_of_what_is_left_can_be_asked() -> None:
    lines = line_table(pa.array(["We use cookies [1]. Read more...", ""]))
    for name in LINE_MEASURES:
        values, known = line_column(lines, name)
        assert (len(values), known.all()) == (1, True)
    assert line_column(lines, "policy_phrases")[0].tolist() == [1]
    assert line_column(lines, "words_uncited")[0].tolist() == [6]
    assert [line_column(lines, n)[0].tolist() for n in ("citations", "snippets")] == [[1], [1]]
    rules = ruleset(
        lines=[ONE_LINE],
        media=[{"name": "tiny", "measure": "min_side", "min": 2}],
        rules=[{"name": name, "measure": name, "min": 0} for name in REST_MEASURES],
    )
    judged = judge_document(pa.record_batch({"x": [0]}), lines, items([]), rules)
    assert set(judged.left) == set(REST_MEASURES)
