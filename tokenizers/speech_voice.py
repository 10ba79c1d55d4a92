"""A voice for units: the sound each of them stands for on average, joined and given phases.

Whatever units were made from, the fit hears the frames behind each of them, and those of the steps before and after.
A unit speaks over all three; where the predictions of neighbours meet, they are averaged, so that joints are smooth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.melspectrum import BANDS, Wave, griffin_lim, invert_power
from mixloom.tokenizers.speech_units import Durations, Floats, Units, runs

_SHARE = 0.5  # weight of what a unit expects its neighbours to sound like; their own account counts 1
VOICE_ARRAYS = ("stacks", "offset", "run_lengths")


class Voice:
    """Units to a wave of 16 kHz.

    `stacks` float32 [k, 3 * s * 80]: log-mel frames of the step before, of the step itself (s frames of 10 ms) and of the
    step after. `offset` float32 [80] gives the corpus its long-term spectrum back: it undoes normalisation on average,
    and the dulling of averages of logarithms. `run_lengths` float32 [k]: how long a unit lasts on average.
    """

    def __init__(self, stacks: Floats, offset: Floats, run_lengths: Floats) -> None:
        count = len(stacks)
        arrays = {"stacks": stacks, "offset": offset, "run_lengths": run_lengths}
        for (name, array), shape in zip(
            arrays.items(), [(count, stacks.size // max(1, count)), (BANDS,), (count,)]
        ):
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(
                    f"{name}: expected float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
        if stacks.shape[1] % (3 * BANDS):
            raise ValueError(f"stacks: {stacks.shape[1]} values are not three steps of {BANDS} bands")
        self.arrays = arrays
        self.size = count
        self.frames = stacks.shape[1] // (3 * BANDS)  # of 10 ms, in one step

    def speak(
        self, units: Units, durations: Durations | None = None, *, collapse: bool = True, iterations: int = 32
    ) -> Wave:
        """A wave float32 [sum(durations) * s * 160] of units int64 [u], each lasting its duration int32 [u] in steps.

        Without durations a unit lasts as long as it does on average in the corpus of the fit, or one step where runs
        were not collapsed. `iterations` of Griffin-Lim trade time for less metallic sound.

        Raises:
            ValueError: a unit that does not exist, or durations of another length or below 1.
        """
        if units.size and (int(units.min()) < 0 or int(units.max()) >= self.size):
            raise ValueError(f"units {units.min()}..{units.max()} are not in a codebook of {self.size}")
        if durations is None:
            lengths = self.arrays["run_lengths"] if collapse else np.ones(self.size)
            durations = np.maximum(1, np.rint(lengths[units])).astype(np.int32)
        if durations.shape != units.shape or (durations < 1).any():
            raise ValueError(f"expected {len(units)} durations of at least 1")
        if not len(units):
            return np.zeros(0, np.float32)
        with torch_threads(1):
            frames = self._frames(np.repeat(units, durations)) + self.arrays["offset"]
            wave = griffin_lim(invert_power(torch.from_numpy(frames).exp()).sqrt(), iterations)
        return wave / max(1.0, float(np.abs(wave).max()))

    def _frames(self, steps: Units) -> Floats:
        """Log-mel frames float32 [n * s, 80] of one unit a step."""
        stacks = self.arrays["stacks"].reshape(self.size, 3, self.frames, BANDS)
        total = stacks[steps, 1].copy()
        weight = np.ones((len(steps), 1, 1), np.float32)
        total[:-1] += _SHARE * stacks[steps[1:], 0]
        weight[:-1] += _SHARE
        total[1:] += _SHARE * stacks[steps[:-1], 2]
        weight[1:] += _SHARE
        return (total / weight).reshape(-1, BANDS)


def fit_voice(
    clips: Sequence[Units], frames: Sequence[Floats], heard: npt.NDArray[np.float64], count: int
) -> Voice:
    """The voice of `count` units.

    Args:
        clips: units of each clip, one a step, int64 [n].
        frames: normalised log-mel frames of each clip, float32 [n * s, 80].
        heard: float64 [80], power of all clips in each band, summed over frames.
        count: units there are.
    """
    size = max((x.size // max(1, len(u)) for u, x in zip(clips, frames)), default=BANDS)
    sums = np.zeros((count, 3, size))
    steps = np.zeros(count, np.int64)
    starts = np.zeros(count, np.int64)
    for units, logs in zip(clips, frames):
        rows = logs.reshape(len(units), size)
        padded = np.concatenate([rows[:1], rows, rows[-1:]])
        for at in range(3):
            _add_rows(sums[:, at], units, padded[at : at + len(units)])
        steps += np.bincount(units, minlength=count)
        starts += np.bincount(runs(units)[0], minlength=count)
    stacks = (sums / np.maximum(steps, 1)[:, None, None]).astype(np.float32)
    silent = Voice(stacks.reshape(count, -1), np.zeros(BANDS, np.float32), np.ones(count, np.float32))
    drawn = sum((np.exp(silent._frames(units), dtype=np.float64).sum(0) for units in clips), np.zeros(BANDS))
    total = max(1, int(steps.sum()))
    offset = np.log(np.maximum(heard, 1e-10 * total) / np.maximum(drawn, 1e-10)).astype(np.float32)
    lengths = (np.maximum(steps, 1) / np.maximum(starts, 1)).astype(np.float32)
    return Voice(stacks.reshape(count, -1), offset, lengths)


def _add_rows(sums: npt.NDArray[np.float64], units: Units, rows: Floats) -> None:
    """Add each row [n, d] to the sum [k, d] of its unit."""
    onto = torch.from_numpy(sums)
    onto.index_add_(0, torch.from_numpy(units), torch.from_numpy(np.ascontiguousarray(rows)).double())
