"""Write the demonstration corpus: small, mixed-modal, of our own making, with planted truth.

    root/text/<domain>/0001.txt       prose, a file per document         (source "prose")
    root/records/<domain>.jsonl[...]  prose as JSON Lines, plain, .gz, .zst (source "records")
    root/guides/page-001.md, .html    illustrated pages, images/         (sources "guides-md", "guides-html")
    root/scenes/captions.csv          pictures with captions             (source "scenes")
    root/speech/transcripts.csv       recordings with transcripts        (source "speech")
    root/truth.json                   what was planted                   (see `truth`)

The same seed and scale give the same bytes under the same versions of Python and the libraries.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np

from mixloom.pipeline.demo import media_part, text_part
from mixloom.pipeline.demo.guides import compose
from mixloom.pipeline.demo.prose import standard_library
from mixloom.pipeline.demo.scenes import sample_scene
from mixloom.pipeline.demo.shingles import ShingleIndex
from mixloom.pipeline.demo.truth import FILE, Truth
from mixloom.pipeline.errors import UserError

SOURCES = {
    "prose": "text",
    "records": "records",
    "guides-md": "guides",
    "guides-html": "guides",
    "scenes": "scenes",
    "speech": "speech",
}
NOTICE = """A demonstration corpus, written by mixloom itself.

The text is from the documentation strings of Python's own standard library (PSF licence), chosen by family of
modules. The pictures are drawn, the pages composed and the voices synthesised by mixloom's own code. Copies,
changed copies, noise and broken files are planted on purpose; truth.json says where each of them is.
"""


def write_corpus(root: Path, seed: int, scale: float = 1.0, *, library: Path | None = None) -> Truth:
    """Write the corpus below `root` and return what was planted.

    A corpus written there before is replaced; anything else there is left alone.

    Args:
        root: folder for the corpus; made when missing.
        seed: 0 or more; the same seed gives the same files.
        scale: multiplies the numbers of documents; the text is limited by what the library holds.
        library: folder of a Python standard library; that of the running Python by default.

    Raises:
        UserError: the folder holds files that are no demo corpus, or seed or scale are out of range.
    """
    if seed < 0 or not 0.05 <= scale <= 20:
        raise UserError(
            f"demo corpus: seed {seed} and scale {scale} are not both in range",
            fix="use a seed of 0 or more and a scale between 0.05 and 20",
        )
    _clear(root)
    text_rng, page_rng, scene_rng, speech_rng = (
        np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(4)
    )
    index = ShingleIndex()
    part = text_part.gather(library or standard_library(), index, scale, text_rng)
    spare = [compose([sample_scene(page_rng)] * 2, ("", ""), page_rng).text for _ in range(12)]
    for text in spare:
        index.add(text)
    written = text_part.write(part, root, spare, text_rng)
    media = media_part.MediaPart()
    media_part.write_guides(media, root, index, scale, page_rng)
    media_part.write_scenes(media, root, index, scale, scene_rng)
    media_part.write_speech(media, root, index, scale, speech_rng)
    at = written.places
    documents = tuple(sorted([*written.planted(part), *media.documents], key=lambda d: d.place))
    truth = Truth(
        seed=seed,
        scale=scale,
        python=platform.python_version(),
        sources=dict(SOURCES),
        missing_domains=part.missing,
        documents=documents,
        exact_duplicate_groups=(*(tuple(at[n] for n in g) for g in part.exact), *media.exact),
        near_duplicate_pairs=tuple((at[a], at[b], round(s, 6)) for a, b, s in part.near),
        hard_negative_pairs=tuple((at[a], at[b], round(s, 6)) for a, b, s in part.hard),
        same_words_pairs=tuple(media.same_words),
        noise=tuple(d.place for d in documents if d.kind == "noise"),
        corrupt=(*written.corrupt, *media.corrupt),
        totals=_totals(root, [d.kind for d in documents]),
    )
    (root / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
    truth.save(root)
    return truth


def _clear(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    there = sorted(p.name for p in root.iterdir())
    if there and FILE not in there:
        raise UserError(
            f"{root} holds '{there[0]}' and no {FILE}: it is not a demo corpus, and nothing was changed",
            fix="name an empty folder, or one that does not exist",
        )
    for folder in sorted(set(SOURCES.values())):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / FILE).unlink(missing_ok=True)


def _totals(root: Path, kinds: list[str]) -> dict[str, int]:
    files = [f for folder in sorted(set(SOURCES.values())) for f in (root / folder).rglob("*") if f.is_file()]
    counts = {f"{kind}_documents": kinds.count(kind) for kind in sorted(set(kinds))}
    return {
        "documents": len(kinds),
        "files": len(files),
        "bytes": sum(f.stat().st_size for f in files),
        **counts,
    }
