"""What stands at every byte of a batch of documents, as bits, and the counts that follow from it.

64 bytes are compared at a time; what a comparison says of them is one integer, the first byte lowest. So the kernels that
cut documents find where words begin and end without looking at bytes one by one, and what is counted is a number of
bits. ASCII alone is classed here: all other bytes are `HIGH`. Little-endian machines only.

Every function the kernel calls is in this file, but for the bit counts: numba's cache looks at the changes of one file only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mixloom.pipeline.bit_counts import low_zeros, popcount
from mixloom.pipeline.lean import LEAN
from mixloom.pipeline.room import room

# The rows of the masks: white space; letter; letter or digit; not ASCII; consonant; capital or digit; newline; what may
# begin another line break.
SPACE, LETTER, WORD, HIGH, CONSONANT, UNEVEN, NEWLINE, BREAK = range(8)
_ROWS = 8
# The columns of the counts.
BYTE_COUNTS = (
    *(
        "newlines",
        "upper",
        "digit",
        "punctuation",
        "symbol",
        "space",
        "control",
        "repeated",
        "hashes",
        "vowels",
    ),
    *("letters", "ellipses", "spaced_ellipses", "high"),
)
ByteMasks = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]
_ZERO, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
_BYTES = ir.VectorType(ir.IntType(8), 64)


def _splat(builder: Any, byte: Any) -> Any:
    one = builder.insert_element(ir.Constant(_BYTES, ir.Undefined), byte, ir.Constant(ir.IntType(32), 0))
    none = ir.Constant(ir.VectorType(ir.IntType(32), 64), None)
    return builder.shuffle_vector(one, ir.Constant(_BYTES, ir.Undefined), none)


def _bytes_at(context: Any, builder: Any, kind: Any, array: Any, i: Any) -> Any:
    """64 bytes of an array from byte i on, all of which must be there."""
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [i])
    return builder.load(builder.bitcast(start, _BYTES.as_pointer()), align=1)


@intrinsic
def _within(context: Any, data: Any, i: Any, fold: Any, low: Any, size: Any) -> Any:
    """Which of data[i:i+64], with the bits `fold` set, are one of the `size` bytes from `low` on, as bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, at, *bounds = args
        x = _bytes_at(context, builder, signature.args[0], array, at)
        fold_, low_, size_ = (_splat(builder, b) for b in bounds)
        found = builder.icmp_unsigned("<", builder.sub(builder.or_(x, fold_), low_), size_)
        return builder.bitcast(found, ir.IntType(64))

    byte = types.uint8
    return types.uint64(data, types.int64, byte, byte, byte), generate


