"""Objectives: every rearrangement can be undone, moves images whole, and says what counts as a target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.objective_settings import (
    END_SPAN,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    OBJECTIVE_SPECIALS,
    UL2_MIXTURE,
    CausalMask,
    Denoiser,
    FillMiddle,
    MixtureOfDenoisers,
    default_room,
)
from mixloom.tokenizers.objectives import compiled, rates_by_group, rearrange, restore, serve_contexts
from mixloom.tokenizers.vocab import (
    BREAK,
    DOC,
    END_DOC,
    END_IMAGE,
    END_SPEECH,
    IMAGE,
    MASK_START,
    SPECIALS,
    SPEECH,
    Vocabulary,
)

VOCABULARY = Vocabulary.build(
    300, "t", image_size=64, image_fingerprint="i", speech_size=32, speech_fingerprint="s"
)
MODALITY = VOCABULARY.modality_table()
IMAGE_AT, SPEECH_AT = VOCABULARY.image.start, VOCABULARY.speech.start
OBJECTIVES = [
    CausalMask(rate=1),
    CausalMask(rate=1, mean_spans=6),
    FillMiddle(rate=1),
    MixtureOfDenoisers(rate=1),
    MixtureOfDenoisers(rate=1, loss="all"),
]
KEYS = st.integers(0, 2**64 - 1)


@st.composite
def elements(draw, least: int = 0):
    """A document's elements: texts, images and recordings, as lists of ids with their sentinels."""
    out = []
    for kind in draw(st.lists(st.sampled_from("ttis"), min_size=least, max_size=8)):
        size = draw(st.integers(1, 12))
        if kind == "t":
            out.append(draw(st.lists(st.integers(256, 555), min_size=size, max_size=size)))
        elif kind == "i":
            out.append([IMAGE, *[IMAGE_AT + i for i in range(size)], END_IMAGE])
        else:
            out.append([SPEECH, *[SPEECH_AT + i for i in range(size)], END_SPEECH])
        if draw(st.booleans()):
            out.append([BREAK])
    return out


@st.composite
def pieces(draw):
    """A document, or what a cut of a context left of one."""
    ids = [DOC, *[i for e in draw(elements()) for i in e], END_DOC]
    start = draw(st.integers(0, len(ids) - 1)) if draw(st.booleans()) else 0
    stop = draw(st.integers(start + 1, len(ids))) if draw(st.booleans()) else len(ids)
    return np.array(ids[start:stop], np.uint16)


def whole(*parts: list[int]) -> np.ndarray:
    return np.array([DOC, *[i for p in parts for i in p], END_DOC], np.uint32)


TEXT = list(range(256, 456))


@settings(max_examples=150, deadline=None)
@given(pieces(), KEYS, st.sampled_from(OBJECTIVES))
def test_restoring_gives_the_stored_ids_back_bit_for_bit(ids, key, objective):
    done = rearrange(ids, objective, key, MODALITY)
    if done is None:
        return
    assert done.ids.dtype == ids.dtype
    assert restore(done.ids).tolist() == ids.tolist()
    assert len(done.ids) > len(ids)
    assert len(done.counted) == len(done.ids)


@settings(max_examples=80, deadline=None)
@given(pieces())
def test_a_document_that_was_not_rearranged_is_restored_to_itself(ids):
    assert restore(ids).tolist() == ids.tolist()


@settings(max_examples=80, deadline=None)
@given(elements(least=2), KEYS, st.sampled_from(OBJECTIVES))
def test_images_and_recordings_stay_whole(parts, key, objective):
    done = rearrange(whole(*parts), objective, key, MODALITY)
    if done is None:
        return
    text = done.ids.tolist()
    for part in parts:
        if part[0] in (IMAGE, SPEECH):
            assert any(text[i : i + len(part)] == part for i in range(len(text)))


@settings(max_examples=80, deadline=None)
@given(pieces(), KEYS, st.sampled_from(OBJECTIVES))
def test_what_is_added_are_specials_of_objectives_and_nothing_else(ids, key, objective):
    done = rearrange(ids, objective, key, MODALITY)
    if done is None:
        return
    added = set(OBJECTIVE_SPECIALS.values())
    assert sorted(i for i in done.ids.tolist() if i not in added) == sorted(ids.tolist())


