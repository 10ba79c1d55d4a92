"""Many bits at once for compiled kernels: where those of a word are set, and which of 64 numbers are one number.

Numba's cache looks at the changes of a kernel's own file only: after a change here, delete the cached kernels.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from mixloom.pipeline.lean import LEAN

__all__ = ["same", "spread", "spread_singly"]

_AT_ONCE = 12  # places written without asking whether there are so many
_U0, _U1 = np.uint64(0), np.uint64(1)


def _compresses() -> bool:
    """Whether code compiled here may pack the chosen bytes of 64 in one instruction (AVX-512 VBMI2)."""
    settings: Any = numba_config
    own = settings.CPU_NAME is None and settings.CPU_FEATURES is None and settings.ENABLE_AVX
    return bool(own and llvm.get_host_cpu_features().get("avx512vbmi2", False))


@intrinsic
def _lowest(context: Any, x: Any) -> Any:
    """The place of the lowest set bit of a uint64, 64 where none is set."""
    no = ir.Constant(ir.IntType(1), 0)
    return types.uint64(types.uint64), lambda _, builder, __, args: builder.cttz(args[0], no)


lowest: Any = _lowest


def _singly(bits, base, found, m):  # type: ignore[no-untyped-def]
    for j in range(np.uint64(_AT_ONCE)):
        found[m + j] = base + lowest(bits)
        bits &= bits - _U1
    m += np.uint64(_AT_ONCE)
    while bits != _U0:
        found[m] = base + lowest(bits)
        m += _U1
        bits &= bits - _U1


def _splat(builder: Any, kind: Any, one: Any) -> Any:
    every = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), every)


def _start(context: Any, builder: Any, array: Any, value: Any, i: Any, kind: Any) -> Any:
    """A pointer to a vector that begins at item i of an array."""
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [i]), kind.as_pointer())


@intrinsic
def _spread(context: Any, bits: Any, base: Any, found: Any, m: Any) -> Any:
    """Write `base` + the places of the set bits of a word, ascending, to found (uint64) from m on; behind them anything.

    At most 32 bits are set. found[m:m+32] must be there.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _compresses():
            context.compile_internal(builder, _singly, signature, args)
            return context.get_dummy_value()
        bytes_, places = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(64), 32)
        mask = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 64))
        pack = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(bytes_, [bytes_, bytes_, mask.type]),
            "llvm.x86.avx512.mask.compress.v64i8",
        )
        packed = builder.call(pack, [ir.Constant(bytes_, list(range(64))), ir.Constant(bytes_, None), mask])
        half = ir.Constant(ir.VectorType(ir.IntType(32), 32), list(range(32)))
        low = builder.zext(builder.shuffle_vector(packed, packed, half), places)
        at = _start(context, builder, signature.args[2], args[2], args[3], places)
        builder.store(builder.add(low, _splat(builder, places, args[1])), at, align=8)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, found, types.uint64), generate


@intrinsic
def _same(context: Any, numbers: Any, t: Any, one: Any) -> Any:
    """Which of numbers[t:t+64] (uint64), all of which must be there, are `one`, as bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(64), 64)
        at = _start(context, builder, signature.args[0], args[0], args[1], kind)
        found = builder.icmp_unsigned("==", builder.load(at, align=8), _splat(builder, kind, args[2]))
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(numbers, types.uint64, types.uint64), generate


spread: Any = _spread
same: Any = _same
# What `spread` does where the instruction is missing.
spread_singly: Any = njit(**LEAN)(_singly)
