import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import SPECIALS, Vocabulary, require_same_vocabulary

FULL = {"image_size": 1000, "image_fingerprint": "i", "speech_size": 100, "speech_fingerprint": "s"}


def test_specials_have_their_published_numbers():
    first = [name for name, number in SPECIALS.items() if number < 8]
    assert first == ["<pad>", "<doc>", "</doc>", "<image>", "</image>", "<speech>", "</speech>", "<break>"]
    assert (SPECIALS["<mask:0>"], SPECIALS["<mask:63>"]) == (32, 95)
    assert len(set(SPECIALS.values())) == len(SPECIALS)


def test_blocks_follow_each_other_with_room_to_grow():
    vocab = Vocabulary.build(8192, "t", **FULL)
    assert [(b.name, b.start, b.size, b.used) for b in vocab.blocks] == [
        ("special", 0, 256, 96),
        ("text", 256, 8192, 8192),
        ("image", 8448, 1024, 1000),
        ("speech", 9472, 512, 100),
    ]
    assert (vocab.size, vocab.dtype) == (9984, np.uint16)


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(0, 3000))
def test_blocks_are_disjoint_and_aligned_for_any_sizes(text, image, speech):
    vocab = Vocabulary.build(
        text, "t", image_size=image, image_fingerprint="i", speech_size=speech, speech_fingerprint="s"
    )
    owner = np.zeros(vocab.size, int)
    for b in vocab.blocks:
        assert b.start % 256 == 0
        assert b.size % 256 == 0
        assert b.used <= b.size
        owner[b.start : b.stop] += 1
    assert (owner == 1).all()
    assert vocab.size % 256 == 0
    assert [b.used for b in vocab.blocks[1:]] == [text, image, speech]
    assert np.iinfo(vocab.dtype).max >= vocab.size - 1


@pytest.mark.parametrize(("text", "dtype"), [(65_024, "uint16"), (65_025, "uint32")])
def test_ids_take_two_bytes_up_to_a_size_of_65535(text, dtype):
    assert Vocabulary.build(text, "t").dtype == dtype


def test_modality_is_a_function_of_the_id_and_specials_are_text():
    vocab = Vocabulary.build(300, "t", **FULL)
    table = vocab.modality_table()
    assert table.dtype == np.uint8
    assert table.shape == (vocab.size,)
    for number in range(vocab.size):
        expected = (
            1 if vocab.image.start <= number < vocab.image.stop else 2 if number >= vocab.speech.start else 0
        )
        assert table[number] == expected
    ids = np.array([[0, 3, 300], [vocab.image.start, vocab.speech.start, vocab.size - 1]], np.uint16)
    assert vocab.modality(ids).tolist() == [[0, 0, 0], [1, 2, 2]]


def test_an_id_outside_the_vocabulary_has_no_modality():
    vocab = Vocabulary.build(300, "t")
    for wrong in (vocab.size, -1):
        with pytest.raises(ValueError, match="do not fit"):
            vocab.modality([wrong])


def test_the_modality_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        Vocabulary.build(300, "t").modality_table()[0] = 1


def test_a_codec_added_later_is_appended_and_renumbers_nothing():
    speech_only = Vocabulary.build(1000, "t", speech_size=100, speech_fingerprint="s")
    both = speech_only.with_block("image", 1000, "i")
    assert speech_only.image.size == 0
    assert (both.text, both.speech) == (speech_only.text, speech_only.speech)
    assert both.image.start == speech_only.size
    before = speech_only.modality_table()
    assert (both.modality_table()[: speech_only.size] == before).all()


def test_a_codec_is_replaced_in_place_while_it_fits():
    vocab = Vocabulary.build(1000, "t", **FULL)
    larger = vocab.with_block("speech", 500, "hubert")
    assert (larger.speech.start, larger.speech.size, larger.speech.used) == (vocab.speech.start, 512, 500)
    assert larger.fingerprint != vocab.fingerprint
    with pytest.raises(UserError, match="reserves 512 ids and the new codec needs 513"):
        vocab.with_block("speech", 513, "x")


