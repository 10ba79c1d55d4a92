"""The voices: deterministic, within range, and words that can be told apart by ear (here: by cepstra)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mixloom.pipeline.demo.phonemes import LEXICON, PHONEMES, pronounce
from mixloom.pipeline.demo.scenes import COLOURS, NUMBERS, sample_scene, spoken
from mixloom.pipeline.demo.voices import RATE, VOICES, speak


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _spectra(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Power spectra float64 [frames, 257] of 25 ms windows every 10 ms."""
    x = samples.astype(np.float64) / 32768
    starts = range(0, len(x) - 400, 160)
    return np.abs(np.fft.rfft(np.stack([x[s : s + 400] for s in starts]) * np.hanning(400), 512)) ** 2


def _cepstra(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Twelve mel cepstra a frame, mean removed; frames far below the loudest are left out."""
    power = _spectra(samples)
    power = power[power.sum(axis=1) > power.sum(axis=1).max() * 1e-4]
    edges = 700 * (10 ** (np.linspace(0, 2840, 28) / 2595) - 1) / RATE * 512
    bins = np.arange(257)
    bank = [
        np.clip(np.minimum((bins - a) / (b - a), (c - bins) / (c - b)), 0, None)
        for a, b, c in zip(edges, edges[1:], edges[2:])
    ]
    mel = np.log(power @ np.array(bank).T + 1e-8)
    k = np.arange(1, 13)[:, None] * (np.arange(26) + 0.5) * np.pi / 26
    out = mel @ np.cos(k).T
    return out - out.mean(axis=0)


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Dynamic time warping: mean distance along the best path."""
    cost = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    best = np.full((len(a) + 1, len(b) + 1), np.inf)
    best[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            best[i + 1, j + 1] = cost[i, j] + min(best[i, j], best[i, j + 1], best[i + 1, j])
    return float(best[-1, -1]) / (len(a) + len(b))


def test_a_word_sounds_most_like_the_same_word_in_another_voice():
    words = [*NUMBERS, "red", "green", "blue", "square", "star", "above"]
    heard = {
        v.name: [_cepstra(speak(w, v, _rng(i))) for i, w in enumerate(words)] for v in (VOICES[1], VOICES[2])
    }
    templates = [_cepstra(speak(w, VOICES[3], _rng(99))) for w in words]
    right = 0
    for clips in heard.values():
        for n, clip in enumerate(clips):
            right += int(np.argmin([_distance(clip, t) for t in templates])) == n
    assert right >= 0.9 * 2 * len(words)


@pytest.mark.parametrize(("word", "f1", "f2"), [("three", 270, 2290), ("two", 300, 870), ("star", 730, 1090)])
def test_vowels_have_their_formants(word, f1, f2):
    # The vowel is the loudest stretch; its energy stands around the first two formants of the table.
    power = _spectra(speak(word, VOICES[3], _rng(0)))
    loud = power[np.argsort(power.sum(axis=1))[-8:]].mean(axis=0)
    hz = np.arange(257) * RATE / 512

    def around(f: float) -> float:
        return float(loud[np.abs(hz - f) < 160].max())

    between = float(loud[(hz > f1 + 350) & (hz < f2 - 350)].max()) if f2 - f1 > 900 else np.inf
    assert around(f1) > 10 * loud[hz > 4000].max()
    assert around(f2) > 10 * loud[hz > 4000].max()
    assert between == np.inf or around(f2) > between


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    a, b, c = (speak("red circle above blue square", VOICES[0], _rng(s)) for s in (1, 1, 2))
    assert a.dtype == np.int16
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_sentences_last_one_to_four_seconds_and_never_clip():
    for n, voice in enumerate(VOICES):
        samples = speak("green tree left of white house", voice, _rng(n))
        assert 1.0 < len(samples) / RATE < 4.0
        assert 0.6 * 32767 < np.abs(samples.astype(int)).max() < 0.75 * 32767


def test_pitch_follows_the_voice():
    found = {}
    for voice in (VOICES[1], VOICES[4]):
        x = speak("three", voice, _rng(5)).astype(np.float64)
        loud = int(np.argmax(np.convolve(x**2, np.ones(800), "same")))
        piece = x[loud - 640 : loud + 640] - x[loud - 640 : loud + 640].mean()
        match = np.correlate(piece, piece, "full")[1279:]
        lags = np.arange(RATE // 400, RATE // 60)
        found[voice.name] = RATE / lags[np.argmax(match[lags])]
    assert found["bruno"] == pytest.approx(98, rel=0.2)
    assert found["elmo"] == pytest.approx(252, rel=0.2)


def test_every_scene_can_be_spoken_and_every_word_has_phonemes():
    rng = _rng(3)
    for _ in range(500):
        for word in spoken(sample_scene(rng), rng).split():
            assert all(p in PHONEMES for p in pronounce(word))
    assert set(COLOURS) | set(NUMBERS) <= set(LEXICON)


def test_plurals_end_as_english_plurals_do():
    assert pronounce("hearts")[-1] == "S"
    assert pronounce("stars")[-1] == "Z"
    assert pronounce("crosses")[-2:] == ("IH", "Z")


def test_an_unknown_word_is_refused():
    with pytest.raises(KeyError, match="xylophone"):
        speak("red xylophone", VOICES[0], _rng(0))
