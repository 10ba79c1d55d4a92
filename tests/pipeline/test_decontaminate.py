"""What counts as contamination, on copies planted in prose."""

import re
import textwrap
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.decontaminate import (
    MATCHES,
    count_documents,
    cut_spans,
    find_matches,
    judge,
    summary,
    top_ngrams,
)
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.edits import apply_edits, spans_to_edits
from mixloom.pipeline.evaluation_sets import Item
from mixloom.pipeline.overlap_index import build_index
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch

QUESTION = (
    "Rosa plants 14 rows of lettuce in the garden behind her school, with 9 heads in every row. "
    "A hungry rabbit eats 23 heads before the fence is finished on Saturday morning. "
    "How many heads of lettuce can she still carry to the market if 5 of them were too small?"
)
RECIPE = (
    "Stir the melted butter slowly into the warm flour until no lumps are left, then pour the cold milk over it "
    "and let everything simmer for ten minutes before adding grated nutmeg."
)
ITEMS = [Item("sums", "7", "question", QUESTION), Item("recipes", "a", "", RECIPE)]


def filler(seed: int, n: int = 120) -> str:
    words = [
        "river",
        "window",
        "marble",
        "early",
        "paper",
        "engine",
        "silver",
        "under",
        "basket",
        "nine",
        "north",
    ]
    rng = np.random.default_rng(seed)
    return " ".join(words[i] for i in rng.integers(0, len(words), n)) + "."


def batch(*texts: str | tuple[str, ...]) -> pa.RecordBatch:
    documents = [
        Document(
            source="web",
            locator=Locator(uri=str(i)),
            segments=tuple(Segment(kind="text", text=x) for x in ([t] if isinstance(t, str) else t)),
        )
        for i, t in enumerate(texts)
    ]
    return documents_batch(documents)


def judged(documents: pa.RecordBatch, items=ITEMS, **settings):
    config = DecontaminateConfig(**settings)
    index = build_index(items, config)
    matches = find_matches(documents, index, config)
    return judge(matches, index, count_documents(matches, index), config), matches, index, config


def contaminated(*texts, items=ITEMS, **settings) -> list[int]:
    verdict = judged(batch(*texts), items, **settings)[0]
    return sorted(verdict.worst)


def planted(copy: str, seed: int = 1) -> str:
    return f"{filler(seed)}\n\n{copy}\n\n{filler(seed + 1)}"


SENTENCES = re.split(r"(?<=\.) ", QUESTION)