def test_a_piece_that_begins_inside_a_recording_is_cut_only_after_it():
    units = [SPEECH_AT + i for i in range(10)]
    ids = np.array([*units, END_SPEECH, *TEXT[:6], END_DOC], np.uint16)
    for key in range(200):
        done = rearrange(ids, CausalMask(rate=1), key, MODALITY)
        if done is not None:  # None where both drawn places were the same
            assert done.ids[:11].tolist() == [*units, END_SPEECH]
    assert rearrange(np.array(units, np.uint16), CausalMask(rate=1), 1, MODALITY) is None


def test_a_document_that_already_holds_a_sentinel_is_left_alone():
    ids = whole(TEXT[:20], [MASK_START], TEXT[20:40])
    assert all(rearrange(ids, o, 3, MODALITY) is None for o in OBJECTIVES)


def test_cm3_writes_the_spans_after_the_document_and_closes_each():
    ids = whole(TEXT)
    done = rearrange(ids, CausalMask(rate=1, mean_spans=4), 5, MODALITY)
    new, n = done.ids.tolist(), sum(i == END_SPAN for i in done.ids.tolist())
    assert n > 1
    assert new[0] == DOC
    assert new[-2:] == [END_SPAN, END_DOC]
    sentinels = [i - MASK_START for i in new if 32 <= i < 96]
    assert sentinels == [*range(n), *range(n)]
    assert [i for i, c in zip(new, done.counted) if not c] == [MASK_START + k for k in sentinels]


def test_cm3_mostly_masks_one_span_and_never_more_than_the_most():
    ids = whole(TEXT)
    counts = [
        int((rearrange(ids, CausalMask(rate=1, mean_spans=1), k, MODALITY).ids == END_SPAN).sum())
        for k in range(2000)
    ]
    # P(0) + P(1) of a Poisson distribution of mean 1, clamped from below at 1: 0.736
    assert abs(counts.count(1) / 2000 - 0.736) < 0.04
    most = [rearrange(ids, CausalMask(rate=1, mean_spans=9, max_spans=3), k, MODALITY).ids for k in range(50)]
    assert max(int((i == END_SPAN).sum()) for i in most) == 3


def test_cm3_takes_an_image_alone_now_and_then():
    image = [IMAGE, *[IMAGE_AT + i for i in range(40)], END_IMAGE]
    ids = whole(TEXT[:30], image, TEXT[30:60])
    found = 0
    for key in range(500):
        new = rearrange(ids, CausalMask(rate=1), key, MODALITY).ids.tolist()
        found += any(new[i : i + 44] == [MASK_START, *image, END_SPAN] for i in range(len(new)))
    assert found > 25  # two uniform places fall into its two halves once in 12


def test_fim_has_both_orders_in_their_share_and_counts_all_but_its_sentinels():
    ids = whole(TEXT)
    spm = 0
    for key in range(1000):
        done = rearrange(ids, FillMiddle(rate=1, spm=0.25), key, MODALITY)
        new = done.ids.tolist()
        assert new[1] == FIM_PREFIX
        assert new[-2:] == [END_SPAN, END_DOC]
        assert {i for i, c in zip(new, done.counted) if not c} == {FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE}
        suffix = new[new.index(FIM_SUFFIX) + 1 : new.index(FIM_MIDDLE)]
        assert suffix == TEXT[len(TEXT) - len(suffix) :]
        spm += new[2] == FIM_SUFFIX and new[new.index(FIM_MIDDLE) + 1] == TEXT[0]
    assert abs(spm / 1000 - 0.25) < 0.06


