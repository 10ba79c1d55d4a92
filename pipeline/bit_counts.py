"""Counting the bits of 64-bit words, for compiled kernels: each is one instruction; and 64 bits from any place.

numba's cache looks at the changes of a kernel's own file only, so a change here needs the cached kernels removed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from mixloom.pipeline.lean import LEAN

__all__ = ["from_bit", "high_zeros", "low_zeros", "popcount"]

_U1, _U6, _U63 = np.uint64(1), np.uint64(6), np.uint64(63)


@intrinsic
def _popcount(context: Any, x: Any) -> Any:
    """How many bits of a uint64 are set, int64."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctpop(args[0])


@intrinsic
def _low_zeros(context: Any, x: Any) -> Any:
    """How many zeros stand below the lowest set bit of a uint64 that is not 0, int64."""
    not_zero = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.uint64), lambda _, builder, __, args: builder.cttz(args[0], not_zero)


@intrinsic
def _high_zeros(context: Any, x: Any) -> Any:
    """How many zeros stand above the highest set bit of a uint64 that is not 0, int64."""
    not_zero = ir.Constant(ir.IntType(1), 1)
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctlz(args[0], not_zero)


popcount: Any = _popcount
low_zeros: Any = _low_zeros
high_zeros: Any = _high_zeros


@njit(**LEAN, forceinline=True)
def from_bit(bits, place, r):  # type: ignore[no-untyped-def]
    """64 bits of a row of masks (`byte_masks`) from bit r of word `place` on."""
    k, s = np.uint64(place) + (np.uint64(r) >> _U6), np.uint64(r) & _U63
    return (bits[k] >> s) | ((bits[k + _U1] << _U1) << (_U63 - s))
