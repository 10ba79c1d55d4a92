"""The compiled bookkeeping of a batch gives, number for number, what plain array arithmetic gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.mixers.blocks import Blocks
from mixloom.trainers.data import IGNORE, make_batch


def plain(input_ids, doc_lengths, modality, *, modalities: int, document_mask: bool) -> dict:
    """The same with sorting, repeating and indexing of whole arrays."""
    contexts, length = input_ids.shape
    ids = input_ids.reshape(-1).astype(np.int64)
    parts = [np.append(d, length - d.sum()).astype(np.int64) for d in doc_lengths]
    padding = np.concatenate([np.arange(len(p)) == len(p) - 1 for p in parts])
    pieces = np.concatenate(parts)
    pieces, padding = pieces[pieces > 0], padding[pieces > 0]
    starts = np.cumsum(pieces) - pieces
    is_padding = np.repeat(padding, pieces)
    targets = np.append(ids[1:], 0)
    targets[starts + pieces - 1] = IGNORE
    targets[is_padding] = IGNORE
    if not document_mask:
        rest = is_padding.reshape(contexts, length).sum(axis=1)
        pieces = np.stack([length - rest, rest], axis=1).reshape(-1)
        pieces = pieces[pieces > 0]
        starts = np.cumsum(pieces) - pieces
    owner = np.repeat(np.arange(len(pieces)), pieces)
    valid = targets != IGNORE
    kinds = np.where(is_padding, 0, modality[ids])
    wanted = modality[np.where(valid, targets, 0)].astype(np.int64)
    perm = np.argsort(kinds, kind="stable")
    return {
        "input_ids": ids,
        "targets": targets,
        "positions": np.arange(len(ids)) - starts[owner],
        "documents": owner.reshape(contexts, length),
        "perm": perm,
        "inverse": np.argsort(perm, kind="stable"),
        "target_modality": wanted,
        "sizes": np.bincount(kinds, minlength=modalities),
        "target_counts": np.bincount(wanted[valid], minlength=modalities),
        "piece_lengths": pieces,
    }


@st.composite
def cases(draw):
    rng = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    size = draw(st.sampled_from([7, 300, 65_536, 70_000]))
    modalities = draw(st.integers(1, 4))
    if draw(st.booleans()):
        cuts = np.sort(rng.integers(0, size, draw(st.integers(0, 6))))
        table = (np.searchsorted(cuts, np.arange(size), side="right") % modalities).astype(np.uint8)
    else:
        table = rng.integers(0, modalities, size).astype(np.uint8)
    dtype = np.uint16 if size <= 65_536 else np.uint32
    contexts, length = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 31, 32, 33, 200]))
    # Runs: a few ids of one modality side by side, as images and speech come.
    base = np.repeat(rng.integers(0, size, contexts * length), draw(st.sampled_from([1, 5, 70])))
    ids = (base[: contexts * length] + rng.integers(0, 3, contexts * length)) % size
    lengths = []
    for _ in range(contexts):
        cuts = np.sort(rng.integers(0, length + 1, draw(st.integers(0, 5))))
        lengths.append(np.diff(np.append(0, cuts)).astype(np.int32))
    return ids.astype(dtype).reshape(contexts, length), lengths, table, modalities, draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_array_and_count_of_a_batch_is_that_of_the_plain_way(case):
    ids, lengths, table, modalities, document_mask = case
    batch = make_batch(ids, lengths, table, modalities=modalities, document_mask=document_mask)
    want = plain(ids, lengths, table, modalities=modalities, document_mask=document_mask)
    for name, value in want.items():
        assert np.array_equal(np.asarray(getattr(batch, name)), value), name
    for name in ("input_ids", "targets", "positions", "perm", "inverse", "target_modality"):
        assert getattr(batch, name).is_contiguous()


def test_contexts_that_are_not_contiguous_in_memory_are_read_as_they_stand():
    ids = np.arange(24, dtype=np.uint16).reshape(4, 6)[:, ::2]
    batch = make_batch(ids, [np.array([3])] * 4, np.zeros(24, np.uint8))
    assert batch.input_ids.tolist() == ids.reshape(-1).tolist()


def test_more_lists_of_lengths_than_contexts_are_refused():
    with pytest.raises(ValueError, match="2 lists of document lengths for 1 contexts"):
        make_batch(np.zeros((1, 4), np.uint16), [np.array([4])] * 2, np.zeros(3, np.uint8))


def test_memory_is_used_again_only_when_no_array_view_or_tensor_refers_to_it():
    blocks, table = Blocks(), np.zeros(9, np.uint8)

    def made(value: int):
        return make_batch(np.full((2, 5), value, np.uint16), [np.array([5])] * 2, table, blocks=blocks)

    kept = [made(1), made(2).targets[3:7], made(3).documents]
    address = made(4).input_ids.data_ptr()
    assert made(5).input_ids.data_ptr() == address, "nothing refers to the batch before"
    for value in range(5, 9):
        last = made(value)
    assert kept[0].input_ids.tolist() == [1] * 10
    assert kept[0].targets.tolist() == [1, 1, 1, 1, IGNORE] * 2
    assert kept[1].tolist() == [2, IGNORE, 2, 2]
    assert kept[2].tolist() == [[0] * 5, [1] * 5]
    assert last.input_ids.tolist() == [8] * 10


@pytest.mark.parametrize("contexts", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_batches_of_many_tokens_are_those_of_the_plain_way(contexts, dtype):
    rng = np.random.Generator(np.random.PCG64(contexts))
    table = np.repeat(np.arange(3, dtype=np.uint8), [600, 300, 124])
    ids = rng.integers(0, 600, (contexts, 2048))
    for row, at in zip(ids, rng.integers(0, 1800, (contexts, 9))):
        for i in at:
            row[i : i + 150] = rng.integers(600, 1024, 150)
    lengths = [np.diff(np.append(0, np.sort(rng.integers(0, 2049, 8)))) for _ in range(contexts)]
    batch = make_batch(ids.astype(dtype), lengths, table)
    want = plain(ids.astype(dtype), lengths, table, modalities=3, document_mask=True)
    for name, value in want.items():
        assert np.array_equal(np.asarray(getattr(batch, name)), value), name