@pytest.mark.parametrize(
    "copy",
    [
        QUESTION,
        QUESTION[: len(QUESTION) // 2],
        SENTENCES[0],
        SENTENCES[1],
        SENTENCES[2],
        QUESTION.upper(),
        QUESTION.title(),
        re.sub(r"\s", " \n\t ", QUESTION),
        re.sub(r"[,.?]", " -- ", QUESTION),
        re.sub(r"(\w+)", r"**\1**", QUESTION),
        textwrap.fill(QUESTION, 60),
        textwrap.fill(QUESTION, 40, initial_indent="# ", subsequent_indent="# "),
        QUESTION.replace("lettuce", "let\u00adtuce"),
    ],
)
def test_whole_and_partial_copies_are_found_however_they_are_set(copy):
    verdict, _, _, _ = judged(batch(filler(5), planted(copy), filler(6)))
    assert verdict.dropped["row"].to_pylist() == [1]
    reject = verdict.dropped.to_pylist()[0]
    assert reject["reason"] == "contaminated"
    assert "sums, item 7 (question)" in reject["detail"]
    assert 0.2 < reject["value"] <= 1.0
    assert reject["limit"] == 0.0


@pytest.mark.parametrize(
    "other",
    [
        "Rosa plants 14 rows of lettuce in the garden behind the church, and 9 rows of kale.",  # 10 words in a row
        " ".join(reversed(QUESTION.split())),
        QUESTION.replace(" ", ""),
        re.sub(r"(\w+ \w+ \w+ \w+ \w+ \w+)", r"\1 indeed", QUESTION),
    ],
)
def test_text_that_shares_words_but_no_long_run_is_kept(other):
    assert contaminated(planted(other)) == []


def test_changed_numbers_hide_only_the_runs_they_stand_in():
    changed = re.sub(r"\d+", lambda m: str(int(m[0]) + 1), QUESTION)
    verdict, matches, _, _ = judged(batch(planted(changed)))
    assert sorted(verdict.worst) == [0]
    assert matches["terms"].to_pylist() == [
        22
    ]  # what lies between 23 and 5; from 14 to 9 and on to 23 it is too short
    every = re.sub(
        r"(\w+ \w+ \w+ \w+ \w+ \w+)", r"\1 3", QUESTION
    )  # numbers all over: nothing is left to find
    assert contaminated(planted(every)) == []


def test_the_ledger_shows_item_share_and_the_matched_words_in_their_surroundings():
    verdict, _, _, _ = judged(batch(f"{filler(3)} He wrote: {SENTENCES[1]} Then it rained."))
    (row,) = verdict.dropped.to_pylist()
    size = len(re.findall(r"\w+", QUESTION))
    found = len(re.findall(r"\w+", SENTENCES[1]))
    assert row["value"] == found / size
    start = f"sums, item 7 (question): {found} of {size} words: "
    assert row["detail"].startswith(start)
    assert "He wrote: [A hungry rabbit eats 23 heads before" in row["detail"]
    assert "on Saturday morning] . Then it rained" in row["detail"]


def test_a_long_match_is_shown_shortened():
    verdict, _, _, _ = judged(batch(planted(QUESTION)), shown_chars=60)
    (row,) = verdict.dropped.to_pylist()
    shown = row["detail"].partition("[")[2].partition("]")[0]
    assert shown.startswith("Rosa plants 14 rows")
    assert shown.endswith("too small")
    assert " ... " in shown
    assert len(shown) <= 65


def test_coverage_and_number_of_matches_can_be_asked_for():
    half, whole = planted(SENTENCES[0]), planted(QUESTION)
    assert contaminated(half, whole, min_coverage=0.5) == [1]
    assert contaminated(half, whole, min_matches=8) == [1]
    assert contaminated(half, whole, min_matches=3) == [0, 1]


def test_an_item_shorter_than_an_ngram_must_be_found_whole_and_tiny_ones_are_skipped():
    short = "The quick orange beetle climbed seven tall thistles"
    items = [Item("s", "1", "", short), Item("s", "2", "", "Far too short for this")]
    texts = [planted(short.upper()), planted(short.rpartition(" ")[0]), planted("Far too short for this")]
    verdict, _, index, _ = judged(batch(*texts), items)
    assert sorted(verdict.worst) == [0]
    assert verdict.dropped["value"].to_pylist() == [1.0]
    assert index.report["s"] == {
        "items": 2,
        "texts": 2,
        "skipped_texts": 1,
        "distinct_texts": 1,
        "whole_texts": 1,
        "unmatchable_texts": 0,
        "ngrams": 1,
        "empty_ngrams": 0,
        "template_ngrams": 0,
    }


def test_rows_of_numbers_and_single_letters_are_no_evidence():
    row = "Digits: 0 1 2 3 4 5 6 7 8 9 A B C D E F and so on"
    items = [Item("s", "1", "", row)]
    assert contaminated(planted("0 1 2 3 4 5 6 7 8 9 a b c d e f"), items=items) == []
    assert contaminated(planted("0 1 2 3 4 5 6 7 8 9 a b c d e f"), items=items, min_distinct=0) == [0]


def test_what_many_items_of_a_set_share_is_a_template_and_no_evidence():
    template = (
        "Read the following passage with care and then choose the single best answer from those given below"
    )
    items = [Item("s", str(i), "", f"{template}: {filler(100 + i, 30)}") for i in range(20)]
    assert contaminated(planted(template), items=items) == []
    assert contaminated(planted(items[3].text), items=items) == [0]
    assert contaminated(planted(template), items=items, common_items=20) == [0]


def test_a_phrase_of_many_documents_counts_only_with_half_of_its_item():
    phrase = SENTENCES[1]
    texts = [planted(phrase, i) for i in range(12)]
    assert contaminated(*texts) == []
    assert contaminated(*texts[:10]) == list(range(10))
    assert contaminated(*texts, common_documents=None) == list(range(12))
    # The whole item, however often, is a copy; and so is a document with something rarer of the item in it.
    assert contaminated(*texts, planted(QUESTION, 50)) == [12]
    assert contaminated(*[planted(QUESTION, i) for i in range(12)]) == list(range(12))
    assert contaminated(*texts, planted(phrase + " " + SENTENCES[2][:80], 60)) == [12]


ACCENTED = {
    "vi": "Nam có mười hai quả táo, bạn ấy cho em gái ba quả rồi mua thêm năm quả cam tươi ở chợ gần nhà hôm nay.",
    "ko": "철수는 사과 열두 개를 가지고 있었는데 영희에게 세 개를 주고 시장에서 오렌지 다섯 개를 더 샀습니다 그리고 집에 갔습니다",
    "fr": "Léa a acheté à côté du marché trois pêches très mûres, puis elle a mangé la première pêche à l'école, étonnée.",
    "ja": "太郎くんはどんぐりを十二個ひろいました。そのうち三個をいもうとにあげて、のこりをはこに入れました。",
}  # fmt: skip


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("copied", ["NFC", "NFD"])
def test_composed_and_decomposed_copies_are_found(stored, copied):
    items = [Item("sums", k, "q", unicodedata.normalize(stored, t)) for k, t in ACCENTED.items()]
    copies = [filler(i) + "\n" + unicodedata.normalize(copied, t) for i, t in enumerate(ACCENTED.values())]
    assert contaminated(*copies, filler(9), items=items) == [0, 1, 2, 3]
    index = build_index(items, DecontaminateConfig())
    assert {k: index.report["sums"][k] for k in ("items", "texts", "distinct_texts")} == {
        "items": 4, "texts": 4, "distinct_texts": 4
    }  # fmt: skip


def test_two_forms_of_one_item_are_one_item_to_the_rule_on_templates():
    shared = "the seller counts every melon on the long wooden table near the gate before noon"
    items = [
        Item("sums", str(i), "q", f"Zoé{i} goes to Orléans and {shared} with Chloé{i}.") for i in range(8)
    ]
    assert contaminated(filler(1) + " " + shared, items=items) == [0]


def test_equal_items_are_one_and_the_first_names_it():
    items = [*ITEMS, Item("sums", "8", "question", QUESTION.upper()), Item("other", "1", "", QUESTION)]
    verdict, _, index, _ = judged(batch(planted(QUESTION)), items)
    assert [(t.set, t.id, t.copies) for t in index.texts] == [
        ("sums", "7", 2),
        ("recipes", "a", 1),
        ("other", "1", 1),
    ]
    assert "sums, item 7 (question) and 1 more:" in verdict.dropped["detail"][0].as_py()


def test_the_report_counts_documents_and_items_and_names_the_commonest_ngrams():
    verdict, matches, index, config = judged(
        batch(planted(QUESTION), planted(f"{SENTENCES[1]}\n\n{RECIPE}"), filler(3))
    )
    assert summary(verdict, index) == {
        "recipes": {"documents": 1, "items": {"a": 1}},
        "sums": {"documents": 2, "items": {"7": 2}},
    }
    top = top_ngrams(index, count_documents(matches, index), config)
    assert list(top) == ["recipes", "sums"]
    assert {t["documents"] for t in top["recipes"]} == {1}
    assert top["sums"][0]["documents"] == 2
    assert top["sums"][0]["words"] in SENTENCES[1].lower()
    assert not any(t["common"] for ts in top.values() for t in ts)


def cut_texts(*texts, **settings):
    documents = batch(*texts)
    verdict, _, _, config = judged(documents, action="cut", **settings)
    spans = cut_spans(documents, verdict, config)
    edited = apply_edits(documents, spans_to_edits(documents, spans))
    return verdict, spans, document_text(edited).to_pylist()


def test_cutting_removes_the_match_with_its_margin_and_leaves_the_rest():
    before = " ".join(f"b{i}" for i in range(60))
    after = " ".join(f"a{i}" for i in range(60))
    verdict, spans, (text,) = cut_texts(f"{before} {QUESTION} {after}", margin=10)
    assert verdict.dropped.num_rows == 0
    assert spans["reason"].to_pylist() == ["contaminated"]
    kept = [f"b{i}" for i in range(50)] + [f"a{i}" for i in range(10, 60)]
    # The words the cut ends with go, punctuation beyond them stays.
    assert text.split() == kept


def test_margins_that_touch_make_one_cut_and_cuts_cross_segments():
    words = [f"w{i}" for i in range(300)]
    first, middle, last = (" ".join(words[a : a + 100]) for a in (0, 100, 200))
    verdict, spans, (text,) = cut_texts((f"{first} {SENTENCES[0]}", f"{SENTENCES[1]} {last}"), margin=5)
    assert spans.num_rows == 1
    assert text.split() == words[:95] + words[205:]
    _, spans, (text,) = cut_texts(f"{first} {SENTENCES[0]} {middle} {RECIPE} {last}", margin=5)
    assert spans.num_rows == 2
    assert text.split() == words[:95] + words[105:195] + words[205:]
    assert verdict.cuts.shape == (1, 3)


def test_a_document_with_too_little_left_or_too_many_places_is_dropped():
    words = " ".join(f"w{i}" for i in range(120))
    verdict, spans, _ = cut_texts(f"{words} {QUESTION}", words + QUESTION, margin=80, min_kept=50)
    assert verdict.dropped["row"].to_pylist() == [0, 1]
    assert spans.num_rows == 0
    assert cut_texts(f"{words} {QUESTION}", margin=80, min_kept=40)[0].dropped.num_rows == 0
    many = " ".join(f"{words} {QUESTION}" for _ in range(4))
    assert cut_texts(many, margin=0, max_cuts=4)[0].dropped.num_rows == 0
    assert cut_texts(many, margin=0, max_cuts=3)[0].dropped["row"].to_pylist() == [0]


def test_nothing_is_found_in_documents_without_text():
    config = DecontaminateConfig()
    index = build_index(ITEMS, config)
    for documents in (batch(), batch(""), batch("only a few words")):
        matches = find_matches(documents, index, config)
        assert matches.schema == MATCHES
        assert matches.num_rows == 0
        assert judge(matches, index, count_documents(matches, index), config).worst == {}
