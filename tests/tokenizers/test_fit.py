"""Fitting the tokenizers of a run: on what can be read, once each, resumable, and checked when loaded."""

import shutil

import pytest
from pydantic import TypeAdapter

from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import RunSettings, run_stage
from mixloom.tokenizers import codecs, text_bytes
from mixloom.tokenizers.fit import TokenizerConfig, TokenizerStage
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.settings import TextTokenizerConfig

SMALL = {
    "text": {"vocab_size": 300},
    "image": {"size": 16, "steps": 3, "crops": 16, "width": 8, "blocks": 0, "levels": [4, 4]},
    "speech": {"units": 6},
}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory, make_corpus, make_tree):
    """A corpus of words, pictures and sound, and a run of it up to the filter."""
    tmp = tmp_path_factory.mktemp("fit")
    corpus = make_corpus(tmp / "corpus", "notes", "scenes", "clips")
    shutil.copy(corpus.root / "scenes" / "s0.png", corpus.root / "scenes" / "again.png")
    with (corpus.root / "scenes" / "captions.csv").open("a") as f:
        f.write("again.png,the first picture once more\n")
    tree = make_tree(tmp / "corpus", tmp / "run", ["notes", "scenes", "clips"])
    sources = [TypeAdapter(SourceConfig).validate_python(s) for s in tree["sources"]]
    run, manifests = RunDirectory(str(tmp / "run")), {}
    roots = {s.name: str(corpus.root / s.path) for s in sources}
    for stage in (
        IngestStage(sources, roots, 20, 1 << 20),
        AnnotateStage(AnnotateConfig()),
        FilterStage(RulePlan.load(FilterConfig())),
    ):
        manifests[stage.name], _ = run_stage(stage, run, RunSettings(), Console(quiet=True), manifests)
    return tmp, roots, manifests


class World:
    """A copy of the run and of its corpus, to be changed at will."""

    def __init__(self, filtered, tmp):
        source, roots, self.manifests = filtered
        shutil.copytree(source / "run", tmp / "run")
        shutil.copytree(source / "corpus", tmp / "corpus")
        self.corpus, self.run = tmp / "corpus", RunDirectory(str(tmp / "run"))
        self.roots = {name: root.replace(str(source), str(tmp)) for name, root in roots.items()}

    def fit(self, workers=1, **config):
        stage = TokenizerStage(TokenizerConfig.model_validate({**SMALL, **config}), "filter", self.roots)
        return run_stage(stage, self.run, RunSettings(workers=workers), Console(quiet=True), self.manifests)[
            0
        ]

    @property
    def store(self):
        return self.run.stage("tokenizer").store


@pytest.fixture
def world(filtered, tmp_path):
    return World(filtered, tmp_path)


def test_the_vocabulary_holds_what_was_fitted_and_loads_with_it(world):
    manifest = world.fit()
    loaded = Codecs.load(world.store)
    assert loaded.vocabulary.text.used == loaded.text.size == 300
    assert loaded.vocabulary.image.used == loaded.image.codebook_size == 16
    assert loaded.vocabulary.speech.used == loaded.speech.codebook_size == 6
    assert manifest.info["vocabulary"] == {
        "size": loaded.vocabulary.size,
        "fingerprint": loaded.vocabulary.fingerprint,
    }
    assert manifest.counts.documents_in == 0


def test_the_fitted_image_codec_comes_with_a_sheet_of_reconstructions(world):
    world.fit()
    assert world.store.read("image/reconstructions.png").startswith(b"\x89PNG")


def test_a_run_may_take_its_texts_as_raw_bytes(world):
    assert world.fit(text={"kind": "bytes"}).info["text"]["patches"] == "entropy"
    assert Codecs.load(world.store).text.kind == "bytes"


def test_a_picture_that_occurs_twice_is_learnt_from_once(world):
    info = world.fit().info
    assert (info["image"]["fitted_on"], info["speech"]["fitted_on"]) == (8, 6)


def test_two_workers_fit_the_same(world):
    one = world.fit().fingerprint
    world.run.store.remove("tokenizer")
    assert world.fit(workers=2).fingerprint == one


def test_media_that_vanished_since_ingest_are_passed_over(world):
    (world.corpus / "scenes" / "s3.png").unlink()
    (world.corpus / "clips" / "c1.wav").write_bytes(b"no longer a recording")
    info = world.fit().info
    assert (info["image"]["fitted_on"], info["speech"]["fitted_on"]) == (7, 5)


def test_a_modality_of_which_nothing_can_be_read_gets_no_ids(world):
    for path in (world.corpus / "scenes").glob("*.png"):
        path.unlink()
    assert world.fit().info["image"] == {"size": 0, "fingerprint": ""}
    loaded = Codecs.load(world.store)
    assert loaded.image is None
    assert loaded.vocabulary.image.size == 0
    assert loaded.speech is not None


def test_pictures_are_opened_one_at_a_time_while_the_codec_draws_from_them(world, monkeypatch):
    from mixloom.pipeline.ingest import media

    opened, seen = [], []
    real_open, real_make = media.open_media, codecs.make_image_codec

    def open_media(root, uri, member):
        opened.append(uri)
        return real_open(root, uri, member)

    def make(config, images, advance=None, show=None):
        before = len(opened)

        def counted():
            for i, picture in enumerate(images):
                seen.append(len(opened) - before - i)
                yield picture

        assert before == 1
        return real_make(config, counted(), advance, show)

    monkeypatch.setattr(media, "open_media", open_media)
    monkeypatch.setattr(codecs, "make_image_codec", make)
    world.fit()
    assert seen == [0] * 8


def test_an_interrupted_fit_keeps_what_was_fitted(world, monkeypatch):
    trained = []
    real_train = text_bytes.train_text_tokenizer

    def train(texts, config):
        trained.append(len(list(texts)))
        return real_train(texts, config)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_bytes, "train_text_tokenizer", train)
    with monkeypatch.context() as patch:
        patch.setattr(codecs, "make_speech_codec", interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.fit()
    assert {u.unit for u in world.run.stage("tokenizer").units()} >= {"text", "image"}
    resumed = world.fit().fingerprint
    assert len(trained) == 1
    world.run.store.remove("tokenizer")
    assert world.fit().fingerprint == resumed


def test_the_text_tokenizer_is_trained_on_a_sample_of_the_wanted_size(world):
    few = world.fit(text={"vocab_size": 300, "sample_documents": 5}).info["text"]["fitted_on"]
    world.run.store.remove("tokenizer")
    all_of_them = world.fit().info["text"]["fitted_on"]
    assert 0 < few < all_of_them


def test_a_tokenizer_file_that_was_exchanged_is_noticed_when_it_is_loaded(world, tmp_path):
    world.fit()
    other = text_bytes.train_text_tokenizer(["quite another text"] * 9, TextTokenizerConfig(vocab_size=270))
    other.save(tmp_path / "run" / "tokenizer" / "text")
    with pytest.raises(UserError, match=r"tokenizer/text has changed since it was written") as caught:
        Codecs.load(world.store)
    assert "vocab.json was made for another one" in str(caught.value)
    assert "run again: the stage will be redone" in str(caught.value)