@pytest.mark.parametrize("denoiser", UL2_MIXTURE)
def test_a_denoiser_corrupts_its_share_in_spans_of_its_length(denoiser):
    text = [256 + i % 300 for i in range(1000)]
    objective = MixtureOfDenoisers(rate=1, denoisers=(denoiser,))
    shares, lengths = [], []
    for key in range(100):
        done = rearrange(whole(text), objective, key, MODALITY)
        new = done.ids.tolist()
        answers = [i for i, c in zip(new, done.counted) if c][1:-1]  # between <doc> and </doc>
        spans = [0]
        for i in answers:
            if i >= 256:
                spans[-1] += 1
            else:
                spans.append(0)
        shares.append(sum(spans) / len(text))
        lengths += spans
        assert new[1] == OBJECTIVE_SPECIALS[f"<denoise:{denoiser.mode}>"]
    assert abs(np.mean(shares) - denoiser.rate) < 0.05
    if denoiser.mode != "s":
        wanted = max(denoiser.span, denoiser.rate * len(text) / 64)
        assert wanted / 1.6 < np.mean(lengths) < wanted * 1.6


def test_only_the_answers_of_a_denoiser_count_unless_asked_for_all():
    denoisers = (Denoiser(mode="r", rate=0.3),)
    for loss in ("answers", "all"):
        done = rearrange(whole(TEXT), MixtureOfDenoisers(rate=1, denoisers=denoisers, loss=loss), 9, MODALITY)
        new, counted = done.ids.tolist(), done.counted.tolist()
        answers = len(new) - 1 - new[::-1].index(MASK_START)
        assert all(counted[answers + 1 :])
        assert not counted[answers]
        body = [c for i, c in zip(new[1:answers], counted[1:answers]) if i >= 256]
        assert all(body) if loss == "all" else not any(body)


def test_denoisers_never_need_more_sentinels_than_there_are():
    ids = whole([256 + i % 300 for i in range(2000)])
    done = rearrange(ids, MixtureOfDenoisers(rate=1, denoisers=(Denoiser(mode="x", rate=0.5),)), 1, MODALITY)
    assert (done.ids < 256).sum() == 2 + 1 + 2 * 64
    assert restore(done.ids).tolist() == ids.tolist()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([*range(8, 15), *range(32, 36), 256, 257, DOC, END_DOC]), max_size=12))
def test_ids_in_no_order_of_an_objective_are_refused_and_never_misread(tokens):
    ids = np.array(tokens, np.uint16)
    try:
        back = restore(ids)
    except ValueError:
        return
    assert len(back) <= len(ids)
    assert not (np.isin(back, range(32, 96)).any() and not np.isin(ids, range(32, 96)).any())


@pytest.mark.parametrize(
    "tokens", [[32, 256], [8, 256, 9, 257], [12, 256], [32, 256, 33, 32, 257, 14], [8, 9, 10, 256]]
)
def test_half_an_arrangement_is_an_error_in_words(tokens):
    with pytest.raises(ValueError, match="sentinels of an objective"):
        restore(np.array(tokens, np.uint16))


def test_the_ids_of_objectives_take_no_id_that_has_a_meaning():
    taken = {v for k, v in SPECIALS.items() if not k.startswith("<mask")}
    assert not taken & set(OBJECTIVE_SPECIALS.values())
    assert max(OBJECTIVE_SPECIALS.values()) < 256


def contexts_of(rng, count: int, length: int):
    """Packed contexts, full or nearly so."""
    rows, lengths = np.zeros((count, length), np.uint16), np.zeros((count, 8), np.int32)
    for b in range(count):
        at = 0
        for p in range(8):
            n = int(rng.integers(4, 40))
            if at + n > length:
                break
            rows[b, at : at + n] = [DOC, *rng.integers(256, 500, n - 2), END_DOC]
            lengths[b, p] = n
            at += n
    return rows, lengths


def serve(rows, lengths, objectives, *, room, key=7, numbers=None, epoch=0):
    count = len(rows)
    return serve_contexts(
        rows,
        lengths,
        compiled(objectives),
        rates_by_group(objectives, ["d"], ["s"]),
        np.zeros(lengths.shape, np.int32),
        room=room,
        modality=MODALITY,
        keys=np.full(count, key, np.uint64),
        contexts=np.arange(count) if numbers is None else numbers,
        epochs=np.full(count, epoch, np.int64),
    )


MIXED = [CausalMask(rate=0.3), FillMiddle(rate=0.3), MixtureOfDenoisers(rate=0.3)]


