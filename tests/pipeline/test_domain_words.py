import numpy as np
import pyarrow as pa

from mixloom.pipeline.domain_words import SNIPPET, described_output, examples, telling_words
from mixloom.pipeline.engine import with_part
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.tfidf_counts import FREQUENCIES, merge_frequencies


def described(texts, bound="g", parts=1):
    """(sample, words) of texts dealt to parts."""
    tables = []
    for p in range(parts):
        documents = [
            Document(source=f"s{p}", locator=Locator(uri=f"{i}"), segments=(Segment(kind="text", text=t),))
            for i, t in list(enumerate(texts))[p::parts]
        ]
        tables += described_output(with_part(documents_batch(documents), f"part-{p:05d}-0000"), bound).tables
    named = {t.name: t.table for t in tables}
    sample = pa.concat_tables([named[n] for n in sorted(named) if n.startswith("sample/")])
    words = merge_frequencies([named[n].cast(FREQUENCIES) for n in sorted(named) if n.startswith("words/")])
    return sample, words


def test_words_that_tell_a_domain_apart_come_first_and_common_ones_not_at_all():
    texts = [f"the ship sails {i % 3 * 'and'} the harbour" for i in range(8)] + [
        "the oven bakes the dough"
    ] * 8
    sample, words = described(texts)
    domain = np.array([0] * 8 + [1] * 8)
    sea, kitchen = telling_words(sample["hashes"], words, domain, 2)
    assert sea[:3] == ["harbour", "sails", "ship"]
    assert kitchen == ["bakes", "dough", "oven"]
    assert "the" not in sea + kitchen
    assert telling_words(sample["hashes"], words, domain, 2, n=1) == [["harbour"], ["bakes"]]
    assert telling_words(sample["hashes"], words, np.full(16, 7), 2) == [[], []]


def test_a_word_of_one_document_tells_nothing_unless_it_is_the_only_document():
    texts = ["rare common", "common oyster", "common oyster", "lone words heard"]
    sample, words = described(texts)
    first, second = telling_words(sample["hashes"], words, np.array([0, 0, 0, 1]), 2)
    assert first == ["common", "oyster"]
    assert second == ["heard", "lone", "words"]


def test_words_do_not_depend_on_parts():
    texts = [f"alpha beta {w} gamma" for w in ("one two", "two three", "three four", "four five", "")] * 3
    domain_of = {t: i % 2 for i, t in enumerate(sorted(set(texts)))}
    lists = []
    for parts in (1, 4):
        sample, words = described(texts, parts=parts)
        order = [t for p in range(parts) for t in texts[p::parts]]
        lists.append(telling_words(sample["hashes"], words, np.array([domain_of[t] for t in order]), 2))
    assert lists[0] == lists[1]


def test_examples_are_the_nearest_to_the_centre_and_their_beginnings_one_line():
    texts = ["first\n\n   line " + "x" * 400, "near", "nearest", "other"]
    sample, _ = described(texts)
    found = examples(sample, np.array([0, 0, 0, 1]), np.array([0.9, 0.2, 0.1, 0.0]), 3, n=2)
    assert [e["text"] for e in found[0]] == ["nearest", "near"]
    assert [e["text"] for e in found[1]] == ["other"]
    assert found[2] == []
    assert found[0][0]["source"] == "s0"
    [long] = examples(sample, np.array([0, 1, 1, 1]), np.zeros(4), 1)
    assert long[0]["text"].startswith("first line xxx")
    assert len(long[0]["text"]) == SNIPPET


def test_only_sampled_documents_are_described():
    assert described_output(with_part(documents_batch([]), "part-00000-0000"), "g").tables == ()
    texts = [f"word{i}" for i in range(40)]
    every, _ = described(texts)
    half, words = described(texts, bound="8")
    assert 0 < half.num_rows < every.num_rows
    assert words["df"].to_pylist() == [1] * half.num_rows
