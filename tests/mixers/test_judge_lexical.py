"""The judge that counts words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.judge_lexical import (
    OWN_QUANTILE,
    POOL_QUANTILE,
    SMOOTHING,
    LexicalJudge,
    _pool_quantile,
)
from mixloom.mixers.medu_labels import LABELS, VALUES
from mixloom.pipeline.errors import UserError

SHARED = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "that",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "at",
]


def texts(seed: int, words: list[str], n: int, length: int = 60) -> list[str]:
    rng = np.random.Generator(np.random.PCG64(seed))
    pool = SHARED * 3 + words
    return [" ".join(pool[i] for i in rng.integers(0, len(pool), length)) for _ in range(n)]


def vocabulary(name: str) -> list[str]:
    return [f"{name}{a}{b}" for a in "bcdfg" for b in "aeiou"]


NAMES = ("bio", "law", "math")


@pytest.fixture(scope="module")
def judge():
    documents = {n: texts(i, vocabulary(n), 40) for i, n in enumerate(NAMES)}
    skills = {n: texts(100 + i, vocabulary(n), 40, 30) for i, n in enumerate(NAMES)}
    return LexicalJudge(documents, skills)


def utility(verdict, source):
    return float(np.mean([VALUES[x] for x in verdict.labels[source]]))


def test_a_source_is_best_for_the_skill_of_its_own_words_and_that_skill_is_best_for_it(judge):
    table = np.array([[utility(judge.judge(t), s) for t in NAMES] for s in NAMES])
    assert (table.argmax(axis=0) == np.arange(3)).all()
    assert (table.argmax(axis=1) == np.arange(3)).all()
    assert (np.diag(table) > 0.8).all()
    assert table[~np.eye(3, dtype=bool)].max() < 0.3


def test_labels_follow_scores(judge):
    verdict = judge.judge("law")
    for source in NAMES:
        order = np.argsort(verdict.scores[source], kind="stable")
        values = [VALUES[verdict.labels[source][i]] for i in order]
        assert values == sorted(values)
        for score, label in zip(verdict.scores[source], verdict.labels[source]):
            assert (label == "Great") == (score >= verdict.upper)
            assert label != "Useless" or score < verdict.lower + 0.25 * (verdict.upper - verdict.lower)


def test_scores_are_the_formula_that_is_stated():
    items, document = ["red red cat", "red dog"], "red fox cat"
    judge = LexicalJudge({"s": [document]}, {"k": items})
    grams = lambda t: t.split() + list(zip(t.split(), t.split()[1:]))  # noqa: E731
    own = [g for item in items for g in grams(item)]
    groups = [grams(document), own]
    share = {g: np.mean([x.count(g) / len(x) for x in groups]) for x in groups for g in x}
    wanted = np.mean(
        [np.log((own.count(g) / share[g] + SMOOTHING) / (len(own) + SMOOTHING)) for g in grams(document)]
    )
    assert judge.judge("k").scores["s"][0] == pytest.approx(wanted, rel=1e-12)


def test_words_shown_are_those_that_tell_the_skill_apart(judge):
    words = judge.judge("math").words
    assert words
    assert all(w.startswith("math") for w in words[:5])


def test_the_same_text_gets_the_same_label_in_any_company_of_its_source(judge):
    documents = {n: texts(i, vocabulary(n), 40) for i, n in enumerate(NAMES)}
    documents["law"] = documents["law"][::-1]
    skills = {n: texts(100 + i, vocabulary(n), 40, 30) for i, n in enumerate(NAMES)}
    turned = LexicalJudge(documents, skills).judge("law")
    assert turned.labels["law"][::-1] == judge.judge("law").labels["law"]
    assert (turned.scores["law"][::-1] == judge.judge("law").scores["law"]).all()


def test_documents_without_a_word_are_useless_and_break_nothing():
    documents = {"empty": ["...", "!?"], "law": texts(1, vocabulary("law"), 20)}
    verdict = LexicalJudge(documents, {"law": texts(2, vocabulary("law"), 20)}).judge("law")
    assert verdict.labels["empty"] == ["Useless", "Useless"]
    assert utility(verdict, "law") > 0.5


def test_one_source_alone_that_is_like_the_skill_is_not_called_useless():
    verdict = LexicalJudge(
        {"law": texts(1, vocabulary("law"), 40)}, {"k": texts(2, vocabulary("law"), 40)}
    ).judge("k")
    assert utility(verdict, "law") > 0.5


def test_a_skill_that_is_like_everything_is_not_told_apart():
    same = ["one two three four"] * 10
    verdict = LexicalJudge({"a": same, "b": same}, {"k": same}).judge("k")
    assert not verdict.apart
    assert set(verdict.labels["a"]) <= {"Great", "Useless"}


def test_scripts_without_spaces_are_compared_too():
    documents = {"zh": ["人工智能正在改变医学研究的方法"] * 5, "en": texts(1, vocabulary("law"), 5)}
    verdict = LexicalJudge(documents, {"k": ["医学研究需要人工智能", "智能方法改变医学"]}).judge("k")
    assert utility(verdict, "zh") > utility(verdict, "en")


@pytest.mark.parametrize("items", [[], ["only one"]])
def test_a_skill_with_too_few_items_is_an_error(items):
    with pytest.raises(UserError, match=f"skill 'k' has {len(items)} items"):
        LexicalJudge({"s": ["a"]}, {"k": items})


def test_a_skill_without_words_is_an_error():
    with pytest.raises(UserError, match="has no word in its items"):
        LexicalJudge({"s": ["a"]}, {"k": ["...", "!!"]})


@given(
    st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=12), min_size=1, max_size=5),
    st.sampled_from([0.1, 0.25, 0.5]),
)
@settings(max_examples=200)
def test_the_pool_quantile_leaves_its_share_of_every_source_weighing_the_same(groups, q):
    found = _pool_quantile([np.array(g, float) for g in groups], q)
    at_most = np.mean([np.mean(np.array(g) <= found) for g in groups])
    below = np.mean([np.mean(np.array(g) < found) for g in groups])
    assert at_most >= q - 1e-9
    assert below <= q + 1e-9


def test_the_quantiles_are_fixed():
    assert (OWN_QUANTILE, POOL_QUANTILE) == (0.25, 0.10)
    assert len(LABELS) == 5
