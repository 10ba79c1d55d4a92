import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixloom.pipeline.balanced import balanced_assign
from mixloom.pipeline.cells import split_domain
from mixloom.pipeline.choose_k import choose_k, silhouette, size_entropy
from mixloom.pipeline.cluster import DOMAINS, ClusterConfig, Domains, assign_batch, fit_domains
from mixloom.pipeline.distances import nearest, squared_distances
from mixloom.pipeline.domain_report import nmi, purity, source_facts
from mixloom.pipeline.embed import embed_batch, text_column
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.kmeans import Start, balanced_rounds, capped_rounds, fit_centres, means, plus_plus
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.pipeline.tfidf import TfidfSvd


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def clustered(
    n: int, clusters: int, dim: int = 16, spread: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    g = rng(seed)
    centres = g.normal(size=(clusters, dim))
    labels = np.arange(n) % clusters
    x = centres[labels] + spread * g.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def topic_texts(topics: int, each: list[int], seed: int = 0) -> tuple[list[str], list[int]]:
    g = rng(seed)
    texts, labels = [], []
    for t in range(topics):
        words = [f"{chr(97 + t)}{a}{b}" for a in "bcdfg" for b in "klmnp"]
        texts += [" ".join(g.choice(words, 20)) for _ in range(each[t])]
        labels += [t] * each[t]
    return texts, labels


@pytest.mark.parametrize("balance", ["capped", "strict"])
def test_disjoint_vocabularies_are_told_apart_without_an_error(balance):
    texts, labels = topic_texts(6, [50] * 6)
    model = TfidfSvd.fit(texts, TfidfConfig(dim=20))
    vectors = model.transform(texts)
    domains = fit_domains(vectors, ClusterConfig(k=6, balance=balance))
    found = domains.assign(vectors)[0]
    assert purity(labels, found) == 1.0
    assert nmi(labels, found) == pytest.approx(1.0)


def test_sources_of_very_different_size_are_still_told_apart_by_default():
    texts, labels = topic_texts(4, [300, 30, 60, 25])
    vectors = TfidfSvd.fit(texts, TfidfConfig(dim=12)).transform(texts)
    found = fit_domains(vectors, ClusterConfig(k=4, min_cell=0)).assign(vectors)[0]
    assert purity(labels, found) == 1.0


def test_the_number_of_domains_is_found_among_those_tried():
    x, labels = clustered(600, 7, spread=0.25)
    config = ClusterConfig(k="auto", k_grid=(3, 5, 7, 9, 14))
    domains = fit_domains(x, config)
    assert domains.k == 7
    assert purity(labels.tolist(), domains.assign(x)[0]) == 1.0


def test_what_every_number_of_domains_gave_is_told():
    x, _ = clustered(400, 5, spread=0.3)
    k, tried = choose_k(x, (5, 3, 10, 5, 300), iterations=10, rng=rng(), max_share=2.0)
    assert k == 5
    assert [t.k for t in tried] == [3, 5, 10]  # 300 is more than half of the vectors
    assert [t.inertia for t in tried] == sorted((t.inertia for t in tried), reverse=True)
    assert tried[1].balance == pytest.approx(1.0, abs=1e-3)
    assert choose_k(x[:3], (2, 4), iterations=10, rng=rng(), max_share=None) == (1, [])
    assert size_entropy(np.array([5, 5, 0]), 3) == pytest.approx(np.log(2) / np.log(3))
    assert size_entropy(np.array([7, 0]), 2) == 0.0
    assert size_entropy(np.array([7]), 1) == 1.0


def test_groups_are_capped_while_centres_are_estimated():
    x, _ = clustered(1200, 1, dim=3, spread=5.0)  # a sphere without groups
    centres = plus_plus(x, 12, rng())
    plain = np.bincount(capped_rounds(x, centres, 1200, 20, 0.0)).max()
    for most in (plain - 20, plain - 5, plain + 1):
        assert np.bincount(capped_rounds(x, centres, most, 20, 0.0)).max() <= most


def test_the_cap_gives_way_to_a_source_that_is_larger_and_far_from_the_others():
    x, labels = clustered(900, 3, spread=0.2)
    x = np.concatenate([x[labels == 0], x[labels == 1][:30], x[labels == 2][:30]])
    found = fit_domains(x, ClusterConfig(k=3, max_share=1.2, min_cell=0)).assign(x)[0]
    assert sorted(np.bincount(found).tolist()) == [30, 30, 300]


def test_more_domains_than_a_tree_serves_start_from_random_seeds():
    x, labels = clustered(4000, 800, dim=24, spread=0.2)
    start = Start.draw(x, 800, rng())
    assert start.merges is None
    centres = start.centres(800, max_share=2.0, iterations=5, restarts=1, rng=rng())
    assert 760 <= len(centres) <= 800
    assert purity(labels.tolist(), nearest(x, centres)[0]) > 0.9


@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 33])
def test_any_number_of_documents_gives_at_most_k_domains_that_all_have_documents(n):
    x, _ = clustered(n, 40, spread=1.0)
    for balance in ("capped", "strict"):
        domains = fit_domains(x, ClusterConfig(k=16, balance=balance, restarts=2, max_cell=4, min_cell=2))
        found, cell, _ = domains.assign(x, doc_ids=[str(i) for i in range(n)])
        assert 1 <= domains.k <= min(n, 16)
        assert sorted(set(found.tolist())) == list(range(domains.k))
        assert cell.max() < domains.cell_count


