import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.tokenizers.interleave import Span, decode_tokens, encode_document
from mixloom.tokenizers.vocab import Vocabulary

VOCAB = Vocabulary.build(
    300,
    "t",
    image_size=40,
    image_fingerprint="i",
    speech_size=20,
    speech_fingerprint="s",
    reserve={"image": 256},
)
USED = {"text": 300, "image": 40, "speech": 20}
TOKENS = 4


def _segment(kind: str) -> st.SearchStrategy[tuple[str, list[int]]]:
    ids = st.integers(0, USED[kind] - 1)
    low, high = (TOKENS, TOKENS) if kind == "image" else (1, 6)
    return st.tuples(st.just(kind), st.lists(ids, min_size=low, max_size=high))


def documents(min_size: int = 0) -> st.SearchStrategy[list[tuple[str, list[int]]]]:
    return st.lists(st.sampled_from(sorted(USED)).flatmap(_segment), min_size=min_size, max_size=7)


def encode(document):
    by_kind = [[np.array(ids) for kind, ids in document if kind == k] for k in ("text", "image", "speech")]
    return encode_document([kind for kind, _ in document], *by_kind, VOCAB)


def decode(ids):
    return [(s.kind, s.ids.tolist()) for s in decode_tokens(ids, VOCAB)]


def test_a_document_is_written_as_documented():
    ids, spans = encode(
        [("text", [5]), ("text", [6, 7]), ("image", [1, 2, 3, 4]), ("speech", [9]), ("text", [8])]
    )
    t, i, s = VOCAB.text.start, VOCAB.image.start, VOCAB.speech.start
    assert ids.dtype == np.uint32
    assert ids.tolist() == [
        1,
        t + 5,
        7,
        t + 6,
        t + 7,
        3,
        i + 1,
        i + 2,
        i + 3,
        i + 4,
        4,
        5,
        s + 9,
        6,
        t + 8,
        2,
    ]
    assert spans == [
        Span("text", 1, 2, 0),
        Span("text", 3, 5, 1),
        Span("image", 5, 11, 2),
        Span("speech", 11, 14, 3),
        Span("text", 14, 15, 4),
    ]


@given(documents())
def test_decoding_undoes_encoding(document):
    ids, _ = encode(document)
    assert decode(ids) == document
    assert all(s.complete for s in decode_tokens(ids, VOCAB))


@given(documents())
def test_spans_and_structure_cover_every_token_once(document):
    ids, spans = encode(document)
    assert [s.kind for s in spans] == [kind for kind, _ in document]
    covered = np.zeros(len(ids), int)
    for span in spans:
        covered[span.start : span.stop] += 1
    assert covered.max() <= 1
    assert set(ids[covered == 0].tolist()) <= {1, 2, 7}
    assert ids[0] == 1
    assert ids[-1] == 2
    breaks = sum(a[0] == b[0] == "text" for a, b in pairwise(document))
    assert (ids == 7).sum() == breaks


@given(documents(), st.data())
def test_a_stream_cut_anywhere_decodes_to_a_prefix(document, data):
    ids, _ = encode(document)
    cut = data.draw(st.integers(0, len(ids)))
    whole, found = decode(ids), decode(ids[:cut])
    assert len(found) <= len(whole)
    for n, (kind, local) in enumerate(found):
        assert kind == whole[n][0]
        assert local == (whole[n][1] if n < len(found) - 1 else whole[n][1][: len(local)])
    for n, segment in enumerate(decode_tokens(ids[:cut], VOCAB)):
        assert not segment.complete or decode(ids)[n][1] == segment.ids.tolist()


@given(documents(), st.data())
def test_both_sides_of_a_cut_hold_every_local_id(document, data):
    ids, _ = encode(document)
    cut = data.draw(st.integers(0, len(ids)))
    parts = decode(ids[:cut]) + decode(ids[cut:])
    assert [i for _, local in parts for i in local] == [i for _, local in document for i in local]


def test_documents_of_a_context_are_counted_and_padding_is_left_out():
    first, second = encode([("text", [1])])[0], encode([("text", [2]), ("speech", [3, 3])])[0]
    stream = np.concatenate([first, second, np.zeros(5, np.uint32)]).astype(np.uint16)
    assert [s.document for s in decode_tokens(stream, VOCAB)] == [0, 1, 1]
    assert [s.document for s in decode_tokens(stream[1:], VOCAB)] == [0, 1, 1]
    cut = decode_tokens(stream[:6], VOCAB)
    assert [(s.start, s.complete) for s in cut] == [(1, True), (4, True)]


def test_an_image_without_its_end_is_not_complete():
    ids, _ = encode([("image", [1, 2, 3, 4]), ("text", [5])])
    without_end = ids[ids != 4]
    assert [s.complete for s in decode_tokens(without_end, VOCAB)] == [False, True]


def test_an_empty_segment_writes_nothing_and_keeps_its_place_among_the_spans():
    ids, spans = encode([("text", []), ("image", [1, 2, 3, 4]), ("text", []), ("text", [5]), ("speech", [])])
    assert decode(ids) == [("image", [1, 2, 3, 4]), ("text", [5])]
    assert [(s.kind, s.stop - s.start) for s in spans] == [
        ("text", 0),
        ("image", 6),
        ("text", 0),
        ("text", 1),
        ("speech", 0),
    ]
    assert 7 not in ids


def test_texts_around_an_empty_picture_still_have_a_break_between_them():
    ids, _ = encode([("text", [1]), ("speech", []), ("text", [2])])
    assert decode(ids) == [("text", [1]), ("text", [2])]


@pytest.mark.parametrize(("kind", "wrong"), [("text", 300), ("image", 40), ("speech", 20), ("text", -1)])
def test_an_id_its_codec_cannot_give_is_refused(kind, wrong):
    with pytest.raises(ValueError, match=rf"{kind} ids .*{wrong}"):
        encode([(kind, [wrong])])


def test_a_codec_the_vocabulary_lacks_is_refused():
    bare = Vocabulary.build(300, "t")
    with pytest.raises(ValueError, match="are not in the vocabulary, which holds 0"):
        encode_document(["image"], [], [np.array([0])], [], bare)


def test_segments_and_ids_must_match_in_number():
    with pytest.raises(ValueError, match="1 text segments but ids for 2"):
        encode_document(["text"], [np.array([1]), np.array([2])], [], [], VOCAB)


def test_ids_beyond_the_vocabulary_are_not_decoded():
    with pytest.raises(ValueError, match="do not fit"):
        decode_tokens([VOCAB.size], VOCAB)


def test_vocabulary_text_and_interleaving_need_no_torch():
    program = (
        "import sys; import mixloom.tokenizers.vocab, mixloom.tokenizers.text, mixloom.tokenizers.interleave, "
        "mixloom.tokenizers.settings; print([m for m in ('torch', 'faiss', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
