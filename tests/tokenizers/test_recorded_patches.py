"""The patches of documents: every token in one, none over the edge of a segment, those of speech where words lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.interleave import encode_document
from mixloom.tokenizers.recorded_patches import document_patches, recording_patches
from mixloom.tokenizers.settings import PatchConfig, SpeechPatchConfig, TextTokenizerConfig
from mixloom.tokenizers.text import train_text_tokenizer
from mixloom.tokenizers.text_bytes import make_text_tokenizer
from mixloom.tokenizers.vocab import Vocabulary

BYTES = make_text_tokenizer(TextTokenizerConfig(kind="bytes", patches=PatchConfig(kind="space")), ["none"])[0]
BARE = make_text_tokenizer(TextTokenizerConfig(kind="bytes", patches=PatchConfig(kind="none")), ["none"])[0]
BPE = train_text_tokenizer(["some words"], TextTokenizerConfig(vocab_size=300))
VOCABULARY = Vocabulary.build(
    256, "t", image_size=50, image_fingerprint="i", speech_size=20, speech_fingerprint="s"
)


class Codec:
    """As much of a speech codec as patches need: two samples a step, one step a unit."""

    rate, units_per_second = 100, 50


SEGMENTS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(max_size=20)),
        st.tuples(st.just("image"), st.integers(1, 9)),
        st.tuples(st.just("speech"), st.lists(st.integers(1, 5), max_size=6)),
    ),
    max_size=6,
)


@pytest.mark.parametrize("text", [BYTES, BARE], ids=["patched", "bare"])
@given(segments=SEGMENTS, grouped=st.booleans())
def test_patches_cover_every_token_and_those_of_a_segment_are_its_own(text, segments, grouped):
    by_kind = {"text": [], "image": [], "speech": []}
    wanted = [1]  # <doc>
    units, last = [], ""
    for kind, content in segments:
        if kind == "text":
            ids = text.encode_batch([content.encode("utf-8", "replace").decode()])[0]
            own = list(text.patch_lengths(ids)) if text.patched and len(ids) else [1] * len(ids)
        elif kind == "image":
            ids, own = np.arange(content), [1] * content
        else:
            ids = np.zeros(sum(content), int)
            own = content if grouped else [1] * sum(content)
            units += content
        by_kind[kind].append(ids)
        if len(ids):
            between = [1] if kind == last == "text" else []
            wanted += between + (own if kind == "text" else [1, *own, 1])
            last = kind
    kinds = [kind for kind, _ in segments]
    ids, _ = encode_document(kinds, by_kind["text"], by_kind["image"], by_kind["speech"], VOCABULARY)
    found = document_patches(ids, VOCABULARY, text, np.array(units, np.int32) if grouped else None)
    if not (text.patched or grouped):
        assert found is None
        return
    assert found.dtype == np.uint16
    assert found.tolist() == [*wanted, 1]
    assert found.sum() == len(ids)


def test_a_recording_written_in_stretches_has_its_patches_cut_with_it():
    units = np.arange(10)
    ids, _ = encode_document(["speech", "text", "speech"], [[65, 66]], [], [units[:4], units[4:]], VOCABULARY)
    found = document_patches(ids, VOCABULARY, BYTES, np.array([3, 3, 4], np.int32))
    #        <doc> <speech> 4 units </speech> AB <speech> 6 units </speech> </doc>
    assert found.tolist() == [1, 1, 3, 1, 1, 2, 1, 2, 4, 1, 1]


def test_patches_of_other_recordings_are_refused():
    ids, _ = encode_document(["speech"], [], [], [np.zeros(5, int)], VOCABULARY)
    with pytest.raises(ValueError, match="patches of 7 units of speech, and the document has 5"):
        document_patches(ids, VOCABULARY, BPE, np.array([3, 4], np.int32))


def patches(config, units=12, attrs=None, words=(), wave=None):
    wave = np.ones(2 * units, np.float32) if wave is None else wave
    lasting = np.ones(units, np.int32)
    found = recording_patches(SpeechPatchConfig(**config), wave, Codec, lasting, attrs or {}, words)
    return None if found is None else found.tolist()


def test_patches_of_a_recording_are_of_the_kind_that_is_declared():
    assert patches({}) is None
    assert patches({"kind": "fixed", "size": 5}) == [5, 5, 2]
    half = np.concatenate([np.zeros(12), np.ones(12)]).astype(np.float32)
    assert patches({"kind": "silence", "size": 4, "longest": 5}, wave=half) == [5, 1, 4, 2]


def test_aligned_patches_are_words_and_gaps_where_times_are_known():
    timed = {"word_times": '[["one", 0.04, 0.1], ["two", 0.1, 0.2]]'}
    assert patches({"kind": "aligned"}, attrs=timed) == [2, 3, 5, 2]
    assert patches({"kind": "aligned", "longest": 4}, attrs=timed, words=["a", "b"]) == [2, 3, 4, 1, 2]
    with pytest.raises(UserError, match=r"word_times: .* is not a list of words with their times"):
        patches({"kind": "aligned"}, attrs={"word_times": "[1]"})


def test_aligned_patches_without_times_are_guessed_from_the_transcript_or_fixed():
    assert patches({"kind": "aligned"}, words=["a", "bcd"]) == [4, 8]
    assert patches({"kind": "aligned", "untimed": "fixed", "size": 7}, words=["a", "bcd"]) == [7, 5]
    assert patches({"kind": "aligned", "size": 7}) == [7, 5]
