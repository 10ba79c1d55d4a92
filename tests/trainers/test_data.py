from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.trainers.data import (
    IGNORE,
    Prefetcher,
    make_batch,
    micro_batches,
    modality_names,
    modality_table,
)

TABLE = np.array([0] * 4 + [1] * 4 + [2] * 4, dtype=np.uint8)


@st.composite
def contexts(draw):
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    ids = np.array(
        draw(
            st.lists(
                st.lists(st.integers(0, 11), min_size=length, max_size=length), min_size=rows, max_size=rows
            )
        ),
        dtype=draw(st.sampled_from([np.uint16, np.uint32])),
    )
    lengths = []
    for _ in range(rows):
        left, pieces = length, []
        for n in draw(st.lists(st.integers(0, 7), max_size=6)):
            pieces.append(min(n, left))
            left -= pieces[-1]
        lengths.append(np.array(pieces, dtype=np.int32))
    return ids, lengths


@given(contexts())
@settings(max_examples=150, deadline=None)
def test_a_batch_agrees_with_a_walk_over_every_token(case):
    ids, lengths = case
    rows, length = ids.shape
    batch = make_batch(ids, lengths, TABLE)
    targets, positions, routes, owners = [], [], [], []
    for row in range(rows):
        pieces = [int(n) for n in lengths[row] if n]
        spans = [(p, False) for p in pieces] + [(length - sum(pieces), True)]
        at = 0
        for number, (size, padding) in enumerate(spans):
            for i in range(size):
                last = i == size - 1 or padding
                targets.append(IGNORE if last else int(ids[row, at + i + 1]))
                positions.append(i)
                routes.append(0 if padding else int(TABLE[ids[row, at + i]]))
                owners.append((row, number))
            at += size
    assert batch.targets.tolist() == targets
    assert batch.positions.tolist() == positions
    order = sorted(range(len(routes)), key=lambda i: (routes[i], i))
    assert batch.perm.tolist() == order
    assert [batch.perm.tolist()[i] for i in batch.inverse.tolist()] == list(range(len(routes)))
    assert batch.sizes == [routes.count(m) for m in range(3)]
    assert batch.target_counts == [sum(t >= 0 and TABLE[t] == m for t in targets) for m in range(3)]
    numbers = batch.documents.reshape(-1).tolist()
    assert all(
        (numbers[i] == numbers[j]) == (owners[i] == owners[j]) for i in range(len(owners)) for j in range(i)
    )
    assert int(batch.piece_lengths.sum()) == rows * length


@given(contexts())
@settings(max_examples=100, deadline=None)
def test_without_a_document_mask_a_context_is_read_as_one_document_with_the_same_targets(case):
    ids, lengths = case
    apart = make_batch(ids, lengths, TABLE)
    batch = make_batch(ids, lengths, TABLE, document_mask=False)
    whole = make_batch(ids, [np.array([d.sum()]) for d in lengths], TABLE)
    for name in ("input_ids", "positions", "documents", "perm", "inverse"):
        assert getattr(batch, name).tolist() == getattr(whole, name).tolist(), name
    assert batch.piece_lengths.tolist() == whole.piece_lengths.tolist()
    assert batch.sizes == whole.sizes
    assert batch.targets.tolist() == apart.targets.tolist()
    assert batch.target_modality.tolist() == apart.target_modality.tolist()
    assert batch.target_counts == apart.target_counts


def test_padding_counts_as_text_whatever_id_fills_it():
    batch = make_batch(np.array([[4, 5, 6, 6]], dtype=np.uint16), [np.array([2])], TABLE)
    assert batch.sizes == [2, 2, 0]


def test_a_target_belongs_to_the_modality_of_the_predicted_token_not_of_its_input():
    batch = make_batch(np.array([[0, 4]], dtype=np.uint16), [np.array([2])], TABLE)
    assert batch.sizes == [1, 1, 0]
    assert batch.target_counts == [0, 1, 0]


