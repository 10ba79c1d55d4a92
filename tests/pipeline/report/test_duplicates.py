from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.duplicate_clusters import Cluster, Duplicate, StageDuplicates
from mixloom.pipeline.report.duplicates import PASSAGE, PASSAGES, Shown, compared, duplicates_section
from mixloom.pipeline.report.markup import markup

KEPT, GONE = "a" * 32, "b" * 32


def shown(text: str, **more: str) -> Shown:
    return Shown(
        **{"source": "web", "place": "x.txt", "title": text[:40], "text": text, "characters": len(text)}
        | more
    )


def stage(kept_run: str = "", reason: str = "near_duplicate", total: int = 1) -> StageDuplicates:
    cluster = Cluster(KEPT, kept_run, total, 0.83, (Duplicate(GONE, "web", 0.83),), "largest")
    return StageDuplicates("dedup_near", reason, total, 1, 0.8, (3, 1, 0, 0, 0, 0, 0, 0, 0, 2), (cluster,))


def marked(audit, passages) -> list[str]:
    tree = audit(f"<div>{''.join(f'<p>{markup(p)}</p>' for p in passages)}</div>")
    return [m.text_content() for m in tree.xpath("//mark")]


def test_only_the_words_that_differ_are_marked_on_their_side(audit):
    words = [f"w{i}" for i in range(300)]
    other = [*words[:100], "new", "words", *words[102:200], *words[203:], "end"]
    left, right = compared(" ".join(words), " ".join(other))
    assert marked(audit, left) == ["w100 w101", "w200 w201 w202"]
    assert marked(audit, right) == ["new words", "end"]
    text = audit(f"<p>{markup(left[0])}</p>").text_content()
    assert text.startswith("\u2026 w92 w93")
    assert text.rstrip("\u2026").endswith("w109")


def test_differences_close_to_each_other_are_one_passage_and_few_are_shown(audit):
    words = [f"w{i}" for i in range(2000)]
    near = ["x" if i in (500, 505, 510) else w for i, w in enumerate(words)]
    assert len(compared(" ".join(words), " ".join(near))[0]) == 1
    many = ["x" if i % 100 == 50 else w for i, w in enumerate(words)]
    left, right = compared(" ".join(words), " ".join(many))
    assert len(left) == PASSAGES
    assert "17 more passages differ; 99.0% of the words are equal" in markup(right)


def test_equal_texts_and_unlike_texts_show_their_beginnings_unmarked(audit):
    for a, b in (("one two three", "one two three"), ("one two three", "four five six"), ("", "a"), ("", "")):
        for passages in compared(a, b):
            assert len(passages) == 1
            assert marked(audit, passages) == []
    assert compared("", "a")[0] == ["no text"]


texts = st.lists(st.sampled_from(["a", "b", "c", "d", "<i>", "&amp;"]), max_size=60)


@given(texts, texts)
def test_marked_words_of_any_two_texts_are_words_of_their_side_and_passages_are_bounded(a, b):
    for words, passages in zip((a, b), compared(" ".join(a), " ".join(b))):
        for passage in passages:
            plain = markup(passage).replace("<mark>", "").replace("</mark>", "")
            assert len(plain.split()) <= max(PASSAGE, 40) + 40
        if words == a and a == b:
            assert "<mark>" not in "".join(markup(p) for p in passages)


def test_a_cluster_shows_both_documents_their_similarity_and_how_many_more(audit):
    texts = {KEPT: shown("one two three four five"), GONE: shown("one two three four six")}
    tree = audit(markup(duplicates_section([stage(total=7)], texts)))
    said = " ".join(tree.text_content().split())
    assert "near_duplicate 7 dropped for 1 kept by dedup_near" in said
    assert "7 duplicates, similarity from 0.83" in said
    assert "Similarity: 0.83 (limit 0.8)" in said
    assert "and 6 more duplicates of this document" in said
    assert [m.text_content() for m in tree.xpath("//mark")] == ["five", "six"]
    assert tree.xpath("//figure[contains(., 'Similarity of the dropped')]")


def test_documents_of_other_runs_and_missing_ones_are_said_to_be_so(audit):
    tree = audit(markup(duplicates_section([stage("runs/old")], {GONE: shown("text")})))
    assert "in the run runs/old" in " ".join(tree.text_content().split())
    assert "not among the documents" in audit(markup(duplicates_section([stage()], {}))).text_content()
    assert duplicates_section([], {}) == []


def test_hostile_texts_names_and_runs_stay_text(hostile, audit):
    texts = {KEPT: shown(hostile, source=hostile, place=hostile, title=hostile), GONE: shown(f"x {hostile}")}
    for kept_run in ("", hostile):
        audit(markup(duplicates_section([stage(kept_run, hostile)], texts)))


def test_a_page_of_long_words_stays_small():
    texts = {KEPT: shown("a " + "w" * 19_000), GONE: shown("a " + "v" * 19_000)}
    assert len(markup(duplicates_section([stage()], texts))) < 10_000
