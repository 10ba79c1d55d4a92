"""Documents through `tokenize` in every layout, and back: the same bytes of text, the same units, in place."""

import io
import json
import wave

import numpy as np
import pytest
from PIL import Image

from mixloom.pipeline.engine import with_part
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.media import inspect_audio, inspect_image
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.tokenizers.arranged import check_codec
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.inspect_contexts import read_context
from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.inspect_source import StoredContext
from mixloom.tokenizers.interleave import decode_tokens, encode_document, read_spans
from mixloom.tokenizers.layout_config import LayoutConfig
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig, TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.transform import TOKENS, tokenize, tokens_output
from mixloom.tokenizers.vocab import Vocabulary

SAID = "Größe zählt, sagte der Mann\nund ging — nach Hause."
TIMES = [[w, 0.2 * i, 0.2 * i + 0.17] for i, w in enumerate(SAID.replace("— ", "").split())]
LAYOUTS = [
    {},
    {"images": "caption_before", "speech": "alternate"},
    {"images": "caption_after", "speech": "transcript_first", "adjacent": True},
    {
        "images": "caption_before",
        "alt": True,
        "speech": "word_switch",
        "stretches": "speech_first",
        "words": [1, 3],
    },
    {"speech": "word_switch", "stretches": "transcript_first", "words": [2, 2]},
]


def sound(seconds: float) -> bytes:
    t = np.arange(int(16000 * seconds)) / 16000
    tone = np.sin(2 * np.pi * (300 + 200 * np.floor(t * 4)) * t) * 12000
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16000)
        f.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def codecs():
    text = train_text_tokenizer([SAID] * 9, TextTokenizerConfig(vocab_size=300))
    pictures = [Image.new("RGB", (40, 24), c) for c in ("red", "blue")]
    image, _ = make_image_codec(ImageCodecConfig(size=16, steps=3, width=8, blocks=0, crops=16), pictures)
    tones = [np.sin(h * np.arange(8000) / 900).astype(np.float32) for h in range(1, 30)]
    speech, _ = make_speech_codec(SpeechCodecConfig(units=20), tones)
    sizes = {"image_size": image.codebook_size, "speech_size": speech.codebook_size}
    prints = {"image_fingerprint": image.fingerprint, "speech_fingerprint": speech.fingerprint}
    return Codecs(text, image, speech, Vocabulary.build(text.size, text.fingerprint, **sizes, **prints))


@pytest.fixture
def root(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())
    (tmp_path / "a.wav").write_bytes(sound(2.0))
    return tmp_path


def medium(root, name, **attrs):
    data = (root / name).read_bytes()
    if name.endswith(".png"):
        return Segment(kind="image", media=inspect_image(data, name, max_pixels=10**6), attrs=attrs)
    return Segment(kind="speech", media=inspect_audio(data, name), attrs=attrs)


def document(root, times=TIMES, meta=None):
    known = {"word_times": json.dumps(times)} if times else {}
    segments = (
        Segment(kind="text", text="ein Anfang"),
        medium(root, "a.png", alt="rotes Feld"),
        Segment(kind="text", text="Das Bild", attrs={"role": "caption"}),
        Segment(kind="text", text="mehr Text"),
        medium(root, "a.png", alt="noch eins"),
        medium(root, "a.wav", **known),
        Segment(kind="text", text=SAID, attrs={"role": "transcript"}),
        Segment(kind="text", text="Schluss"),
    )
    return Document(source="s", locator=Locator(uri="d"), segments=segments, meta=meta or {})


def tokenized(documents, root, codecs, layout):
    batch = documents_batch(documents)
    for name in ("domain", "cell"):
        batch = batch.append_column(name, np.zeros(len(documents), np.int32))
    config = LayoutConfig(by_source={"s": layout})
    return with_part(batch, "part-0"), *tokenize(batch, codecs, {"s": str(root)}, config)


