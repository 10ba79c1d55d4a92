"""Which process of a `torchrun` this is. Reads no torch, so that the command line can ask."""

from __future__ import annotations

import os


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and their number, from the environment that torchrun sets; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
