import hashlib

import numpy as np
import pyarrow as pa
import pytest

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.candidates import ROWS
from mixloom.pipeline.dedup_config import NearConfig
from mixloom.pipeline.engine import with_part
from mixloom.pipeline.near_alone import Alone
from mixloom.pipeline.near_pairs import PairSearch
from mixloom.pipeline.signatures import signatures

MINHASH = MinHashConfig()


def edited(words, share, rng):
    """The words with about so many of their shingles changed, in one stretch in the middle."""
    out, many = words.copy(), int(len(words) * share)
    out[100 : 100 + many] = rng.integers(1 << 40, 1 << 41, many)
    return out


def alone(texts, read, bands=18, rows=6, threshold=0.8):
    near = NearConfig(threshold=threshold)
    return Alone(
        PairSearch.of(["p"], near, MINHASH.num_perm, (bands, rows), len(texts)), read, near, MINHASH.ngram
    )


def signed(search, texts):
    made = signatures(pa.array(texts, pa.large_string()), MINHASH)
    width = pa.binary(2 * MINHASH.num_perm)
    ids = [hashlib.md5(f"{i}".encode()).hexdigest() for i in range(len(texts))]
    columns = [
        pa.array(ids),
        pa.array(np.arange(len(texts), dtype=np.int32)),
        pa.array(np.arange(len(texts), dtype=np.uint64)),
        pa.array(np.zeros(len(texts), np.uint64)),
        pa.array([None if s is None else np.array(s, "<u2").tobytes() for s in made.to_pylist()], width),
    ]
    return search.pairs.signed(with_part(pa.RecordBatch.from_arrays(columns, names=list(ROWS)), "p"))


def pairs(shares, seed):
    """Pairs of texts, the second with that share of the first's words changed."""
    rng = np.random.default_rng(seed)
    made = []
    for share in shares:
        words = rng.integers(0, 1 << 40, 600)
        made += [" ".join(f"w{x}" for x in w) for w in (words, edited(words, share, rng))]
    return made


def test_only_texts_of_pairs_whose_signatures_agree_are_read():
    # Of 600 words, 12 changed leave a Jaccard similarity of 0.95, 240 of 0.42: both share bands, one can be a duplicate.
    texts = pairs([0.02] * 20 + [0.4] * 200, 1)
    read = []

    def reader(part, rows):
        read.extend(rows.tolist())
        return pa.array([texts[r] for r in rows], pa.large_string())

    drops = alone(texts, reader, bands=37, rows=3).drops([signed(alone(texts, reader, 37, 3), texts)])
    assert sorted(drops.column("row").to_pylist()) == list(range(1, 40, 2))
    assert set(range(40)) <= set(read)
    assert len(read) < 60


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_no_pair_at_the_threshold_is_left_out(threshold):
    # J = (n - c) / (n + c) of n shingles of which c changed: at the threshold or a little above.
    share = (1 - threshold) / (1 + threshold) - 0.012
    texts = pairs([share] * 400, 2)
    search = alone(
        texts, lambda part, rows: pa.array([texts[r] for r in rows], pa.large_string()), 112, 1, threshold
    )
    drops = search.drops([signed(search, texts)])
    assert sorted(drops.column("row").to_pylist()) == list(range(1, 800, 2))
    assert (np.asarray(drops.column("similarity")) < threshold + 0.03).all()


def test_nothing_to_compare_drops_nothing():
    search = alone(["one"], None)
    assert search.drops([]).num_rows == 0
    assert search.drops([signed(search, [""])]).num_rows == 0
    assert search.drops([signed(search, pairs([0.5], 3)[:1])]).num_rows == 0
