"""Records of web archives: any cut of a file gives the same ones, and damage costs only what it touches."""

import gzip
import io
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixloom.pipeline.ingest.files import source_files
from mixloom.pipeline.ingest.warc_records import Damage, Record, record_at, records

sys.path.insert(0, str(Path(__file__).parent))
import itertools

from warc_files import arc, http, pack, page, record, response

PACKINGS = ["plain", "gzip", "zstd"]


def read(root: Path, want=lambda *_: True, start=0, stop=-1, limit=1 << 20, name="a.warc"):
    out = list(records(source_files(str(root)), name, want, start=start, stop=stop, limit=limit))
    return [x for x in out if isinstance(x, Record)], [x for x in out if isinstance(x, Damage)]


def some(count: int = 6) -> list[bytes]:
    return [response(f"http://a.org/{i}", page(f"item {i}", "x" * 300 * i)) for i in range(count)]


@pytest.mark.parametrize("packing", [*PACKINGS, "gzip-whole", "gzip-blocks"])
def test_every_packing_gives_the_same_records(tmp_path, packing):
    (tmp_path / "a.warc").write_bytes(pack(some(), packing))
    found, damage = read(tmp_path)
    assert not damage
    assert [r.fields["warc-target-uri"] for r in found] == [f"http://a.org/{i}" for i in range(6)]
    assert [r.block for r in found] == [http(page(f"item {i}", "x" * 300 * i)) for i in range(6)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_offsets_and_lengths_tile_the_file(tmp_path, packing):
    data = pack(some(), packing)
    (tmp_path / "a.warc").write_bytes(data)
    found, _ = read(tmp_path)
    assert [r.offset for r in found] == [sum(r.length for r in found[:i]) for i in range(6)]
    assert sum(r.length for r in found) == len(data)


@pytest.mark.parametrize("packing", [*PACKINGS, "gzip-whole", "gzip-blocks"])
def test_a_record_is_found_again_at_its_place(tmp_path, packing):
    (tmp_path / "a.warc").write_bytes(pack(some(), packing))
    for r in read(tmp_path)[0]:
        again = record_at(source_files(str(tmp_path)), "a.warc", r.offset, r.inside, 1 << 20)
        assert (again.fields, again.block) == (r.fields, r.block)


@pytest.mark.parametrize("packing", PACKINGS)
def test_records_agree_with_fastwarc(tmp_path, packing):
    from fastwarc.warc import ArchiveIterator

    data = pack([record("warcinfo", "", b"software: x\r\n"), *some()], packing)
    (tmp_path / "a.warc").write_bytes(data)
    theirs = [
        (str(r.record_type), r.stream_pos, r.headers.to_dict(), r.reader.read())
        for r in ArchiveIterator(io.BytesIO(data), parse_http=False)
    ]
    ours = read(tmp_path)[0]
    assert [(r.kind, r.block) for r in ours] == [(kind, block) for kind, _, _, block in theirs]
    assert [r.fields for r in ours] == [{k.lower(): v for k, v in f.items()} for _, _, f, _ in theirs]
    if packing != "zstd":  # fastwarc tells no places of zstd frames
        assert [r.offset for r in ours] == [at for _, at, _, _ in theirs]


@pytest.mark.parametrize("packing", [*PACKINGS, "gzip-blocks", "arc", "arc-gzip"])
def test_any_cut_gives_the_same_records(tmp_path, packing):
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, 900), min_size=1, max_size=7), st.data())
    def check(sizes, data):
        pages = [http(b"<p>" + bytes([97 + i]) * n) for i, n in enumerate(sizes)]
        if packing.startswith("arc"):
            made = arc([(f"http://a.org/{i}", p) for i, p in enumerate(pages)])
        else:
            made = [record("response", f"http://a.org/{i}", p) for i, p in enumerate(pages)]
        raw = pack(made, {"arc": "plain", "arc-gzip": "gzip"}.get(packing, packing))
        (tmp_path / "a.warc").write_bytes(raw)
        cuts = data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=4, unique=True))
        bounds = [0, *sorted(cuts), len(raw)]
        whole = read(tmp_path)
        assert not whole[1]
        pieces = [read(tmp_path, start=a, stop=b) for a, b in itertools.pairwise(bounds)]
        assert [r for found, _ in pieces for r in found] == whole[0]
        assert not any(damage for _, damage in pieces)

    check()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("hurt", range(4))
def test_a_damaged_record_costs_itself_alone(tmp_path, packing, hurt):
    made = some(4)
    if packing == "plain":
        made[hurt] = made[hurt].replace(b"Content-Length: ", b"Content-Length: 9")
        raw = pack(made, packing)
    else:
        members = [bytearray(pack([r], packing)) for r in made]
        middle = len(members[hurt]) // 2
        members[hurt][middle : middle + 8] = b"\xff" * 8
        raw = b"".join(members)
    (tmp_path / "a.warc").write_bytes(raw)
    found, damage = read(tmp_path)
    assert [r.fields["warc-target-uri"][-1] for r in found] == [str(i) for i in range(4) if i != hurt]
    assert len(damage) == 1
    assert damage[0].offset == sum(len(pack([r], packing)) for r in made[:hurt])
    assert "fetch the file again" in damage[0].problem.detail


