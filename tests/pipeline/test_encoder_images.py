"""Vectors of images, on small random CLIP and SigLIP checkpoints that are saved and then read as a user's are."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mixloom.pipeline.embed import embed_batch
from mixloom.pipeline.embed_config import ClipConfig
from mixloom.pipeline.embedder import Surroundings, load_embedder
from mixloom.pipeline.encoder_clip import ClipImages, Preparation
from mixloom.pipeline.encoder_images import ImageEmbedder
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
EYES = SMALL | {"image_size": 16, "patch_size": 8}
PREPARED = {
    "clip": {
        "size": {"shortest_edge": 16},
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    },
    "siglip": {
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
}


def make(folder, kind="clip"):
    """The folder of a small random model of images and text."""
    torch.manual_seed(3)
    words = SMALL | {"vocab_size": 40, "max_position_embeddings": 8}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=words, vision_config=EYES, projection_dim=12)
        model = transformers.CLIPModel(config)
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=words, vision_config=EYES))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"resample": 3, "rescale_factor": 1 / 255, **PREPARED[kind]})
    )
    return folder


def picture(seed, width=40, height=30):
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse = rng.integers(0, 255, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def image_segment(root, name, seed=None, sha256=None):
    """A segment of an image, whose file is written unless there is no seed."""
    data = b"none"
    if seed is not None:
        out = io.BytesIO()
        picture(seed).save(out, "PNG")
        data = out.getvalue()
        (root / name).write_bytes(data)
    digest = sha256 or hashlib.sha256(data).hexdigest()
    return Segment(kind="image", media=Media(uri=name, sha256=digest, bytes=len(data), width=40, height=30))


def batch(*documents):
    return documents_batch(
        [
            Document(source="pages", locator=Locator(uri=str(i)), segments=tuple(s))
            for i, s in enumerate(documents)
        ]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def embedder(folder, tmp_path):
    settings = ClipConfig(path=str(folder), device="cpu").model_dump(mode="json")
    return ImageEmbedder.open(settings, Surroundings({"pages": str(tmp_path)}))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_are_the_image_features_of_the_model(tmp_path, kind):
    model = ClipImages(ClipConfig(path=str(make(tmp_path, kind)), device="cpu"), "cpu")
    pictures = [picture(i, 30 + i, 50 - 3 * i) for i in range(7)]
    network = transformers.AutoModel.from_pretrained(tmp_path).eval()
    pixels = torch.from_numpy(np.stack([Preparation.read(tmp_path).pixels(p) for p in pictures]))
    with torch.inference_mode():
        expected = network.get_image_features(pixel_values=pixels)
    expected = getattr(expected, "pooler_output", expected)
    found = model.features(pictures)
    assert found.shape == (7, model.dim)
    assert model.dim == (12 if kind == "clip" else 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.features(pictures[3:5]).tobytes() == found[3:5].tobytes()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_are_prepared_as_by_transformers(tmp_path, kind):
    name = "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor"
    processor = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    make(tmp_path, kind)
    reference = processor(**json.loads((tmp_path / "preprocessor_config.json").read_text()))
    ours = Preparation.read(tmp_path)
    for width, height in ((16, 16), (47, 16), (20, 61), (33, 34), (9, 5)):
        some = picture(width, width, height)
        expected = reference(images=some, return_tensors="np")["pixel_values"][0]
        found = ours.pixels(some)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_settings_of_pictures_are_read_in_their_old_and_their_nested_form(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        '{"size": 20, "do_center_crop": true, "crop_size": 18}'
    )
    old = Preparation.read(tmp_path)
    assert (old.shortest, old.size, old.crop, old.resample) == (20, None, (18, 18), 3)
    assert old.pixels(picture(1)).shape == (3, 18, 18)
    (tmp_path / "preprocessor_config.json").unlink()
    nested = {"image_processor": {"size": {"height": 8, "width": 12}, "do_normalize": False}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert Preparation.read(tmp_path).pixels(picture(1)).shape == (3, 8, 12)
    assert Preparation.read(tmp_path).pixels(picture(1)).min() >= 0  # not normalised
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(
        UserError, match=r"does not say how pictures are prepared: no preprocessor_config\.json"
    ):
        Preparation.read(tmp_path)


def test_a_document_has_the_mean_of_its_images_and_one_without_has_zero(embedder, tmp_path):
    one, two = image_segment(tmp_path, "1.png", 1), image_segment(tmp_path, "2.png", 2)
    words = Segment(kind="text", text="some words")
    found = embedder.embed(batch([one], [words, two], [one, words, two], [one, two, one], [words], []))
    np.testing.assert_allclose(np.linalg.norm(found[:4], axis=1), 1, atol=1e-6)
    assert not found[4:].any()
    for row, expected in ((2, found[0] + found[1]), (3, 2 * found[0] + found[1])):
        np.testing.assert_allclose(found[row], expected / np.linalg.norm(expected), atol=1e-6)
    out = embed_batch(embedder, batch([words], [one]))
    assert out.column("has_text").to_pylist() == [False, True]


def test_a_document_has_the_same_bits_alone_and_in_any_batch(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr("mixloom.pipeline.encoder_images.TOGETHER", 3)
    images = [image_segment(tmp_path, f"{i}.png", i) for i in range(8)]
    documents = [[images[i], images[(3 * i) % 8]] for i in range(8)]
    whole = embedder.embed(batch(*documents))
    for i in range(8):
        # The position is part of nothing that is embedded.
        assert embedder.embed(batch(documents[i]))[0].tobytes() == whole[i].tobytes()


def test_images_that_cannot_be_read_any_more_count_as_none(embedder, tmp_path):
    good = image_segment(tmp_path, "1.png", 1)
    gone = image_segment(tmp_path, "gone.png")
    changed = image_segment(tmp_path, "2.png", 2, sha256="0" * 64)
    (tmp_path / "broken.png").write_bytes(b"none")
    broken = image_segment(tmp_path, "broken.png")
    found = embedder.embed(batch([good], [gone, good, changed, broken], [gone], [broken]))
    assert (found[0] == found[1]).all()
    assert found[0].any()
    assert not found[2:].any()


def test_the_same_image_under_two_names_is_read_from_the_one_that_is_there(embedder, tmp_path):
    good = image_segment(tmp_path, "1.png", 1)
    assert good.media is not None
    elsewhere = image_segment(tmp_path, "gone.png", sha256=good.media.sha256)
    found = embedder.embed(batch([elsewhere], [good]))
    assert (found[0] == found[1]).all()
    assert found.any()


def test_a_source_without_a_root_is_told(folder, tmp_path):
    settings = ClipConfig(path=str(folder), device="cpu").model_dump(mode="json")
    lost = ImageEmbedder.open(settings, Surroundings())
    with pytest.raises(UserError, match="no root is known for the source 'pages'"):
        lost.embed(batch([image_segment(tmp_path, "1.png", 1)]))


def test_a_saved_embedder_gives_the_same_vectors_until_its_checkpoint_changes(tmp_path):
    folder = make(tmp_path / "model")
    around = Surroundings({"pages": str(tmp_path)})
    settings = ClipConfig(path=str(folder), device="cpu").model_dump(mode="json")
    embedder = ImageEmbedder.open(settings, around)
    some = batch([image_segment(tmp_path, "1.png", 1)])
    embedder.save(tmp_path / "a")
    again = load_embedder(tmp_path / "a", around)
    assert again.fingerprint == embedder.fingerprint
    assert again.embed(some).tobytes() == embedder.embed(some).tobytes()
    again.save(tmp_path / "b")
    assert (tmp_path / "a/model.json").read_bytes() == (tmp_path / "b/model.json").read_bytes()
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "image_mean": [0.4, 0.4, 0.4]}))
    with pytest.raises(UserError, match="is not the one the run began with"):
        load_embedder(tmp_path / "a", around)


def test_a_model_that_knows_no_images_and_a_kind_nobody_handed_over_are_told(tmp_path):
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=8, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}\n")
    settings = ClipConfig(path=str(tmp_path), device="cpu").model_dump(mode="json")
    with pytest.raises(UserError, match=r"there is no model in .*none: no such folder"):
        ImageEmbedder.open({**settings, "path": str(tmp_path / "none")}, Surroundings())
    (tmp_path / "preprocessor_config.json").write_text('{"size": 16}')
    with pytest.raises(UserError, match="is of type 'bert' and has no image features"):
        ImageEmbedder.open(settings, Surroundings())
    with pytest.raises(UserError, match="kind 'codec' is not known here; there are clip"):
        ImageEmbedder.open({"kind": "codec", "path": "x"}, Surroundings())
