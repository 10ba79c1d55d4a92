import hashlib

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.doc_ids import pack_ids
from mixloom.pipeline.near_rows import media_keys

IDS = pack_ids(pa.array([hashlib.md5(bytes([i])).hexdigest() for i in range(6)]))


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def keys(*media: list[str | None]) -> list[int]:
    owner = np.repeat(np.arange(len(media)), [len(m) for m in media])
    items = pa.array([x for m in media for x in m], pa.string())
    return media_keys(IDS[: len(media)], owner, items).tolist()


A, B, C = sha("a"), sha("b"), sha("c")


def test_documents_without_media_share_the_key_zero():
    assert keys([], [], [A])[:2] == [0, 0]
    assert keys([], [], [A])[2] != 0


def test_the_key_is_that_of_the_set_of_media_whatever_their_order_and_number():
    a_b, b_a, a_a_b, a, b, b_c = keys([A, B], [B, A], [A, A, B], [A], [B], [B, C])
    assert a_b == b_a == a_a_b
    assert len({a_b, a, b, b_c}) == 4


def test_upper_and_lower_case_digests_are_the_same_medium():
    assert len(set(keys([sha("x")], [sha("x").upper()]))) == 1


@pytest.mark.parametrize("unknown", [None, "", "abc", "g" * 64, "0" * 63 + "é"])
def test_a_document_with_an_unknown_digest_equals_no_other(unknown):
    assert len(set(keys([unknown], [unknown], [A, unknown], [A], []))) == 5
