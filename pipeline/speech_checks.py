"""The measures of one recording (see `media_items.ITEM_MEASURES`), block by block, whatever its length."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.ingest.media import wav_missing
from mixloom.pipeline.media_check_config import MediaCheckConfig

FRAME_SECONDS = 0.02
QUIETEST = -120.0  # dBFS; digital silence would be minus infinity
_FRAMES_PER_BLOCK = 512  # of 20 ms; runs of equal samples are cut between blocks
_FULL_SCALE = 0.999
_NEAR_PEAK = 0.98
_LEVELS = 1 << 15

Samples = npt.NDArray[np.float32]


def measure_speech(data: bytes, config: MediaCheckConfig) -> dict[str, Any]:
    """The measures of an encoded recording by name, without those of its transcript; never raises.

    One that does not decode has "decoded" 0 and "error". One that is cut short is measured as far as it goes.
    """
    import soundfile

    out: dict[str, Any] = {"decoded": 0, "file_bytes": len(data)}
    try:
        if not data:
            return out | {"error": "empty_audio: the audio file is empty (0 bytes)"}
        with soundfile.SoundFile(io.BytesIO(data)) as f:
            out |= {"rate": f.samplerate, "channels": min(f.channels, 127), "format": f.format}
            if f.frames > config.max_seconds * f.samplerate:
                return out | {"error": f"too_long: the recording lasts more than {config.max_seconds:g} s"}
            sums = _Sums(f.samplerate, f.channels, config.silence_dbfs)
            size = sums.frame * _FRAMES_PER_BLOCK
            while len(block := f.read(size, dtype="float32", always_2d=True)):
                sums.add(block)
            promised, exact = f.frames, f.format != "MPEG"  # the length of an MP3 may be an estimate
    except Exception as e:  # libsndfile's errors, and what a damaged header makes of the numbers
        text = " ".join(str(getattr(e, "error_string", e)).split()) or type(e).__name__
        return out | {"error": f"undecodable_audio: {text}"}
    if not sums.samples:
        return out | {"error": "empty_audio: the recording holds no samples"}
    if not sums.finite:
        return out | {"error": "non_finite_audio: the samples contain NaN or infinity"}
    out |= sums.measures() | {"decoded": 1, "truncated": 0}
    missing = wav_missing(data)
    if missing is not None or (exact and sums.samples < promised):
        what = f"{missing[0]} bytes, {missing[1]}" if missing else f"{promised} samples, {sums.samples}"
        out |= {
            "decoded": 0,
            "truncated": 1,
            "error": f"truncated_audio: the header promises {what} are there",
        }
    return out


class _Sums:
    """What is remembered of the blocks of a recording."""

    def __init__(self, rate: int, channels: int, silence_dbfs: float) -> None:
        self.frame = max(1, round(rate * FRAME_SECONDS))
        self.samples = 0  # per channel
        self.finite = True
        self._rate, self._channels = rate, channels
        self._floor = 10.0 ** (silence_dbfs / 10.0)
        self._peak, self._sum, self._squares = 0.0, 0.0, 0.0
        self._frames, self._silent, self._full = 0, 0, 0
        self._flat = np.zeros(_LEVELS + 1, np.int64)  # samples in runs of equal ones, by magnitude

    def add(self, block: Samples) -> None:
        """Count a block float32 [n, channels] of whole frames (the last block of a recording excepted)."""
        if not np.isfinite(block).all():
            self.finite = False
            return
        self.samples += len(block)
        magnitude = np.abs(block)
        self._peak = max(self._peak, float(magnitude.max()))
        self._sum += float(block.sum(dtype=np.float64))
        squares = np.square(block, dtype=np.float64).mean(axis=1)
        self._squares += float(squares.sum())
        starts = np.arange(0, len(block), self.frame)
        sizes = np.diff(starts, append=len(block))
        energy = np.add.reduceat(squares, starts) / sizes
        self._frames += len(starts)
        self._silent += int(np.count_nonzero(energy < self._floor))
        full = magnitude >= _FULL_SCALE
        self._full += int(np.count_nonzero(full))
        same = block[1:] == block[:-1]
        three = np.zeros(block.shape, np.bool_)
        middle = same[1:] & same[:-1]
        three[2:] |= middle
        three[1:-1] |= middle
        three[:-2] |= middle
        levels = np.minimum(magnitude[three & ~full] * _LEVELS, _LEVELS).astype(np.int64)
        self._flat += np.bincount(levels, minlength=_LEVELS + 1)

    def measures(self) -> dict[str, Any]:
        count = self.samples * self._channels
        power = self._squares / self.samples
        # In a whisper of a recording, equal neighbours are the steps of its few bits.
        flat = int(self._flat[int(self._peak * _NEAR_PEAK * _LEVELS) :].sum()) if self._peak >= 0.1 else 0
        return {
            "seconds": self.samples / self._rate,
            "peak": self._peak,
            "loudness_dbfs": max(QUIETEST, 10.0 * float(np.log10(power))) if power > 0 else QUIETEST,
            "dc_offset": abs(self._sum) / count,
            "clipped_share": (self._full + flat) / count,
            "silence_share": self._silent / self._frames,
        }
