"""Image deduplication: pure functions against plain definitions, Beam against them, and the stage of a run."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.console import Console
from mixloom.pipeline.doc_ids import columns, unpack_ids
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.image_dedup import (
    COPIES,
    OVERUSED,
    REPEATED,
    PartFacts,
    copies,
    fates,
    find_copies,
    kept_images,
    settle_images,
)
from mixloom.pipeline.image_dedup_config import ImageDedupConfig, ImageNearConfig
from mixloom.pipeline.image_dedup_stage import ImageDedupStage
from mixloom.pipeline.image_pairs import (
    USES,
    banded,
    confirmed,
    equal_hash_pairs,
    image_uses,
    near_hash_pairs,
    thumbs_at,
)
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.media_checks import measure_media
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.schema import SURVIVORS, Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.stage import OutputTable, RunSettings, Stage, StageContext, UnitOutput, run_stage

NEAR = ImageNearConfig()


def use(key: int, doc: int, *, rank: int = 0, row: int = 0, segment: int = 0, worse: int = 0) -> list[int]:
    """A row of `USES`: the image `key` in the document `doc`."""
    return [0, key, key, worse, 1, row, 0, doc, rank, row, segment]


def rows(*lists: list[int]) -> Any:
    return np.array(lists, dtype=np.uint64).reshape(len(lists), -1)


def fate_of(
    uses: Any, config: ImageDedupConfig, found: Any = None
) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(document, segment) -> (fate, value, owner), of the uses that do not stay."""
    found = np.empty((0, len(COPIES)), np.uint64) if found is None else found
    kept, distance = kept_images(uses[:, :2], found)
    told = fates(uses, kept, distance, config)
    where = {(int(u[9]), int(u[10])): int(u[7]) for u in uses}
    return {(where[int(r), int(s)], int(s)): (int(f), int(v), int(o)) for _, r, s, f, v, _, o in told}


SEGMENT = ImageDedupConfig(action="segment", max_uses=None)


def test_a_repeated_image_stays_in_the_document_of_the_smallest_id() -> None:
    uses = rows(use(5, 30, row=0), use(5, 10, row=1), use(5, 20, row=2), use(6, 30, row=0, segment=1))
    assert fate_of(uses, SEGMENT) == {(30, 0): (REPEATED, 0, 10), (20, 0): (REPEATED, 0, 10)}


def test_the_preferred_source_goes_before_the_smallest_id() -> None:
    uses = rows(use(5, 10, rank=1, row=0), use(5, 20, rank=0, row=1))
    assert fate_of(uses, SEGMENT) == {(10, 0): (REPEATED, 0, 20)}


def test_a_document_with_the_best_copy_goes_before_the_smallest_id() -> None:
    uses = rows(use(5, 10, row=0), use(6, 20, row=1))
    found = rows([0, 5, 0, 6, 3])  # 5 is a copy of 6, by 3 bits
    assert fate_of(uses, SEGMENT, found) == {(10, 0): (REPEATED, 3, 20)}


def test_an_image_that_stands_twice_in_one_document_stays_twice() -> None:
    uses = rows(use(5, 10), use(5, 10, segment=2))
    assert fate_of(uses, SEGMENT) == {}


def test_an_image_in_too_many_documents_goes_everywhere() -> None:
    config = ImageDedupConfig(max_uses=2)
    three = [use(5, d, row=d) for d in (1, 2, 3)]
    assert fate_of(rows(*three), config) == {(d, 0): (OVERUSED, 3, 1) for d in (1, 2, 3)}
    assert fate_of(rows(*three[:2]), config) == {}
    twice_in_one = [use(5, 1, row=1), use(5, 1, row=1, segment=1), use(5, 2, row=2)]
    assert fate_of(rows(*twice_in_one), config) == {}  # documents are counted, not uses


def test_without_an_action_repeated_images_stay() -> None:
    assert fate_of(rows(use(5, 1, row=0), use(5, 2, row=1)), ImageDedupConfig()) == {}


