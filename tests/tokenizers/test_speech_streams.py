import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.tokenizers.speech_streams import flatten, in_chunks, unflatten

SIZE = 7
LAYOUTS = ["frames", "delayed"]


def codes_of(seed: int, count: int, frames: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, SIZE, (count, frames))


def slow_flatten(codes: np.ndarray, layout: str) -> list[int]:
    count, frames = codes.shape
    out = []
    for step in range(frames + (count - 1) * (layout == "delayed")):
        for q in range(count):
            f = step - q if layout == "delayed" else step
            if 0 <= f < frames:
                out.append(q * SIZE + int(codes[q, f]))
    return out


@given(st.integers(0, 99), st.integers(1, 5), st.integers(0, 12), st.sampled_from(LAYOUTS))
def test_codebooks_become_one_stream_and_come_back(seed, count, frames, layout):
    codes = codes_of(seed, count, frames)
    units = flatten(codes, SIZE, layout)
    assert units.dtype == np.int64
    assert units.tolist() == slow_flatten(codes, layout)
    assert unflatten(units, SIZE, count, layout).tolist() == codes.tolist()


@given(st.data(), st.integers(1, 4), st.integers(5, 12), st.sampled_from(LAYOUTS))
def test_a_cut_stream_gives_back_the_frames_it_holds_whole(data, count, frames, layout):
    codes = codes_of(data.draw(st.integers(0, 99)), count, frames)
    units = flatten(codes, SIZE, layout)
    start = data.draw(st.integers(0, len(units) // 3))
    stop = data.draw(st.integers(2 * len(units) // 3, len(units)))
    found = unflatten(units[start:stop], SIZE, count, layout)
    at = [f for f in range(frames - found.shape[1] + 1) if (codes[:, f : f + found.shape[1]] == found).all()]
    assert at, "what is found is a stretch of what was there"
    assert found.shape[1] >= (stop - start) // count - 2 * count


@given(st.lists(st.integers(0, 3 * SIZE - 1), max_size=30), st.sampled_from(LAYOUTS))
def test_any_units_can_be_read(units, layout):
    found = unflatten(np.array(units, np.int64), SIZE, 3, layout)
    assert found.shape[0] == 3
    assert ((found >= 0) & (found < SIZE)).all()


def test_units_of_no_codebook_are_refused():
    for unit in (-1, 14):
        with pytest.raises(ValueError, match="2 codebooks of 7"):
            unflatten(np.array([unit]), SIZE, 2, "frames")


WAVES = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@given(WAVES, st.integers(1, 9), st.integers(0, 9), st.integers(1, 4))
def test_pieces_give_the_rows_of_the_whole_where_rows_look_no_farther_than_the_context(
    steps, chunk, context, at_once
):
    rng = np.random.Generator(np.random.PCG64(steps[0]))
    waves = [rng.normal(size=4 * n).astype(np.float32) for n in steps]
    reach = min(2, context)
    shapes = []

    def encode(pieces: np.ndarray) -> np.ndarray:
        shapes.append((len(pieces), pieces.shape[1] // 4))
        rows = pieces.reshape(len(pieces), -1, 4).sum(2)
        padded = np.pad(rows, ((0, 0), (reach, reach)))
        return np.stack([padded[:, i : i + rows.shape[1]] for i in range(2 * reach + 1)], axis=2)

    found = in_chunks(waves, 4, chunk, context, encode, at_once)
    whole = chunk + 2 * context
    assert all(n <= whole for _, n in shapes)
    assert {r for r, n in shapes if n == whole} <= {at_once}, "whole pieces share passes of one size"
    assert {r for r, n in shapes if n < whole} <= {1}
    for wave, rows in zip(waves, found):
        assert rows.tolist() == encode(wave[None])[0].tolist()


def test_an_encoder_that_loses_steps_is_found_out():
    with pytest.raises(ValueError, match="5 steps were encoded as 4"):
        in_chunks([np.zeros(20, np.float32)], 4, 9, 0, lambda pieces: np.zeros((1, pieces.shape[1] // 4 - 1)))