def test_our_clusters_are_as_good_as_scikit_learns_on_overlapping_groups():
    from sklearn.cluster import KMeans

    x, labels = clustered(1000, 10, spread=0.9, seed=3)
    ours = [fit_domains(x, ClusterConfig(k=10, seed=s)).assign(x)[0] for s in range(3)]
    with one_thread():
        theirs = [KMeans(10, n_init=10, random_state=s).fit(x).labels_ for s in range(3)]
    truth = labels.tolist()
    assert np.mean([nmi(truth, f) for f in ours]) >= np.mean([nmi(truth, f) for f in theirs]) - 0.01


def test_strict_balance_gives_centres_of_groups_of_equal_size():
    x, _ = clustered(503, 4, spread=1.0)
    centres = balanced_rounds(x, plus_plus(x, 6, rng()), 100, 0.0)
    labels, _ = balanced_assign(squared_distances(x, centres))
    sizes = np.bincount(labels)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_allclose(means(x, labels, centres), centres, atol=1e-5)  # at rest


def test_documents_go_to_the_nearest_centre_and_to_a_cell_of_their_domain():
    x, _ = clustered(900, 5)
    domains = fit_domains(x, ClusterConfig(k=5, max_cell=60, min_cell=5))
    domain, cell, distance = domains.assign(x)
    plain = ((x[:, None].astype(np.float64) - domains.centres[None]) ** 2).sum(axis=2)
    assert (domain == plain.argmin(axis=1)).all()
    np.testing.assert_allclose(distance, plain.min(axis=1), atol=1e-5)
    assert (domains.cell_starts[domain] <= cell).all()
    assert (cell < domains.cell_starts[domain + 1]).all()
    assert (domain.dtype, cell.dtype, distance.dtype) == (np.int32, np.int32, np.float32)


def test_documents_without_text_form_the_last_domain():
    x, _ = clustered(100, 3)
    x[10] = 0
    domains = fit_domains(x, ClusterConfig(k=3))
    has_text = np.ones(100, bool)
    has_text[20] = False
    domain, cell, distance = domains.assign(x, has_text)
    assert np.flatnonzero(domain == domains.no_text).tolist() == [10, 20]
    assert cell[10] == cell[20] == domains.cell_count - 1
    assert distance[10] == distance[20] == 0
    assert domains.names == ("d000", "d001", "d002", "no-text")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 100))