def test_a_reservation_can_be_declared():
    vocab = Vocabulary.build(1000, "t", **FULL, reserve={"image": 8192})
    assert (vocab.image.size, vocab.image.used, vocab.speech.start) == (8192, 1000, 256 + 1024 + 8192)


def test_saved_vocabulary_loads_as_the_same(tmp_path):
    vocab = Vocabulary.build(1000, "t", **FULL)
    vocab.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert loaded == vocab
    loaded.require_same(vocab)
    content = json.loads((tmp_path / "vocab.json").read_text())
    assert {"version", "size", "pad", "dtype", "ranges", "fingerprint"} == set(content)
    assert set(content["ranges"][0]) == {"name", "start", "size", "used", "modality", "fingerprint"}
    assert [p.name for p in tmp_path.iterdir()] == ["vocab.json"]


def test_different_vocabularies_are_told_apart_by_name():
    ours, theirs = (Vocabulary.build(1000, "t", **(FULL | {"image_fingerprint": f})) for f in "ab")
    with pytest.raises(UserError) as error:
        ours.require_same(theirs, what="the shards")
    text = str(error.value)
    assert ours.fingerprint[:16] in text
    assert theirs.fingerprint[:16] in text
    assert "the shards: they differ in image" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(version=2), "version 2, expected 1"),
        (lambda v: v["ranges"][2].update(start=256), "inside the range before it"),
        (lambda v: v["ranges"][1].update(start=300), "not aligned"),
        (lambda v: v["ranges"][1].update(used=5000), "uses 5000 of 1024"),
        (lambda v: v["ranges"][1].update(modality=1), "modality 1, expected 0"),
        (lambda v: v["ranges"][1].update(fingerprint="other"), "content gives"),
        (lambda v: v.update(size=99_999), "content gives"),
        (lambda v: v["ranges"].pop(), "expected"),
        (lambda v: v["ranges"][0].pop("used"), "malformed"),
        (lambda v: v.pop("fingerprint"), "malformed"),
    ],
)
def test_a_tampered_vocabulary_is_refused(change, message):
    value = json.loads(json.dumps(Vocabulary.build(1000, "t", **FULL).to_json()))
    Vocabulary.from_json(value)
    change(value)
    with pytest.raises(UserError, match=message):
        Vocabulary.from_json(value)


def test_a_missing_vocabulary_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json"):
        Vocabulary.load(tmp_path / "nothing.json")


def test_a_model_refuses_shards_of_another_vocabulary_by_both_fingerprints():
    model = Vocabulary.build(1000, "t", **FULL).to_json()
    assert require_same_vocabulary(model, json.loads(json.dumps(model)), what="run").to_json() == model
    for other, differ in (
        (Vocabulary.build(1000, "another text tokenizer", **FULL), "text"),
        (Vocabulary.build(1000, "t", **(FULL | {"speech_size": 90})), "speech"),
    ):
        with pytest.raises(UserError) as error:
            require_same_vocabulary(model, other.to_json(), what="runs/b/shards")
        text = str(error.value)
        assert model["fingerprint"][:16] in text
        assert other.fingerprint[:16] in text
        assert f"of runs/b/shards: they differ in {differ}" in text


@given(
    st.permutations(["image", "speech"]), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 70_000)
)
def test_adding_codecs_in_any_order_never_moves_an_id(order, image, speech, text):
    sizes = {"image": image, "speech": speech}
    vocab = Vocabulary.build(text, "t")
    for name in order:
        larger = vocab.with_block(name, sizes[name], name)
        assert [b for b in larger.blocks if b.name != name] == [b for b in vocab.blocks if b.name != name]
        assert (larger.modality_table()[: vocab.size] == vocab.modality_table()).all()
        assert larger.fingerprint != vocab.fingerprint
        again = larger.with_block(name, max(1, sizes[name] // 2), "replaced")
        assert [(b.start, b.size) for b in again.blocks] == [(b.start, b.size) for b in larger.blocks]
        vocab = larger
