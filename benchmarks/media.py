"""Media checks and image deduplication on real images and recordings: speed, duplicates found, what rules remove.

    python benchmarks/media.py --data ROOT [--quick] [--json FILE]

ROOT holds the folders `dup-images` (with clusters.tsv), `photo-coco-cc`, `inter-*` and `speech-*`; what is not there is
not measured. Speed is per second of CPU time on one core, beside merely decoding the same files. Duplicates are
scored pair by pair. Re-encodings are made from every image and searched among all of them. The hashes of the
ImageHash package are measured beside ours where it is installed.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image
from recording import options_parser, save

from mixloom.pipeline.annotate import annotate
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.doc_ids import columns
from mixloom.pipeline.hamming import pairs_within
from mixloom.pipeline.image_checks import measure_image
from mixloom.pipeline.image_dedup import candidate_pairs, find_copies, kept_images
from mixloom.pipeline.image_dedup_config import ImageNearConfig
from mixloom.pipeline.image_pairs import USES, content_keys, image_uses, same_picture, thumbs_at
from mixloom.pipeline.ingest.media import load_image
from mixloom.pipeline.judgement import judge_document
from mixloom.pipeline.media_check_config import MediaCheckConfig
from mixloom.pipeline.media_checks import measure_media
from mixloom.pipeline.rules import load_ruleset
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch

PACKAGES = ("mixloom", "numpy", "numba", "pillow", "pyarrow", "soundfile", "ImageHash")
CONFIG = MediaCheckConfig()
IMAGES = ("jpg", "jpeg", "png", "webp")
SOUND = ("wav", "flac")
SHOWN = {
    "image": ("min_side", "aspect", "bytes_per_pixel", "luminance_std", "top_colour_share", "sharpness", "transparent_share"),
    "speech": ("seconds", "peak", "loudness_dbfs", "dc_offset", "clipped_share", "silence_share", "words_per_second",
               "chars_per_second"),
}  # fmt: skip
POLICIES = {
    "default": ImageNearConfig(),
    "labels do not count": ImageNearConfig(max_excess=None, max_colour=None),
    "labels do not count, 12 bits": ImageNearConfig(
        max_excess=None, max_colour=None, distance=12, max_mean=14
    ),
}
PIXELS_ONLY = "pixels only"


def found(root: Path, folders: str, kinds: tuple[str, ...]) -> list[Path]:
    """Files of these kinds in the data sets whose names match."""
    return sorted(f for d in root.glob(folders) for f in d.rglob("*") if f.suffix.lower()[1:] in kinds)


def transcripts(root: Path) -> dict[str, str]:
    """Transcripts by file stem: from metadata.csv, or from the names of the recordings."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    out = {p.stem: digits[int(p.stem[0])] for p in root.glob("speech-fsdd/recordings/*.wav")}
    out |= {p.stem: "ken lo " * 4 for p in root.glob("speech-yesno-he/*/*.wav")}
    for table in root.glob("speech-*/metadata.csv"):
        lines = table.read_text(encoding="utf-8").splitlines()
        out |= dict(line.split("|")[:2] for line in lines if "|" in line)
    return out


