"""Units, repeats and removals of paragraph deduplication against plain definitions over Python strings."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixloom.pipeline import characters as ch
from mixloom.pipeline.annotate import document_text
from mixloom.pipeline.doc_ids import pack_ids, unpack_ids
from mixloom.pipeline.edits import apply_edits, spans_to_edits
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.paragraph_kernel import cut_units
from mixloom.pipeline.paragraphs import (
    KEYED,
    PROTECTED,
    REPEATS,
    SHUFFLED,
    doomed_rows,
    find_units,
    mark_repeats,
    removal_spans,
    repeat_spans,
    shuffled_units,
)
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.words import cut, utf8_buffers


def slow_units(text: str, by_line: bool) -> list[tuple[int, int, int, int]]:
    """(first line begins, first visible character, after the last one, next unit) in characters."""
    lines, at = [], 0
    for line in text.split("\n"):
        lines.append((at, line))
        at += len(line) + 1
    out: list[list[int]] = []
    is_open = False
    for begin, line in lines:
        visible = [i for i, c in enumerate(line) if not c.isspace()]
        if not visible:
            is_open = False
            continue
        if is_open and not by_line:
            out[-1][2] = begin + visible[-1] + 1
            continue
        is_open = True
        after = min(begin + len(line) + 1, len(text))
        out.append([begin, begin + visible[0], begin + visible[-1] + 1, after])
    if not by_line:
        for i, unit in enumerate(out):
            unit[3] = out[i + 1][0] if i + 1 < len(out) else len(text)
    return [tuple(u) for u in out]


def slow_normal(text: str, digits: bool, punctuation: bool) -> str:
    out = []
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Cf" or (punctuation and kind[0] == "P"):
            continue
        out.append("0" if digits and kind == "Nd" else ch.lower_char(c))
    return " ".join("".join(out).split())


texts = st.lists(
    st.one_of(st.text(max_size=30), st.text(alphabet="aB \t\n\n1٣.\u00ad中é", max_size=40)), max_size=4
)


@settings(max_examples=300)
@given(texts, st.booleans(), st.booleans(), st.booleans())
@example([" a\n b\n\n\tc \n", "", "\n\n", "- a", "a\n"], False, False, True)
@example([" a\n b\n\n\tc \n", "", "\n\n", "- a", "a\n"], True, False, True)
def test_units_have_the_places_words_and_keys_of_the_plain_definition(
    documents, by_line, digits, punctuation
):
    data, offsets = utf8_buffers(pa.array(documents, pa.large_string()))
    ends, hashes, places, words = cut_units(
        data, offsets, ch.character_flags(), ch.lower_table(), by_line, digits, punctuation
    )
    keys: dict[str, tuple[int, int]] = {}
    for d, text in enumerate(documents):
        expected = slow_units(text, by_line)
        mine = slice(ends[d], ends[d + 1])
        assert len(expected) == ends[d + 1] - ends[d]
        raw = text.encode()
        for (begin, start, stop, after), got, key, count in zip(
            expected, places[mine], hashes[mine], words[mine]
        ):
            assert [len(raw[:b].decode()) for b in got] == [begin, start, stop, after]
            unit = text[start:stop]
            assert count == len(cut(pa.array([unit], pa.large_string())).term_hashes)
            normal = slow_normal(unit, digits, punctuation)
            assert keys.setdefault(normal, tuple(key)) == tuple(key)
    assert len(set(keys.values())) == len(keys)


# ---- which occurrence is kept -------------------------------------------------------------------------------

occurrence = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2))  # text, document, unit
corpora = st.lists(occurrence, max_size=30, unique_by=lambda o: o[1:])


def ids(numbers) -> np.ndarray:
    return pack_ids(pa.array([f"{hash_free(n):032x}" for n in numbers], pa.string()))


def hash_free(n: int) -> int:
    """An id that does not follow the number of the document."""
    return (n * 2654435761 + 17) % 97


def shuffled(rows, ranks) -> pa.RecordBatch:
    docs = ids([d for _, d, _ in rows])
    n = len(rows)
    columns = {
        "hi": np.array([t for t, _, _ in rows], np.uint64),
        "lo": np.full(n, 7, np.uint64),
        "doc_hi": docs[:, 0],
        "doc_lo": docs[:, 1],
        "rank": np.array([ranks[d] for _, d, _ in rows], np.int32),
        "row": np.array([d % 3 for _, d, _ in rows], np.int32),
        "unit": np.array([u for _, _, u in rows], np.int32),
        "part": np.array([d // 3 for _, d, _ in rows], np.int32),
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[n]) for n in SHUFFLED.names], schema=SHUFFLED)


@settings(max_examples=300)
@given(
    corpora,
    st.lists(st.integers(PROTECTED, 1), min_size=6, max_size=6),
    st.integers(1, 3),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_first_copies_by_rank_id_and_place_are_kept_whatever_the_order(rows, ranks, most, within, random):
    expected = {}
    for text in range(4):
        same = [r for r in rows if r[0] == text]
        same.sort(key=lambda r: (ranks[r[1]], hash_free(r[1]), r[2]))
        documents = list(dict.fromkeys(d for _, d, _ in same))
        gone = {}
        for i, r in enumerate(same):
            number = i if within else documents.index(r[1])
            gone[r] = number >= most and ranks[r[1]] != PROTECTED
        if any(gone.values()):
            expected |= {r: (g, len(same), hash_free(same[0][1])) for r, g in gone.items()}
    shown = list(rows)
    random.shuffle(shown)
    repeats = mark_repeats(shuffled(shown, ranks), most, within)
    assert repeats.schema == REPEATS
    owner = unpack_ids(np.stack([repeats["owner_hi"], repeats["owner_lo"]], axis=1)).to_pylist()
    found = {
        (r["hi"], 3 * r["part"] + r["row"], r["unit"]): (r["removed"], r["copies"], int(o, 16))
        for r, o in zip(repeats.to_pylist(), owner)
    }
    assert found == expected
    assert repeats.num_rows == len(expected)


# ---- from documents to documents ----------------------------------------------------------------------------


def batch(*documents, sources=None) -> pa.RecordBatch:
    """Each document a string, or a list of strings (text segments) and None (an image)."""
    out = []
    for i, d in enumerate(documents):
        parts = [d] if isinstance(d, str) else d
        image = Media(uri="x.png", sha256="0" * 64, bytes=1, width=1, height=1)
        segments = tuple(
            Segment(kind="image", media=image) if p is None else Segment(kind="text", text=p) for p in parts
        )
        source = sources[i] if sources else "web"
        out.append(Document(source=source, locator=Locator(uri=f"{i}"), segments=segments))
    return documents_batch(out)


def removals(documents: pa.RecordBatch, config: ParagraphConfig):
    units, _ = find_units(documents, config)
    repeats = pa.Table.from_batches(
        [mark_repeats(shuffled_units(units, 0), config.max_copies, config.within)]
    )
    return units, repeats, removal_spans(units, repeats.filter(repeats["removed"]))


def deduplicated(documents: pa.RecordBatch, **settings) -> list[list[str | None]]:
    config = ParagraphConfig(min_words=2, **settings)
    _, _, removal = removals(documents, config)
    edits = spans_to_edits(documents, repeat_spans(documents, removal, config))
    after = apply_edits(documents, edits)
    return [[s["text"] for s in d] for d in after["segments"].to_pylist()]


DUP = "this is a duplicated paragraph"


def kept_in(found: list[list[str | None]]) -> list[int]:
    return [i for i, d in enumerate(found) if any(DUP in (t or "") for t in d)]


def test_a_removed_paragraph_leaves_the_layout_of_the_rest():
    owner = f"{DUP}\n\nthe owner of it"
    others = {
        f"one line\n\n{DUP}\n\nother line": "one line\n\nother line",
        f"{DUP}\n\n\n  other line\n": "  other line\n",
        f"one line\n\n{DUP}\n\n": "one line",
        f"one line\n\n{DUP}\n\n{DUP}": "one line",
        f"one line\n\n{DUP.upper()}\n\nx\n\n{DUP}\n": "one line\n\nx",
        "a b\n\n  this is a\n  duplicated   paragraph\n \n    code": "a b\n\n    code",
    }
    for text, left in others.items():
        found = deduplicated(batch(owner, text), priority=("a",))
        if kept_in(found) != [0]:  # the id of the other one was smaller: prefer the owner by its source
            found = deduplicated(batch(owner, text, sources=["a", "b"]), priority=("a",))
        assert found == [[owner], [left]]


def test_a_removed_line_goes_with_its_newline():
    owner = f"{DUP}\nthe owner of it"
    for text, left in {
        f"one line\n{DUP}\nother line": "one line\nother line",
        f"one line\n{DUP}\n\nother line": "one line\n\nother line",
        f"one line\n    {DUP}\n    other line": "one line\n    other line",
        f"one line\n{DUP}": "one line",
        f"one line\n{DUP}\n": "one line",
    }.items():
        found = deduplicated(batch(owner, text, sources=["a", "b"]), priority=("a",), unit="line")
        assert found == [[owner], [left]]


def test_removal_stays_inside_the_segment_and_an_emptied_one_goes():
    documents = batch(
        [f"{DUP}\n\nthe owner"],
        ["before it", DUP, "after it"],
        ["another text", f"x\n\n{DUP}", f"{DUP}\n\nits end"],
        sources=["a", "b", "b"],
    )
    found = deduplicated(documents, priority=("a",))
    assert found[1:] == [["before it", "after it"], ["another text", "x", "its end"]]


def test_documents_with_images_lose_nothing_and_are_the_owners_unless_they_are_edited():
    documents = batch([DUP, None], f"{DUP}\n\nmore of it", [DUP, None])
    assert deduplicated(documents) == [[DUP, None], ["more of it"], [DUP, None]]
    edited = deduplicated(documents, media="edit")
    assert len(kept_in(edited)) == 1


def test_short_units_are_never_removed_and_normal_forms_can_be_folded():
    documents = batch("page 12\n\nnot the same here", "page 12\n\nquite another text")
    config = ParagraphConfig(min_words=3)
    assert removals(documents, config)[2].num_rows == 0
    pairs = [("chapter one, page 12", "chapter one, page 34"), ("so, it is done!", "so it is - done")]
    for (a, b), fold in zip(pairs, ("fold_digits", "fold_punctuation")):
        documents = batch(f"{a}\n\nfirst rest", f"{b}\n\nsecond rest")
        assert removals(documents, config)[2].num_rows == 0
        folded = ParagraphConfig.model_validate({"min_words": 3, fold: True})
        assert removals(documents, folded)[2].num_rows == 1


def test_several_copies_can_be_kept_and_repeats_inside_a_document_spared():
    documents = batch(*(f"{DUP}\n\nnumber {i}" for i in range(5)))
    for most in (1, 2, 3):
        assert len(kept_in(deduplicated(documents, max_copies=most))) == most
    twice = batch(f"{DUP}\n\nrest a\n\n{DUP}", f"{DUP}\n\nrest b\n\n{DUP}")
    kept = [t for d in deduplicated(twice, within=False) for t in d]
    assert sorted(t.count(DUP) for t in kept) == [0, 2]
    kept = [t for d in deduplicated(twice) for t in d]
    assert sorted(t.count(DUP) for t in kept) == [0, 1]


def test_rows_that_would_lose_too_much_are_named_with_what_they_lose():
    documents = batch(
        f"{DUP}\n\nthe owner has much more to say than that", f"{DUP}\n\nlittle", sources=["a", "b"]
    )
    units, repeats, _ = removals(documents, ParagraphConfig(min_words=2, priority=("a",)))
    share = len(DUP) / (len(DUP) + 6)
    assert doomed_rows(units, repeats, share - 0.01) == {1: (len(DUP), len(DUP) + 6)}
    assert doomed_rows(units, repeats, share + 0.01) == {}


@settings(max_examples=150)
@given(
    st.lists(
        st.lists(st.sampled_from(["a b", "c d", "e f g", "h", "\n i j"]), max_size=6).map("\n\n".join),
        max_size=6,
    ),
    st.sampled_from(["paragraph", "line"]),
    st.integers(1, 2),
)
def test_every_text_stays_and_only_copies_go(documents, unit, most):
    found = deduplicated(batch(*documents), unit=unit, max_copies=most)

    def units(texts) -> list[str]:
        by_line = unit == "line"
        return [slow_normal(t[a:b], False, False) for t in texts for _, a, b, _ in slow_units(t, by_line)]

    before, after = units(documents), units("\n\n".join(d) for d in found)
    short = {u for u in before if len(u.split()) < 2}
    for text in {*before, *after}:
        n = before.count(text)
        assert after.count(text) == (n if text in short else min(n, most))


def test_slices_are_in_order_and_sum_up():
    documents = batch(*(" ".join(f"w{i}x{k} and" for k in range(5)) for i in range(200)))
    units, sizes = find_units(documents, ParagraphConfig(min_words=2))
    assert sum(sizes) == units.num_rows == 200
    slices = np.asarray(units["slice"])
    assert (np.diff(slices) >= 0).all()
    assert len(sizes) == len(set(slices.tolist()))
    np.testing.assert_array_equal(slices, np.asarray(units["hi"]) >> np.uint64(60))


@pytest.mark.parametrize("documents", [(), ("",), ("", "one two three", "")])
def test_nothing_is_found_where_nothing_repeats(documents):
    units, repeats, removal = removals(batch(*documents), ParagraphConfig(min_words=2))
    assert (repeats.num_rows, removal.num_rows) == (0, 0)
    assert doomed_rows(units, repeats, 0.8) == {}
    assert set(KEYED) <= set(units.schema.names)
    text = document_text(batch(*documents)).to_pylist()
    assert text == list(documents)
