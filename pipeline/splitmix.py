"""The finaliser of SplitMix64, for hashes made in compiled kernels.

Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014): every input bit reaches every output
bit. Numba's cache looks at the changes of a kernel's own file only, so a change here needs the cached kernels removed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.lean import LEAN

_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(**LEAN, inline="always")
def mix(h):  # type: ignore[no-untyped-def]
    """uint64 -> uint64, one to one."""
    h = (h ^ (h >> _S30)) * _FIRST
    h = (h ^ (h >> _S27)) * _SECOND
    return h ^ (h >> _S31)
