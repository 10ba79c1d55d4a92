import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.order_config import QuestionsConfig
from mixloom.pipeline.questions import names_and_links, place_questions, resolve
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch


def plain_roots(names, links):
    """The document each row ends at by following links one by one; a row in a circle, or without a link, is its own."""
    target = [
        next((j for j, n in enumerate(names) if n == x and names.count(n) == 1 and j != i), None)
        if x is not None
        else None
        for i, x in enumerate(links)
    ]

    def ends(i):
        seen = []
        while target[i] is not None and i not in seen:
            seen.append(i)
            i = target[i]
        return seen, i

    circle = {i for i in range(len(names)) if target[i] is not None and ends(i)[1] == i}
    return [-1 if t is None or i in circle else t for i, t in enumerate(target)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, 8)), st.one_of(st.none(), st.integers(0, 8))),
        max_size=10,
    )
)
def test_links_are_resolved_and_circles_left_alone(rows):
    names = [None if n is None else str(n) for n, _ in rows]
    links = [None if x is None else str(x) for _, x in rows]
    assert resolve(names, links).tolist() == plain_roots(names, links)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-1, 9), min_size=1, max_size=10), st.booleans(), st.integers(0, 2**31))
def test_every_question_stands_beside_its_document_and_nothing_is_lost(wanted, before, seed):
    n = len(wanted)
    names = [str(i) for i in range(n)]
    answers = resolve(names, [str(w) if 0 <= w < n else None for w in wanted])
    documents = np.flatnonzero(answers < 0)
    path = np.random.default_rng(seed).permutation(documents)
    placed = place_questions(path, answers, before)
    assert sorted(placed) == list(range(n))
    assert [v for v in placed if answers[v] < 0] == path.tolist()
    at = np.argsort(placed)
    for q in np.flatnonzero(answers >= 0):
        first, last = sorted((at[q], at[answers[q]]))
        assert (at[q] < at[answers[q]]) == before
        for v in placed[first + 1 : last]:  # only questions of the same document stand between
            while answers[v] >= 0 and v != answers[q]:
                v = answers[v]
            assert v == answers[q]


@pytest.mark.parametrize(("before", "path"), [(True, [5, 3, 4, 0, 2, 1]), (False, [0, 4, 3, 5, 2, 1])])
def test_questions_of_one_document_keep_their_order_and_their_own_questions(before, path):
    answers = np.array([-1, -1, -1, 4, 0, 3])
    assert place_questions(np.array([0, 2, 1]), answers, before).tolist() == path


def document(i, meta, member=""):
    return Document(
        source="s",
        locator=Locator(uri=f"folder/{i}.txt", member=member),
        segments=(Segment(kind="text", text="words"),),
        meta=meta,
    )


def test_documents_are_called_by_id_locator_or_a_field_of_their_meta():
    documents = [document(1, {"id": "a"}), document(2, {"answers": "a"}, "x.json")]
    batch, ids = documents_batch(documents), [d.doc_id for d in documents]
    assert names_and_links(batch, QuestionsConfig()) == (ids, [None, "a"])
    assert names_and_links(batch, QuestionsConfig(names="id")) == (["a", None], [None, "a"])
    named, _ = names_and_links(batch, QuestionsConfig(names="locator"))
    assert named == ["folder/1.txt", "folder/2.txt#x.json"]
