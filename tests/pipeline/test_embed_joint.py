"""One vector of words and images: the arithmetic, and documents that lack one of the two."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.embed_joint import JointEmbedder
from mixloom.pipeline.embedder import Surroundings, load_embedder
from mixloom.pipeline.encoder_images import ImageEmbedder
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.tfidf import TfidfSvd


class Given:
    """An embedder that has its vectors already."""

    fingerprint = "given"

    def __init__(self, vectors):
        self.vectors = np.asarray(vectors, np.float32)
        self.dim = self.vectors.shape[1]

    def embed(self, documents):
        return self.vectors[: len(documents)]

    def save(self, directory):
        raise NotImplementedError


def unit(rng, n, dim):
    x = rng.normal(size=(n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def documents(n):
    return pa.RecordBatch.from_pydict({"doc_id": [str(i) for i in range(n)]})


@given(st.floats(0.05, 0.95), st.integers(0, 10_000))
def test_the_cosine_of_documents_with_both_is_the_weighted_mean_of_the_two(weight, seed):
    rng = np.random.default_rng(seed)
    text, image = unit(rng, 5, 7), unit(rng, 5, 3)
    joint = JointEmbedder(Given(text), Given(image), weight)
    vectors = joint.embed(documents(5))
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, joint.dim)
    expected = (1 - weight) * text @ text.T + weight * image @ image.T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


def test_what_a_document_lacks_is_zero_and_what_it_has_counts_in_full():
    rng = np.random.default_rng(1)
    text, image = unit(rng, 6, 7), unit(rng, 6, 3)
    text[[2, 3, 5]] = 0  # 2 and 3: images alone
    image[[0, 1, 5]] = 0  # 0 and 1: words alone; 5: neither; 4: both
    vectors = JointEmbedder(Given(text), Given(image), 0.36).embed(documents(6))
    cosine = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosine)[:5], 1, atol=1e-6)
    assert not vectors[5].any()
    assert cosine[0, 1] == pytest.approx(text[0] @ text[1], abs=1e-6)
    assert cosine[2, 3] == pytest.approx(image[2] @ image[3], abs=1e-6)
    assert cosine[0, 2] == 0
    assert cosine[0, 4] == pytest.approx(math.sqrt(0.64) * (text[0] @ text[4]), abs=1e-6)
    assert cosine[2, 4] == pytest.approx(math.sqrt(0.36) * (image[2] @ image[4]), abs=1e-6)


class Bright:
    """An image model whose vector is what stands in its settings."""

    dim, fingerprint = 2, "bright"

    def __init__(self, settings):
        self.settings = settings

    def features(self, images):
        return np.ones((len(images), 2), np.float32)

    def content(self):
        return self.settings


def test_a_saved_joint_embedder_holds_both_and_is_the_same(tmp_path):
    around = Surroundings({}, {"bright": Bright})
    text = TfidfSvd.fit(["apple pie", "apple tart", "pie tart"], TfidfConfig(dim=3, max_df=1.0))
    joint = JointEmbedder(text, ImageEmbedder.open({"kind": "bright"}, around), 0.25)
    joint.save(tmp_path / "a")
    again = load_embedder(tmp_path / "a", around)
    assert (again.dim, again.fingerprint) == (5, joint.fingerprint)
    again.save(tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert JointEmbedder(text, joint.image, 0.3).fingerprint != joint.fingerprint
    with pytest.raises(UserError, match="kind 'bright' is not known here; there are clip"):
        load_embedder(tmp_path / "a")
    (tmp_path / "a/text/idf.npy").unlink()
    with pytest.raises(UserError, match=r"idf\.npy does not exist"):
        load_embedder(tmp_path / "a", around)


def test_a_folder_without_an_embedder_is_told(tmp_path):
    from mixloom.pipeline.model_store import write_model

    with pytest.raises(UserError, match=r"model\.json does not exist"):
        load_embedder(tmp_path)
    write_model(tmp_path, "domains", {}, {})
    with pytest.raises(UserError, match="holds a 'domains' model, and an embedder is wanted: tfidf-svd"):
        load_embedder(tmp_path)