def batch_of(root: Path, files: list[Path], kind: Any, said: dict[str, str]) -> pa.RecordBatch:
    """A document per file."""
    documents = []
    for file in files:
        data, uri = file.read_bytes(), file.relative_to(root).as_posix()
        media = Media(uri=uri, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        segments = [Segment(kind=kind, media=media)]
        if file.stem in said and kind == "speech":
            segments.append(Segment(kind="text", text=said[file.stem], attrs={"role": "transcript"}))
        documents.append(Document(source="s", locator=Locator(uri=uri), segments=tuple(segments)))
    return documents_batch(documents)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The least CPU time of several rounds, after one that does not count."""
    work()
    out = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        out.append(time.process_time() - start)
    return min(out)


def speed(root: Path, files: list[Path], batch: pa.RecordBatch, kind: str, rounds: int) -> dict[str, Any]:
    raw = [f.read_bytes() for f in files]

    def decode() -> None:
        for data in raw:
            if kind == "image":
                load_image(data)
            else:
                soundfile.read(io.BytesIO(data), dtype="float32")

    measured = seconds(lambda: measure_media(batch, {"s": str(root)}, CONFIG), rounds)
    bare = seconds(decode, rounds)
    return {"items": len(files), "per_second": len(files) / measured, "ratio_to_decoding": measured / bare}


def spread(batch: pa.RecordBatch, items: pa.RecordBatch, kind: str) -> dict[str, Any]:
    """Distribution of measures, and what the rule sets remove."""
    out: dict[str, Any] = {}
    for name in SHOWN[kind]:
        values = np.asarray(items.column(name).drop_null(), dtype=np.float64)
        if len(values):
            out[name] = [float(v) for v in np.percentile(values, [0, 1, 50, 99, 100])]
    rows = annotate(batch, AnnotateConfig())
    for rules in ("media_checks", "obelics") if kind == "image" else ("media_checks",):
        verdict = judge_document(rows, None, items, load_ruleset(rules))
        fired = {n: int(f) for n, f in zip(verdict.names, verdict.verdicts.fired, strict=True) if f}
        out[f"fired: {rules}"] = fired
    return out


def kept_by(items: pa.RecordBatch, ids: pa.Array, config: ImageNearConfig | None) -> list[tuple[int, ...]]:
    """What stands for each image under a policy (None: equal pixels alone)."""
    keys, _ = content_keys(items)
    if config is None:
        return [tuple(k) for k in keys.tolist()]
    n = len(keys)
    uses = image_uses(items, ids, np.zeros(n, np.int32), np.arange(n), ("p", ["p"]), config.min_std)
    rows = columns(uses, USES.names)
    pairs = candidate_pairs(rows, config)
    thumbs = thumbs_at(items, pairs[:, [3, 7]].ravel())
    kept, _ = kept_images(keys, find_copies(rows, thumbs, config))
    return [tuple(k) for k in kept.tolist()]


def kind_of_pair(a: dict[str, str], b: dict[str, str]) -> str:
    kinds = {a["kind"], b["kind"]}
    if a["cluster"] != b["cluster"]:
        return "different"
    if "text-replaced" in kinds:
        return "text-replaced"
    return "exact" if a["sha1_12"] == b["sha1_12"] else "re-encoded"


def duplicates(root: Path) -> dict[str, Any]:
    """Pairs of dup-images told to be equal, by what they are."""
    with (root / "dup-images/clusters.tsv").open(encoding="utf-8") as f:
        truth = list(csv.DictReader(f, delimiter="\t"))
    batch = batch_of(root, [root / "dup-images" / r["image"] for r in truth], "image", {})
    items = measure_media(batch, {"s": str(root)}, CONFIG)
    out: dict[str, Any] = {}
    for name, config in [(PIXELS_ONLY, None), *POLICIES.items()]:
        kept = kept_by(items, batch.column("doc_id"), config)
        told: dict[str, list[int]] = {}
        for i, a in enumerate(truth):
            for j in range(i):
                pair = told.setdefault(kind_of_pair(a, truth[j]), [0, 0])
                pair[0] += kept[i] == kept[j]
                pair[1] += 1
        out[name] = told
    return out


def reencodings(image: Image.Image, quick: bool) -> Iterator[tuple[str, Image.Image]]:
    for quality in (40, 95) if quick else (40, 60, 80, 95):
        yield f"JPEG {quality}", saved(image, "JPEG", quality)
    yield "WebP 50", saved(image, "WEBP", 50)
    for scale in (0.5, 2.0) if quick else (0.5, 0.73, 1.5, 2.0):
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        other = image.resize(size, Image.Resampling.LANCZOS)
        yield f"size x{scale}", other
        yield f"size x{scale}, JPEG 40", saved(other, "JPEG", 40)


def saved(image: Image.Image, kind: str, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, kind, quality=quality)
    return Image.open(out).convert("RGB")


def foreign_hashes() -> dict[str, Callable[[Image.Image], int]]:
    if importlib.util.find_spec("imagehash") is None:
        return {}
    import imagehash

    def bits(values: Any) -> int:
        return int.from_bytes(np.packbits(values.hash.ravel()).tobytes(), "big")

    return {
        "ImageHash phash": lambda i: bits(imagehash.phash(i)),
        "ImageHash dhash": lambda i: bits(imagehash.dhash(i)),
    }


def found_again(files: list[Path], quick: bool) -> dict[str, Any]:
    """Recall of the default policy on re-encodings of each image; distances of hashes, ours and others."""
    config = POLICIES["default"]
    foreign = foreign_hashes()
    recall: dict[str, list[int]] = {}
    small: list[int] = [0, 0]
    far: dict[str, list[int]] = {"ours": [], **{name: [] for name in foreign}}
    for file in files:
        image = load_image(file.read_bytes())
        image.thumbnail((1600, 1600))
        png = io.BytesIO()
        image.save(png, "PNG", compress_level=1)
        base = measure_image(png.getvalue(), CONFIG)
        others = {name: make(image) for name, make in foreign.items()}
        for name, other in reencodings(image, quick):
            out = io.BytesIO()
            other.save(out, "PNG", compress_level=1)  # of pixels that are re-encoded already
            row = measure_image(out.getvalue(), CONFIG)
            bits = (row["phash"] ^ base["phash"]).bit_count()
            told = bits <= config.distance and confirmed(base, row, config)
            tally = small if min(other.size) < 64 else recall.setdefault(name, [0, 0])
            tally[0] += told
            tally[1] += 1
            far["ours"].append(bits)
            for k, make in foreign.items():
                far[k].append((make(other) ^ others[k]).bit_count())
    within = {k: {f"<= {d}": float(np.mean(np.array(v) <= d)) for d in (4, 7, 10)} for k, v in far.items()}
    return {"recall": recall, "sides below 64 pixels": small, "hash_distance": within}


def confirmed(a: dict[str, Any], b: dict[str, Any], config: ImageNearConfig) -> bool:
    thumbs = [np.frombuffer(x["thumb"], np.uint8)[None, :] for x in (a, b)]
    aspects = [np.array([x["width"] / x["height"]]) for x in (a, b)]
    return bool(same_picture(thumbs[0], thumbs[1], aspects[0], aspects[1], config)[0])


def hamming(quick: bool) -> dict[str, Any]:
    n = 200_000 if quick else 1_000_000
    hashes = np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64)
    pairs_within(hashes[:100], 7)
    return {"hashes": n, "distance": 7, "seconds": seconds(lambda: pairs_within(hashes, 7), 1)}


def show(result: dict[str, Any]) -> None:
    for kind in ("image", "speech"):
        if kind in result:
            s = result[kind]["speed"]
            print(f"{kind}: {s['items']} items, {s['per_second']:.0f}/s on one core, "
                  f"{s['ratio_to_decoding']:.2f} x decoding alone")  # fmt: skip
            for name, value in result[kind]["spread"].items():
                print(f"  {name:<24}", [round(v, 4) for v in value] if isinstance(value, list) else value)
    print(f"\n{'dup-images':<30}{'exact':>10}{'re-encoded':>12}{'text-replaced':>15}{'different':>12}")
    for name, told in result.get("dup-images", {}).items():
        cells = ["{}/{}".format(*told[k]) for k in ("exact", "re-encoded", "text-replaced", "different")]
        print(f"{name:<30}{cells[0]:>10}{cells[1]:>12}{cells[2]:>15}{cells[3]:>12}")
    for name, pair in result.get("found_again", {}).get("recall", {}).items():
        print(f"{name:<24}{pair[0]:>6} of {pair[1]}")
    if "found_again" in result:
        print("sides below 64 pixels   ", result["found_again"]["sides below 64 pixels"])
        print("hash distances          ", result["found_again"]["hash_distance"])
    print("hamming search          ", result["hamming"])


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    root = options.data.resolve()
    result: dict[str, Any] = {}
    pictures = [*found(root, "photo-*", IMAGES), *found(root, "inter-*", IMAGES)]
    sets = {"image": pictures, "speech": found(root, "speech-*", SOUND)}
    said = transcripts(root)
    for kind, files in sets.items():
        if files:
            batch = batch_of(root, files, kind, said)
            items = measure_media(batch, {"s": str(root)}, CONFIG)
            rates = speed(root, files, batch, kind, 1 if options.quick else 3)
            result[kind] = {"speed": rates, "spread": spread(batch, items, kind)}
    if (root / "dup-images").is_dir():
        result["dup-images"] = duplicates(root)
        pictures += found(root, "dup-images", IMAGES)
    if pictures:
        result["found_again"] = found_again(pictures[:: 4 if options.quick else 1], options.quick)
    result["hamming"] = hamming(options.quick)
    show(result)
    save(options.json, options.quick, result, PACKAGES)


if __name__ == "__main__":
    main()
