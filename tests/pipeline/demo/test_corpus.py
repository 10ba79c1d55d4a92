"""The corpus as a whole: what the truth file claims is what lies in the files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from mixloom.pipeline.demo.corpus import SOURCES, write_corpus
from mixloom.pipeline.demo.planting import DISTINCT, NEAR
from mixloom.pipeline.demo.shingles import ShingleIndex, jaccard
from mixloom.pipeline.demo.truth import Place, Truth
from mixloom.pipeline.errors import UserError

SCALE = 0.3


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Truth]:
    root = tmp_path_factory.mktemp("corpus")
    return root, write_corpus(root, 7, SCALE)


def _bytes(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def _lines(file: Path) -> bytes:
    import zstandard

    data = file.read_bytes()
    if file.suffix == ".gz":
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if file.suffix == ".zst" else data


def _text(root: Path, place: Place) -> str:
    file = root / SOURCES[place.source] / place.uri
    if place.offset < 0:
        return file.read_text(encoding="utf-8")
    return json.loads(_lines(file)[place.offset :].split(b"\n", 1)[0])["text"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(written, tmp_path):
    root, truth = written
    assert write_corpus(tmp_path / "again", 7, SCALE) == truth
    assert _bytes(tmp_path / "again") == _bytes(root)
    other = write_corpus(tmp_path / "other", 8, SCALE)
    assert other.documents != truth.documents
    assert _bytes(tmp_path / "other")["scenes/captions.csv"] != _bytes(root)["scenes/captions.csv"]


def test_the_truth_file_says_the_same_as_the_truth(written):
    root, truth = written
    assert Truth.load(root) == truth


def test_every_planted_document_has_a_file_and_a_place_of_its_own(written):
    root, truth = written
    places = [d.place for d in truth.documents]
    assert len(set(places)) == len(places)
    assert all((root / SOURCES[p.source] / p.uri).is_file() for p in places)
    for d in truth.documents:
        if d.line is not None:
            data = _lines(root / SOURCES[d.place.source] / d.place.uri)
            assert data[: d.place.offset].count(b"\n") == d.line - 1


def test_exact_copies_are_equal_in_content_and_all_other_texts_differ(written):
    root, truth = written
    grouped = {p for g in truth.exact_duplicate_groups for p in g}
    rows = {s: _table(root, s) for s in ("scenes", "speech")}
    for group in truth.exact_duplicate_groups:
        source = group[0].source
        if source in rows:
            assert (
                len({((root / source / p.uri).read_bytes(), tuple(rows[source][p.uri])) for p in group}) == 1
            )
        else:
            assert len({_text(root, p) for p in group}) == 1
    alone = [_text(root, d.place) for d in truth.documents if d.kind == "text" and d.place not in grouped]
    assert max(Counter(alone).values()) == 1


def _table(root: Path, source: str) -> dict[str, list[str]]:
    name = "captions.csv" if source == "scenes" else "transcripts.csv"
    with open(root / source / name, newline="", encoding="utf-8") as f:
        return {row[0]: row[1:] for row in list(csv.reader(f))[1:]}


def test_planted_pairs_are_exactly_the_similar_ones(written):
    root, truth = written
    grouped = {p for g in truth.exact_duplicate_groups for p in g[1:]}
    places = [d.place for d in truth.documents if d.kind == "text" and d.place not in grouped]
    texts = [_text(root, p) for p in places]
    index, alike = ShingleIndex(), {}
    for n, text in enumerate(texts):
        for m, s in index.similar(text):
            if s >= DISTINCT[0]:
                alike[frozenset((places[n], places[m]))] = s
        index.add(text)
    near = {frozenset((a, b)): s for a, b, s in truth.near_duplicate_pairs}
    hard = {frozenset((a, b)): s for a, b, s in truth.hard_negative_pairs}
    assert {k for k, s in alike.items() if s >= NEAR} == set(near)
    assert set(hard) <= set(alike)
    assert all(abs(s - alike[k]) < 1e-6 for k, s in [*near.items(), *hard.items()])
    assert all(jaccard(_text(root, a), _text(root, b)) >= NEAR for a, b, _ in truth.near_duplicate_pairs)


def test_pairs_of_equal_words_have_different_media(written):
    root, truth = written
    assert truth.same_words_pairs
    for a, b in truth.same_words_pairs:
        rows = _table(root, a.source)
        assert rows[a.uri][0] == rows[b.uri][0]
        assert (root / a.source / a.uri).read_bytes() != (root / b.source / b.uri).read_bytes()


def test_captions_and_transcripts_differ_but_for_the_planted_ones(written):
    root, truth = written
    copies = {p for g in truth.exact_duplicate_groups for p in g[1:]} | {b for _, b in truth.same_words_pairs}
    for source in ("scenes", "speech"):
        planted = {d.place.uri for d in truth.documents if d.place.source == source and d.place not in copies}
        told = [row[0] for name, row in _table(root, source).items() if name in planted]
        assert len(set(told)) == len(told) == len(planted)


def test_media_decode_but_for_the_broken_ones(written):
    import soundfile
    from PIL import Image

    root, truth = written
    for d in truth.documents:
        file = root / SOURCES[d.place.source] / d.place.uri
        if d.kind == "scene":
            with Image.open(file) as image:
                image.load()
        elif d.kind == "clip":
            samples, rate = soundfile.read(file)
            assert rate == 16_000
            assert 0.5 < len(samples) / rate < 5


def test_pages_name_pictures_that_are_there_but_for_the_broken_page(written):
    root, truth = written
    for d in truth.documents:
        if d.kind == "guide":
            text = (root / "guides" / d.place.uri).read_text(encoding="utf-8")
            names = [n for n in (p.name for p in (root / "guides/images").iterdir()) if f"images/{n}" in text]
            assert ("images/gone.png" in text) == (d.place.uri == "broken-gone.html")
            assert len(names) >= (1 if d.place.uri == "broken-gone.html" else 2)


def test_what_is_called_broken_is_broken(written):
    import soundfile
    from PIL import Image

    root, truth = written
    damages = {c.place.uri: c for c in truth.corrupt}
    with pytest.raises(UnicodeDecodeError):
        (root / "text/unsorted/broken-encoding.txt").read_text(encoding="utf-8")
    with pytest.raises(EOFError):
        gzip.decompress((root / "records/broken-cut.jsonl.gz").read_bytes())
    for name in ("broken-cut.jpg", "broken-cut.png", "broken-text.jpg", "broken-empty.png"):
        assert name in damages
        with pytest.raises((OSError, SyntaxError)):
            Image.open(io.BytesIO((root / "scenes" / name).read_bytes())).load()
    for name in ("broken-empty.wav", "broken-garbage.wav"):
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(root / "speech" / name)
    assert (root / "text/unsorted/broken-empty.txt").read_bytes() == b""
    for c in truth.corrupt:
        if c.line is not None and c.place.offset >= 0:
            line = _lines(root / "records" / c.place.uri)[c.place.offset :].split(b"\n", 1)[0]
            assert b'{"domain"' not in line[:9]


def test_there_is_some_of_everything_at_any_scale(tmp_path):
    truth = write_corpus(tmp_path, 1, 0.05)
    assert {d.kind for d in truth.documents} == {"text", "noise", "scene", "guide", "clip"}
    assert truth.exact_duplicate_groups
    assert truth.near_duplicate_pairs
    assert len(truth.corrupt) >= 12
    assert truth.totals["documents"] == len(truth.documents)


def test_a_library_without_some_families_says_which(tmp_path):
    import shutil

    from mixloom.pipeline.demo.prose import standard_library

    library = tmp_path / "lib"
    for name in ("logging", "email"):
        shutil.copytree(
            standard_library() / name, library / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    truth = write_corpus(tmp_path / "out", 0, 0.1, library=library)
    assert {d.domain for d in truth.documents if d.kind == "text"} == {"logging", "mail"}
    assert "turtle" in truth.missing_domains
    assert "logging" not in truth.missing_domains


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex.*not a demo corpus"):
        write_corpus(tmp_path, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1.0), (0, 0.0), (0, 1000.0), (0, float("nan"))])
def test_a_seed_or_scale_out_of_range_is_refused(tmp_path, seed, scale):
    with pytest.raises(UserError, match="not both in range"):
        write_corpus(tmp_path, seed, scale)


def test_a_corpus_is_replaced_by_the_next_one(tmp_path, written):
    write_corpus(tmp_path, 8, 0.1)
    write_corpus(tmp_path, 7, SCALE)
    assert _bytes(tmp_path) == _bytes(written[0])


@pytest.mark.parametrize("spoil", ["{}", "not json", '{"version": 99}', '{"version": 1, "documents": 3}'])
def test_a_truth_file_of_something_else_is_a_clear_error(tmp_path, spoil):
    (tmp_path / "truth.json").write_text(spoil)
    with pytest.raises(UserError, match="not a truth file"):
        Truth.load(tmp_path)


def test_a_missing_truth_file_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        Truth.load(tmp_path)


@pytest.mark.parametrize("place", [Place("a", "b/c.txt"), Place("a", "b@c.txt"), Place("a", "x:y@1.gz", 0)])
def test_a_place_survives_being_written(place):
    assert Place.parse(str(place)) == place