def test_documents_longer_than_their_context_are_refused():
    with pytest.raises(ValueError, match="context 1 hold 5 tokens, more than 4"):
        make_batch(np.zeros((2, 4), dtype=np.uint16), [np.array([4]), np.array([3, 2])], TABLE)


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="token id 12 is outside the vocabulary of 12"):
        make_batch(np.array([[12]], dtype=np.uint16), [np.array([1])], TABLE)


def test_a_modality_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="modality 2 in the data, but the model has 2"):
        make_batch(np.array([[8]], dtype=np.uint16), [np.array([1])], TABLE, modalities=2)


def test_the_modality_of_an_id_comes_from_the_ranges(vocabulary):
    table = modality_table(vocabulary)
    assert table.shape == (1024,)
    assert [int(table[i]) for i in (0, 3, 255, 256, 511, 512, 767, 768, 1023)] == [0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert modality_names(vocabulary) == ["text", "image", "speech"]


def test_micro_batches_hold_every_context_once_and_in_order(make_contexts):
    ids, lengths, domains = make_contexts(contexts=6)
    table = np.zeros(1024, dtype=np.uint8)
    parts = micro_batches((ids, lengths, domains), 3, table, 1)
    assert [p.shape for p in parts] == [(2, 48)] * 3
    assert np.concatenate([p.input_ids.numpy() for p in parts]).tolist() == ids.reshape(-1).tolist()
    assert np.concatenate([p.domains.numpy() for p in parts]).tolist() == domains.tolist()


@pytest.mark.parametrize(("depth", "threads"), [(0, 1), (1, 1), (3, 1), (1, 2), (9, 3)])
def test_prefetching_gives_the_steps_asked_for_in_order(make_stream, vocabulary, depth, threads):
    stream, more = make_stream(), {"depth": depth, "threads": threads}
    made = Prefetcher(stream, 3, 7, parts=1, modality=modality_table(vocabulary), modalities=3, **more)
    for step in range(3, 7):
        (batch,) = made.next()
        assert batch.input_ids.numpy().tolist() == stream.batch_arrays(step)[0].reshape(-1).tolist()
    with pytest.raises(IndexError, match="no step after 6"):
        made.next()
    made.close()


def test_an_error_of_the_stream_reaches_the_caller(make_stream, vocabulary):
    stream = make_stream()

    def broken(step):
        raise OSError("shard gone")

    stream.batch_arrays = broken
    made = Prefetcher(stream, 0, 2, parts=1, modality=modality_table(vocabulary), modalities=3)
    with pytest.raises(OSError, match="shard gone"):
        made.next()
    made.close()


def test_a_closed_prefetcher_has_no_thread_left_and_no_step(make_stream, vocabulary):
    made = Prefetcher(
        make_stream(), 0, 9, parts=1, modality=modality_table(vocabulary), modalities=3, depth=4
    )
    made.next()
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    with pytest.raises(IndexError, match="no step after"):
        made.next()


@pytest.mark.parametrize("depth", [0, 3])
def test_a_batch_that_is_kept_is_never_written_over(make_stream, vocabulary, depth):
    stream, table = make_stream(), modality_table(vocabulary)
    made = Prefetcher(stream, 0, 20, parts=2, modality=table, modalities=3, depth=depth)
    kept = [[part.targets[2:9] for part in made.next()] for _ in range(20)]
    made.close()
    for step, parts in enumerate(kept):
        own = micro_batches(stream.batch_arrays(step), 2, table, 3)
        assert [p.tolist() for p in parts] == [b.targets[2:9].tolist() for b in own]


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="a document of context 1 has length -3"):
        make_batch(np.zeros((2, 4), np.uint16), [np.array([4]), np.array([5, -3])], TABLE)


def test_a_batch_is_as_narrow_as_torch_lets_it_be():
    batch = make_batch(np.array([[0, 4, 8]], np.uint16), [np.array([3])], TABLE)
    names = ("input_ids", "targets", "positions", "documents", "perm", "inverse")
    assert {str(getattr(batch, name).dtype) for name in names} == {"torch.int32"}
    assert str(batch.target_modality.dtype) == "torch.uint8"
