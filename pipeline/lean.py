"""Options of compiled functions that make no array of their own: numba then counts no references in them.

By default every array that is given to a function is counted before and after the call, also where the function is put in
place of its call; in a loop over words that took up to half of the time. A function with these options works on arrays
of its caller, which keeps them alive; making one in it is an error when it is compiled.
"""

from __future__ import annotations

from typing import Any

LEAN: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
