"""What a report says of updates that were left out: which, why, what was done, and their documents."""

from mixloom.pipeline.report.incidents import DOCUMENTS, incidents_section, looks_charts
from mixloom.pipeline.report.markup import markup

SPIKE = {
    "step": 44,
    "kind": "spike",
    "cause": "data",
    "loss": 7.08,
    "loss_expected": 6.06,
    "documents": [],
    "grad_norm": 1.03,
    "grad_norm_usual": 0.5,
    "in_a_row": 0,
    "excluded_from": 45,
    "contexts": [{"context": 5, "loss": 9.17, "targets": 480, "documents": ["first", "<b>second"]}],
}
ALL_BAD = {**SPIKE, "step": 60, "kind": "nonfinite", "cause": "unclear", "loss": None, "contexts": []}
ALL_BAD |= {"documents": [f"d{i}" for i in range(DOCUMENTS + 7)]}
del ALL_BAD["excluded_from"]


def html(incidents, records=()):
    return str(markup(incidents_section(incidents, list(records), "runs/x")))


def test_a_training_without_spikes_has_nothing_to_say():
    assert incidents_section([], [{"step": 1, "loss": 1.0}], "runs/x") == []


def test_step_context_documents_and_what_was_done_are_told():
    text = html([SPIKE])
    assert "1 update left out" in text
    assert "1 context excluded from then on" in text
    assert "context 5" in text
    assert "excluded from step 45 on" in text
    assert ">first<" in text
    assert "&lt;b&gt;second" in text
    assert "mixloom explain runs/x ID" in text


def test_an_update_that_is_bad_as_a_whole_names_its_documents_up_to_a_bound():
    text = html([ALL_BAD])
    assert "not finite" in text
    assert "all of its contexts" in text
    assert f">d{DOCUMENTS - 1}<" in text
    assert f">d{DOCUMENTS}<" not in text
    assert "and 7 more" in text


def test_contexts_that_could_not_be_excluded_say_why():
    kept = {k: v for k, v in SPIKE.items() if k != "excluded_from"}
    assert "not excluded: <bdi>too little is left" in html([{**kept, "not_excluded": "too little is left"}])


def test_cautions_stand_with_their_steps():
    text = html([], [{"step": 300, "caution": "the learning rate may be too high"}, {"step": 301}])
    assert "1 caution" in text
    assert "Step 300" in text
    assert "may be too high" in text


def test_looks_inside_the_model_become_charts_from_the_second_on():
    looks = [{"step": s, "attention_logits": [1.0, s], "residual_rms": [0.5, 0.7]} for s in (10, 20)]
    assert looks_charts(looks[:1]) == []
    assert len(looks_charts([*looks, {"step": 21}])) == 2
