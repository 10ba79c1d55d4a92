"""The terms, the scan and the confirmation of decontamination against plain definitions over Python strings."""

import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline import characters as ch
from mixloom.pipeline import overlap_kernel as kernel
from mixloom.pipeline.decontaminate import find_matches
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.evaluation_sets import Item
from mixloom.pipeline.overlap_index import KeyTable, OverlapIndex, build_index, hash_terms, locate_terms
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.words import cut


def slow_terms(text: str) -> list[tuple[str, int, int]]:
    """(term in lower case, start, stop) in characters."""
    out: list[list] = []
    open_kind = ""
    for i, c in enumerate(text):
        kind = unicodedata.category(c)
        if kind == "Cf":
            continue
        lone = kind[0] in "LN" and ch.is_unspaced(c)
        joins = (kind[0] == "M" and open_kind) or (kind[0] in "LN" and not lone and open_kind == "letters")
        if joins:
            out[-1] = [out[-1][0] + ch.lower_char(c), out[-1][1], i + 1]
        elif kind[0] in "LN":
            out.append([ch.lower_char(c), i, i + 1])
            open_kind = "lone" if lone else "letters"
        elif kind[0] != "M":
            open_kind = ""
    return [tuple(t) for t in out]


texts = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet="aB1 \u0301\u00ad\u200d.,\n中のไà\u023aİß٣'", max_size=30),
    ),
    max_size=4,
)


@settings(max_examples=300)
@given(texts)
@example(["a\u00ad", "\u0301x", "中e\u0301", "", "\u200d", "a\u200d\u0301b"])
def test_terms_are_those_of_the_cut_and_say_where_they_stand(documents):
    array = pa.array(documents, pa.large_string())
    cuts = cut(array)
    offsets, hashes = hash_terms(array)
    np.testing.assert_array_equal(offsets, cuts.term_offsets)
    np.testing.assert_array_equal(hashes, cuts.term_hashes)
    terms = locate_terms(array)
    np.testing.assert_array_equal(terms.ends, offsets)
    np.testing.assert_array_equal(terms.hashes, hashes)
    for d, text in enumerate(documents):
        expected = slow_terms(text)
        a, b = offsets[d], offsets[d + 1]
        assert terms.words(a, b) == [t for t, _, _ in expected]
        raw = text.encode()
        for i, (_, low, high) in enumerate(expected, start=a):
            assert raw[terms.starts[i] : terms.stops[i]].decode() == text[low:high]
            letters = sum(c.isalpha() for c in text[low:high])
            assert terms.wordy[i] == (letters >= (1 if ch.is_unspaced(text[low]) else 2))


def test_slices_of_an_array_and_nulls_are_read_as_they_are():
    array = pa.array(["skip me", "One two", None, "three"], pa.large_string()).slice(1)
    terms = locate_terms(array)
    assert terms.ends.tolist() == [0, 2, 2, 3]
    assert terms.words(0, 3) == ["one", "two", "three"]
    assert terms.starts.tolist() == [0, 4, 0]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_every_key_of_a_table_is_found_and_nothing_else(keys, others):
    table = KeyTable.of(np.unique(np.array(keys, np.uint64)))
    probe = np.array([*keys, *others], np.uint64)
    where, which = table.scan(np.array([0, len(probe)]), probe, 1)
    found = {int(i): int(table.keys[k]) for i, k in zip(where, which)}
    assert found == {i: int(p) for i, p in enumerate(probe) if int(p) in set(keys)}


# ---- matches against the plain definition -------------------------------------------------------------------

NGRAM, SHORTEST = 5, 3
vocabulary = ["aa", "bb", "cc", "dd", "1"]
sentence = st.lists(st.sampled_from(vocabulary), max_size=14).map(" ".join)


