"""Earlier runs to deduplicate against: what they left behind, and whether it compares with this run's.

Of an earlier run either its index is read (stage `dedup_index`: content hashes, signatures and sketches of what it
kept), or, where it left none, its survivors and annotations. Its text is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mixloom.pipeline.annotate_config import SIGNATURES, MinHashConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.overlay import EDITS_FOLDER, edited_annotations, edited_documents
from mixloom.pipeline.run import PartReader, RunDirectory, StageDirectory, StageManifest
from mixloom.pipeline.schema import SURVIVORS

INDEX_STAGE = "dedup_index"
SIGNATURE = "signature"  # the unit of the index whose info tells how the signatures were made

Kind = Literal["index", "signatures"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of one run, as incremental deduplication reads them. Small and picklable.

    Attributes:
        name: the run directory as stated; "" for this run.
        kind: index: `index` is read; signatures: annotations, survivors and the digests of media.
        parts: names of its parts, sorted.
    """

    name: str
    kind: Kind
    parts: tuple[str, ...]
    index: PartReader | None = None
    documents: PartReader | None = None
    annotations: PartReader | None = None
    survivors: PartReader | None = None


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """An earlier run, found.

    Attributes:
        corpus: how its documents are read.
        root: its run directory, absolute.
        signature: how its signatures were made. scheme: and by which arithmetic (`annotate_config.SIGNATURES`).
        fingerprints: of the stages read, by name.
    """

    corpus: Corpus
    root: str
    signature: MinHashConfig
    scheme: int
    fingerprints: dict[str, str]


def find_earlier(path: str) -> EarlierRun:
    """Open an earlier run.

    Raises:
        UserError: no run there, or one that has not come as far as a decision on its documents.
    """
    run = RunDirectory.existing(path)
    index = run.stage(INDEX_STAGE)
    manifest = index.manifest()
    if manifest is not None and manifest.info.get(SIGNATURE):
        told = manifest.info[SIGNATURE]
        how = MinHashConfig(**told["minhash"]), told.get("signatures", 1)
        corpus = Corpus(path, "index", _parts(manifest), index=_reader(index, manifest))
        return EarlierRun(corpus, run.store.root, *how, {INDEX_STAGE: manifest.fingerprint})
    return _by_signatures(path, run)


def _by_signatures(path: str, run: RunDirectory) -> EarlierRun:
    manifests = {n: m for n in run.plan() if (m := run.stage(n).manifest()) is not None}
    # From the end: the last stage that decided knows what was kept.
    decided = next((n for n in reversed(manifests) if _is_deciding(run.stage(n), manifests[n])), None)
    if decided is None or not {"annotate", "ingest"} <= set(manifests):
        raise UserError(
            f"dedup.against names {path}, which has no finished stage that decided on its documents",
            fix="finish that run with `mixloom run` first, or leave it out of dedup.against",
        )
    edits = [n for n, m in manifests.items() if any(p.name.startswith(f"{EDITS_FOLDER}/") for p in m.parts)]
    layers = [_reader(run.stage(n), manifests[n]) for n in edits]
    corpus = Corpus(
        path,
        "signatures",
        _parts(manifests[decided]),
        documents=edited_documents(_reader(run.stage("ingest"), manifests["ingest"]), layers),
        annotations=edited_annotations(_reader(run.stage("annotate"), manifests["annotate"]), layers),
        survivors=_reader(run.stage(decided), manifests[decided]),
    )
    annotated = manifests["annotate"].config
    how = MinHashConfig(**annotated["minhash"]), annotated.get("signatures", 1)
    read = ["annotate", *edits, decided]
    return EarlierRun(corpus, run.store.root, *how, {n: manifests[n].fingerprint for n in read})


def _parts(manifest: StageManifest) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in manifest.parts if p.name.startswith("part-")))


def _reader(directory: StageDirectory, manifest: StageManifest) -> PartReader:
    return PartReader(directory.store, {p.name: p for p in manifest.parts})


def _is_deciding(directory: StageDirectory, manifest: StageManifest) -> bool:
    """Whether a stage writes survivors: told by the columns of a part, whatever its name."""
    parts = _parts(manifest)
    if not parts:
        return False
    part = _reader(directory, manifest).read(parts[0])
    return bool(part.schema.equals(SURVIVORS))


def check_signatures(mine: MinHashConfig, runs: Sequence[EarlierRun]) -> None:
    """Refuse earlier runs whose signatures do not compare with this run's (UserError, which names both)."""
    wanted = _comparable(mine)
    for earlier in runs:
        if earlier.scheme != SIGNATURES:
            raise UserError(
                f"signatures of {earlier.corpus.name} were made by another version of Mixloom (arithmetic "
                f"{earlier.scheme}, here {SIGNATURES}) and do not compare with those of this run",
                fix="run that one again: what this version does otherwise is redone; or leave it out of dedup.against",
            )
        theirs = _comparable(earlier.signature)
        if theirs == wanted:
            continue
        differ = [k for k in wanted if wanted[k] != theirs[k]]
        told = "; ".join(f"{k} is {theirs[k]} there and {wanted[k]} here" for k in differ)
        raise UserError(
            f"signatures of {earlier.corpus.name} do not compare with those of this run: {told}",
            fix="state the same annotate.minhash for this run, or leave the other out of dedup.against",
        )


def _comparable(signature: MinHashConfig) -> dict[str, Any]:
    return {"ngram": signature.ngram, "seed": signature.seed, "values": signature.num_perm}
