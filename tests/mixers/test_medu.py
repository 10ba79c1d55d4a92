"""From documents and skills to utilities, with judges that live in the test."""

import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.judge import Answer, estimated_tokens
from mixloom.mixers.medu import Medu
from mixloom.mixers.medu_calls import Call, CallLog
from mixloom.mixers.medu_config import EndpointConfig, MeduConfig, SkillConfig
from mixloom.mixers.medu_documents import Sample, Shown
from mixloom.mixers.medu_labels import LABELS, VALUES
from mixloom.mixers.medu_prompts import Request
from mixloom.mixers.medu_table import Verdict, means, tally
from mixloom.pipeline.errors import UserError


class Judge:
    """Answers in an order of its own; `says` makes an answer of a question, None for a call that fails."""

    offline = True
    name = "stub"

    def __init__(self, says=None, identity="stub"):
        self.says = says or (
            lambda r: "Fine.\nLabel: Great" if "BEGIN DOCUMENT" in r.user else f"about {r.fingerprint}"
        )
        self.identity = {"kind": identity}
        self.asked = []

    def count_tokens(self, text):
        return None

    def answers(self, requests):
        for i in reversed(range(len(requests))):
            self.asked.append(requests[i])
            text = self.says(requests[i])
            yield i, Answer(text, None if text is not None else "broken", 5, 3, 0.1)


def sample(**sources):
    documents = tuple(Shown(s, f"{s}{i}", f"text {s} {i}") for s, n in sources.items() for i in range(n))
    return Sample(documents, tuple(sources), ())


