"""Memory is handed out again once nobody has it, and never before."""

from __future__ import annotations

import numpy as np
import pytest

from mixloom.mixers.blocks import Blocks

torch = pytest.importorskip("torch")


def test_only_as_many_blocks_are_kept_as_were_asked_for():
    blocks = Blocks(5)
    taken = [blocks.take((3, 4)) for _ in range(20)]
    assert len({a.ctypes.data for a in taken}) == 20
    assert len(blocks._kept) == 5


@pytest.mark.parametrize(
    "hold",
    [
        lambda block: block,
        lambda block: block[1:2, ::2],
        lambda block: block.reshape(-1).view(np.uint8)[3:],
        lambda block: torch.from_numpy(block),
        lambda block: torch.from_numpy(block[0]).view(torch.uint8)[2:5],
        lambda block: torch.from_numpy(block).unbind(0)[1],
        lambda block: [{"deep": memoryview(block)}],
    ],
)
def test_whatever_refers_to_a_block_keeps_it(hold):
    blocks = Blocks(2)
    block = blocks.take((3, 4))
    at = block.ctypes.data
    held = hold(block)
    del block
    assert blocks.take((3, 4)).ctypes.data != at
    del held
    assert blocks.take((3, 4)).ctypes.data == at


def test_a_block_of_another_shape_is_not_handed_out():
    blocks = Blocks()
    at = blocks.take((3, 4)).ctypes.data
    other = blocks.take((4, 3))
    assert (other.shape, other.dtype, other.ctypes.data != at) == ((4, 3), np.int32, True)