def test_assignment_does_not_depend_on_the_batch(start, length):
    x, _ = clustered(100, 4, spread=1.5)
    domains = fit_domains(x, ClusterConfig(k=4, max_cell=20, min_cell=2, restarts=2))
    whole = domains.assign(x)
    part = domains.assign(x[start : start + length])
    for a, b in zip(whole, part, strict=True):
        assert a[start : start + length].tobytes() == b.tobytes()


def test_the_fit_is_a_function_of_vectors_and_seed():
    from threadpoolctl import threadpool_limits

    x, _ = clustered(400, 6, spread=1.0)
    with threadpool_limits(2):
        first = fit_domains(x, ClusterConfig(k=6))
    with threadpool_limits(1):
        second = fit_domains(x, ClusterConfig(k=6))
    assert first.fingerprint == second.fingerprint
    assert fit_domains(x, ClusterConfig(k=6, seed=1)).fingerprint != first.fingerprint


def test_no_cell_is_larger_than_allowed_and_small_ones_are_merged():
    x, _ = clustered(3000, 8, spread=0.8)
    config = ClusterConfig(k=3, max_cell=200, min_cell=40)
    domains = fit_domains(x, config)
    sizes = np.bincount(domains.assign(x)[1], minlength=domains.cell_count)
    assert sizes.max() <= 200
    assert sizes[-1] == 0  # everything has text
    assert domains.cell_count - 1 >= 15


