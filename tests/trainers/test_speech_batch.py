"""Batches whose speech is in patches: every token keeps its place, and contexts stand side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.tokenizers.vocab import DOC, END_DOC, END_SPEECH, PAD, SPEECH
from mixloom.trainers.data import IGNORE, make_batch, micro_batches, modality_table
from mixloom.trainers.model_config import ModelConfig, SpeechPatchesConfig
from mixloom.trainers.speech_batch import cut_speech, fixed_edges, patched, saving, shelves

SMALL = {"dim": 32, "layers": 2, "heads": 4, "vocab_size": 1024, "seq_len": 64}


def config_of(untie=("ffn",), **options):
    return ModelConfig(**SMALL, untie=untie, speech_patches=SpeechPatchesConfig(**{"size": 2, **options}))


def spoken(units, text=(300, 301)):
    return [DOC, *text, SPEECH, *range(768, 768 + units), END_SPEECH, *text, END_DOC]


def batch_of(documents, vocabulary, length=24):
    ids = np.zeros((len(documents), length), np.uint16)
    for row, own in zip(ids, documents):
        row[: len(own)] = own
    return make_batch(ids, [np.array([len(d)]) for d in documents], modality_table(vocabulary))


def plain_patches(tokens, documents, recorded, size, longest):
    """Units of every patch, by reading token after token."""
    patches, run = [], 0  # units of this run so far
    for i, (token, own) in enumerate(zip(tokens, documents)):
        if token < 768:
            run = 0
            continue
        if i == 0 or own != documents[i - 1]:
            run = 0
        begins = run == 0 or len(patches[-1]) == longest
        begins |= i in recorded if recorded is not None else run % size == 0
        if begins:
            patches.append([])
        patches[-1].append(token)
        run += 1
    return patches


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["t", "u", "u", "u", "new t", "new u"]), min_size=1, max_size=40),
    st.sets(st.integers(1, 39)),
    st.booleans(),
    st.integers(1, 4),
    st.integers(4, 6),
)
def test_patches_are_those_found_by_reading_token_after_token(kinds, recorded, known, size, longest):
    tokens = np.array([768 + i % 16 if "u" in k else 300 for i, k in enumerate(kinds)])
    documents = np.cumsum(["new" in k for k in kinds])
    unit = tokens >= 768
    fresh = np.diff(documents, prepend=-1) != 0
    edges = np.isin(np.arange(len(tokens)), list(recorded)) if known else fixed_edges(unit, fresh, size)
    setting = SpeechPatchesConfig(size=size, longest=longest)
    begin, place = cut_speech(unit, fresh, edges, setting)
    expected = plain_patches(tokens, documents, recorded if known else None, size, longest)
    found = np.split(tokens[unit], np.flatnonzero(begin[unit])[1:])
    assert [f.tolist() for f in found if len(f)] == expected
    assert place[unit].tolist() == [j for patch in expected for j in range(len(patch))]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_contexts_side_by_side_never_overlap_and_all_fit(counts):
    shelf, offset, width = shelves(np.array(counts), 32)
    assert width <= 32
    taken = np.zeros((len(counts), width), int)
    for n, row, at in zip(counts, shelf, offset):
        assert at + n <= width
        taken[row, at : at + n] += 1
    assert taken.max() <= 1
    assert taken.sum() == sum(counts)


def test_the_trunk_reads_one_row_for_every_patch_and_contexts_share_rows(vocabulary):
    batch = patched(batch_of([spoken(8), spoken(5), spoken(6)], vocabulary), config_of(size=4))
    trunk = batch.speech.trunk
    assert trunk.shape == (3, 16) or trunk.shape[0] < 3
    assert sorted(batch.speech.entering.lengths.tolist()) == [1, 2, 4, 4, 4, 4]
    assert trunk.sizes[2] == 6
    real = [DOC, 300, 301, SPEECH, 768, 772, END_SPEECH, 300, 301, END_DOC]
    assert trunk.input_ids[: len(real)].tolist() == real
    assert trunk.positions[: len(real)].tolist() == list(range(len(real)))
    targets = [300, 301, SPEECH, 768, 772, END_SPEECH, 300, 301, END_DOC, IGNORE]
    assert trunk.targets[: len(real)].tolist() == targets


def test_short_contexts_stand_side_by_side_in_one_row(vocabulary):
    documents = [[DOC, *range(300, 320), END_DOC], spoken(12), spoken(11), spoken(10)]
    batch = patched(batch_of(documents, vocabulary), config_of(size=16, longest=16))
    assert batch.speech.trunk.shape == (3, 24)
    numbers = batch.speech.trunk.documents
    assert len(set(numbers[1].tolist())) == 3  # two documents and padding
    assert saving(batch) == pytest.approx((11 + 10 + 9) / sum(map(len, documents)))


def test_every_token_but_padding_has_a_source_of_its_own(make_contexts, vocabulary):
    for untie in ((), ("ffn",)):
        ids, lengths, _ = make_contexts(contexts=5, kinds=("tst", "s", "its"), seed=4)
        batch = patched(make_batch(ids, lengths, modality_table(vocabulary)), config_of(untie))
        real = torch.from_numpy((ids != PAD).reshape(-1))
        source = batch.speech.leaving.source[real]
        assert len(set(source.tolist())) == len(source)
        trunk = batch.speech.trunk
        order = trunk.perm if untie else torch.arange(len(trunk.input_ids))
        rows = trunk.input_ids[order]
        of_trunk = source < len(rows)
        patches = batch.speech.entering
        assert int(of_trunk.sum()) == int((rows != PAD).sum())
        # What the trunk reads are the tokens themselves, and the first of each patch for its last.
        first = {int(r): int(u) for r, u in zip(patches.rows, patches.units[:, 0])}
        tokens = batch.input_ids[real][of_trunk].tolist()
        for row, token in zip(source[of_trunk].tolist(), tokens):
            assert rows[row] == first.get(row, token)


def test_recorded_patches_are_followed_context_by_context(vocabulary):
    batch = batch_of([spoken(6), spoken(6)], vocabulary)
    recorded = np.array(
        [1, 1, 1, 1, 1, 3, 2, 1, 1, 1, 1], np.uint16
    )  # tokens of each patch; the units are 1, 3, 2
    made = patched(batch, config_of(size=4), [recorded, None])
    assert made.speech.entering.lengths.tolist() == [1, 3, 2, 4, 2]
    assert made.speech.leaving.last.tolist() == [1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="1 lists of patch lengths for 2 contexts"):
        patched(batch, config_of(), [recorded])
    with pytest.raises(ValueError, match="patches of 42 tokens in a context of 24"):
        patched(batch, config_of(), [recorded * 3, None])


def test_units_that_were_recorded_one_by_one_are_grouped_as_if_nothing_were_known(vocabulary):
    batch = batch_of([spoken(6)], vocabulary)
    made = patched(batch, config_of(size=4), [np.array([2, 1, 1, *[1] * 6, 4])])
    assert made.speech.entering.lengths.tolist() == [4, 2]


def test_a_patch_is_never_longer_than_the_longest_and_does_not_say_that_it_ends_there(vocabulary):
    recorded = np.array([4, 9, 4], np.uint16)
    made = patched(batch_of([spoken(9)], vocabulary), config_of(size=2, longest=4), [recorded])
    assert made.speech.entering.lengths.tolist() == [4, 4, 1]
    assert made.speech.leaving.last.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_parts_of_an_update_get_their_own_patches(vocabulary, make_contexts):
    ids, lengths, domains = make_contexts(contexts=4, kinds=("tst",), seed=1)
    recorded = [np.array([int(sum(n))], np.uint16) for n in lengths]  # every run of speech is a patch
    arrays = (ids, lengths, domains, None, [*recorded[:3], None])
    table = modality_table(vocabulary)
    parts = micro_batches(arrays, 2, table, 3, config=config_of(size=3))
    assert int(parts[0].speech.entering.lengths.max()) > 3
    assert int(parts[1].speech.entering.lengths.max()) == 3
    assert all(p.speech is None for p in micro_batches(arrays, 2, table, 3))


def test_a_batch_without_speech_is_read_as_it_is(vocabulary):
    batch = batch_of([[DOC, 300, END_DOC]], vocabulary)
    made = patched(batch, config_of())
    assert made.speech.trunk is batch
    assert saving(made) == 0.0
    assert patched(made, config_of()) is made