@intrinsic
def _equal(context: Any, data: Any, i: Any, j: Any) -> Any:
    """Which of data[i:i+64] are equal to the same of data[j:j+64], as bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y = (_bytes_at(context, builder, signature.args[0], args[0], at) for at in args[1:])
        return builder.bitcast(builder.icmp_unsigned("==", x, y), ir.IntType(64))

    return types.uint64(data, types.int64, types.int64), generate


within: Any = _within
equal: Any = _equal


@njit(**LEAN, forceinline=True)
def _vowels(data, i):  # type: ignore[no-untyped-def]
    found = within(data, i, 32, 97, 1) | within(data, i, 32, 101, 1) | within(data, i, 32, 105, 1)
    return found | within(data, i, 32, 111, 1) | within(data, i, 32, 117, 1) | within(data, i, 32, 121, 1)


@njit(**LEAN, forceinline=True)
def _symbols(data, i):  # type: ignore[no-untyped-def]
    """$ + < = > ^ ` | ~"""
    found = within(data, i, 0, 36, 1) | within(data, i, 0, 43, 1) | within(data, i, 0, 60, 3)
    return found | within(data, i, 0, 94, 1) | within(data, i, 0, 96, 1) | within(data, i, 2, 126, 1)


@njit(**LEAN)
def _block(data, i, inside, place, masks, row):  # type: ignore[no-untyped-def]
    """Class data[i:i+64] and count those of them in `inside`; returns which are a full stop. data[i-1] must be there."""
    space = within(data, i, 0, 32, 1) | within(data, i, 0, 9, 5) | within(data, i, 0, 28, 4)
    letter, digit = within(data, i, 32, 97, 26), within(data, i, 0, 48, 10)
    high, upper = within(data, i, 0, 128, 128), within(data, i, 0, 65, 26)
    vowel, symbol, seen = _vowels(data, i), _symbols(data, i), within(data, i, 0, 33, 94)
    newline, hash_, dot = within(data, i, 0, 10, 1), within(data, i, 0, 35, 1), within(data, i, 0, 46, 1)
    again = equal(data, i, i - 1)
    other = within(data, i, 0, 11, 3) | within(data, i, 0, 28, 3) | within(data, i, 32, 226, 1)
    masks[SPACE, place], masks[LETTER, place] = space & inside, letter & inside
    masks[WORD, place], masks[HIGH, place] = (letter | digit) & inside, high & inside
    masks[CONSONANT, place], masks[UNEVEN, place] = letter & ~vowel & inside, (upper | digit) & inside
    masks[NEWLINE, place], masks[BREAK, place] = newline & inside, other & inside
    row[0] += popcount(newline & inside)
    row[1] += popcount(upper & inside)
    row[2] += popcount(digit & inside)
    row[3] += popcount(seen & ~(letter | digit | symbol) & inside)
    row[4] += popcount(symbol & inside)
    row[5] += popcount(space & inside)
    row[6] += popcount(~(seen | space | high) & inside)
    row[7] += popcount(again & ~(space | high) & inside)
    row[8] += popcount(hash_ & inside)
    row[9] += popcount(vowel & inside)
    row[10] += popcount(letter & inside)
    row[13] += popcount(high & inside)
    return dot & inside


@njit(**LEAN)
def _dots(data, at, dots, run, spaced, last, row):  # type: ignore[no-untyped-def]
    """Count ellipses among the full stops `dots`, bits of data[at:at+64]; (run, spaced, last) go on from the bytes before.

    run, spaced: full stops in a row so far, and in a row with a space between any two. last: where the last one was.
    """
    while dots != _ZERO:
        here = at + low_zeros(dots)
        dots &= dots - _ONE
        run = run + 1 if last == here - 1 else 1
        if run == 3:
            row[11] += 1
            run = 0
        spaced = spaced + 1 if spaced > 0 and last == here - 2 and data[here - 1] == 32 else 1
        if spaced == 3:
            row[12] += 1
            spaced = 0
        last = here
    return run, spaced, last


@njit(cache=True, nogil=True)
def _mask_documents(data, offsets, places, masks, counts):  # type: ignore[no-untyped-def]
    """Fill the masks and the counts of n documents; see `byte_masks`."""
    edge = np.zeros(65, np.uint8)
    for d in range(offsets.size - 1):
        stop, row = offsets[d + 1], counts[d]
        run, spaced, last = 0, 0, np.int64(-9)
        for place in range(places[d], places[d + 1]):
            i = offsets[d] + 64 * (place - places[d])
            left = stop - i
            inside = _ALL
            if left < 64:
                inside = (_ONE << np.uint64(left)) - _ONE if left > 0 else _ZERO
            if i >= 1 and i + 64 <= data.size:
                dots = _block(data, i, inside, place, masks, row)
            else:
                edge[0] = data[i - 1] if i >= 1 else 10
                for k in range(min(left, 64)):
                    edge[1 + k] = data[i + k]
                dots = _block(edge, 1, inside, place, masks, row)
            if i == offsets[d] and left > 0 and i >= 1 and data[i] == data[i - 1]:
                # What stands before the document is not its own.
                row[7] -= (masks[SPACE, place] | masks[HIGH, place]) & _ONE == _ZERO
            run, spaced, last = _dots(data, i, dots, run, spaced, last, row)


def byte_masks(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> ByteMasks:
    """The masks of n documents and what they count.

    data uint8, offsets int64 [n+1]. Returns masks uint64 [8, w], places int64 [n+1] (bit k of masks[:, places[d] + j] is of
    byte 64 j + k of document d; behind its last byte there is at least one bit, and these are 0) and counts int64 [n, 14],
    columns as `BYTE_COUNTS` names them.
    """
    places = np.zeros(len(offsets), np.int64)
    np.cumsum(np.diff(offsets) // 64 + 1, out=places[1:])
    width = int(places[-1]) + 1  # a word more, so that two can be read from any place
    masks = room(_ROWS * width, np.uint64).reshape(_ROWS, width)
    masks[:, -1] = 0
    counts = np.zeros((len(offsets) - 1, len(BYTE_COUNTS)), np.int64)
    _mask_documents(data, offsets, places, masks, counts)
    return masks, places, counts