def edge(a: int, b: int, distance: int, a_worse: int = 0, b_worse: int = 0) -> list[int]:
    """A confirmed edge in the component of image 1."""
    return [0, 1, 0, a, 0, b, a_worse, b_worse, distance]


def test_a_copy_is_named_after_the_largest_image_it_was_compared_with() -> None:
    found = copies(rows(edge(1, 2, 4, a_worse=9, b_worse=3), edge(2, 3, 2, a_worse=3, b_worse=5)))
    assert {(int(c[1]), int(c[3]), int(c[4])) for c in found} == {(1, 2, 4), (3, 2, 2)}


def test_images_in_a_chain_are_copies_only_of_what_they_resemble() -> None:
    chain = [edge(1, 2, 1, 1, 2), edge(2, 3, 1, 2, 3), edge(3, 4, 1, 3, 4)]
    found = {(int(c[1]), int(c[3])) for c in copies(rows(*chain))}
    assert found == {(2, 1), (4, 3)}  # 3 does not resemble 1, so it stays, and 4 is its copy


def facts(words: list[int], images: list[int], clips: list[int] | None = None) -> PartFacts:
    ids = unpack_ids(np.array([[0, d] for d in range(len(words))], np.uint64))
    return PartFacts(ids, np.array(words), np.array(clips or [0] * len(words)), np.array(images))


def fate(row: int, segment: int, kind: int, value: int = 0, owner: int = 9) -> list[int]:
    return [row, row, segment, kind, value, 0, owner]


def test_a_repeated_image_is_edited_out() -> None:
    edits, dropped = settle_images(
        rows(fate(1, 2, REPEATED, 3), fate(0, 1, REPEATED)), facts([5, 5], [1, 2]), SEGMENT
    )
    assert dropped.num_rows == 0
    assert edits.select(["row", "segment", "start", "stop", "replacement", "reason", "value", "limit"]).to_pylist() == [
        {"row": 0, "segment": 1, "start": -1, "stop": -1, "replacement": "", "reason": "repeated_image", "value": 0.0, "limit": 7.0},
        {"row": 1, "segment": 2, "start": -1, "stop": -1, "replacement": "", "reason": "repeated_image", "value": 3.0, "limit": 7.0},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "images", "clips", "allowed", "drops"),
    [
        (0, 1, 0, 0, True),
        (3, 1, 0, 0, False),  # its text does not repeat
        (3, 1, 0, 3, True),
        (0, 2, 0, 0, False),  # one of its images is kept nowhere else
        (0, 1, 1, 0, False),  # its recording does not repeat
    ],
)
def test_a_document_is_dropped_when_all_its_content_repeats(
    words: int, images: int, clips: int, allowed: int, drops: bool
) -> None:
    config = ImageDedupConfig(action="document", document_words=allowed)
    edits, dropped = settle_images(rows(fate(0, 0, REPEATED)), facts([words], [images], [clips]), config)
    assert edits.num_rows == 0
    assert dropped.to_pylist() == (
        [{"row": 0, "reason": "repeated_image", "value": 0.0, "limit": 7.0, "detail": f"{9:032x}"}]
        if drops
        else []
    )


def test_images_used_too_often_are_edited_out_whatever_the_action() -> None:
    for action in ("none", "segment", "document"):
        config = ImageDedupConfig(action=action, max_uses=4)  # type: ignore[arg-type]
        found = rows(fate(0, 0, OVERUSED, 5))
        edits, dropped = settle_images(found, facts([3], [1]), config)
        assert (edits["reason"].to_pylist(), edits["value"].to_pylist()) == (["image_used_too_often"], [5.0])
        assert (edits["limit"].to_pylist(), dropped.num_rows) == ([4.0], 0)


def test_of_many_images_with_one_hash_all_are_compared_with_the_best() -> None:
    contents = np.array([[0, k, 77, 100 - k, k] for k in range(10)], np.uint64)
    pairs, best = equal_hash_pairs(contents, cap=4, leaders=2)
    assert sorted(best[:, 1].tolist()) == [8, 9]  # the largest images
    met = {tuple(sorted((int(a), int(b)))) for a, b in pairs[:, [1, 5]]}
    assert met == {tuple(sorted((k, j))) for j in (8, 9) for k in range(10) if k != j}
    assert len(equal_hash_pairs(contents[:4], cap=4, leaders=2)[0]) == 6


