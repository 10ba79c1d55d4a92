import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.layout_config import LayoutConfig, SourceLayout
from mixloom.tokenizers.layouts import arrange, choice
from mixloom.tokenizers.pairs import Part, Units

UNITS = Units(durations=np.full(100, 2, np.int32), rate=25.0)  # eight seconds
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "again", "and", "again"]
TIMES = json.dumps([[w, i * 0.6, i * 0.6 + 0.5] for i, w in enumerate(WORDS)])


def image(**attrs):
    return Part("image", "", attrs)


def caption(text):
    return Part("text", text, {"role": "caption"})


def speech(**attrs):
    return Part("speech", "", attrs, UNITS)


SAID = " ".join(WORDS)


def transcript(text=SAID, **attrs):
    return Part("text", text, {"role": "transcript", **attrs})


def told(parts, counts=None, doc_id="d", seed=0, **layout):
    """What is written: the texts of texts, the numbers of media."""
    pieces = arrange(parts, SourceLayout(**layout), seed, doc_id, counts)
    return [p.text if p.kind == "text" else p.segment for p in pieces]


def test_captions_move_to_the_declared_side_and_nothing_else_moves():
    parts = [
        Part("text", "a"),
        image(),
        caption("b"),
        caption("c"),
        Part("text", "d"),
        image(),
        Part("text", "e"),
    ]
    assert told(parts) == ["a", 1, "b", "c", "d", 5, "e"]
    assert told(parts, images="caption_after") == ["a", 1, "b", "c", "d", 5, "e"]
    assert told(parts, images="caption_before") == ["a", "b", "c", 1, "d", 5, "e"]
    assert told(parts, images="caption_before", adjacent=True) == ["a", "b", "c", 1, "d", "e", 5]


def test_attributes_are_captions_only_where_declared_and_only_without_a_caption():
    parts = [image(alt="seen", caption="said"), image(alt="seen"), caption("own"), image(alt=" ")]
    counts = Counter()
    assert told(parts, images="caption_before") == [0, "own", 1, 3]
    assert told(parts, counts, images="caption_before", alt=True) == ["said", 0, "own", 1, 3]
    assert counts == {"images_with_caption": 1, "images_with_attribute": 1, "images_without_caption": 1}
    piece = arrange(parts, SourceLayout(images="caption_after", alt=True), 0, "d")[1]
    assert (piece.segment, piece.kind, piece.text) == (0, "text", "said")


def test_speech_and_transcript_stand_in_the_declared_order():
    parts = [transcript("one"), speech(), Part("text", "between"), speech(), Part("text", "plain")]
    assert told(parts, speech="speech_first") == [1, "one", "between", 3, "plain"]
    assert told(parts, speech="transcript_first") == ["one", 1, "between", 3, "plain"]
    assert told(parts, speech="transcript_first", adjacent=True) == ["one", 1, "between", "plain", 3]


def test_alternate_is_decided_by_document_and_seed():
    parts = [speech(), transcript("one")]
    orders = [told(parts, doc_id=f"{i:032x}", speech="alternate") for i in range(200)]
    assert orders == [told(parts, doc_id=f"{i:032x}", speech="alternate") for i in range(200)]
    assert 70 < sum(o == [0, "one"] for o in orders) < 130
    assert orders != [told(parts, doc_id=f"{i:032x}", seed=1, speech="alternate") for i in range(200)]


def test_a_choice_has_always_been_this_one():
    assert choice(7, "ab", "order") == 3547899521185243442