@pytest.mark.parametrize("seed", range(4))
def test_a_small_cell_is_given_up_unless_that_would_overfill_another(seed):
    g = rng(seed)
    groups = g.normal(size=(40, 8))
    x = groups[np.minimum(g.zipf(1.3, 2000) - 1, 39)] + 0.4 * g.normal(size=(2000, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    loose = split_domain(x, documents=2000, max_cell=200, min_cell=0, iterations=20, rng=rng())
    tight = split_domain(x, documents=2000, max_cell=200, min_cell=100, iterations=20, rng=rng())
    assert np.bincount(nearest(x, loose)[0]).min() < 100
    sizes = np.bincount(nearest(x, tight)[0], minlength=len(tight))
    assert sizes.max() <= 200
    for j in np.flatnonzero(sizes < 100):
        assert np.bincount(nearest(x, np.delete(tight, j, axis=0))[0]).max() > 200


def test_cells_are_sized_for_the_whole_corpus_when_only_a_sample_is_seen():
    x, _ = clustered(1000, 4)
    few = fit_domains(x, ClusterConfig(k=2, max_cell=10_000))
    many = fit_domains(x, ClusterConfig(k=2, max_cell=10_000), documents=200_000)
    assert few.cell_count == 3
    sizes = np.bincount(many.assign(x)[1])
    assert sizes.max() * 200 <= 10_000


def test_vectors_that_cannot_be_told_apart_stay_in_one_cell():
    x = np.tile(np.eye(1, 8, dtype=np.float32), (50, 1))
    domains = fit_domains(x, ClusterConfig(k=4, max_cell=10))
    assert domains.k == 1
    assert domains.cell_count == 2
    assert fit_domains(x, ClusterConfig(k="auto")).k == 1


def test_fewer_vectors_than_domains_and_none_at_all():
    x, _ = clustered(3, 3)
    domains = fit_domains(x, ClusterConfig(k=16))
    assert domains.k == 3
    assert sorted(domains.assign(x)[0].tolist()) == [0, 1, 2]
    empty = fit_domains(np.zeros((4, 16), np.float32), ClusterConfig())
    assert empty.k == 0
    assert empty.assign(np.zeros((2, 16), np.float32))[0].tolist() == [0, 0]
    assert empty.assign(x)[1].tolist() == [0, 0, 0]
    assert empty.names == ("no-text",)
    with pytest.raises(ValueError, match="centres need a vector"):
        fit_centres(np.zeros((0, 3), np.float32), 2, iterations=1, restarts=1, rng=rng())


def test_saved_domains_come_back_the_same_and_refuse_other_vectors(tmp_path):
    x, _ = clustered(200, 4)
    domains = fit_domains(x, ClusterConfig(k=4, max_cell=30, min_cell=3))
    domains.save(tmp_path / "a")
    again = Domains.load(tmp_path / "a")
    again.save(tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert again.fingerprint == domains.fingerprint
    assert [a.tobytes() for a in again.assign(x)] == [a.tobytes() for a in domains.assign(x)]
    with pytest.raises(UserError, match="vectors have 5 numbers, and these domains were fitted on 16"):
        again.assign(np.ones((1, 5), np.float32))
    with pytest.raises(UserError, match="holds a 'domains' model"):
        TfidfSvd.load(tmp_path / "a")


def test_a_part_of_vectors_becomes_a_part_of_domains():
    texts, _ = topic_texts(2, [10, 10])
    documents = [
        Document(source="s", locator=Locator(uri=str(i)), segments=(Segment(kind="text", text=t),))
        for i, t in enumerate([*texts, "77"])
    ]
    batch = documents_batch(documents)
    model = TfidfSvd.fit(text_column(batch).to_pylist(), TfidfConfig(dim=4))
    vectors = embed_batch(model, batch)
    domains = fit_domains(model.transform(texts), ClusterConfig(k=2))
    out = assign_batch(domains, vectors)
    assert out.schema == DOMAINS
    assert out.column("doc_id") == batch.column("doc_id")
    assert out.column("domain").to_pylist()[-1] == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_purity_and_nmi_agree_with_their_definitions(pairs):
    from sklearn.metrics import normalized_mutual_info_score

    labels, found = [f"l{a}" for a, _ in pairs], np.array([b for _, b in pairs])
    majority = 0
    for j in set(found.tolist()):
        inside = [labels[i] for i in np.flatnonzero(found == j)]
        majority += max(inside.count(name) for name in inside)
    assert purity(labels, found) == pytest.approx(majority / len(pairs))
    assert nmi(labels, found) == pytest.approx(normalized_mutual_info_score(labels, found), abs=1e-9)


def test_facts_of_sources_leave_documents_without_text_out_of_purity():
    rows = [(0, "a", 3), (0, "b", 1), (1, "b", 4), (2, "a", 10), (0, "a", 2)]
    told = source_facts(rows, 2)
    assert told["sizes"] == [6, 4, 10]
    assert told["sources"] == {"a": [5, 0, 10], "b": [1, 4, 0]}
    assert told["purity"] == pytest.approx(0.9)
    labels, domains = ["a"] * 5 + ["b"] * 5, np.array([0] * 6 + [1] * 4)
    assert told["nmi"] == pytest.approx(nmi(labels, domains), abs=1e-4)
    assert told["largest"] == pytest.approx(1.2)
    assert source_facts([], 0) == {"sizes": [0], "sources": {}}
    assert "nmi" not in source_facts([(0, "a", 3)], 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_silhouette_agrees_with_scikit_learn(seed, k):
    from sklearn.metrics import silhouette_score

    g = rng(seed)
    x = g.normal(size=(30, 3)).astype(np.float32)
    labels = np.r_[np.arange(k), g.integers(0, k, 30 - k)]
    between = squared_distances(x, x)
    assert silhouette(between, labels) == pytest.approx(
        silhouette_score(x, labels, metric="sqeuclidean"), abs=1e-4
    )


def test_settings_out_of_range_are_refused():
    for wrong in ({"k": 0}, {"k": "many"}, {"k_grid": (1,)}, {"max_cell": 1}, {"cells": 3}):
        with pytest.raises(ValidationError):
            ClusterConfig(**wrong)
