"""The embedded image codec on real pictures: how well it draws pictures it has not seen, and with how many of its codes.

    python benchmarks/codecs.py --data ROOT [--out FOLDER] [--demo] [--quick] [--json FILE]

ROOT holds the folders `photo-coco-cc` and `inter-*`: photographs, figures, drawings and engravings. Every fifth
picture of each set is held out; one codec is fitted to all the others and scored set by set, in dB of PSNR per
picture, averaged. Whole pictures are reduced to the size of the codec, the centre square of each. Beside it: each
picture as its mean colour, and the untrained codec, which is the principal components of its patches, quantised.
With --demo a codec is fitted to the drawn scenes of the demo as well. With --out the codec and the contact sheet of
all held-out pictures (original, reconstruction) are written there. CPU seconds are those of the fit alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as the command line does

import numpy as np
from recording import options_parser, save

from mixloom.pipeline.demo.corpus import write_corpus
from mixloom.pipeline.ingest.media import load_image
from mixloom.tokenizers.contact_sheet import contact_sheet
from mixloom.tokenizers.fit_sources import SUFFIXES
from mixloom.tokenizers.image import ImageCodec, fit_image_codec
from mixloom.tokenizers.pixels import Pixels, codebook_use, psnr, square
from mixloom.tokenizers.settings import ImageCodecConfig

HELD_OUT = 5  # every fifth
REPEATS = 3  # of timed encoding and decoding


def pictures_of(root: Path) -> dict[str, list[Path]]:
    """Files of the sets with pictures under `root`, in order of their names."""
    found = {}
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(("photo-", "inter-")):
            paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES["image"])
            if paths:
                found[folder.name] = paths
    if not found:
        raise SystemExit(f"{root} has no sets with pictures (folders named photo-*, inter-*)")
    return found


def split(files: dict[str, list[Path]]) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Pictures to fit to and held out ones, each with the name of its set."""
    fitted, held = [], []
    for name, paths in files.items():
        for i, path in enumerate(paths):
            (held if i % HELD_OUT == 2 else fitted).append((name, path))
    return fitted, held


def prepared(items: list[tuple[str, Path]], config: ImageCodecConfig) -> Pixels:
    """uint8 [n, size, size, 3]."""
    return np.stack([square(load_image(p.read_bytes()), config.size, config.resize) for _, p in items])


def by_set(items: list[tuple[str, Path]], pictures: Pixels, drawn: Pixels) -> dict[str, float]:
    """Mean PSNR in dB of each set."""
    values = defaultdict(list)
    for i, (name, _) in enumerate(items):
        values[name].append(psnr(pictures[i : i + 1], drawn[i : i + 1]))
    return {name: round(float(np.mean(v)), 2) for name, v in values.items()}


def mean_colours(pictures: Pixels) -> Pixels:
    mean = pictures.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(mean, pictures.shape))


def per_second(work: Any, count: int) -> float:
    """Pictures per CPU second, the best of a few."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return round(count / min(seconds), 1)


def measure(files: dict[str, list[Path]], config: ImageCodecConfig) -> tuple[dict[str, Any], ImageCodec, Any]:
    """Fit and score one codec: its figures, the codec, and the held-out pictures with what is drawn of them."""
    fitted, held = split(files)
    pictures = [load_image(p.read_bytes()) for _, p in fitted]
    started = time.process_time()
    codec = fit_image_codec(pictures, config)
    cpu = time.process_time() - started
    untrained = fit_image_codec(pictures, config.model_copy(update={"steps": 1, "lr": 1e-9}))
    seen, unseen = prepared(fitted, config), prepared(held, config)
    ids = codec.encode(unseen)
    drawn = codec.decode(ids)
    drawn_seen = codec.decode(codec.encode(seen))
    scores = {
        "fitted dB": by_set(fitted, seen, drawn_seen),
        "held out dB": by_set(held, unseen, drawn),
        "components dB": by_set(held, unseen, untrained.decode(untrained.encode(unseen))),
        "mean colour dB": by_set(held, unseen, mean_colours(unseen)),
    }
    rows: list[dict[str, Any]] = [
        {
            "set": name,
            "fitted": sum(n == name for n, _ in fitted),
            "held out": sum(n == name for n, _ in held),
            **{way: s.get(name) for way, s in scores.items()},
        }
        for name in files
    ]
    rows.append(
        {
            "set": "all",
            "fitted": len(fitted),
            "held out": len(held),
            "fitted dB": round(psnr(seen, drawn_seen), 2),
            "held out dB": round(psnr(unseen, drawn), 2),
            "components dB": round(psnr(unseen, untrained.decode(untrained.encode(unseen))), 2),
            "mean colour dB": round(psnr(unseen, mean_colours(unseen)), 2),
        }
    )
    everything = np.concatenate([codec.encode(seen), ids])
    use, use_held = codebook_use(everything, codec.codebook_size), codebook_use(ids, codec.codebook_size)
    facts = {
        "size": config.size,
        "tokens_per_image": codec.tokens,
        "codes": codec.codebook_size,
        "codes_used": use.used,
        "codes_used_share": round(use.used / use.size, 3),
        "perplexity": round(use.perplexity, 1),
        "codes_used_held_out": use_held.used,
        "perplexity_held_out": round(use_held.perplexity, 1),
        "parameters": sum(t.numel() for t in codec._model.state_dict().values()),
        "steps": config.steps,
        "fit_cpu_s": round(cpu, 1),
        "encoded_per_cpu_s": per_second(lambda: codec.encode(unseen), len(unseen)),
        "decoded_per_cpu_s": per_second(lambda: codec.decode(ids), len(unseen)),
    }
    return {**facts, "sets": rows}, codec, (unseen, drawn)


def main() -> None:
    parser = options_parser(__doc__ or "")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write the codec and the contact sheet"
    )
    parser.add_argument("--demo", action="store_true", help="fit a second codec, to the scenes of the demo")
    options = parser.parse_args()
    config = ImageCodecConfig()
    if options.quick:
        config = config.model_copy(update={"steps": 1000})
    figures: dict[str, Any] = {}
    figures["real"], codec, (unseen, drawn) = measure(pictures_of(options.data), config)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        codec.save(options.out)
        contact_sheet(unseen, drawn).save(options.out / "reconstructions.png")
    if options.demo:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", 0)
            scenes = sorted(
                p for p in (Path(folder) / "corpus/scenes").rglob("*") if p.suffix in (".jpg", ".png")
            )
            figures["demo"], _, _ = measure({"scenes": scenes}, config)
    for name, found in figures.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in found.items() if k != 'sets')}")
        for row in found["sets"]:
            print("  " + "  ".join(f"{k} {v}" for k, v in row.items()))
    save(options.json, options.quick, figures, ("mixloom", "torch", "numpy", "pillow"))


if __name__ == "__main__":
    main()
