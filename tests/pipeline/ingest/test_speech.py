import pytest

from mixloom.pipeline.errors import UserError


@pytest.fixture
def voices(bench, make_sound):
    for name in ("LJ-1", "LJ-2", "LJ-3"):
        bench.write(f"wavs/{name}.wav", make_sound())
    return bench


def test_a_recording_is_followed_by_its_transcript(voices, segments):
    voices.write("metadata.csv", 'LJ-1|one|ONE\nLJ-2|two "|TWO\nLJ-3|three|THREE\n')
    documents, failures = voices.read("speech", transcripts={"path": "metadata.csv", "text_column": 2})
    assert failures == []
    assert [segments(d) for d in documents][1] == [("speech", "wavs/LJ-2.wav"), ("text", "TWO")]
    assert documents[0].segments[1].attrs == {"role": "transcript"}
    assert documents[0].segments[0].media.seconds == 0.25
    assert documents[0].locator.uri == "wavs/LJ-1.wav"


def test_columns_can_be_named_and_ids_can_carry_their_suffix(voices, segments):
    voices.write("t.tsv", "path\tsentence\nLJ-1.wav\tone\nLJ-2.wav\ttwo\nLJ-3.wav\tthree\n")
    table = {"path": "t.tsv", "delimiter": "\t", "id_column": "path", "text_column": "sentence"}
    documents, failures = voices.read("speech", transcripts=table, order="transcript_first")
    assert failures == []
    assert segments(documents[2]) == [("text", "three"), ("speech", "wavs/LJ-3.wav")]


def test_a_column_can_tell_when_words_are_said(voices):
    times = '[["one", 0.0, 0.2]]'
    voices.write("t.psv", f"id|said|times\nLJ-1|one|{times}\nLJ-2|two|\nLJ-3|three\n")
    table = {"path": "t.psv", "id_column": "id", "text_column": "said", "times_column": "times"}
    documents, failures = voices.read("speech", transcripts=table)
    assert [d.segments[0].attrs for d in documents] == [{"word_times": times}, {}]
    assert sorted(f.reason for f in failures) == ["missing_transcript", "short_row"]


def test_what_does_not_pair_up_is_a_failure_on_either_side(voices):
    voices.write("m.csv", "LJ-1|one\nLJ-9|nine\nLJ-2|\nbroken\nLJ-1|again\n")
    documents, failures = voices.read("speech", transcripts={"path": "m.csv"})
    assert [d.locator.uri for d in documents] == ["wavs/LJ-1.wav"]
    found = {(f.reason, f.locator.uri, f.locator.offset): f.detail for f in failures}
    assert len(found) == len(failures) == 5
    assert "row 4 has 1 columns, the source needs 2 (delimiter '|')" in found["short_row", "m.csv", 4]
    assert "row 2 is for 'LJ-9', but there is no such recording" in found["missing_media", "m.csv", 2]
    assert (
        "row 5 gives 'LJ-1' a second transcript; the one in row 1 was taken"
        in found["duplicate_id", "m.csv", 5]
    )
    assert "the transcript in row 3 of 'm.csv' is empty" in found["missing_transcript", "wavs/LJ-2.wav", -1]
    assert (
        "'m.csv' has no row for this recording (looked for id 'LJ-3')"
        in found["missing_transcript", "wavs/LJ-3.wav", -1]
    )


def test_a_bad_byte_in_the_table_costs_its_row_only(voices):
    voices.write("m.csv", b"LJ-1|one\nLJ-2|tw\xffo\nLJ-3|three\n")
    documents, failures = voices.read("speech", transcripts={"path": "m.csv"})
    assert len(documents) == 2
    assert sorted(f.reason for f in failures) == ["invalid_utf8", "missing_transcript"]
    assert "row 2 is not valid utf-8: byte 0xff" in failures[0].detail


def test_a_label_in_the_name_is_looked_up(bench, make_sound, segments):
    bench.write("1_0.wav", make_sound())
    bench.write("1_7.wav", make_sound(0.3))
    bench.write("odd.wav", make_sound(0.2))
    documents, failures = bench.read(
        "speech",
        label_from_path=r"(?P<label>[\d_]+)\.wav",
        label_split="_",
        label_map={"1": "yes", "0": "no"},
    )
    assert segments(documents[0]) == [("speech", "1_0.wav"), ("text", "yes no")]
    assert [f.reason for f in failures] == ["unknown_label", "missing_transcript"]
    assert "the label '7' of '1_7.wav' is not in label_map (it has: 0, 1)" in failures[0].detail


def test_recordings_alone_and_bad_recordings(bench, make_sound, segments):
    bench.write("a.flac", make_sound(format="FLAC"))
    bench.write("b.wav", make_sound()[:100])
    bench.write("c.wav", "")
    bench.write("d.wav", make_sound(0.0))
    documents, failures = bench.read("speech", order="speech_only")
    assert [segments(d) for d in documents] == [[("speech", "a.flac")]]
    assert [(f.locator.uri, f.reason, f.scope) for f in failures] == [
        ("b.wav", "truncated_audio", "document"),
        ("c.wav", "empty_audio", "document"),
        ("d.wav", "empty_audio", "document"),
    ]


def test_two_recordings_of_one_id_must_be_told_apart(bench, make_sound, segments):
    bench.write("x/1.wav", make_sound())
    bench.write("y/1.wav", make_sound(0.3))
    bench.write("m.csv", "x/1.wav|one\ny/1.wav|two\n")
    with pytest.raises(UserError, match=r"'x/1.wav' and 'y/1.wav' both answer to '1' in 'm.csv'"):
        bench.read("speech", transcripts={"path": "m.csv"})
    documents, failures = bench.read("speech", transcripts={"path": "m.csv", "match": "path"})
    assert failures == []
    assert [segments(d)[1][1] for d in documents] == ["one", "two"]
