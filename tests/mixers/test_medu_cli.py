"""`mixloom mix judge`: settings, and the lexical judge from end to end."""

import json
import random

import pytest

from mixloom import cli
from mixloom.mixers.medu_cli import settings_of
from mixloom.mixers.utility import Utilities
from mixloom.pipeline.errors import UserError

WORDS = {"law": "court statute clause appeal judge", "food": "butter flour oven salt whisk"}


@pytest.fixture
def corpus(tmp_path):
    rng = random.Random(3)
    for name, words in WORDS.items():
        pool = [*words.split(), "the", "of", "and", "with"]
        texts = [" ".join(rng.choices(pool, k=40)) for _ in range(80)]
        with (tmp_path / "docs.jsonl").open("a") as f:
            f.writelines(json.dumps({"text": t, "source": name}) + "\n" for t in texts[:40])
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[40:]))
    return tmp_path


def judge(corpus, *more):
    skills = [x for n in WORDS for x in ("--skill", f"{n}={corpus}/{n}.jsonl")]
    return cli.main(
        ["mix", "judge", str(corpus / "docs.jsonl"), *skills, "--out", str(corpus / "u.yaml"), *more]
    )


def test_the_default_judge_is_offline_and_says_what_it_is(corpus, capsys):
    assert judge(corpus) == 0
    out = capsys.readouterr().out
    assert "lexical judge: it compares words" in " ".join(out.split())
    table = Utilities.load(corpus / "u.yaml")
    assert (table.method, table.sources, table.skills) == ("lexical", ("food", "law"), ("law", "food"))
    assert table.values[0, 1] > 0.8 > 0.3 > table.values[0, 0]
    assert table.values[1, 0] > 0.8 > 0.3 > table.values[1, 1]
    assert set(table.details["anchors"]["law"]["words"]) >= set(WORDS["law"].split())
    labels = [json.loads(x) for x in (corpus / "u.judge" / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == 160
    assert {"source", "doc_id", "skill", "label", "score"} == set(labels[0])
    assert not (corpus / "u.judge" / "calls.jsonl").exists()


def test_twice_gives_the_same_bytes(corpus):
    judge(corpus, "--quiet")
    first = (corpus / "u.yaml").read_bytes(), (corpus / "u.judge" / "labels.jsonl").read_bytes()
    judge(corpus, "--quiet")
    assert ((corpus / "u.yaml").read_bytes(), (corpus / "u.judge" / "labels.jsonl").read_bytes()) == first


def test_a_file_of_settings_and_overrides_work_together(corpus):
    (corpus / "j.yaml").write_text(
        f"skills:\n  law: {{path: {corpus}/law.jsonl}}\ndocuments_per_source: 30\nseed: 4\n"
    )
    found = settings_of(corpus / "j.yaml", ["seed=5", "skills.law.fields=[text]"], [], None, "domain")
    assert (found.documents_per_source, found.seed, found.group) == (30, 5, "domain")
    assert found.skills["law"].fields == ("text",)
    assert found.judge.kind == "lexical"


def test_the_option_sets_the_judge_and_keeps_its_settings_when_it_is_the_one_of_the_file(corpus):
    (corpus / "j.yaml").write_text("judge: {kind: endpoint, base_url: 'http://localhost/v1', model: m}\n")
    same = settings_of(corpus / "j.yaml", [], ["a=b"], "endpoint", None)
    assert same.judge.model == "m"
    assert settings_of(corpus / "j.yaml", [], ["a=b"], "lexical", None).judge.kind == "lexical"


def test_fields_of_a_skill_can_be_named_on_the_command_line():
    found = settings_of(None, [], ["math=sums.jsonl#question, answer"], None, None)
    assert found.skills["math"].path == "sums.jsonl"
    assert found.skills["math"].fields == ("question", "answer")


@pytest.mark.parametrize(
    ("overrides", "skills", "kind", "said"),
    [
        ([], [], None, "no skill to judge for"),
        ([], ["math"], None, "'math' is not NAME=PATH"),
        ([], ["=x"], None, "is not NAME=PATH"),
        ([], ["a=b"], "lexicl", "did you mean 'lexical'"),
        ([], ["a=b"], "endpoint", "base_url"),
        (["document_per_source=3"], ["a=b"], None, "did you mean 'documents_per_source'"),
        (["document_tokens=100"], ["a=b"], None, "document_tokens needs tokenizer"),
        (["judge.base_url=https://x:y@z/v1", "judge.model=m"], ["a=b"], "endpoint", "no user, password"),
        (["judge.extra={messages: []}", "judge.base_url=http://z/v1", "judge.model=m"], ["a=b"], "endpoint",
         "extra may not hold messages"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_is_allowed(overrides, skills, kind, said):
    with pytest.raises(UserError, match=said):
        settings_of(None, overrides, skills, kind, None)


def test_a_skill_that_is_not_there_is_an_error_before_anything_is_judged(corpus, capsys):
    assert judge(corpus, "--skill", f"lw={corpus}/lw.jsonl") == 2
    assert "did you mean 'law.jsonl'" in capsys.readouterr().err
    assert not (corpus / "u.yaml").exists()
