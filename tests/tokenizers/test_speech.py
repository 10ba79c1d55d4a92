import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers import melspectrum, speech_units
from mixloom.tokenizers.melspectrum import (
    EDGE,
    HOP,
    RATE,
    WINDOW,
    filters,
    griffin_lim,
    power,
    spectral_convergence,
)
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech import SpeechCodec, fit_speech_codec, runs

STEP = 4 * HOP


def voice(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Something like speech: syllables of a buzzing source through two moving resonances, with pauses and noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    pieces = []
    while sum(map(len, pieces)) < seconds * RATE:
        n = int(rng.integers(1500, 4000))
        t = np.arange(n) / RATE
        pitch = rng.uniform(90, 220)
        formants = rng.uniform((300, 900), (900, 2500))
        tone = sum(
            np.sin(2 * np.pi * pitch * k * t) * sum(1 / (1 + ((pitch * k - f) / 120) ** 2) for f in formants)
            for k in range(1, 25)
        )
        pieces.append(tone * np.hanning(n) * rng.uniform(0.5, 1))
        pieces.append(rng.normal(0, 0.3, int(rng.integers(400, 900))))
        pieces.append(np.zeros(int(rng.integers(500, 2500))))
    wave = np.concatenate(pieces)[: int(seconds * RATE)]
    wave = wave / np.abs(wave).max() * 0.5 + rng.normal(0, 1e-3, len(wave))
    return wave.astype(np.float32)


def word(which: int, who: int) -> np.ndarray:
    """Half a second: two resonances that move between places that depend on the word, over the pitch of a voice."""
    rng = np.random.Generator(np.random.PCG64(which))
    begin, end = rng.uniform((300, 900), (900, 2600), (2, 2))
    t = np.arange(RATE // 2) / RATE
    way = np.linspace(0, 1, len(t))[:, None]
    formants = ((1 - way) * begin + way * end) * (0.94 + 0.04 * who)
    pitch = 100 + 35 * who
    wave = sum(
        np.sin(2 * np.pi * pitch * k * t) * (1 / (1 + ((pitch * k - formants) / 120) ** 2)).sum(1)
        for k in range(1, 30)
    )
    noise = np.random.Generator(np.random.PCG64(100 + who)).normal(0, 1e-3, len(t))
    return (wave / np.abs(wave).max() * np.hanning(len(t)) * 0.5 + noise).astype(np.float32)


CORPUS = [voice(i) for i in range(8)]
SMALL = SpeechCodecConfig(units=24)


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return fit_speech_codec(CORPUS, SMALL)


def test_units_come_at_25_a_second_and_durations_cover_the_clip(codec):
    wave = voice(99, 3.01)
    units, durations = codec.encode(wave)
    assert (units.dtype, durations.dtype) == (np.int64, np.int32)
    assert durations.sum() == -(-len(wave) // STEP) == 76
    assert (units[1:] != units[:-1]).all()
    assert len(np.unique(units)) > 5
    assert units.max() < codec.codebook_size == 24
    assert codec.units_per_second == 25


@given(st.lists(st.integers(0, 3), max_size=40))
def test_runs_can_be_undone(units):
    array = np.array(units, np.int64)
    short, lengths = runs(array)
    assert np.repeat(short, lengths).tolist() == units
    assert (np.diff(short) != 0).all()


def test_without_collapse_every_unit_lasts_one_step(codec):
    plain = fit_speech_codec(CORPUS, SMALL.model_copy(update={"collapse": False}))
    units, durations = plain.encode(CORPUS[0])
    assert (durations == 1).all()
    assert (np.repeat(*codec.encode(CORPUS[0])) == units).all()


@pytest.mark.parametrize("samples", [0, 1, 100, 159, STEP - 1, STEP, STEP + 1])
def test_clips_around_one_step_are_handled(codec, samples):
    units, durations = codec.encode(CORPUS[0][2000 : 2000 + samples])
    assert durations.sum() == -(-samples // STEP)
    assert len(codec.decode(units, durations)) == durations.sum() * STEP


def test_features_are_local_so_length_does_not_matter(codec):
    """A frame depends on its own window alone: power of a long recording is that of its pieces."""
    long = np.concatenate(CORPUS * 4)  # longer than one block of the transform
    long = long[: len(long) // STEP * STEP]
    whole = power(long)
    middle = power(long[STEP * 1000 - HOP * 2 : STEP * 1010 + HOP * 2])[2:-2]
    assert whole.shape == (len(long) // HOP, 80)
    assert torch.allclose(whole[4000:4040], middle, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [7, 100, 1001])
def test_a_long_recording_transformed_in_pieces_has_exactly_the_units_of_the_whole(codec, block, monkeypatch):
    long = np.concatenate(CORPUS)
    whole = codec.encode(long)
    monkeypatch.setattr(melspectrum, "_BLOCK", block)
    monkeypatch.setattr(speech_units, "_BLOCK", block)
    pieces = codec.encode(long)
    assert [x.tolist() for x in whole] == [x.tolist() for x in pieces]


def test_units_tell_what_was_said_whoever_says_it():
    """Words made of moving resonances, in three voices: counts of units of the codec name the word of a fourth."""
    words = {w: [word(w, v) for v in range(4)] for w in range(5)}
    codec = fit_speech_codec(
        [clip for clips in words.values() for clip in clips[:3]], SpeechCodecConfig(units=40)
    )
    counts = {w: [np.bincount(codec.encode(c)[0], minlength=40) for c in clips] for w, clips in words.items()}
    for w, clips in counts.items():
        far = {o: min(np.abs(clips[3] - c).sum() for c in others[:3]) for o, others in counts.items()}
        assert min(far, key=far.__getitem__) == w


@pytest.mark.parametrize("normalise", ["mean", "level"])
def test_a_louder_copy_has_the_same_units(normalise):
    codec = fit_speech_codec(CORPUS, SMALL.model_copy(update={"normalise": normalise}))
    wave = voice(77)
    quiet, loud = (np.repeat(*codec.encode(wave * np.float32(gain))) for gain in (0.25, 2.0))
    assert (quiet == loud).mean() > 0.98


def test_silence_is_encoded_without_being_blown_up(codec):
    units, durations = codec.encode(np.zeros(RATE, np.float32))
    assert durations.tolist() == [25]
    assert np.isfinite(codec.decode(units, durations)).all()


def test_decoded_speech_resembles_what_was_encoded(codec):
    wave = CORPUS[3]
    units, durations = codec.encode(wave)
    again = codec.decode(units, durations)[: len(wave)]
    assert again.dtype == np.float32
    assert np.abs(again).max() <= 1
    assert spectral_convergence(wave, again) < 0.9
    loudness, heard = (np.log(power(w).sum(1).numpy() + 1e-3) for w in (wave, again))
    assert np.corrcoef(loudness, heard)[0, 1] > 0.7, "syllables and pauses where they were"
    shuffled = codec.decode(np.random.Generator(np.random.PCG64(0)).permutation(units), durations)[
        : len(wave)
    ]
    assert spectral_convergence(wave, again) < spectral_convergence(wave, shuffled)


def test_without_durations_units_last_as_long_as_they_usually_do(codec):
    units, durations = codec.encode(CORPUS[3])
    steps = len(codec.decode(units)) / STEP
    assert 0.5 * durations.sum() < steps < 2 * durations.sum()


def test_units_do_not_depend_on_threads_or_company(codec):
    before = torch.get_num_threads()
    first = [codec.encode(w) for w in CORPUS]
    torch.set_num_threads(2 if before == 1 else 1)
    second = [codec.encode(w) for w in CORPUS[::-1]][::-1]
    torch.set_num_threads(before)
    for (a, b), (c, d) in zip(first, second):
        assert a.tolist() == c.tolist()
        assert b.tolist() == d.tolist()


def test_the_fit_repeats_exactly_and_leaves_thread_settings_alone(codec):
    import faiss

    torch_before, faiss_before = torch.get_num_threads(), faiss.omp_get_max_threads()
    again = fit_speech_codec(iter(CORPUS), SMALL)
    assert again.fingerprint == codec.fingerprint
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (torch_before, faiss_before)
    assert fit_speech_codec(CORPUS, SMALL.model_copy(update={"seed": 1})).fingerprint != codec.fingerprint


def test_saved_codec_loads_as_the_same(codec, tmp_path):
    codec.save(tmp_path)
    loaded = SpeechCodec.load(tmp_path)
    assert loaded.fingerprint == codec.fingerprint
    units, durations = loaded.encode(CORPUS[1])
    assert units.tolist() == codec.encode(CORPUS[1])[0].tolist()
    assert (loaded.decode(units, durations) == codec.decode(units, durations)).all()
    assert (tmp_path / "centroids.npy").exists()


def test_changed_centroids_are_refused(codec, tmp_path):
    codec.save(tmp_path)
    np.save(tmp_path / "centroids.npy", np.load(tmp_path / "centroids.npy") + 1)
    with pytest.raises(UserError, match="not those config"):
        SpeechCodec.load(tmp_path)
    np.save(tmp_path / "centroids.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(UserError, match="cannot load"):
        SpeechCodec.load(tmp_path)


def test_fewer_units_are_made_from_little_audio_and_it_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        codec = fit_speech_codec([CORPUS[0][: 10 * STEP]], SpeechCodecConfig(units=100))
    assert codec.codebook_size == 10
    assert "10 units instead of 100" in caplog.text


def test_the_fit_takes_no_more_audio_than_declared():
    taken = []

    def waves():
        for i, wave in enumerate(CORPUS):
            taken.append(i)
            yield wave

    facts = {}
    fit_speech_codec(waves(), SMALL.model_copy(update={"fit_seconds": 3.0}), facts.update)
    assert taken == [0, 1]
    assert (facts["seconds"], facts["steps"], facts["units"]) == (3.0, 75, 24)
    assert 0.3 < facts["variance_explained"] <= 1


def test_no_audio_is_an_error_the_user_can_act_on():
    for waves in ([], [np.zeros(0, np.float32)]):
        with pytest.raises(UserError, match="no audio to fit on"):
            fit_speech_codec(waves, SMALL)


def test_waves_and_units_that_make_no_sense_are_refused(codec):
    with pytest.raises(ValueError, match="expected a wave float32"):
        codec.encode(np.zeros(100))
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(np.full(1000, np.nan, np.float32))
    with pytest.raises(ValueError, match="not in a codebook of 24"):
        codec.decode(np.array([24]))
    with pytest.raises(ValueError, match="1 durations"):
        codec.decode(np.array([2]), np.array([1, 1]))


def test_filters_cover_every_frequency_once():
    weights = filters()
    assert weights.shape == (257, 80)
    assert (weights.sum(0) > 0.5).all(), "no empty band"
    inside = weights[3:-10].sum(1)
    assert (inside > 0.9).all()
    assert (inside < 1.1).all()


def test_griffin_lim_rebuilds_a_tone_from_its_magnitudes():
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (EDGE, EDGE))
    magnitude = torch.fft.rfft(padded.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)).abs()
    assert spectral_convergence(wave, griffin_lim(magnitude)) < 0.15