def test_pairs_of_bands_are_those_of_all_hashes() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 60, dtype=np.uint64)
    for k in range(30, 60):
        flipped = sum({1 << int(bit) for bit in rng.integers(0, 64, k % 11)})
        hashes[k] = hashes[k - 30] ^ np.uint64(flipped)
    contents = np.zeros((60, 5), np.uint64)
    contents[:, 1] = contents[:, 4] = np.arange(60)
    contents[:, 2] = hashes
    pairs = near_hash_pairs(banded(contents, 7), 7)
    bits = {(i, j): (int(hashes[i]) ^ int(hashes[j])).bit_count() for j in range(60) for i in range(j)}
    assert {(int(p[1]), int(p[5])): int(p[8]) for p in pairs} == {k: d for k, d in bits.items() if 0 < d <= 7}


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(root: Path, name: str, image: Image.Image | bytes, **options: Any) -> Segment:
    """An image segment of a file in the folder."""
    data = (
        image
        if isinstance(image, bytes)
        else _encoded(image, "JPEG" if name.endswith("jpg") else "PNG", options)
    )
    (root / name).write_bytes(data)
    return Segment(
        kind="image", media=Media(uri=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    )


def _encoded(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def document(name: str, *segments: Segment, source: str = "s") -> Document:
    return Document(source=source, locator=Locator(uri=name), segments=segments)


def text(words: str) -> Segment:
    return Segment(kind="text", text=words)


def corpus(root: Path) -> list[Document]:
    """Ten documents: exact copies, another encoding, other size, a logo in all, an image alone, an undecodable pair."""
    original = saved(root, "a.png", photo(1))
    again = saved(root, "a-again.png", photo(1), compress_level=1)
    jpeg = saved(root, "a.jpg", photo(1), quality=60)
    small = saved(root, "a-small.png", photo(1).resize((80, 60), Image.Resampling.LANCZOS))
    logo = saved(root, "logo.png", photo(2, 90, 90))
    broken = saved(root, "broken.png", b"no image")
    others = [saved(root, f"o{k}.png", photo(10 + k)) for k in range(10)]
    special: list[tuple[Segment, ...]] = [
        (text("one"), original),
        (text("two"), again, others[1]),
        (text("three"), jpeg),
        (small,),
        (text("five"), broken),
        (text("six"), broken),
    ]
    out = [
        document(f"d{k}", *special[k], logo) if k < 3 else document(f"d{k}", *special[k]) for k in range(6)
    ]
    out += [document(f"d{k}", text(f"plain {k}"), others[k], logo) for k in range(6, 10)]
    return out


def batch_and_items(root: Path) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    batch = documents_batch(corpus(root))
    return batch, measure_media(batch, {"s": str(root)}, MediaCheckConfig())


def uses_of(batch: pa.RecordBatch, items: pa.RecordBatch) -> Any:
    n = batch.num_rows
    rank = np.zeros(n, np.int32)
    used = image_uses(items, batch.column("doc_id"), rank, np.arange(n), ("p", ["p"]), NEAR.min_std)
    return columns(used, USES.names)


def test_copies_of_every_kind_are_found_and_nothing_else(tmp_path: Path) -> None:
    batch, items = batch_and_items(tmp_path)
    uses = uses_of(batch, items)
    thumbs = thumbs_at(items, uses[uses[:, 4] == 1, 5])
    kept, _ = kept_images(uses[:, :2], find_copies(uses, thumbs, NEAR))
    groups: dict[tuple[int, ...], set[tuple[int, int]]] = {}
    for image, used in zip(kept.tolist(), uses.tolist(), strict=True):
        groups.setdefault(tuple(image), set()).add((used[9], used[10]))
    repeated = sorted((sorted(g) for g in groups.values() if len(g) > 1), key=len)
    broken = [(4, 1), (5, 1)]
    picture = [(0, 1), (1, 1), (2, 1), (3, 0)]
    logo = [(0, 2), (1, 3), (2, 2), (6, 2), (7, 2), (8, 2), (9, 2)]
    assert repeated == [broken, picture, logo]


def test_a_candidate_without_a_thumbnail_is_an_error(tmp_path: Path) -> None:
    _, items = batch_and_items(tmp_path)
    pair = np.array([[0, 1, 0, 0, 0, 2, 0, 99, 0]], np.uint64)
    with pytest.raises(ValueError, match="thumbnail of a candidate is missing"):
        confirmed(pair, thumbs_at(items, np.array([0], np.uint64)), NEAR)


class Written(Stage):
    """Stands for the stages before: writes the tables it is given, media measures beside the documents."""

    version = 1

    def __init__(
        self, name: str, tables: dict[str, pa.Table], beside: dict[str, pa.Table] | None = None
    ) -> None:
        self.name, self.tables, self.beside = name, tables, beside or {}

    def settings(self) -> dict[str, Any]:
        return {}

    def execute(self, ctx: StageContext) -> None:
        for part, table in self.tables.items():
            tables = [OutputTable(part, table)]
            if part in self.beside:
                tables.append(OutputTable(f"media/{part}", self.beside[part]))
            ctx.commit(UnitOutput(part, tuple(tables), None, table.num_rows))


def make_run(root: Path, documents: list[Document], per_part: int, measured: bool = True) -> Any:
    run = RunDirectory(str(root / "run"))
    batches = {
        f"part-{i:05d}-0000": documents_batch(documents[start : start + per_part])
        for i, start in enumerate(range(0, len(documents), per_part))
    }
    ingested = {p: pa.Table.from_batches([b]) for p, b in batches.items()}
    annotated = {p: pa.Table.from_batches([annotate(b, AnnotateConfig())]) for p, b in batches.items()}
    media = {
        p: pa.Table.from_batches([measure_media(b, {"s": str(root)}, MediaCheckConfig())])
        for p, b in batches.items()
    }
    alive = {
        p: pa.table([b["doc_id"], pa.array(range(len(b)), pa.int32())], schema=SURVIVORS)
        for p, b in batches.items()
    }
    stages = [Written("ingest", ingested), Written("annotate", annotated, media if measured else None)]
    manifests = {}
    for stage in (*stages, Written("filter", alive)):
        manifests[stage.name], _ = run_stage(stage, run, RunSettings(), Console(quiet=True), {})
    return run, manifests


def deduplicate(run: Any, manifests: Any, config: ImageDedupConfig, workers: int = 1) -> Any:
    stage = ImageDedupStage(config, "filter", AnnotateConfig())
    return run_stage(stage, run, RunSettings(workers=workers), Console(quiet=True), manifests)[0]


def written(run: Any, manifest: Any, folder: str = "") -> list[dict[str, Any]]:
    reader = run.stage("dedup_images").reader()
    names = [p.name for p in manifest.parts if p.name.rpartition("/")[0] == folder]
    return [row for name in names for row in reader.read(name).to_pylist()]


def files(manifest: Any) -> dict[str, str]:
    return {p.name: p.sha256 for p in (*manifest.parts, *manifest.rejects)}


def test_the_stage_edits_repeated_images_out_and_keeps_the_documents(tmp_path: Path) -> None:
    documents = corpus(tmp_path)
    run, manifests = make_run(tmp_path, documents, per_part=4)
    manifest = deduplicate(run, manifests, ImageDedupConfig(action="segment", max_uses=6))
    ids = [d.doc_id for d in documents]
    edits = {(ids.index(e["doc_id"]), e["segment"]): e["reason"] for e in written(run, manifest, "edits")}
    logo = dict.fromkeys(((0, 2), (1, 3), (2, 2), (6, 2), (7, 2), (8, 2), (9, 2)), "image_used_too_often")
    assert {k: r for k, r in edits.items() if r == "image_used_too_often"} == logo
    repeated = {k for k, r in edits.items() if r == "repeated_image"}
    full = min((0, 1), key=lambda k: ids[k])  # of two equal copies in full size, the one of the smaller id
    broken = max((4, 5), key=lambda k: ids[k])
    assert repeated == {(k, s) for k, s in ((0, 1), (1, 1), (2, 1), (3, 0), (broken, 1)) if k != full}
    alive = {row["doc_id"] for row in written(run, manifest)}
    assert alive == set(ids) - {ids[3]}  # of the fourth document nothing is left
    assert manifest.counts.kept == 9
    after = written(run, manifest, "annotations")
    images = {ids.index(row["doc_id"]): row["images"] for row in after}
    assert images[7] == 1  # its logo is gone and it was measured again


def test_documents_whose_content_repeats_are_dropped_with_the_owner_named(tmp_path: Path) -> None:
    documents = corpus(tmp_path)
    run, manifests = make_run(tmp_path, documents, per_part=5)
    manifest = deduplicate(run, manifests, ImageDedupConfig(action="document", max_uses=None))
    store = run.stage("dedup_images").store
    told = [
        r
        for p in manifest.rejects
        for r in pa.parquet.read_table(pa.BufferReader(store.read(p.file))).to_pylist()
    ]
    assert [r["doc_id"] for r in told] == [documents[3].doc_id]
    owner = min(documents[0].doc_id, documents[1].doc_id)
    assert (told[0]["reason"], told[0]["detail"], told[0]["limit"]) == ("repeated_image", owner, 7.0)
    assert written(run, manifest, "edits") == []


def test_equal_pixels_alone_count_where_near_is_off(tmp_path: Path) -> None:
    documents = corpus(tmp_path)
    run, manifests = make_run(tmp_path, documents, per_part=10)
    manifest = deduplicate(run, manifests, ImageDedupConfig(action="segment", max_uses=None, near=None))
    ids = [d.doc_id for d in documents]
    touched = {ids.index(e["doc_id"]) for e in written(run, manifest, "edits") if e["segment"] == 1}
    assert touched == {max((0, 1), key=lambda k: ids[k]), max((4, 5), key=lambda k: ids[k])}


def test_workers_and_partitions_change_no_byte(tmp_path: Path) -> None:
    documents = corpus(tmp_path)
    told = []
    for name, workers, partitions in (("a", 1, 16), ("b", 2, 16), ("c", 1, 3)):
        root = tmp_path / name
        root.mkdir()
        for file in tmp_path.glob("*.*g"):
            (root / file.name).write_bytes(file.read_bytes())
        run, manifests = make_run(root, documents, per_part=3)
        config = ImageDedupConfig(action="segment", max_uses=6, partitions=partitions)
        manifest = deduplicate(run, manifests, config, workers)
        told.append((files(manifest), manifest.key))
    assert told[0] == told[1] == told[2]


def test_the_order_of_documents_does_not_change_what_is_removed(tmp_path: Path) -> None:
    documents = corpus(tmp_path)
    told = []
    for order in (documents, documents[::-1]):
        run, manifests = make_run(tmp_path, order, per_part=4)
        manifest = deduplicate(run, manifests, ImageDedupConfig(action="segment", max_uses=6))
        told.append({(e["doc_id"], e["segment"], e["reason"]) for e in written(run, manifest, "edits")})
    assert told[0] == told[1]


def test_a_run_without_media_measures_is_told_to_make_them(tmp_path: Path) -> None:
    run, manifests = make_run(tmp_path, corpus(tmp_path), per_part=10, measured=False)
    with pytest.raises(UserError, match="needs the measures of images") as raised:
        deduplicate(run, manifests, ImageDedupConfig())
    assert "media: {}" in raised.value.fix


def test_what_only_says_how_to_work_is_not_part_of_the_key() -> None:
    stage = ImageDedupStage(ImageDedupConfig(), "filter", AnnotateConfig())
    settings = stage.settings()
    assert "partitions" not in settings
    assert "max_rounds" not in settings["near"]
    assert settings["near"]["distance"] == 7
