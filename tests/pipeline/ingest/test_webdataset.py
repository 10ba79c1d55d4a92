"""WebDataset tars: a sample is a document, media stay in the tar, and damage costs the sample it lies in."""

import gzip
import io
import json
import tarfile

import pytest
import zstandard

from mixloom.pipeline.ingest.media import open_media
from mixloom.pipeline.ingest.problems import Problem


def tar(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as t:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def captions(make_png, count: int = 4) -> list[tuple[str, bytes]]:
    return [
        m
        for i in range(count)
        for m in ((f"d/{i:04d}.png", make_png(5 + i, 3)), (f"d/{i:04d}.txt", f"caption {i}".encode()))
    ]


def pack(data: bytes, packing: str) -> bytes:
    return {"tar": data, "tar.gz": gzip.compress(data, mtime=0), "tar.zst": zstandard.compress(data)}[packing]


@pytest.mark.parametrize("packing", ["tar", "tar.gz", "tar.zst"])
def test_a_sample_is_a_document_whose_media_are_read_from_the_tar(bench, make_png, packing):
    members = captions(make_png)
    bench.write(f"a.{packing}", pack(tar(members), packing))
    documents, failures = bench.read("webdataset")
    assert failures == []
    assert [[s.kind for s in d.segments] for d in documents] == [["image", "text"]] * 4
    assert [d.segments[1].text for d in documents] == [f"caption {i}" for i in range(4)]
    assert [d.locator.member for d in documents] == [f"d/{i:04d}" for i in range(4)]
    assert [d.segments[0].media.width for d in documents] == [5, 6, 7, 8]
    pictures = [data for name, data in members if name.endswith(".png")]
    for order in (range(4), (3, 0, 2, 1)):
        for i in order:
            media = documents[i].segments[0].media
            assert open_media(str(bench.root), media.uri, media.member) == pictures[i]


def test_the_order_of_media_and_text_is_a_setting(bench, make_png):
    bench.write("a.tar", tar(captions(make_png, 1)))
    (document,), _ = bench.read("webdataset", order="text_first")
    assert [s.kind for s in document.segments] == ["text", "image"]


def test_speech_with_a_transcript_in_json(bench, make_sound):
    record = {"transcript": {"de": "ein Wort"}, "speaker": 7, "lang": "de", "when": "2020-01-01"}
    bench.write(
        "a.tar", tar([("u1.flac", make_sound(format="FLAC")), ("u1.json", json.dumps(record).encode())])
    )
    (document,), failures = bench.read(
        "webdataset",
        text_field="transcript.de",
        meta_fields=["speaker"],
        language_field="lang",
        timestamp_field="when",
    )
    assert failures == []
    assert [s.kind for s in document.segments] == ["speech", "text"]
    assert document.segments[1].text == "ein Wort"
    assert (document.meta, document.language, document.timestamp) == ({"speaker": "7"}, "de", "2020-01-01")


LAYOUTS = {
    "segments": (
        {"kind": "segments"},
        {"segments": [{"text": "one"}, {"image": "0.png", "alt": "A"}, {"text": "two"}, {"image": "k.1.png"}]},
    ),
    "parallel": (
        {"kind": "parallel"},
        {"texts": ["one", None, "two", None], "images": [None, "0.png", None, "1.png"]},
    ),
    "matched": (
        {"kind": "matched", "place": "after"},
        {"text_list": ["one", "two"], "image_info": [{"image_name": "0.png", "matched_text_index": 0},
                                                     {"image_name": "1.png", "matched_text_index": 1}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_interleaved_documents_keep_their_order(bench, make_png, segments, layout):
    how, record = LAYOUTS[layout]
    bench.write(
        "a.tar",
        tar(
            [
                ("x/k.json", json.dumps(record).encode()),
                ("x/k.0.png", make_png(4, 4)),
                ("x/k.1.png", make_png(6, 4)),
            ]
        ),
    )
    (document,), failures = bench.read("webdataset", interleaved=how)
    assert failures == []
    assert [s.text or s.media.width for s in document.segments] == ["one", 4, "two", 6]


def test_an_image_the_sample_lacks_costs_that_image(bench):
    record = {"texts": ["one", None], "images": [None, "9.png"]}
    bench.write("a.tar", tar([("k.json", json.dumps(record).encode())]))
    (document,), (failure,) = bench.read("webdataset", interleaved={"kind": "parallel"})
    assert [s.text for s in document.segments] == ["one"]
    assert (failure.scope, failure.reason) == ("media", "missing_media")
    assert "it is not in the sample 'k'" in failure.detail


@pytest.mark.parametrize(
    ("how", "record", "says"),
    [
        ({"kind": "parallel"}, {"texts": ["a"], "images": []}, "'texts' has 1 entries and 'images' has 0"),
        ({"kind": "parallel"}, {"texts": ["a"], "images": ["b"]}, "place 1 of 'texts' and 'images' needs exactly one"),
        ({"kind": "parallel"}, {"images": []}, "the JSON member has no field 'texts' (it has: images)"),
        ({"kind": "matched"}, {"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": 1}]},
         "image 1 of 'image_info' needs 'image_name' and 'matched_text_index' (0 to 0)"),
        ({"kind": "segments"}, {"segments": [{"video": "x"}]}, "segment 1 of 'segments' needs exactly one of"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_told(bench, how, record, says):
    bench.write("a.tar", tar([("k.json", json.dumps(record).encode())]))
    documents, (failure,) = bench.read("webdataset", interleaved=how)
    assert documents == []
    assert says in failure.detail


@pytest.mark.parametrize("packing", ["tar", "tar.gz"])
def test_a_tar_cut_anywhere_keeps_its_whole_samples(bench, make_png, packing):
    whole = tar(captions(make_png))
    raw = pack(whole, packing)
    bench.write(f"a.{packing}", raw)
    wanted = [d.doc_id for d in bench.read("webdataset")[0]]
    counts = set()
    for stop in range(100, len(raw) - 1, max(1, len(raw) // 40)):
        bench.write(f"a.{packing}", raw[:stop])
        documents, failures = bench.read("webdataset")
        assert [d.doc_id for d in documents] == wanted[: len(documents)]
        if packing == "tar" and stop >= len(whole.rstrip(b"\0")) + 1024:
            continue  # only padding behind the end mark is missing
        assert len(failures) == 1, stop
        assert failures[0].reason in ("truncated_tar", "truncated_gzip")
        counts.add(len(documents))
    assert counts >= {0, 1, 2}


def test_tars_put_together_are_read_to_their_end(bench, make_png):
    one, two = captions(make_png, 4)[:4], captions(make_png, 4)[4:]
    bench.write("a.tar", tar(one) + tar(two))
    documents, failures = bench.read("webdataset")
    assert failures == []
    assert [d.locator.member for d in documents] == [f"d/{i:04d}" for i in range(4)]


def test_damage_in_the_middle_costs_the_sample_before_it_and_the_rest_is_read(bench, make_png):
    raw = bytearray(tar(captions(make_png), tarfile.USTAR_FORMAT))
    bench.write("a.tar", bytes(raw))
    places = {d.locator.member: d.locator.offset for d in bench.read("webdataset")[0]}
    at = places["d/0002"]
    raw[at : at + 512] = b"\xff" * 512
    bench.write("a.tar", bytes(raw))
    documents, (failure, *_) = bench.read("webdataset")
    assert next(d.locator.member for d in documents) == "d/0000"
    assert documents[-1].locator.member == "d/0003"
    assert failure.reason == "broken_tar"
    assert f"no member starts at byte {at}" in failure.detail
    assert "sample 'd/0001', which is lost with it" in failure.detail


def test_long_and_foreign_names_survive(bench):
    long = "f/" + "n" * 150
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        bench.write("a.tar", tar([(f"{long}.txt", b"one"), ("größe.txt", b"two")], format))
        documents, failures = bench.read("webdataset")
        assert failures == []
        assert [d.locator.member for d in documents] == [long, "größe"]


def test_members_without_a_suffix_and_of_other_kinds_are_passed_over(bench):
    bench.write(
        "a.tar", tar([("README", b"x"), ("__info__.json", b"{}"), ("a.txt", b"one"), ("a.cls", b"7")])
    )
    (document,), failures = bench.read("webdataset")
    assert document.segments[0].text == "one"
    assert failures == []
    bench.write("a.tar", tar([("README", b"x")]))
    documents, (failure,) = bench.read("webdataset")
    assert documents == []
    assert (failure.reason, failure.outcome) == ("no_records", "dropped")


@pytest.mark.parametrize(
    ("members", "settings", "reason", "says"),
    [
        ([("a.txt", b"x"), ("a.txt", b"y")], {}, "duplicate_member", "two members '.txt'"),
        ([("a.txt", b"x" * 99)], {"max_bytes": 50}, "too_large", "more than max_bytes (50) bytes"),
        ([("a.txt", b"\xff")], {}, "invalid_utf8", "'a.txt' is not valid utf-8"),
        ([("a.json", b"{")], {"text_field": "t"}, "malformed_json", "'a.json': Expecting"),
        ([("a.json", b"[]")], {"text_field": "t"}, "not_an_object", "holds no JSON object"),
        ([("a.txt", b"x")], {"text_field": "t"}, "missing_member", "has no member '.json' (it has: txt)"),
        ([("a.json", b'{"u": 1}')], {"text_field": "t"}, "missing_field", "the field 't' is missing (it has: u)"),
        ([("a.json", b'{"t": 1}')], {"text_field": "t"}, "wrong_type", "the field 't' is no text"),
        ([("a.txt", b" ")], {}, "empty_document", "no text and no media"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_read_is_told(bench, members, settings, reason, says):
    bench.write("a.tar", tar([*members, ("b.txt", b"fine"), ("b.json", b'{"t": "fine"}')]))
    documents, (failure,) = bench.read("webdataset", **settings)
    assert len(documents) == 1
    assert failure.reason == reason
    assert says in failure.detail
    assert failure.locator.member == "a"


def test_a_reference_into_a_tar_that_changed_says_so(bench, make_png):
    bench.write("a.tar", tar(captions(make_png, 2)))
    documents, _ = bench.read("webdataset")
    media = documents[1].segments[0].media
    bench.write("a.tar", tar([("other.txt", b"x")]))
    with pytest.raises(Problem, match=r"has no member 'd/0001\.png' at byte \d+ any more"):
        open_media(str(bench.root), media.uri, media.member)


def test_webdataset_itself_reads_the_same_samples(bench, make_png):
    import webdataset

    members = [*captions(make_png), ("d/x.seg.txt", b"t"), ("e.f/y.txt", b"u")]
    path = bench.write("a.tar", tar(members))
    theirs = [s["__key__"] for s in webdataset.WebDataset(str(path), shardshuffle=False)]
    documents, failures = bench.read("webdataset", text=["txt", "seg.txt"])
    assert failures == []
    assert [d.locator.member for d in documents] == theirs