@pytest.mark.parametrize("packing", [*PACKINGS, "gzip-whole"])
def test_a_file_cut_anywhere_keeps_what_came_before(tmp_path, packing):
    raw = pack(some(4), packing)
    (tmp_path / "a.warc").write_bytes(raw)
    whole, _ = read(tmp_path)
    for stop in range(1, len(raw) - 4, 97):
        (tmp_path / "a.warc").write_bytes(raw[:stop])
        found, damage = read(tmp_path)
        assert [r.block for r in found] == [r.block for r in whole[: len(found)]]
        ends = [r.offset + r.length for r in whole]
        if stop not in ends and packing != "gzip-whole":
            lost = [r for r in whole[len(found) :] if r.offset < stop]
            assert len(lost) <= 1
            assert len(damage) == 1, (stop, damage)


def test_a_length_that_is_too_short_is_told_and_the_next_record_is_read(tmp_path):
    wrong = record("response", "http://a.org/", http(b"<p>" + b"y" * 90), Content_Length="40")
    (tmp_path / "a.warc").write_bytes(pack([wrong, *some(2)], "plain"))
    found, damage = read(tmp_path)
    assert len(found) == 2
    assert [(d.problem.reason, d.offset) for d in damage] == [("wrong_length", 0)]
    assert "no record follows where this one should end, after 40 bytes" in damage[0].problem.detail


def test_a_long_record_is_passed_over_when_it_is_not_wanted_and_told_when_it_is(tmp_path):
    made = [response("http://a.org/long", b"z" * 5000), *some(2)]
    for packing in PACKINGS:
        (tmp_path / "a.warc").write_bytes(pack(made, packing))
        found, damage = read(tmp_path, limit=3000)
        assert len(found) == 2
        assert [d.problem.reason for d in damage] == ["too_large"]
        found, damage = read(tmp_path, want=lambda kind, fields, start: False, limit=10)
        assert len(found) == 3
        assert not damage
        assert all(r.block is None and r.start.startswith(b"HTTP/1.1 200") for r in found)


def test_a_record_that_stands_stored_inside_another_is_not_taken_for_one(tmp_path):
    inner = pack(some(2), "gzip")
    outer = response("http://a.org/inner.warc.gz", inner, "application/gzip")
    for packing in PACKINGS:
        (tmp_path / "a.warc").write_bytes(pack([outer, *some(1)], packing))
        found, damage = read(tmp_path)
        assert [r.fields["warc-target-uri"] for r in found] == [
            "http://a.org/inner.warc.gz",
            "http://a.org/0",
        ]
        assert not damage


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packing", ["plain", "gzip", "gzip-whole"])
def test_arc_records_are_responses(tmp_path, version, packing):
    made = arc([("http://a.org/one", http(page("one"))), ("http://a.org/a b", http(page("two")))], version)
    (tmp_path / "a.warc").write_bytes(pack(made, packing))
    found, damage = read(tmp_path)
    assert not damage
    assert [r.kind for r in found] == ["warcinfo", "response", "response"]
    assert [r.fields["warc-target-uri"] for r in found[1:]] == ["http://a.org/one", "http://a.org/a b"]
    assert found[1].fields["warc-date"] == "2024-05-06T07:08:09Z"
    assert found[2].block == http(page("two"))


def test_arc_records_agree_with_warcio(tmp_path):
    archive = pytest.importorskip("warcio.archiveiterator")
    raw = pack(arc([(f"http://a.org/{i}", http(page(str(i)))) for i in range(3)]), "gzip")
    (tmp_path / "a.warc").write_bytes(raw)
    theirs = [
        (r.rec_headers.get_header("WARC-Target-URI"), r.content_stream().read())
        for r in archive.ArchiveIterator(io.BytesIO(raw), arc2warc=True)
        if r.rec_type == "response"
    ]
    ours = [r for r in read(tmp_path)[0] if r.kind == "response"]
    assert [(r.fields["warc-target-uri"], (r.block or b"").partition(b"\r\n\r\n")[2]) for r in ours] == theirs


def test_header_lines_may_fold_and_the_first_of_a_name_wins(tmp_path):
    head = b"WARC/1.1\r\nWARC-Type: resource\r\nX-Long: one\r\n  two\r\nX-Long: three\r\nContent-Length: 2\r\n\r\nhi\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(head)
    (one,), _ = read(tmp_path)
    assert one.fields["x-long"] == "one two"
    assert one.block == b"hi"


def test_zero_padding_between_members_is_no_damage(tmp_path):
    a, b = (gzip.compress(r) for r in some(2))
    (tmp_path / "a.warc").write_bytes(a + b"\0" * 700 + b + b"\0" * 3)
    found, damage = read(tmp_path)
    assert len(found) == 2
    assert not damage


def test_a_zstd_file_with_a_dictionary_ahead_is_read(tmp_path):
    import zstandard

    made = some(30)
    dictionary = zstandard.train_dictionary(4096, made * 20)
    raw = dictionary.as_bytes()
    ahead = (0x184D2A5D).to_bytes(4, "little") + len(raw).to_bytes(4, "little") + raw
    packer = zstandard.ZstdCompressor(dict_data=dictionary)
    (tmp_path / "a.warc").write_bytes(ahead + b"".join(packer.compress(r) for r in made))
    found, damage = read(tmp_path)
    assert len(found) == 30
    assert not damage