def test_word_switch_writes_each_word_once_as_text_or_as_speech():
    parts = [Part("text", "before"), speech(word_times=TIMES), transcript()]
    counts = Counter()
    pieces = arrange(parts, SourceLayout(speech="word_switch", words=(2, 3)), 0, "doc", counts)[1:]
    assert all(a.kind != b.kind for a, b in itertools.pairwise(pieces))
    assert {p.segment for p in pieces if p.kind == "speech"} == {1}
    assert counts["switched"] == 1
    assert counts["stretches"] == len(pieces)
    # Word k ends after 15 k + 12.5 steps; a unit lasts two, and the end goes to the nearest boundary between units.
    ends = [*((15 * k + 13 - 1) // 2 + 1 for k in range(len(WORDS) - 1)), 100]
    said, heard = 0, 0
    for p in pieces:
        if p.kind == "text":
            assert p.start == len(" ".join(WORDS[:said]))
            words = p.text.split()
            assert words == WORDS[said : said + len(words)]
            said += len(words)
            heard = ends[said - 1]
        else:
            assert p.start == heard
            heard, said = p.stop, ends.index(p.stop) + 1
    assert said == len(WORDS)


@pytest.mark.parametrize("first", ["speech_first", "transcript_first"])
def test_word_switch_can_write_each_stretch_as_both(first):
    parts = [speech(), transcript(word_times=TIMES)]
    pieces = arrange(parts, SourceLayout(speech="word_switch", words=(1, 4), stretches=first), 3, "doc")
    assert "".join(p.text for p in pieces if p.kind == "text") == parts[1].text
    spoken = [p for p in pieces if p.kind == "speech"]
    assert [p.start for p in spoken] == [0, *(p.stop for p in spoken[:-1])]
    assert spoken[-1].stop == 100
    assert pieces[0].kind == ("speech" if first == "speech_first" else "text")


def test_without_times_word_switch_does_what_is_declared_and_counts_it():
    parts = [speech(), transcript()]
    counts = Counter()
    whole = told(parts, counts, speech="word_switch")
    assert sorted(map(str, whole)) == sorted(["0", " ".join(WORDS)])
    assert counts["untimed"] == 1
    assert counts["switched"] == 0
    counts = Counter()
    cut = told(parts, counts, speech="word_switch", untimed="proportional", stretches="speech_first")
    assert "".join(x for x in cut if isinstance(x, str)) == " ".join(WORDS)
    assert len(cut) > 3
    assert (counts["untimed"], counts["switched"], counts["proportional"]) == (1, 1, 1)


def test_times_of_other_words_are_not_used():
    parts = [speech(word_times=TIMES), transcript("quite another text")]
    counts = Counter()
    assert len(told(parts, counts, speech="word_switch")) == 2
    assert counts["mismatched"] == 1


@pytest.mark.parametrize("untimed", ["whole", "proportional"])
def test_an_empty_transcript_stays_beside_its_recording(untimed):
    for known in ({"word_times": TIMES}, {"word_times": "[]"}, {}):
        written = told([speech(**known), transcript("")], speech="word_switch", untimed=untimed)
        assert sorted(map(str, written)) == ["", "0"]


def test_one_word_cannot_be_switched():
    counts = Counter()
    times = json.dumps([["hello", 0.0, 1.0]])
    assert len(told([speech(word_times=times), transcript("hello")], counts, speech="word_switch")) == 2
    assert counts["too_short"] == 1


def test_broken_word_times_are_told():
    with pytest.raises(UserError, match="word_times"):
        told([speech(word_times="[1, 2]"), transcript()], speech="word_switch")


KINDS = {
    "I": image(alt="an alt"),
    "c": caption("a caption"),
    "t": Part("text", "plain"),
    "S": speech(),
    "T": speech(word_times=TIMES),
    "r": transcript(),
}
LAYOUTS = st.builds(
    SourceLayout,
    images=st.sampled_from(["caption_before", "caption_after"]),
    speech=st.sampled_from(["reading", "speech_first", "transcript_first", "alternate", "word_switch"]),
    adjacent=st.booleans(),
    alt=st.booleans(),
    stretches=st.sampled_from(["speech_first", "transcript_first"]),
    words=st.sampled_from([(1, 1), (2, 5), (20, 20)]),
    untimed=st.sampled_from(["whole", "proportional"]),
)


@given(st.text(alphabet="IctSTr", max_size=10), LAYOUTS, st.integers(0, 3))
def test_nothing_is_lost_or_doubled_whatever_the_layout(line, layout, seed):
    parts = [KINDS[x] for x in line]
    pieces = arrange(parts, layout, seed, "doc")
    for i, part in enumerate(parts):
        own = [p for p in pieces if p.segment == i and p.kind == part.kind]
        if part.kind == "text":
            assert "".join(p.text for p in own) == part.text
        assert [p.start for p in own] == [0, *(p.stop for p in own[:-1])]
        assert own[-1].stop == (
            len(part.text) if part.kind == "text" else 100 if part.kind == "speech" else 0
        )
    extra = [p for p in pieces if p.kind == "text" and parts[p.segment].kind != "text"]
    assert all(parts[p.segment].kind == "image" and p.text == "an alt" for p in extra)
    assert len({p.segment for p in extra}) == len(extra)
    if (
        layout.images == "caption_after"
        and layout.speech == "reading"
        and not {"cI", "tI"} & set(map("".join, itertools.pairwise(line)))
    ):
        assert [p.segment for p in pieces] == sorted(p.segment for p in pieces)


def test_sources_get_the_first_layout_whose_name_fits():
    config = LayoutConfig(
        by_source={"speech-a": {"speech": "alternate"}, "speech-*": {"speech": "speech_first"}}
    )
    assert config.of("speech-a").speech == "alternate"
    assert config.of("speech-b").speech == "speech_first"
    assert config.of("text").reading
    assert config.unknown(["speech-b", "text"]) == ["speech-a"]


def test_a_layout_that_changes_nothing_is_no_setting():
    assert LayoutConfig(by_source={"a": {}}, seed=3).settings() == {}
    assert LayoutConfig(by_source={"a": {"speech": "alternate"}}, seed=3).settings()["layout"]["seed"] == 3


@pytest.mark.parametrize(
    ("layout", "words"),
    [({"words": [3, 2]}, "fewest"), ({"words": [0, 2]}, "fewest"), ({"alt": True}, "caption_before")],
)
def test_mistakes_are_told(layout, words):
    with pytest.raises(ValueError, match=words):
        SourceLayout(**layout)