@pytest.mark.parametrize("room", [0, 6, 64])
def test_served_contexts_restore_document_by_document_and_nothing_is_cut_off(room):
    rows, lengths = contexts_of(np.random.default_rng(1), 40, 120)
    out = serve(rows, lengths, MIXED, room=room)
    assert out.input_ids.shape == out.counted.shape == (40, 120 + room)
    assert ((out.doc_lengths > 0) == (lengths > 0)).all()
    for b in range(40):
        stored, new = 0, 0
        for p in range(int((lengths[b] > 0).sum())):
            piece = out.input_ids[b, new : new + out.doc_lengths[b, p]]
            assert restore(piece).tolist() == rows[b, stored : stored + lengths[b, p]].tolist()
            assert (len(piece) > lengths[b, p]) == (out.taken[b, p] > 0)
            stored, new = stored + int(lengths[b, p]), new + int(out.doc_lengths[b, p])
        assert not out.input_ids[b, new:].any()
    assert (out.taken > 0).any()
    assert (out.taken < 0).any() or room == 64


def test_without_room_only_padding_is_used_and_the_rest_stays_as_stored():
    rows = np.array([[DOC, *range(256, 266), END_DOC]] * 3, np.uint16)
    out = serve(rows, np.array([[12]] * 3, np.int32), [FillMiddle(rate=1)], room=0)
    assert (out.taken == -1).all()
    assert (out.input_ids == rows).all()
    assert out.counted.all()


def test_what_happens_to_a_context_does_not_depend_on_those_beside_it():
    rows, lengths = contexts_of(np.random.default_rng(2), 20, 100)
    together = serve(rows, lengths, MIXED, room=40)
    for b in (0, 7, 19):
        alone = serve(rows[b : b + 1], lengths[b : b + 1], MIXED, room=40, numbers=np.array([b]))
        assert (alone.input_ids[0] == together.input_ids[b]).all()
        assert (alone.counted[0] == together.counted[b]).all()


def test_epochs_keys_and_numbers_give_other_draws():
    rows, lengths = contexts_of(np.random.default_rng(2), 20, 100)
    first = serve(rows, lengths, MIXED, room=40).input_ids
    assert (serve(rows, lengths, MIXED, room=40).input_ids == first).all()
    for other in ({"epoch": 1}, {"key": 8}, {"numbers": np.arange(20) + 1}):
        assert (serve(rows, lengths, MIXED, room=40, **other).input_ids != first).any()


def test_the_rates_are_met_where_there_is_room():
    rows, lengths = contexts_of(np.random.default_rng(3), 600, 120)
    taken = serve(rows, lengths, MIXED, room=400).taken[lengths > 0]
    for k in (1, 2, 3):
        assert abs(np.mean(np.abs(taken) == k) - 0.3) < 0.04
        assert np.mean(taken == k) > 0.9 * np.mean(np.abs(taken) == k)


def test_with_little_room_no_place_in_the_context_is_preferred():
    rows, lengths = contexts_of(np.random.default_rng(4), 800, 120)
    taken = serve(rows, lengths, [FillMiddle(rate=1)], room=4).taken
    served = [(taken[:, p] == 1).sum() / (lengths[:, p] > 0).sum() for p in range(3)]
    assert max(served) - min(served) < 0.12


def test_objectives_are_chosen_by_domain_and_source():
    objectives = [FillMiddle(rate=0.5, domains=("a",)), CausalMask(rate=0.25, sources=("y",))]
    rates = rates_by_group(objectives, ["a", "b"], ["x", "y"])
    assert rates.tolist() == [[0.5, 0], [0.5, 0.25], [0, 0], [0, 0.25]]


def test_a_domain_that_is_not_there_is_an_error_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'cod' in domains.*did you mean 'code'"):
        rates_by_group([FillMiddle(domains=("cod",))], ["code", "prose"], ["s"])


def test_rates_above_one_are_refused():
    with pytest.raises(UserError, match=r"domain 'a', source 's' add up to 1\.2"):
        rates_by_group([FillMiddle(rate=0.6), CausalMask(rate=0.6)], ["a"], ["s"])


def test_the_default_room_is_wider_for_denoisers():
    assert default_room([], 2048) == 0
    assert default_room([FillMiddle()], 2048) == 64
    assert default_room([FillMiddle(rate=0.1), MixtureOfDenoisers(rate=0.1)], 2048) == 256
