import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mixloom.pipeline.annotate_config import MinHashConfig
from mixloom.pipeline.candidates import RANKED
from mixloom.pipeline.doc_ids import id_batch
from mixloom.pipeline.sieve import least_agreement, likely_pairs, listed, sifted_pairs, sketched
from mixloom.pipeline.verify import SKETCHES, Sets

MINHASH = MinHashConfig()


@given(st.integers(1, 256), st.floats(0.05, 1.0), st.sampled_from([1e-3, 1e-6, 1e-9]))
def test_the_bound_is_the_quantile_of_the_binomial(values, threshold, missed):
    least = least_agreement(values, threshold, missed)
    assert 0 <= least <= values
    assert binom.cdf(least - 1, values, threshold) <= missed * (1 + 1e-6)
    if least < values:
        assert binom.cdf(least, values, threshold) >= missed * (1 - 1e-6)


def test_a_higher_threshold_never_asks_for_less():
    bounds = [least_agreement(MINHASH.num_perm, t / 100) for t in range(1, 101)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == MINHASH.num_perm


def alike(rng, documents, width):
    """Signatures uint16 [documents, width]: the first, and others that keep from none to all of its values."""
    base = rng.integers(0, 1 << 16, (documents, width), dtype=np.uint16)
    kept = rng.random((documents, width)) < np.linspace(0, 1, documents)[:, None]
    return np.where(kept, base[0], base)


@given(st.integers(1, 200), st.integers(2, 40), st.floats(0.05, 1.0), st.integers(0, 2**32 - 1))
def test_pairs_pass_by_the_number_of_values_whose_first_four_bits_agree(width, documents, threshold, seed):
    values = alike(np.random.default_rng(seed), documents, width)
    left, right = (x.ravel().astype(np.uint64) for x in np.meshgrid(*[np.arange(documents)] * 2))
    least = least_agreement(width, threshold)
    expected = [
        sum(int(a) >> 12 == int(b) >> 12 for a, b in zip(values[i], values[j], strict=True)) >= least
        for i, j in zip(left.astype(int), right.astype(int), strict=True)
    ]
    assert likely_pairs(sketched(values), width, left, right, threshold).tolist() == expected


@given(st.integers(1, 150), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_pairs_are_sifted_alike_whether_their_signatures_were_sent_or_are_here(width, documents, seed):
    rng = np.random.default_rng(seed)
    values = alike(rng, documents, width)
    ids = rng.permutation(documents).astype(np.uint64)[:, None] * np.array([1, 7], np.uint64)
    lists, sizes = listed(values)
    twice = np.append(np.arange(documents), 0)  # of two rows for a document either serves
    columns = [*id_batch(pa.schema(list(SKETCHES)[:2]), ids[twice]).columns, pa.array(sizes[twice])]
    sets = Sets(pa.RecordBatch.from_arrays([*columns, lists.take(pa.array(twice))], schema=SKETCHES))
    at = rng.integers(0, documents, (50, 2)).astype(np.uint64)
    pairs = np.zeros((50, len(RANKED)), np.uint64)
    pairs[:, :2], pairs[:, 3:5], pairs[:, 6:] = ids[at[:, 0]], ids[at[:, 1]], at
    likely = likely_pairs(sketched(values), width, at[:, 0], at[:, 1], 0.5)
    assert np.array_equal(sifted_pairs(pairs, sets, 0.5), pairs[likely])
    assert len(sifted_pairs(pairs[:0], sets, 0.5)) == 0