@pytest.fixture
def items(tmp_path):
    for name in ("sums", "words"):
        rows = [{"text": f"an item of {name} number {i}"} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def config(items, *names, **changes):
    skills = {n: SkillConfig(path=str(items / f"{n}.jsonl")) for n in names or ("sums",)}
    endpoint = EndpointConfig(base_url="http://localhost:1/v1", model="m")
    return MeduConfig(**{"skills": skills, "judge": endpoint, **changes})


def medu(items, stub, drawn, *names, **changes):
    return Medu(config(items, *names, **changes), drawn, items / "work", stub)


def test_all_great_is_one_everywhere(items):
    table = medu(items, Judge(), sample(a=4, b=3), "sums", "words").run()
    assert table.values.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert table.method == "medu"
    assert not table.loss_only


def test_descriptions_are_made_of_chunks_and_merged_with_one_call_less(items):
    judge = Judge()
    medu(items, judge, sample(a=1), skill_items=20, items_per_description=4).run()
    kinds = ["label" if "BEGIN DOCUMENT" in r.user else "merge" if "FIRST DESCRIPTION" in r.user else "describe" for r in judge.asked]  # fmt: skip
    assert (kinds.count("describe"), kinds.count("merge"), kinds.count("label")) == (5, 4, 1)


def test_a_description_of_ones_own_is_used_as_it_is(items):
    judge = Judge()
    skills = {"sums": SkillConfig(description="Adding small numbers.")}
    table = medu(items, judge, sample(a=2), skills=skills).run()
    assert len(judge.asked) == 2
    assert all("Adding small numbers." in r.user for r in judge.asked)
    assert table.details["descriptions"] == {"sums": "Adding small numbers."}


def test_the_table_and_the_labels_do_not_depend_on_the_order_of_answers(items, tmp_path):
    class Straight(Judge):
        def answers(self, requests):
            yield from sorted(super().answers(requests))

    def says(r):
        if "BEGIN DOCUMENT" not in r.user:
            return "something"
        return f"x\nLabel: {LABELS[len(set(r.user)) % 5]}"

    one = medu(items, Judge(says), sample(a=9, b=9), "sums", "words")
    two = Medu(one.config, one.sample, tmp_path / "other", Straight(says))
    assert one.run().values.tolist() == two.run().values.tolist()
    assert (one.work / "labels.jsonl").read_bytes() == (two.work / "labels.jsonl").read_bytes()


def test_the_estimate_before_is_what_is_asked_and_nothing_is_left_after(items):
    judge = Judge()
    made = medu(items, judge, sample(a=5, b=4), "sums", "words", skill_items=20, items_per_description=8)
    before = made.cost()
    assert not judge.asked
    made.run()
    assert before.calls == len(judge.asked) == 2 * (3 + 2 + 9)
    assert before.known == 0
    prompts = sum(estimated_tokens(r.system) + estimated_tokens(r.user) for r in judge.asked)
    assert before.prompt_tokens >= prompts  # descriptions are counted at their longest
    assert before.answer_tokens == sum(r.max_tokens for r in judge.asked)
    after = medu(
        items, judge, sample(a=5, b=4), "sums", "words", skill_items=20, items_per_description=8
    ).cost()
    assert (after.calls, after.known, after.prompt_tokens) == (0, before.calls, 0)


def test_the_price_is_that_of_the_tokens(items):
    dear = EndpointConfig(base_url="http://localhost:1/v1", model="m", price_in=2.0, price_out=10.0)
    cost = medu(items, Judge(), sample(a=5), judge=dear).cost()
    assert cost.price == pytest.approx((2 * cost.prompt_tokens + 10 * cost.answer_tokens) / 1e6)


def test_what_was_spent_is_told_after(items, capsys):
    from mixloom.pipeline.console import Console

    judge = Judge()
    made = medu(items, judge, sample(a=5))
    made.run(Console())
    n = len(judge.asked)
    assert f"{n} calls made, 0 without an answer: {5 * n} tokens of prompts and {3 * n} of answers" in (
        capsys.readouterr().err
    )


def test_another_judge_does_not_get_the_answers_of_the_first(items):
    first, second = Judge(), Judge(identity="other")
    medu(items, first, sample(a=3)).run()
    medu(items, second, sample(a=3)).run()
    assert len(second.asked) == len(first.asked)


def test_equal_documents_are_asked_about_once_and_count_each(items):
    judge = Judge()
    drawn = Sample(tuple(Shown("a", f"a{i}", "the same words") for i in range(5)), ("a",), ())
    table = medu(items, judge, drawn).run()
    assert sum("BEGIN DOCUMENT" in r.user for r in judge.asked) == 1
    assert table.details["documents"] == {"a": 5}
    assert table.details["labels"]["a"]["sums"][0] == 5


def test_a_judge_without_a_description_is_an_error_and_is_asked_again_next_time(items):
    with pytest.raises(UserError, match="no description of skill 'sums': the answer is empty"):
        medu(items, Judge(lambda r: "  "), sample(a=3)).run()
    judge = Judge()
    medu(items, judge, sample(a=3)).run()
    assert len(judge.asked) > 3


def test_failed_calls_above_the_share_stop_the_run_and_below_it_are_told(items):
    says = lambda r: None if "text a 3\n" in r.user else Judge().says(r)  # noqa: E731
    with pytest.raises(
        UserError, match=r"1 of .* calls gave no answer .*max_failed_share is 0\.02; the last error: broken"
    ):
        medu(items, Judge(says), sample(a=40)).run()
    table = medu(items, Judge(says), sample(a=40), max_failed_share=0.05).run()
    assert table.details["labels"]["a"]["sums"] == [39, 0, 0, 0, 0, 0, 1]
    assert any("1 calls gave no answer" in n for n in table.notes)


def test_calls_that_fail_again_after_a_restart_are_no_sign_of_a_judge_that_never_answers(items):
    says = lambda r: None if "text a 1" in r.user else Judge().says(r)  # noqa: E731
    with pytest.raises(UserError, match="calls gave no answer"):
        medu(items, Judge(says), sample(a=400)).run()  # 111 of them fail
    for _ in range(2):
        table = medu(items, Judge(says), sample(a=400), max_failed_share=0.5).run()
        assert table.details["labels"]["a"]["sums"] == [289, 0, 0, 0, 0, 0, 111]


def test_a_source_without_any_label_is_an_error_even_when_all_may_fail(items):
    says = lambda r: "?" if "text b" in r.user else Judge().says(r)  # noqa: E731
    with pytest.raises(UserError, match="no document of 'b' got a label for 'sums'"):
        medu(items, Judge(says), sample(a=30, b=2), max_unparsable_share=0.5).run()


def test_few_documents_and_sources_without_text_are_told(items):
    drawn = Sample(sample(a=3).documents, ("a",), ("pictures",))
    notes = medu(items, Judge(), drawn).run().notes
    assert any("few documents, so a rough result: a (3)" in n for n in notes)
    assert any("pictures" in n for n in notes)


def test_documents_are_cut_to_tokens_where_that_is_asked(items):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(items / "tokenizer.json"))
    judge = Judge()
    drawn = Sample((Shown("a", "a0", "one two three " * 20),), ("a",), ())
    medu(items, judge, drawn, document_tokens=16, tokenizer=str(items / "tokenizer.json")).run()
    shown = next(r.user for r in judge.asked if "BEGIN DOCUMENT" in r.user)
    assert shown.split("BEGIN DOCUMENT")[1].count("one two three") == 5


