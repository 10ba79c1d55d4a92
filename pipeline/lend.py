"""Arrays for compiled loops without numba's counting of references to them.

numba counts a reference to every array that a function is given, also where the function is put in place of its call, and
takes it back at every way out. Its compiler strikes out the pairs it recognizes, but not all of them in a loop of many
branches, and each that stays locks memory. A kernel whose loop is such a one hands its arrays on lent. Numba's
cache looks at the changes of a kernel's own file only: after a change here, delete the cached kernels.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils
from numba.extending import intrinsic


def _lend(context: Any, array: Any) -> Any:
    """The same array, not counted. The caller keeps it alive and the callee returns no part of it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lent = context.make_array(signature.args[0])(context, builder, args[0])
        lent.meminfo = cgutils.get_null_value(lent.meminfo.type)
        return lent._getvalue()

    return array(array), generate


lend: Any = intrinsic(_lend)