def slow_matches(documents, items, config):
    """(document, words of the item, first word in the item, first word in the document, words) of every match."""
    first: dict[tuple[str, ...], int] = {}
    for item in items:
        words = tuple(t for t, _, _ in slow_terms(item.text))
        if len(words) >= min(config.min_words, config.ngram):
            first.setdefault(words, len(first))
    grams: dict[tuple[str, ...], set[int]] = {}
    for words, i in first.items():
        for k in range(len(words) - config.ngram + 1):
            grams.setdefault(words[k : k + config.ngram], set()).add(i)
    evidence = {
        g
        for g, texts in grams.items()
        if len(texts) <= config.common_items and len({w for w in g if len(w) > 1}) >= config.min_distinct
    }
    out = set()
    for d, text in enumerate(documents):
        doc = [t for t, _, _ in slow_terms(text)]
        for words, i in first.items():
            mine = {words[k : k + config.ngram] for k in range(len(words) - config.ngram + 1)}
            whole = not mine & evidence and len({w for w in words if len(w) > 1}) >= config.min_distinct
            for a in range(len(doc)):
                for b in range(len(words)):
                    if a and b and doc[a - 1] == words[b - 1]:
                        continue  # not where the run begins
                    n = 0
                    while a + n < len(doc) and b + n < len(words) and doc[a + n] == words[b + n]:
                        n += 1
                    run = words[b : b + n]
                    held = any(run[k : k + config.ngram] in evidence for k in range(n - config.ngram + 1))
                    if (n == len(words)) if whole else held:
                        out.add((d, i, b, a, n))
    return out


@settings(max_examples=200)
@given(
    st.lists(sentence, max_size=5),
    st.lists(sentence, max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
)
@example(["aa bb cc dd aa bb cc dd aa"], ["aa bb cc dd aa bb cc dd", "bb cc dd"], 2, 1)
def test_matches_are_all_longest_runs_that_hold_evidence(documents, items, distinct, common):
    config = DecontaminateConfig(
        ngram=NGRAM, min_words=SHORTEST, min_distinct=distinct, common_items=common, margin=2
    )
    items = [Item("set", str(i), "", t) for i, t in enumerate(items)]
    index = build_index(items, config)
    batch = documents_batch(
        [
            Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
            for i, t in enumerate(documents)
        ]
    )
    found = find_matches(batch, index, config).to_pylist()
    places = [slow_terms(t) for t in documents]
    got = set()
    for m in found:
        terms = places[m["row"]]
        at = next(i for i, t in enumerate(terms) if t[1] == m["start"])  # ASCII: bytes are characters
        got.add((m["row"], m["text"], m["item_start"], at, m["terms"]))
        last = at + m["terms"] - 1
        assert terms[last][2] == m["stop"]
        assert m["doc_terms"] == len(terms)
        low, high = max(0, at - 2), min(len(terms) - 1, last + 2)
        assert (m["cut_first"], m["cut_last"]) == (low, high)
        assert (m["cut_start"], m["cut_stop"]) == (terms[low][1], terms[high][2])
    assert len(got) == len(found)
    assert got == slow_matches(documents, items, config)


def test_a_hash_collision_is_no_match():
    config = DecontaminateConfig(ngram=4, min_words=3, min_distinct=1)
    index = build_index([Item("set", "1", "", "one two three four five")], config)
    # Another text whose n-grams have, by force, the hashes of the item's.
    document = pa.array(["six seven eight nine ten"], pa.large_string())
    ends, hashes = hash_terms(document)
    keys = np.unique(kernel.gram_hashes(ends, hashes, 4)[:2])
    forged = OverlapIndex(**{**{f: getattr(index, f) for f in index.__slots__}, "long": KeyTable.of(keys)})
    assert len(forged.long.scan(ends, hashes, 4)[0]) == 2
    batch = documents_batch(
        [
            Document(source="s", locator=Locator(uri=t), segments=(Segment(kind="text", text=t),))
            for t in document.to_pylist()
        ]
    )
    assert find_matches(batch, forged, config).num_rows == 0
    assert find_matches(batch, index, config).num_rows == 0


def test_an_index_is_the_same_after_a_round_trip_and_writes_the_same_bytes(tmp_path):
    config = DecontaminateConfig(ngram=5, min_words=3, min_distinct=2)
    items = [Item("s", str(i), "q", " ".join(f"w{i} {k} alpha beta" for k in range(6))) for i in range(30)]
    items += [Item("s", "short", "q", "just four words here"), Item("s", "tiny", "q", "no")]
    index = build_index(items, config)
    index.save(tmp_path / "a")
    OverlapIndex.load(tmp_path / "a").save(tmp_path / "b")
    build_index(items, config).save(tmp_path / "c")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "model.json" in files
    for other in "bc":
        assert [(tmp_path / other / f).read_bytes() for f in files] == [
            (tmp_path / "a" / f).read_bytes() for f in files
        ]
    assert index.report["s"]["skipped_texts"] == 1
    assert index.report["s"]["whole_texts"] == 1
