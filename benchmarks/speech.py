"""Speech units: are spoken digits told apart by counts of units, how do they sound again, and how fast are they made.

    python benchmarks/speech.py --data ROOT [--quick] [--out FOLDER] [--json FILE]

ROOT holds `speech-fsdd` (recordings/<digit>_<speaker>_<take>.wav), and `speech-ljspeech` and `speech-kerstin-de` for the
sound; what is not there is not measured. The probe is a logistic regression on the relative frequencies of a recording's
units, fitted as the units are on the other recordings alone: on all but the last takes of every speaker and digit, or
on all but one speaker. With --out, each reconstruction is written as WAV, and its spectrogram under that of the original.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from recording import options_parser, save

from mixloom.pipeline.ingest.media import load_audio
from mixloom.tokenizers import melspectrum as mel
from mixloom.tokenizers.settings import SpeechCodecConfig
from mixloom.tokenizers.speech import SpeechCodec, fit_speech_codec

PACKAGES = ("mixloom", "numpy", "torch", "faiss-cpu", "scikit-learn", "soundfile", "soxr")
HELD_OUT_TAKES = 2
CONFIGS = {
    "default": SpeechCodecConfig(),
    "100 units": SpeechCodecConfig(units=100),
    "500 units": SpeechCodecConfig(units=500),
    "loudness alone taken off": SpeechCodecConfig(normalise="level"),
    "the step alone": SpeechCodecConfig(window=4, moves=1),
    "13 cepstra": SpeechCodecConfig(cepstra=13),
    "50 units a second": SpeechCodecConfig(stack=2),
}
Split = tuple[np.ndarray, np.ndarray]


class Digits:
    """The recordings of speech-fsdd: waves at 16 kHz, with what is said and by whom."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*_*_*.wav"))
        names = [f.stem.split("_") for f in files]
        self.waves = [load_audio(f.read_bytes(), mel.RATE) for f in files]
        self.digit = np.array([int(n[0]) for n in names])
        self.speaker = np.array([n[1] for n in names])
        self.take = np.array([int(n[2]) for n in names])

    def splits(self) -> dict[str, list[Split]]:
        """What is fitted to and what is held out, as masks."""
        last = np.zeros(len(self.digit), bool)
        for d, s in {(d, s) for d, s in zip(self.digit.tolist(), self.speaker.tolist())}:
            rows = np.flatnonzero((self.digit == d) & (self.speaker == s))
            last[rows[np.argsort(self.take[rows])][-HELD_OUT_TAKES:]] = True
        speakers = [(self.speaker != s, self.speaker == s) for s in np.unique(self.speaker)]
        return {"recordings": [(~last, last)], "speaker": speakers}


def counts(codec: SpeechCodec, wave: mel.Wave, parts: int = 1) -> np.ndarray:
    """Relative frequencies of the units of a recording, [parts * k]: of the whole, or of each part of it."""
    pieces = np.array_split(np.repeat(*codec.encode(wave)), parts)
    shares = [np.bincount(p, minlength=codec.codebook_size) / max(1, len(p)) for p in pieces]
    return np.concatenate(shares)


def counting(
    fit: Callable[[Split], SpeechCodec], parts: int
) -> Callable[[Split], Callable[[mel.Wave], np.ndarray]]:
    """For a split, what describes a recording by counts of the units fitted to that split."""

    def make(split: Split) -> Callable[[mel.Wave], np.ndarray]:
        codec = fit(split)
        return lambda wave: counts(codec, wave, parts)

    return make


def mean_frame(wave: mel.Wave) -> np.ndarray:
    """No units at all: the mean and the deviation of log band powers."""
    frames = np.log(mel.power(np.pad(wave, (0, -len(wave) % mel.HOP))).numpy() + 1e-6)
    return np.concatenate([frames.mean(0), frames.std(0)])


def accuracy(features: np.ndarray, digits: Digits, split: Split) -> float:
    from sklearn.linear_model import LogisticRegression

    fitted, held = split
    model = LogisticRegression(C=10, max_iter=5000).fit(features[fitted], digits.digit[fitted])
    return float(model.score(features[held], digits.digit[held]))


def probe(digits: Digits, make: Callable[[Split], Callable[[mel.Wave], np.ndarray]]) -> dict[str, float]:
    """Share of held-out recordings whose digit is named, and the lowest of the held-out speakers."""
    found = {}
    for name, splits in digits.splits().items():
        scores = []
        for split in splits:
            describe = make(split)
            scores.append(accuracy(np.stack([describe(w) for w in digits.waves]), digits, split))
        found[f"held-out {name}"] = float(np.mean(scores))
        if len(scores) > 1:
            found["worst speaker"] = min(scores)
    return found


