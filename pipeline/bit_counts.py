"""Counting the bits of 64-bit words, for compiled kernels: each is one instruction.

numba's cache looks at the changes of a kernel's own file only, so a change here needs the cached kernels removed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["high_zeros", "low_zeros", "popcount"]


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