def test_no_layout_writes_what_was_always_written(root, codecs):
    one = document(root)
    _, (plain,), _ = tokenized([one], root, codecs, {})
    assert [(s.segment, s.at) for s in plain.spans] == [(i, 0) for i in range(8)]
    by_kind = {k: [] for k in ("text", "image", "speech")}
    for (_, kind), pieces in sorted(read_spans(plain.ids, plain.spans, codecs.vocabulary).items()):
        by_kind[kind] += [ids for _, ids in pieces]
    ids, spans = encode_document([s.kind for s in one.segments], *by_kind.values(), codecs.vocabulary)
    assert (ids.tolist(), spans) == (plain.ids.tolist(), plain.spans)
    _, (no_captions,), _ = tokenized([one], root, codecs, {"images": "caption_after"})
    assert np.array_equal(plain.ids, no_captions.ids)
    assert (
        no_captions.text_bytes == plain.text_bytes == sum(len((s.text or "").encode()) for s in one.segments)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_segment_comes_back_from_its_spans(root, codecs, layout):
    one = document(root)
    _, (plain,), _ = tokenized([one], root, codecs, {})
    _, (encoded,), failures = tokenized([one], root, codecs, layout)
    assert failures == []
    reading = read_spans(plain.ids, plain.spans, codecs.vocabulary)
    found = read_spans(encoded.ids, encoded.spans, codecs.vocabulary)
    for i, segment in enumerate(one.segments):
        pieces = found.pop((i, segment.kind))
        if segment.kind == "text":
            texts = [codecs.text.decode(ids) for _, ids in pieces]
            assert "".join(texts).encode() == segment.text.encode()
            assert [at for at, _ in pieces] == [len("".join(texts[:n]).encode()) for n in range(len(texts))]
        else:
            assert np.array_equal(np.concatenate([ids for _, ids in pieces]), reading[i, segment.kind][0][1])
    alts = [codecs.text.decode(ids) for pieces in found.values() for _, ids in pieces]
    assert alts == (["noch eins"] if layout.get("alt") else [])
    assert encoded.text_bytes == plain.text_bytes + sum(len(a.encode()) for a in alts)
    assert encoded.durations.sum() == plain.durations.sum() == 50
    assert len(encoded.durations) == sum(
        len(s.ids) for s in decode_tokens(encoded.ids, codecs.vocabulary) if s.kind == "speech"
    )


def test_switches_write_each_word_once_and_say_which_words_they_are(root, codecs):
    layout = {"speech": "word_switch", "words": [1, 2]}
    batch, (encoded,), _ = tokenized([document(root)], root, codecs, layout)
    found = read_spans(encoded.ids, encoded.spans, codecs.vocabulary)
    reading = read_spans(*tokenized([document(root)], root, codecs, {})[1][0][:2], codecs.vocabulary)
    raw, units = SAID.encode(), reading[5, "speech"][0][1]
    written = [(at, codecs.text.decode(ids)) for at, ids in found[6, "text"]]
    assert all(raw[at : at + len(t.encode())].decode() == t for at, t in written)
    assert all(np.array_equal(units[at : at + len(ids)], ids) for at, ids in found[5, "speech"])
    words = sum(len(t.replace("— ", "").split()) for _, t in written)
    assert 0 < words < len(TIMES)
    table = tokens_output("part-0", batch, [encoded], [])
    assert table.tables[0].table.schema == TOKENS
    assert table.info["layouts"]["s"]["switched"] == 1
    row = table.tables[0].table.to_pylist()[0]
    assert len(row["durations"]) == sum(len(ids) for _, ids in found[5, "speech"])
    assert row["text_bytes"] < len(raw) + 40


def test_word_times_in_the_meta_count_for_the_only_recording(root, codecs):
    layout = {"speech": "word_switch", "words": [1, 2]}
    one = document(root, times=None, meta={"word_times": json.dumps(TIMES)})
    assert tokenized([one], root, codecs, layout)[1][0].met["switched"] == 1
    assert tokenized([document(root, times=None)], root, codecs, layout)[1][0].met["untimed"] == 1


def test_word_times_that_are_none_cost_their_document_only(root, codecs):
    documents = [document(root, times={"a": 1}), document(root)]
    _, encoded, failures = tokenized(documents, root, codecs, {"speech": "word_switch"})
    assert [e is None for e in encoded] == [True, False]
    assert [row for row, _ in failures] == [0]
    assert "word_times" in failures[0][1]


def test_a_person_sees_the_switches_in_their_places(root, codecs):
    _, (encoded,), _ = tokenized([document(root)], root, codecs, {"speech": "word_switch", "words": [1, 2]})
    decoders = Decoders(codecs.vocabulary, codecs.text, codecs.image, codecs.speech)
    about = {"doc_ids": ["d"], "sources": ["s"], "starts": [0]}
    lengths = np.array([len(encoded.ids)], np.int32)
    stored = StoredContext(
        encoded.ids, lengths, about, "domain-000", 0, "shard", "0", 0, durations=encoded.durations
    )
    shown = read_context(stored, decoders).documents[0].pieces
    assert not any(p.note for p in shown)
    spans = [s for s in encoded.spans if s.segment in (5, 6)]
    for span in spans:
        at = span.start + (span.kind == "speech")
        piece = next(p for p in shown if p.start == at)
        assert piece.kind == span.kind
        assert (
            piece.wave is not None
            if span.kind == "speech"
            else SAID.encode()[span.at :].startswith(piece.text.encode())
        )
    assert {s.kind for s in spans} == {"text", "speech"}


class Delayed:
    config = SpeechCodecConfig(kind="dac", path="x", codebooks=4, layout="delayed")


def test_units_that_lie_across_cuts_are_refused_for_switches():
    check_codec(LayoutConfig(by_source={"s": {"speech": "alternate"}}), Delayed())
    with pytest.raises(UserError, match=r"by_source\.s: word_switch"):
        check_codec(LayoutConfig(by_source={"s": {"speech": "word_switch"}}), Delayed())
