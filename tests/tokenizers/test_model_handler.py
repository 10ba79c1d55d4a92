"""Codecs and encoders inside somebody else's Beam pipeline, by `RunInference`."""

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that
from PIL import Image

from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.model_handler import TextVectors
from mixloom.pipeline.tfidf import TfidfSvd
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.model_handler import ImageCodes, SpeechUnits
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig

IMAGE = ImageCodecConfig(size=16, steps=2, width=8, blocks=0, crops=8, device="cpu")
PICTURES = [np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(9)]
WAVES = [np.sin(np.arange(1600 * (i + 1)) / (5 + i)).astype(np.float32) for i in range(6)]
TEXTS = [
    "red apples and pears",
    "pears and plums",
    "",
    "an engine of steel",
    "steel and iron and engines",
] * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("codecs")
    image, _ = make_image_codec(IMAGE, PICTURES)
    speech, _ = make_speech_codec(SpeechCodecConfig(units=6), WAVES)
    text = TfidfSvd.fit(TEXTS, TfidfConfig(dim=3))
    for name, codec in (("image", image), ("speech", speech), ("text", text)):
        codec.save(str(root / name))
    return root, image, speech, text


def by_example(found):
    return {np.asarray(p.example).tobytes(): p.inference for p in found}


def inferred(handler, examples, check):
    with test_pipeline.TestPipeline(runner="FnApiRunner") as p:
        assert_that(p | beam.Create(examples) | RunInference(handler), check)


@pytest.mark.parametrize("pixels", [1, 3 * 16 * 16, 10**8])
def test_pictures_have_the_codes_they_have_alone(folders, pixels):
    root, image, _, _ = folders

    def check(found):
        codes = by_example(found)
        assert len(codes) == len(PICTURES)
        for picture in PICTURES:
            assert np.array_equal(codes[picture.tobytes()], image.encode_batch([picture])[0])

    inferred(ImageCodes(str(root / "image"), pixels=pixels), PICTURES, check)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1000.0])
def test_recordings_have_the_units_they_have_alone(folders, seconds):
    root, _, speech, _ = folders

    def check(found):
        units = by_example(found)
        assert len(units) == len(WAVES)
        for wave in WAVES:
            for x, y in zip(units[wave.tobytes()], speech.encode(wave), strict=True):
                assert np.array_equal(x, y)

    handler = SpeechUnits(str(root / "speech"), seconds=seconds)
    assert handler.rate == speech.rate
    inferred(handler, WAVES, check)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_texts_have_the_vectors_they_have_alone(folders, batch):
    root, _, _, text = folders

    def check(found):
        assert sorted(p.example for p in found) == sorted(TEXTS)
        for p in found:
            assert np.array_equal(p.inference, text.transform([p.example])[0])

    inferred(TextVectors(str(root / "text"), batch=batch), TEXTS, check)


def test_a_key_travels_beside_its_picture(folders):
    root, image, _, _ = folders
    keyed = [(f"picture-{i}", Image.fromarray(p)) for i, p in enumerate(PICTURES)]
    wanted = dict(zip((k for k, _ in keyed), image.encode_batch(PICTURES)))

    def check(found):
        assert {k for k, _ in found} == set(wanted)
        assert all(np.array_equal(p.inference, wanted[k]) for k, p in found)

    inferred(KeyedModelHandler(ImageCodes(str(root / "image"), pixels=600)), keyed, check)


def test_batches_are_filled_up_to_the_budget_and_their_bytes_are_counted_without_pickling(folders):
    root, image, speech, _ = folders
    handler = ImageCodes(str(root / "image"), pixels=1000)
    options = handler.batch_elements_kwargs()
    assert options["max_batch_size"] == 1000
    assert [options["element_size_fn"](p) for p in PICTURES] == [256] * 9
    assert handler.get_num_bytes(PICTURES) == 9 * 3 * 256
    assert list(handler.run_inference([], image)) == []
    waves = SpeechUnits(str(root / "speech"), seconds=2.0)
    assert waves.batch_elements_kwargs()["max_batch_size"] == 2 * speech.rate
    assert waves.size(WAVES[1]) == len(WAVES[1])
    assert waves.get_num_bytes(WAVES[:2]) == 4 * (1600 + 3200)
    assert not waves.share_model_across_processes()
    assert SpeechUnits(str(root / "speech"), one_per_machine=True).share_model_across_processes()


def test_a_directory_without_a_codec_is_told_before_the_pipeline_runs(tmp_path, folders):
    for handler in (ImageCodes, SpeechUnits):
        with pytest.raises(UserError, match="codec: cannot read") as error:
            handler(str(tmp_path))
        assert "run/tokenizer/image" in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        TextVectors(str(tmp_path)).load_model()
