"""Tokenizing documents: media read where they lie, failures told by place, rows grouped by cell."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mixloom.pipeline.engine import with_part
from mixloom.pipeline.ingest.media import inspect_audio, inspect_image, load_audio
from mixloom.pipeline.manifest import text_entries
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.tokenizers.codecs import make_image_codec, make_speech_codec
from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.interleave import decode_tokens
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig, TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.transform import TOKENS, tokenize, tokens_output
from mixloom.tokenizers.vocab import Vocabulary


def png(colour):
    out = io.BytesIO()
    Image.new("RGB", (40, 24), colour).save(out, "PNG")
    return out.getvalue()


def wav(hertz, seconds=0.5):
    out = io.BytesIO()
    tone = np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000) * 12000
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16000)
        f.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def codecs():
    text = train_text_tokenizer(["a red square and a high tone"] * 20, TextTokenizerConfig(vocab_size=300))
    pictures = [Image.new("RGB", (40, 24), c) for c in ("red", "blue", "green", "white")]
    image, _ = make_image_codec(ImageCodecConfig(size=16, steps=3, width=8, blocks=0, crops=16), pictures)
    tones = [np.sin(h * np.arange(8000) / 900).astype(np.float32) for h in range(1, 30)]
    speech, _ = make_speech_codec(SpeechCodecConfig(units=10), tones)
    vocabulary = Vocabulary.build(
        text.size,
        text.fingerprint,
        image_size=image.codebook_size,
        image_fingerprint=image.fingerprint,
        speech_size=speech.codebook_size,
        speech_fingerprint=speech.fingerprint,
    )
    return Codecs(text, image, speech, vocabulary)


@pytest.fixture
def root(tmp_path):
    for name, data in {"red.png": png("red"), "blue.png": png("blue"), "tone.wav": wav(440)}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def media(root: Path, name: str) -> Segment:
    data = (root / name).read_bytes()
    if name.endswith(".wav"):
        return Segment(kind="speech", media=inspect_audio(data, name))
    return Segment(kind="image", media=inspect_image(data, name, max_pixels=10**6))


def words(text: str) -> Segment:
    return Segment(kind="text", text=text)


def batch(*documents: tuple[Segment, ...]) -> pa.RecordBatch:
    made = [Document(source="s", locator=Locator(uri=f"{i}"), segments=d) for i, d in enumerate(documents)]
    out = documents_batch(made)
    cells = pa.array([i % 2 for i in range(len(made))], pa.int32())
    return with_part(out.append_column("domain", cells).append_column("cell", cells), "part-0")


def kinds(ids, codecs):
    return [s.kind for s in decode_tokens(ids, codecs.vocabulary)]


def test_a_document_comes_back_in_reading_order_with_its_text(root, codecs):
    document = (words("a red square"), media(root, "red.png"), words("and a tone"), media(root, "tone.wav"))
    encoded, failures = tokenize(batch(document), codecs, {"s": str(root)})
    assert failures == []
    ids, spans = encoded[0].ids, encoded[0].spans
    assert kinds(ids, codecs) == ["text", "image", "text", "speech"]
    assert [s.kind for s in spans] == ["text", "image", "text", "speech"]
    decoded = decode_tokens(ids, codecs.vocabulary)
    assert codecs.text.decode(decoded[0].ids) == "a red square"
    assert len(decoded[1].ids) == codecs.image.tokens


def test_a_document_gets_the_same_tokens_alone_and_among_others(root, codecs):
    first = (media(root, "red.png"), words("red"))
    second = (words("blue"), media(root, "blue.png"), media(root, "red.png"))
    alone = tokenize(batch(second), codecs, {"s": str(root)})[0][0][0]
    among = tokenize(batch(first, second, first), codecs, {"s": str(root)})[0][1][0]
    assert np.array_equal(alone, among)


def test_media_that_vanished_or_changed_fail_their_document_by_name_and_nothing_else(root, codecs):
    gone = (words("gone"), media(root, "blue.png"))
    changed = (words("changed"), media(root, "tone.wav"))
    fine = (words("fine"), media(root, "red.png"))
    documents = batch(fine, gone, changed, fine)
    (root / "blue.png").unlink()
    (root / "tone.wav").write_bytes(wav(880))
    encoded, failures = tokenize(documents, codecs, {"s": str(root)})
    assert [e is not None for e in encoded] == [True, False, False, True]
    assert [row for row, _ in failures] == [1, 2]
    assert "blue.png" in failures[0][1]
    assert "tone.wav: its content has changed since ingest read it" in failures[1][1]

    output = tokens_output("part-0", documents, encoded, failures)
    rejects = output.rejects.to_pylist()
    assert output.kept == 2
    assert [(r["outcome"], r["reason"], r["scope"]) for r in rejects] == [
        ("failed", "media_not_encodable", "document")
    ] * 2
    assert rejects[0]["doc_id"] == documents.column("doc_id")[1].as_py()


def test_an_image_where_no_image_codec_was_fitted_fails_its_document(root, codecs):
    none = Codecs(codecs.text, None, None, Vocabulary.build(codecs.text.size, codecs.text.fingerprint))
    encoded, failures = tokenize(
        batch((words("a"), media(root, "red.png")), (words("b"),)), none, {"s": str(root)}
    )
    assert encoded[0] is None
    assert encoded[1] is not None
    assert "no image codec could be fitted" in failures[0][1]


def test_rows_are_grouped_by_cell_with_one_row_group_each(root, codecs):
    documents = batch(*[(words(f"text {i}"),) for i in range(5)])
    encoded, failures = tokenize(documents, codecs, {"s": str(root)})
    table = tokens_output("part-0", documents, encoded, failures).tables[0]
    assert table.table.schema == TOKENS
    assert table.table["cell"].to_pylist() == [0, 0, 0, 1, 1]
    assert table.row_groups == [3, 2]
    assert table.table["length"].to_pylist() == [len(x) for x in table.table["input_ids"].to_pylist()]


def test_durations_of_speech_stand_beside_the_tokens_so_that_it_lasts_as_long_as_it_did(root, codecs):
    documents = batch((words("a"),), (media(root, "tone.wav"), words("and"), media(root, "tone.wav")))
    encoded, failures = tokenize(documents, codecs, {"s": str(root)})
    silent, heard = tokens_output("part-0", documents, encoded, failures).tables[0].table.to_pylist()
    assert silent["durations"] is None
    segments = [s for s in decode_tokens(heard["input_ids"], codecs.vocabulary) if s.kind == "speech"]
    assert len(heard["durations"]) == sum(len(s.ids) for s in segments)
    half = len(segments[0].ids)
    again = codecs.speech.decode(segments[0].ids, np.array(heard["durations"][:half], np.int32))
    original = load_audio((root / "tone.wav").read_bytes(), codecs.speech.rate)
    assert 0 <= len(again) - len(original) < codecs.speech.rate / codecs.speech.units_per_second


def test_a_part_of_which_nothing_is_left_is_written_empty(root, codecs):
    documents = batch((words("x"),)).slice(0, 0)
    output = tokens_output("part-0", documents, [], [])
    assert (output.kept, output.tables[0].table.num_rows, output.tables[0].row_groups) == (0, 0, [0])


def test_bytes_and_tokens_of_text_are_counted_by_source_and_language(root, codecs):
    texts = [("a red square", "en"), ("ein rotes Quadrat: größer", "de"), ("a tone", "en"), ("?", None)]
    made = [
        Document(
            source="t" if i else "s",
            locator=Locator(uri=f"{i}"),
            segments=(words(text), media(root, "red.png"), words("é")),
            language=language,
        )
        for i, (text, language) in enumerate(texts)
    ]
    cells = pa.array([i % 2 for i in range(len(made))], pa.int32())
    documents = documents_batch(made).append_column("domain", cells).append_column("cell", cells)
    documents = with_part(documents, "part-0")
    encoded, failures = tokenize(documents, codecs, {"s": str(root), "t": str(root)})
    output = tokens_output("part-0", documents, encoded, failures)
    table = output.tables[0].table
    by_id = {r["doc_id"]: r for r in table.to_pylist()}
    for document, (text, language) in zip(made, texts):
        row = by_id[document.doc_id]
        ids = np.array(row["input_ids"])
        assert row["text_bytes"] == len((text + "é").encode())
        assert row["text_tokens"] == sum(
            len(s.ids) for s in decode_tokens(ids, codecs.vocabulary) if s.kind == "text"
        )
        assert row["language"] == language
    entries = text_entries({"part-0": output.info, "part-1": output.info, "model": {}})
    assert [(e.source, e.language, e.documents) for e in entries] == [
        ("s", "en", 2),
        ("t", "", 2),
        ("t", "de", 2),
        ("t", "en", 2),
    ]
    german = next(r for r in by_id.values() if r["language"] == "de")
    assert (entries[2].bytes, entries[2].tokens) == (2 * german["text_bytes"], 2 * german["text_tokens"])
    assert entries[2].bytes_per_token == round(german["text_bytes"] / german["text_tokens"], 4)