def probes(digits: Digits, quick: bool) -> Iterator[dict[str, Any]]:
    for name, config in list(CONFIGS.items())[: 3 if quick else None]:

        def fit(split: Split, config: SpeechCodecConfig = config) -> SpeechCodec:
            return fit_speech_codec((w for w, keep in zip(digits.waves, split[0]) if keep), config)

        yield {"units": name, **probe(digits, counting(fit, 1))}
        if name == "default":
            thirds = probe(digits, counting(fit, 3))
            yield {"units": "default, counted in each third of the recording", **thirds}
    flat = {"units": "no units: mean and deviation of log bands", **probe(digits, lambda s: mean_frame)}
    yield flat


def use(codec: SpeechCodec, waves: list[mel.Wave]) -> dict[str, float]:
    """How the units of recordings spread, and what they carry: bits are of the counted units, one by one."""
    coded = [codec.encode(w) for w in waves]
    units = np.concatenate([u for u, _ in coded])
    seconds = sum(map(len, waves)) / mel.RATE
    shares = np.bincount(units, minlength=codec.codebook_size) / len(units)
    entropy = float(-np.sum(shares[shares > 0] * np.log2(shares[shares > 0])))
    start = time.process_time()
    for w in waves:
        codec.encode(w)
    return {
        "units": codec.codebook_size,
        "in_use": int((shares > 0).sum()),
        "perplexity": 2**entropy,
        "units_per_s": len(units) / seconds,
        "bits_per_s": entropy * len(units) / seconds,
        "audio seconds encoded in a CPU second": seconds / (time.process_time() - start),
    }


def sound(name: str, waves: list[mel.Wave], out: Path | None) -> Iterator[dict[str, Any]]:
    """Reconstructions of the last two recordings, from units fitted to the others and from less and less loss."""
    kept = [w[: len(w) // 640 * 640] for w in waves[-2:]]
    for label, config in list(CONFIGS.items())[:3]:
        codec = fit_speech_codec(waves[:-2], config)
        coded = [codec.encode(w) for w in kept]
        yield {"set": name, "from": label, **distances(kept, [codec.decode(*c) for c in coded])}
        if label == "default":
            yield {
                "set": name,
                "from": "default, usual durations",
                "steps": sum(len(codec.decode(c[0])) for c in coded) / sum(map(len, kept)),
            }
            if out is not None:
                for i, (wave, c) in enumerate(zip(kept, coded)):
                    show(out, f"{name}-{i}", wave, codec.decode(*c))
    bands = [mel.griffin_lim(mel.invert_power(mel.power(w)).sqrt()) for w in kept]
    yield {"set": name, "from": "the mel bands themselves", **distances(kept, bands)}
    exact = [mel.griffin_lim(mel.magnitudes(w)) for w in kept]
    yield {"set": name, "from": "exact magnitudes", **distances(kept, exact)}


def distances(waves: list[mel.Wave], others: list[mel.Wave]) -> dict[str, float]:
    pairs = list(zip(waves, others))
    return {
        "spectral_convergence": float(np.mean([mel.spectral_convergence(a, b) for a, b in pairs])),
        "log spectral distance (dB)": float(np.mean([mel.log_spectral_distance(a, b) for a, b in pairs])),
    }


def show(out: Path, name: str, wave: mel.Wave, again: mel.Wave) -> None:
    """Both waves as WAV, and their log-mel spectrograms one over the other, low bands at the bottom."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for what, samples in (("original", wave), ("units", again)):
        soundfile.write(out / f"{name}-{what}.wav", samples, mel.RATE)
        level = 10 * np.log10(mel.power(samples).numpy().T[::-1] + 1e-6)
        pictures.append(np.clip((level - level.max() + 70) / 70, 0, 1))
        pictures.append(np.ones((2, level.shape[1])))
    grey = np.repeat((np.concatenate(pictures) * 255).astype(np.uint8), 3, axis=0)
    Image.fromarray(grey).save(out / f"{name}.png")


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write sounds and spectrograms here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if (options.data / "speech-fsdd").is_dir():
        digits = Digits(options.data / "speech-fsdd" / "recordings")
        figures["recordings"] = len(digits.waves)
        figures["speakers"] = len(np.unique(digits.speaker))
        figures["probe"] = list(probes(digits, options.quick))
        figures["use"] = [
            {"set": "digits", **use(fit_speech_codec(digits.waves, SpeechCodecConfig()), digits.waves)}
        ]
    for name in ("speech-ljspeech", "speech-kerstin-de"):
        files = sorted(f for f in (options.data / name).rglob("*") if f.suffix in (".wav", ".flac"))
        if files:
            waves = [load_audio(f.read_bytes(), mel.RATE) for f in files]
            figures.setdefault("sound", []).extend(sound(name, waves, options.out))
            codec = fit_speech_codec(waves, SpeechCodecConfig())
            figures.setdefault("use", []).append({"set": name, **use(codec, waves)})
    for name in ("probe", "use", "sound"):
        for row in figures.get(name, []):
            print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    save(options.json, options.quick, figures, PACKAGES)


if __name__ == "__main__":
    main()
