"""Packing against slow plain definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.packing import Blocks, Plan, cut_positions, pack

SEQ_LENS = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
LENGTHS = st.lists(st.integers(1, 150), max_size=60)


def naive_best_fit(lengths: list[int], seq_len: int, window: int, carry: int) -> list[int]:
    """Fills of best-fit-decreasing per window by its definition: try every open bin for every piece."""
    pieces = []
    for d, n in enumerate(lengths):
        pieces += [(d // window, min(seq_len, n - s)) for s in range(0, n, seq_len)]
    closed: list[int] = []
    bins: list[int] = []
    for w in sorted({w for w, _ in pieces}):
        bins.sort()
        kept = [b for b in bins[:carry] if b < seq_len]
        closed, bins = closed + bins[len(kept) :], kept
        for n in sorted((n for v, n in pieces if v == w), reverse=True):
            fitting = [b for b in range(len(bins)) if bins[b] + n <= seq_len]
            if fitting:
                bins[max(fitting, key=lambda b: bins[b])] += n
            else:
                bins.append(n)
    return sorted(closed + bins)


def check_every_token_once(plan: Plan, lengths: list[int], in_order: bool = True) -> None:
    seen = [np.zeros(n, np.int64) for n in lengths]
    for c in range(len(plan)):
        pieces = plan.pieces(c)
        assert pieces == sorted(pieces) or not in_order
        assert 0 < sum(stop - start for _, start, stop in pieces) <= plan.seq_len
        for d, start, stop in pieces:
            assert 0 <= start < stop <= lengths[d]
            seen[d][start:stop] += 1
    assert all((s == 1).all() for s in seen)
    firsts = [min(plan.pieces(c)) for c in range(len(plan))]
    assert firsts == sorted(firsts)


@settings(max_examples=300, deadline=None)
@given(LENGTHS, SEQ_LENS, st.integers(2, 80), st.integers(0, 9))
def test_best_fit_places_every_token_once_and_fills_bins_as_the_naive_definition(
    lengths, seq_len, window, carry
):
    plan = pack(lengths, seq_len, window, carry=carry)
    check_every_token_once(plan, lengths)
    assert sorted(plan.fills.tolist()) == naive_best_fit(lengths, seq_len, window, carry)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, SEQ_LENS, st.integers(2, 80))
def test_best_fit_cuts_only_documents_longer_than_a_context_and_into_as_few_pieces_as_possible(
    lengths, seq_len, window
):
    plan = pack(lengths, seq_len, window)
    pieces = np.bincount(plan.doc, minlength=len(lengths))
    assert pieces.tolist() == [-(-n // seq_len) for n in lengths]


@settings(max_examples=150, deadline=None)
@given(LENGTHS, SEQ_LENS)
def test_one_window_leaves_no_two_contexts_that_would_fit_into_one(lengths, seq_len):
    plan = pack(lengths, seq_len, max(2, len(lengths)))
    fills = sorted(plan.fills.tolist())
    assert all(a + b > seq_len for a, b in pairwise(fills))


@settings(max_examples=150, deadline=None)
@given(LENGTHS, SEQ_LENS)
def test_concatenation_fills_every_context_but_the_last(lengths, seq_len):
    plan = pack(lengths, seq_len, 1)
    check_every_token_once(plan, lengths)
    assert len(plan) == -(-sum(lengths) // seq_len)
    assert (plan.fills[:-1] == seq_len).all()
    order = [piece for c in range(len(plan)) for piece in plan.pieces(c)]
    assert order == sorted(order)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, SEQ_LENS)
def test_cuts_allowed_everywhere_change_nothing(lengths, seq_len):
    for window in (1, 8):
        free, asked = pack(lengths, seq_len, window), pack(lengths, seq_len, window, lambda _: None)
        listed = pack(lengths, seq_len, window, lambda d: np.arange(1, lengths[d]))
        for other in (asked, listed):
            assert other.forced_cuts == 0
            for name in ("doc", "start", "stop", "offsets"):
                assert getattr(free, name).tolist() == getattr(other, name).tolist()


@st.composite
def documents_with_blocks(draw):
    """Documents as lists of (length, may be cut) runs."""
    run = st.tuples(st.integers(1, 40), st.booleans())
    return draw(st.lists(st.lists(run, min_size=1, max_size=6), max_size=20))


@settings(max_examples=300, deadline=None)
@given(documents_with_blocks(), st.integers(1, 48), st.sampled_from([1, 2, 5, 50]))
def test_blocks_are_split_only_when_longer_than_a_context_and_every_such_cut_is_counted(
    documents, seq_len, window
):
    lengths = [sum(n for n, _ in d) for d in documents]
    blocks = []
    for d in documents:
        ends = np.cumsum([n for n, _ in d])
        blocks.append([(int(e) - n, int(e)) for (n, free), e in zip(d, ends) if not free])
    plan = pack(lengths, seq_len, window, lambda i: cut_positions(lengths[i], blocks[i]))
    check_every_token_once(plan, lengths)
    inside = 0
    for d, start in zip(plan.doc.tolist(), plan.start.tolist()):
        split = [b for b in blocks[d] if b[0] < start < b[1]]
        assert all(stop - begin > seq_len for begin, stop in split)
        inside += len(split)
    assert plan.forced_cuts == inside
    if window > 1:
        cut = np.flatnonzero(np.bincount(plan.doc, minlength=len(lengths)) > 1).tolist()
        assert all(lengths[d] > seq_len for d in cut)


@settings(max_examples=200, deadline=None)
@given(documents_with_blocks(), st.sampled_from([15, 16, 17, 31, 32, 33]), st.integers(2, 30))
def test_pieces_between_blocks_are_packed_as_the_naive_definition_packs_them(documents, seq_len, window):
    lengths = [sum(n for n, _ in d) for d in documents]
    spans = []
    for d in documents:
        ends = np.cumsum([n for n, _ in d])
        spans.append([(int(e) - n, int(e)) for (n, free), e in zip(d, ends) if not free])
    pieces = []  # longest first cuts, by trying every position from the far end
    for d, n in enumerate(lengths):
        start = 0
        while n - start > seq_len:
            stops = range(start + seq_len, start, -1)
            whole = [s for s in stops if not any(a < s < b for a, b in spans[d])]
            stop = whole[0] if whole else start + seq_len
            pieces.append((d // window, stop - start))
            start = stop
        pieces.append((d // window, n - start))
    plan = pack(lengths, seq_len, window, Blocks.of(spans), carry=0)
    check_every_token_once(plan, lengths)
    want: list[int] = []
    for w in {w for w, _ in pieces}:
        want += naive_best_fit([n for v, n in pieces if v == w], seq_len, len(pieces) + 1, carry=0)
    assert sorted(plan.fills.tolist()) == sorted(want)
    asked = pack(lengths, seq_len, window, lambda i: cut_positions(lengths[i], spans[i]), carry=0)
    for name in ("doc", "start", "stop", "offsets", "forced_cuts"):
        assert np.array_equal(getattr(plan, name), getattr(asked, name))


def touching(plan: Plan, groups: list[int]) -> list[tuple[int, int]]:
    """Neighbours in a context that are different documents of one group."""
    found = []
    for c in range(len(plan)):
        docs = [d for d, _, _ in plan.pieces(c)]
        found += [(a, b) for a, b in pairwise(docs) if a != b and groups[a] == groups[b] >= 0]
    return found


@st.composite
def documents_in_groups(draw):
    lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=50))
    some = st.sampled_from([-1, -1, 0, 0, 1, 2, 9])
    return lengths, draw(st.lists(some, min_size=len(lengths), max_size=len(lengths)))


@settings(max_examples=400, deadline=None)
@given(documents_in_groups(), SEQ_LENS, st.sampled_from([1, 2, 5, 16, 80]), st.integers(0, 9))
def test_near_duplicates_are_never_neighbours_in_a_context(documents, seq_len, window, carry):
    lengths, groups = documents
    plan = pack(lengths, seq_len, window, groups=groups, carry=carry)
    check_every_token_once(plan, lengths, in_order=False)
    assert touching(plan, groups) == []
    if window > 1:
        pieces = np.bincount(plan.doc, minlength=len(lengths))
        assert pieces.tolist() == [-(-n // seq_len) for n in lengths], "only what is longer is cut"


@settings(max_examples=200, deadline=None)
@given(documents_in_groups(), st.integers(8, 40))
def test_concatenation_of_near_duplicates_ends_a_context_only_where_it_is_full_or_they_meet(
    documents, seq_len
):
    lengths, groups = documents
    plan = pack(lengths, seq_len, 1, groups=groups)
    order = [piece for c in range(len(plan)) for piece in plan.pieces(c)]
    assert order == sorted(order)
    for c in np.flatnonzero(plan.fills[:-1] < seq_len).tolist():
        last, following = plan.pieces(c)[-1][0], plan.pieces(c + 1)[0][0]
        assert last != following
        assert groups[last] == groups[following] >= 0


def naive_apart(lengths: list[int], groups: list[int], seq_len: int) -> list[int]:
    """Fills of one window of best-fit-decreasing that keeps groups apart, by its definition; no piece is too long."""
    bins: list[list[int]] = []  # documents, the bin filled last at the end
    for d in sorted(range(len(lengths)), key=lambda d: -lengths[d]):
        fitting = [b for b in bins if sum(lengths[e] for e in b) + lengths[d] <= seq_len]
        same = {id(b): sum(groups[e] == groups[d] >= 0 for e in b) for b in bins}
        without = [b for b in fitting if same[id(b)] == 0]
        parted = [b for b in fitting if 2 * (same[id(b)] + 1) <= len(b) + 2]
        choice = without or parted
        if choice:
            most = max(sum(lengths[e] for e in b) for b in choice)
            chosen = [b for b in choice if sum(lengths[e] for e in b) == most][-1]
            bins.remove(chosen)
        else:
            chosen = []
        bins.append([*chosen, d])
    return sorted(sum(lengths[e] for e in b) for b in bins)


@settings(max_examples=300, deadline=None)
@given(documents_in_groups(), st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65]))
def test_contexts_of_near_duplicates_fill_as_the_naive_definition_fills_them(documents, seq_len):
    lengths, groups = documents
    lengths = [min(n, seq_len) for n in lengths]
    plan = pack(lengths, seq_len, 100, groups=groups, carry=0)
    assert sorted(plan.fills.tolist()) == naive_apart(lengths, groups, seq_len)


def test_two_near_duplicates_share_no_context_while_another_has_room():
    plan = pack([4, 4, 6, 6], 10, 8, groups=[3, 3, -1, -1])
    contexts = [{d for d, _, _ in plan.pieces(c)} for c in range(len(plan))]
    assert sorted(map(sorted, contexts)) == [[0, 2], [1, 3]] or sorted(map(sorted, contexts)) == [
        [0, 3],
        [1, 2],
    ]


def test_a_document_between_them_parts_near_duplicates_where_one_context_must_hold_both():
    plan = pack([2, 2, 3], 8, 8, groups=[0, 0, -1])
    assert [d for d, _, _ in plan.pieces(0)] == [0, 2, 1]
    assert len(pack([3, 3], 8, 8, groups=[0, 0])) == 2


def test_groups_without_near_duplicates_change_nothing():
    lengths = np.random.Generator(np.random.PCG64(5)).integers(1, 90, 500)
    for window in (1, 16):
        free, alone = pack(lengths, 64, window), pack(lengths, 64, window, groups=np.arange(500))
        assert all(np.array_equal(getattr(free, n), getattr(alone, n)) for n in ("doc", "start", "offsets"))


def test_blocks_are_merged_where_they_overlap_and_told_inside_a_piece():
    blocks = Blocks.of([[(9, 12), (2, 5), (4, 7), (8, 9)], [], [(0, 3)]])
    assert blocks.spans.tolist() == [[2, 7], [9, 12], [0, 3]]
    assert blocks.offsets.tolist() == [0, 2, 2, 3]
    assert blocks.within(0, 7, 20).tolist() == [[2, 5]]
    assert blocks.within(1, 0, 9).tolist() == []


def test_a_block_that_does_not_fit_the_rest_of_a_context_moves_on_whole():
    # 6 tokens of text, then an image of 5 in a document of 12, contexts of 8: the image may not start in the first.
    plan = pack([12], 8, 1, {0: cut_positions(12, [(6, 11)])})
    assert [plan.pieces(c) for c in range(len(plan))] == [[(0, 0, 6)], [(0, 6, 12)]]
    assert plan.forced_cuts == 0


def test_cut_positions_keep_blocks_whole_and_leave_out_both_ends():
    assert cut_positions(6, []).tolist() == [1, 2, 3, 4, 5]
    assert cut_positions(8, [(0, 3), (3, 5)]).tolist() == [3, 5, 6, 7]
    assert cut_positions(4, [(0, 4)]).tolist() == []


def test_a_million_documents_pack_to_within_a_thousandth_of_the_lower_bound():
    rng = np.random.Generator(np.random.PCG64(7))
    lengths = np.clip(rng.lognormal(6.0, 1.1, 1_000_000), 2, 40_000).astype(np.int64)
    plans = [pack(lengths, 2048, w) for w in (64, 1024, len(lengths))]
    assert plans[1].fill > 0.995
    extra = [len(plan) / (lengths.sum() / 2048) - 1 for plan in plans]
    assert extra[0] < 0.01
    assert extra[1] < 0.001
    assert extra[2] < 0.0001
    assert extra == sorted(extra, reverse=True)


def test_contexts_carried_over_raise_the_fill_of_small_windows():
    rng = np.random.Generator(np.random.PCG64(8))
    lengths = rng.integers(20, 200, 5000)
    assert pack(lengths, 4096, 64).fill > 0.99
    assert pack(lengths, 4096, 64, carry=0).fill < 0.9
    fills = [pack(lengths, 1024, 16, carry=k).fill for k in (0, 1, 4, 16)]
    assert fills == sorted(fills)


def test_no_documents_give_no_contexts():
    for window in (1, 4):
        plan = pack([], 8, window, lambda _: None)
        assert len(plan) == 0
        assert plan.fill == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([3, 0, 2], 8, 4), "document 1 has 0 tokens"),
        (([3], 0, 4), "seq_len is 0"),
        (([3], 8, 0), "window is 0"),
        (([20], 8, 4, {0: np.array([5, 3])}), "cut positions of document 0 are not sorted"),
        (([20, 3], 8, 4, Blocks.of([[]])), "blocks are given for 1 documents, and there are 2"),
        (
            ([20, 3], 8, 4, None, [1]),
            r"groups of near duplicates have shape \(1,\), and there are 2 documents",
        ),
    ],
)
def test_mistakes_are_named(arguments, said):
    with pytest.raises(UserError, match=said):
        pack(*arguments)
