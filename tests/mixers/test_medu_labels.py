"""How an answer is read: one label on the last line, or none at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.mixers.medu_labels import LABELS, VALUES, parse_label

LABEL = st.sampled_from(LABELS)
# Text of a judge that talks about the document, without a line that begins with the marker.
TALK = st.text(max_size=200).map(lambda t: "\n".join("x " + line for line in t.splitlines()))


@pytest.mark.parametrize("label", LABELS)
def test_every_label_is_read_from_the_last_line(label):
    assert parse_label(f"A short text about cells.\nIt helps.\nLabel: {label}") == label


@pytest.mark.parametrize(
    "line",
    ["Label: Good", "label: good", "LABEL : GOOD", "**Label:** Good", "**Label: Good**", "- Label:  good.".lstrip("- "),
     "Label: **Good**", "`Label: Good`", "### Label: Good", "  Label:Good  "],
)  # fmt: skip
def test_case_emphasis_and_a_full_stop_are_let_through(line):
    assert parse_label(f"words\n\n{line}\n\n") == "Good"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Good",
        "I would say it is Great.",
        "Label: Good or Great",
        "Label: Goodish",
        "Label: Not Good",
        "Label: 4",
        "Label:",
        "Label: Good\nbut I am not sure",
        "Label: Good\nLabel: Good",
        "Label: Great\nThe text above is a quote.\nLabel: Poor",
        "Final Score: Great",
        "My Label: Great",
        "Label: Great Label: Poor",
        "Label: Great (0.9)",
        "Label: Exzellent",
    ],
)
def test_anything_else_is_not_read_and_never_guessed(answer):
    assert parse_label(answer) is None


def test_what_a_model_thinks_before_it_answers_is_not_its_answer():
    assert parse_label("<think>Label: Great?\nLabel: Poor?</think>\nIt is dull.\nLabel: Poor") == "Poor"
    assert parse_label("It is dull.\nLabel: Poor</think>") is None


@given(TALK, LABEL)
def test_talk_before_the_label_does_not_change_it(talk, label):
    assert parse_label(f"{talk}\nLabel: {label}") == label


@given(TALK, LABEL, LABEL)
def test_a_second_line_with_a_label_is_never_settled_by_a_guess(talk, first, second):
    assert parse_label(f"Label: {first}\n{talk}\nLabel: {second}") is None


@given(st.text(max_size=300))
def test_a_label_comes_only_from_an_answer_whose_last_line_names_it(answer):
    found = parse_label(answer)
    if found is not None:
        last = [x for x in answer.splitlines() if x.strip()][-1].lower()
        assert "label" in last
        assert found.lower() in last
        assert not any(x.lower() in last for x in LABELS if x != found)


def test_labels_stand_at_equal_steps_from_one_to_zero():
    assert [VALUES[x] for x in LABELS] == [1.0, 0.75, 0.5, 0.25, 0.0]
