"""A fitted image codec as what makes vectors of images."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from mixloom.pipeline.embed_config import CodecVectorsConfig
from mixloom.pipeline.embedder import Surroundings, load_embedder
from mixloom.pipeline.encoder_images import ImageEmbedder
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch
from mixloom.tokenizers.image import fit_image_codec
from mixloom.tokenizers.image_embedder import IMAGE_MODELS, CodecImages
from mixloom.tokenizers.settings import ImageCodecConfig


def picture(hue, seed):
    """A picture of about one colour, different for every seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    colour = {"red": (210, 40, 40), "blue": (30, 60, 200)}[hue]
    noise = rng.normal(0, 12, (30, 40, 3)) + rng.normal(0, 8, 3)
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    config = ImageCodecConfig(
        size=16, downsample=4, levels=(8, 5, 5, 5), width=16, blocks=1, steps=3, crops=32
    )
    pictures = [picture(h, i) for i in range(6) for h in ("red", "blue")]
    fit_image_codec(pictures, config).save(folder)
    return folder


def test_pictures_of_like_colours_have_like_vectors(codec):
    model = CodecImages(CodecVectorsConfig(path=str(codec), grid=2))
    assert model.dim == 2 * 2 * 4
    found = model.features([picture("red", 20), picture("red", 21), picture("blue", 22), picture("blue", 23)])
    assert found.dtype == np.float32
    assert found.shape == (4, model.dim)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert min(cosine[0, 1], cosine[2, 3]) > max(cosine[0, 2], cosine[0, 3], cosine[1, 2], cosine[1, 3])


def test_a_vector_is_the_mean_of_the_latents_over_each_field(codec):
    from mixloom.tokenizers.image import ImageCodec

    model = CodecImages(CodecVectorsConfig(path=str(codec), grid=2))
    some = picture("red", 3)
    fitted = ImageCodec.load(codec)
    latents = fitted.latents(np.stack([fitted.prepare(some)]))[0]
    assert latents.shape == (4, 4, 4)
    fields = [latents[r : r + 2, c : c + 2].mean((0, 1)) for r in (0, 2) for c in (0, 2)]
    np.testing.assert_allclose(model.features([some])[0], np.concatenate(fields), atol=1e-6)
    several = model.features([picture("blue", 1), some, picture("red", 2)])
    assert several[1].tobytes() == model.features([some])[0].tobytes()


def test_it_is_an_embedder_by_the_table_the_recipe_hands_over(codec, tmp_path):
    out = io.BytesIO()
    picture("red", 1).save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())
    media = Media(uri="a.png", sha256=hashlib.sha256(out.getvalue()).hexdigest(), bytes=9)
    segments = (Segment(kind="image", media=media),)
    documents = documents_batch([Document(source="s", locator=Locator(uri="1"), segments=segments)])
    around = Surroundings({"s": str(tmp_path)}, IMAGE_MODELS)
    embedder = ImageEmbedder.open({"kind": "codec", "path": str(codec)}, around)
    vectors = embedder.embed(documents)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    embedder.save(tmp_path / "model")
    again = load_embedder(tmp_path / "model", around)
    assert again.fingerprint == embedder.fingerprint
    assert again.embed(documents).tobytes() == vectors.tobytes()


def test_a_grid_finer_than_the_latents_and_a_folder_without_a_codec_are_told(codec, tmp_path):
    with pytest.raises(UserError, match=r"embed\.image\.grid is 5, and this codec has 4 x 4 latents"):
        CodecImages(CodecVectorsConfig(path=str(codec), grid=5))
    with pytest.raises(UserError, match="image codec: cannot read"):
        CodecImages(CodecVectorsConfig(path=str(tmp_path)))
