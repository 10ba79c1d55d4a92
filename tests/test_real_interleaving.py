"""Real interleaved documents, captions and transcripts through ingest and tokenize, and back; skipped without the sets."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mixloom.pipeline.config import load_config
from mixloom.pipeline.ingest.media import load_audio, load_image, open_media
from mixloom.pipeline.ingest.plan import plan_splits
from mixloom.pipeline.ingest.readers import read_split
from mixloom.pipeline.schema import Document, documents_batch
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import decode_tokens, read_spans
from mixloom.tokenizers.layout_config import LayoutConfig
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig, TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.transform import tokenize
from mixloom.tokenizers.vocab import BREAK, Vocabulary
from mixloom.trainers.recipe import RunConfig

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real sets do not lie beside this checkout")

INTERLEAVED = ("based-cooking", "d2l", "openstax-sociology", "legendland")
CAPTIONED = ("openstax-sociology", "coco")
SETS = (*INTERLEAVED, "coco", "ljspeech")
READING = LayoutConfig()


@cache
def sources():
    config = load_config(RunConfig, ROOT / "conf" / "real" / "shared.yaml", (f"data_root={DATA}",))
    return {s.name: s for s in config.sources}


def root(name):
    return str(DATA / sources()[name].path)


@cache
def documents(name, **settings):
    source = sources()[name].model_copy(update=settings)
    read = [x for s in plan_splits(source, root(name)) for x in read_split(s, source, root(name))]
    return [x for x in read if isinstance(x, Document)]


def media(name, kind):
    found = [s.media for d in documents(name) for s in d.segments if s.kind == kind]
    return [open_media(root(name), m.uri, m.member) for m in found]


@pytest.fixture(scope="module")
def codecs():
    texts = [s.text for name in SETS for d in documents(name) for s in d.segments if s.text]
    text = train_text_tokenizer(texts, TextTokenizerConfig(vocab_size=2000))
    pictures = [load_image(x) for x in media("coco", "image")]
    image, _ = make_image_codec(ImageCodecConfig(steps=40, size=32, crops=64), pictures)
    waves = [load_audio(x, 16_000) for x in media("ljspeech", "speech")]
    speech, _ = make_speech_codec(SpeechCodecConfig(units=50), waves)
    sizes = {"image_size": image.codebook_size, "speech_size": speech.codebook_size}
    prints = {"image_fingerprint": image.fingerprint, "speech_fingerprint": speech.fingerprint}
    return Codecs(text, image, speech, Vocabulary.build(text.size, text.fingerprint, **sizes, **prints))


def tokenized(name, codecs, layout=READING, **settings):
    batch = documents_batch(documents(name, **settings))
    encoded, failures = tokenize(batch, codecs, {name: root(name)}, layout)
    assert failures == []
    return list(zip(documents(name, **settings), encoded))


@pytest.mark.parametrize("name", SETS)
def test_the_same_text_and_images_come_back_in_the_same_order(name, codecs):
    pairs = tokenized(name, codecs)
    assert len(pairs) == len(documents(name)) > 0
    for document, encoded in pairs:
        found = decode_tokens(encoded.ids, codecs.vocabulary)
        assert [s.kind for s in found] == [s.kind for s in document.segments]
        for segment, original, span in zip(found, document.segments, encoded.spans):
            sentinel = segment.kind != "text"
            assert (span.start, span.stop) == (
                segment.start - sentinel,
                segment.start + len(segment.ids) + sentinel,
            )
            if segment.kind == "text":
                assert codecs.text.decode(segment.ids).encode() == original.text.encode()
            elif segment.kind == "image":
                assert codecs.image.decode(segment.ids[None])[0].shape == (32, 32, 3)
        # Token by token: every token is of one span, or a sentinel of the document.
        covered = np.zeros(len(encoded.ids), int)
        for span in encoded.spans:
            covered[span.start : span.stop] += 1
        assert set(encoded.ids[covered == 0].tolist()) <= {1, 2, 7}
        assert covered.max() == 1


@pytest.mark.parametrize("name", CAPTIONED)
def test_captions_go_before_their_images_and_nothing_else_changes(name, codecs):
    layout = LayoutConfig(by_source={name: {"images": "caption_before"}})
    before = tokenized(name, codecs)
    moved = 0
    for (document, plain), (_, encoded) in zip(before, tokenized(name, codecs, layout)):
        assert sorted(encoded.ids[encoded.ids != BREAK]) == sorted(plain.ids[plain.ids != BREAK])
        reading = read_spans(plain.ids, plain.spans, codecs.vocabulary)
        again = read_spans(encoded.ids, encoded.spans, codecs.vocabulary)
        assert reading.keys() == again.keys()
        assert all(np.array_equal(again[k][0][1], reading[k][0][1]) for k in reading)
        place = {s.segment: n for n, s in enumerate(encoded.spans)}
        for i, s in enumerate(document.segments):
            if (
                s.kind == "image"
                and i + 1 in place
                and document.segments[i + 1].attrs.get("role") == "caption"
            ):
                assert place[i + 1] < place[i]
                moved += 1
    assert moved > 15


def test_transcripts_of_real_speech_switch_with_it_at_words(codecs):
    layout = {
        "speech": "word_switch",
        "untimed": "proportional",
        "stretches": "speech_first",
        "words": [2, 5],
    }
    pairs = tokenized("ljspeech", codecs, LayoutConfig(by_source={"lj*": layout}))
    plain = tokenized("ljspeech", codecs)
    for (document, encoded), (_, whole) in zip(pairs, plain):
        assert encoded.met["switched"] == encoded.met["proportional"] == 1
        found = read_spans(encoded.ids, encoded.spans, codecs.vocabulary)
        assert "".join(codecs.text.decode(ids) for _, ids in found[1, "text"]) == document.segments[1].text
        units = np.concatenate([ids for _, ids in found[0, "speech"]])
        assert np.array_equal(units, read_spans(whole.ids, whole.spans, codecs.vocabulary)[0, "speech"][0][1])
        assert len(found[0, "speech"]) == len(found[1, "text"]) > 1


def test_a_book_with_its_markup_has_the_same_images_and_words_as_without():
    plain, kept = documents("legendland"), documents("legendland", markup=True)
    assert len(plain) == len(kept)
    for a, b in zip(plain, kept):
        images = [s.media.uri for s in a.segments if s.kind == "image"]
        assert [s.media.uri for s in b.segments if s.kind == "image"] == images
        text = "".join(s.text for s in b.segments if s.text)
        assert text.count("<img") == len(images)
        assert "<p>" in text or len(text) < 300