CELLS = st.lists(st.sampled_from([*LABELS, "unparsable", "broken"]), min_size=1, max_size=30)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=4))
@settings(max_examples=200)
def test_means_and_their_errors_are_those_of_the_labels(table):
    sources, skills = [f"s{i}" for i in range(len(table))], ["t", "u"]
    verdicts = [
        Verdict(s, f"{k}", t, x if x in LABELS else None, None if x in LABELS else x)
        for s, row in zip(sources, table)
        for t, cell in zip(skills, row)
        for k, x in enumerate(cell)
    ]
    counts = tally(verdicts, sources, skills)
    assert counts.sum() == len(verdicts)
    worth = [[[VALUES[x] for x in cell if x in LABELS] for cell in row] for row in table]
    if any(not cell for row in worth for cell in row):
        with pytest.raises(UserError, match="got a label"):
            means(counts, sources, skills)
        return
    value, error = means(counts, sources, skills)
    for i, row in enumerate(worth):
        for j, cell in enumerate(row):
            assert value[i, j] == pytest.approx(np.mean(cell))
            if len(cell) > 1:
                assert error[i, j] == pytest.approx(np.std(cell, ddof=1) / np.sqrt(len(cell)), abs=1e-12)
            else:
                assert np.isnan(error[i, j])


# The ledger.


def calls(n, start=0):
    return [
        Call("label", "k", Request("s", f"BEGIN DOCUMENT {i}", 5), "a", str(i))
        for i in range(start, start + n)
    ]


def test_a_judge_that_is_interrupted_has_lost_nothing_it_was_told(tmp_path):
    class Stops(Judge):
        def answers(self, requests):
            for n, got in enumerate(super().answers(requests)):
                if n == 6:
                    raise KeyboardInterrupt
                yield got

    with pytest.raises(KeyboardInterrupt):
        CallLog(tmp_path, Stops()).ask(calls(10))
    judge = Judge()
    assert all(a.text for a in CallLog(tmp_path, judge).ask(calls(10)))
    assert len(judge.asked) == 4


def test_answers_come_in_the_order_of_the_questions(tmp_path):
    judge = Judge(lambda r: r.user)
    assert [a.text for a in CallLog(tmp_path, judge).ask(calls(5))] == [c.request.user for c in calls(5)]


def test_a_half_written_line_is_dropped_and_asked_again(tmp_path):
    CallLog(tmp_path, Judge()).ask(calls(3))
    file = tmp_path / "calls.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: -len(whole.splitlines(keepends=True)[-1]) // 2])
    cut = file.read_bytes().count(b"\n")
    judge = Judge()
    CallLog(tmp_path, judge).ask(calls(3))
    assert len(judge.asked) == 3 - cut
    assert file.read_bytes().count(b"\n") == 3
    assert all(json.loads(line) for line in file.read_bytes().splitlines())


def test_a_line_that_is_something_else_is_named(tmp_path):
    CallLog(tmp_path, Judge()).ask(calls(3))
    file = tmp_path / "calls.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"answer": "x"}', lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"calls\.jsonl, line 2"):
        CallLog(tmp_path, Judge())


def test_two_processes_do_not_ask_in_one_folder(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    class Waits(Judge):
        def answers(self, requests):
            inside.set()
            go_on.wait(10)
            yield from super().answers(requests)

    first = threading.Thread(target=lambda: CallLog(tmp_path, Waits()).ask(calls(1)))
    first.start()
    inside.wait(10)
    try:
        with pytest.raises(UserError, match="another process is asking"):
            CallLog(tmp_path, Judge()).ask(calls(1, start=5))
    finally:
        go_on.set()
        first.join()


def test_the_ledger_says_what_was_asked_for_whom_and_what_it_took(tmp_path):
    CallLog(tmp_path, Judge()).ask(calls(1))
    (line,) = [json.loads(x) for x in (tmp_path / "calls.jsonl").read_text().splitlines()]
    wanted = {"judge": "stub", "purpose": "label", "skill": "k", "source": "a", "doc_id": "0", "label": "Great",
              "prompt_tokens": 5, "answer_tokens": 3, "seconds": 0.1, "tries": 1, "error": None}  # fmt: skip
    assert {k: line[k] for k in wanted} == wanted
    assert len(line["prompt"]) == len(line["key"]) == 64
