"""Packing against slow plain definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.packing import Plan, cut_positions, pack

SEQ_LENS = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
LENGTHS = st.lists(st.integers(1, 150), max_size=60)


def naive_best_fit(lengths: list[int], seq_len: int, window: int, carry: bool) -> list[int]:
    """Fills of best-fit-decreasing per window by its definition: try every open bin for every piece."""
    pieces = []
    for d, n in enumerate(lengths):
        pieces += [(d // window, min(seq_len, n - s)) for s in range(0, n, seq_len)]
    closed: list[int] = []
    bins: list[int] = []
    for w in sorted({w for w, _ in pieces}):
        if bins and not (carry and min(bins) < seq_len):
            closed, bins = closed + bins, []
        elif bins:
            bins.sort()
            closed, bins = closed + bins[1:], bins[:1]
        for n in sorted((n for v, n in pieces if v == w), reverse=True):
            fitting = [b for b in range(len(bins)) if bins[b] + n <= seq_len]
            if fitting:
                bins[max(fitting, key=lambda b: bins[b])] += n
            else:
                bins.append(n)
    return sorted(closed + bins)


def check_every_token_once(plan: Plan, lengths: list[int]) -> None:
    seen = [np.zeros(n, np.int64) for n in lengths]
    for c in range(len(plan)):
        pieces = plan.pieces(c)
        assert pieces == sorted(pieces)
        assert 0 < sum(stop - start for _, start, stop in pieces) <= plan.seq_len
        for d, start, stop in pieces:
            assert 0 <= start < stop <= lengths[d]
            seen[d][start:stop] += 1
    assert all((s == 1).all() for s in seen)
    firsts = [plan.pieces(c)[0] for c in range(len(plan))]
    assert firsts == sorted(firsts)


@settings(max_examples=300, deadline=None)
@given(LENGTHS, SEQ_LENS, st.integers(2, 80), st.booleans())
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
    extra = [len(pack(lengths, 2048, w)) / (lengths.sum() / 2048) - 1 for w in (64, 1024, len(lengths))]
    assert extra[0] < 0.01
    assert extra[1] < 0.001
    assert extra[2] < 0.0001
    assert extra == sorted(extra, reverse=True)


def test_the_open_context_carried_over_raises_the_fill_of_small_windows():
    rng = np.random.Generator(np.random.PCG64(8))
    lengths = rng.integers(20, 200, 5000)
    assert pack(lengths, 4096, 64).fill > 0.99
    assert pack(lengths, 4096, 64, carry=False).fill < 0.9


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
    ],
)
def test_mistakes_are_named(arguments, said):
    with pytest.raises(UserError, match=said):
        pack(*arguments)
