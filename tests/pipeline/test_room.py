"""Memory that is used again: never while anything refers to it."""

from __future__ import annotations

import threading

import numpy as np

from mixloom.pipeline.room import room

LARGE = 100_000


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_nothing_refers_to_it() -> None:
    first = room(LARGE, np.uint64)
    at = address(first)
    del first
    again = room(LARGE, np.uint64)
    assert address(again) == at
    assert again.dtype == np.uint64
    assert len(again) == LARGE


def test_memory_is_not_shared_while_a_part_of_it_is_in_use() -> None:
    part = room(LARGE, np.int32)[10:20]
    part[:] = 7
    others = [room(LARGE, np.int32) for _ in range(40)]
    for other in others:
        other[:] = 1
    assert part.tolist() == [7] * 10
    assert len({address(other) for other in others}) == len(others)


def test_threads_share_no_memory() -> None:
    mine = room(LARGE, np.uint8)
    at = address(mine)
    del mine
    found: list[int] = []

    def work() -> None:
        theirs = room(LARGE * 2, np.uint8)
        found.append(address(theirs))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert found[0] != at


def test_small_and_huge_arrays_are_those_of_numpy() -> None:
    assert len(room(3, np.int64)) == 3
    assert room(1 << 28, np.uint8).nbytes == 1 << 28
