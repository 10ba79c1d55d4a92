"""Machine instructions for compiled loops over bytes: eight bytes as one integer, their order turned.

Little-endian machines only. Numba's cache looks at the changes of a kernel's own file only: after a change here, delete
the cached kernels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _load_code(context: Any, data: Any, i: Any) -> Any:
    """data[i:i+8], all of which must be there, as one uint64, the first byte lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        word = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(word, align=1)

    return types.uint64(data, types.int64), generate


def _turn_code(context: Any, x: Any) -> Any:
    """A uint64 with its bytes in the opposite order."""
    return types.uint64(types.uint64), lambda _, builder, __, args: builder.bswap(args[0])


# Declared as anything: the first parameter is not the caller's to give.
load: Any = intrinsic(_load_code)
turn: Any = intrinsic(_turn_code)
