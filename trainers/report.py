"""report.html: one self-contained page about a run, from whatever the run has finished so far."""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mixloom.pipeline.manifest import MODALITIES, ShardManifest
from mixloom.pipeline.report import (
    decoded,
    domains,
    duplicates,
    edits,
    funnel,
    incidents,
    order,
    overview,
    samples,
    tokens,
    training,
)
from mixloom.pipeline.report.documents import Documents, read_columns, source_roots
from mixloom.pipeline.report.facts import Curation, planned_stages, stage_facts
from mixloom.pipeline.report.markup import Content, el, plural
from mixloom.pipeline.report.media import CLIP_SECONDS, Budget, clip, pixels, thumbnail
from mixloom.pipeline.report.mixture_picture import draw
from mixloom.pipeline.report.page import Section, nothing, page
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.storage import Store
from mixloom.trainers import report_utilities

if TYPE_CHECKING:
    from mixloom.pipeline.shard_reader import ShardReader

REPORT = "report.html"
SAMPLE_BYTES = 2_600_000  # of base64, for samples of kept and dropped documents
DECODED_BYTES = 2_600_000  # the same, for decoded contexts
EXAMINED = 3000  # contexts looked at to choose those that are shown
DOCUMENTS, SEGMENTS = 8, 10  # shown of a context, and of a document in it
PICTURES, CLIPS = 10, 4  # decoded of a context


def write_report(run_dir: str) -> str:
    """Write report.html into a run directory, whole or not at all; returns its path.

    Works on a run at any point: a section whose stage has not finished says so.

    Raises:
        UserError: no run there, or a file of a finished stage is missing or damaged.
    """
    run = RunDirectory.existing(run_dir)
    run.store.write(REPORT, render_report(run).encode("utf-8"))
    return run.store.url(REPORT)


def render_report(run: RunDirectory) -> str:
    """The page as text; the same files of a run give the same page."""
    config = yaml.safe_load(run.store.read("config.yaml")) or {}
    roots = source_roots(run, config)
    documents = Documents(run, roots)
    curation = Curation(run, documents)
    shards = _shard_manifest(run, curation)
    budget = Budget(SAMPLE_BYTES)
    title = posixpath.basename(run.store.root.rstrip("/")) or run.store.root
    began = min((m.started for m in curation.manifests.values()), default=None)
    names = ", ".join(str(s.get("name")) for s in config.get("sources") or [])
    subtitle = [overview.when(began), " \u00b7 sources: ", el("bdi", names or "none")]
    return page(
        f"Run {title}",
        subtitle,
        [
            _overview(run, shards),
            _funnel(run, curation),
            _kept(curation, documents, budget),
            _dropped(curation, budget),
            *edits.sections(run, curation.manifests),
            duplicates.section(run, curation.manifests, documents),
            _domains(curation),
            order.section(curation.manifests),
            _tokens(curation, shards),
            *report_utilities.sections(run, curation.manifests, shards),
            _mixture(run, curation),
            *_trainings(run, curation),
            _decoded(run, shards, documents),
        ],
    )


def _shard_manifest(run: RunDirectory, curation: Curation) -> ShardManifest | None:
    finished = "shards" in curation.manifests
    return ShardManifest.load(run.stage("shards").store.root) if finished else None


def _overview(run: RunDirectory, shards: ShardManifest | None) -> Section:
    totals = None
    if shards is not None:
        t = shards.totals
        totals = overview.Totals(t.shards, t.contexts, t.bytes, t.tokens_by_modality)
    body = overview.overview(stage_facts(run), totals, planned_stages(run))
    if run.store.exists("summary.json"):
        truth = run.store.read_json("summary.json").get("truth")
        body += overview.truth_section(truth) if isinstance(truth, dict) else []
    return Section("overview", "Overview", body)


def _funnel(run: RunDirectory, curation: Curation) -> Section:
    body = [funnel.funnel(stage_facts(run)), funnel.by_source(curation.sources(), planned_stages(run))]
    lead = "Documents through every stage. What was dropped was judged; what failed could not be read or encoded."
    return Section(
        "funnel", "Documents by stage", body if any(body) else nothing("No stage has run yet."), lead
    )


def _kept(curation: Curation, documents: Documents, budget: Budget) -> Section:
    ids = curation.kept()
    found = documents.samples(ids)
    shown = [found[i] for i in ids if i in found]
    lead = "A few documents of every source that no rule dropped so far, as they were read."
    body: Content = samples.kept_samples(shown, budget) if shown else nothing("No document was kept so far.")
    return Section("kept", "Samples kept", body, lead)


def _dropped(curation: Curation, budget: Budget) -> Section:
    groups = curation.reasons()
    lead = "Per reason, the documents with the smallest ids; for a duplicate, the document kept in its place is beside it."
    body: Content = (
        samples.dropped_samples(groups, budget)
        if groups
        else nothing("Nothing was dropped and nothing failed.")
    )
    return Section("dropped", "Samples dropped and failed", body, lead)


def _domains(curation: Curation) -> Section:
    found, labels = curation.domains()
    body: Content = nothing("Domains have not been found yet (stage cluster).")
    if found:
        body = domains.domain_sections(
            found, curation.map_points(), labels, curation.manifests["cluster"].info
        )
    return Section(
        "domains",
        "Domains",
        body,
        "Documents grouped by what they say; the words are those that tell a domain apart.",
    )


def _tokens(curation: Curation, shards: ShardManifest | None) -> Section:
    body: Content = nothing("There are no shards yet.")
    if shards is not None:
        fitted = curation.manifests.get("tokenizer")
        body = tokens.token_sections(shards, curation.text_bytes(), fitted.info if fitted else {})
    return Section("tokens", "Tokens", body, "Real tokens in the shards; padding is never counted.")


def _mixture(run: RunDirectory, curation: Curation) -> Section:
    from mixloom.mixers.mixture import MIXTURE_NAME, Mixture

    body: Content = nothing("There is no mixture yet.")
    if "mixture" in curation.manifests:
        m = Mixture.model_validate(yaml.safe_load(run.stage("mixture").store.read(MIXTURE_NAME)))
        from mixloom.mixers.compare import beside_unimax, compared
        from mixloom.mixers.picture import picture_of

        weights, epochs, capped, other = m.weights, m.epochs, set(m.capped), beside_unimax(m)
        rows = [
            tokens.MixtureRow(
                d.name,
                d.tokens,
                weights[d.name],
                epochs[d.name],
                d.max_epochs,
                d.name in capped,
                other[d.name],
            )
            for d in m.domains
        ]
        drawn = draw(picture_of(m, compared(m)))
        body = [
            el("div", drawn, cls="scroll", tabindex="0", role="region", aria_label="Picture of the mixture"),
            tokens.mixture_section(rows, m.estimator, m.budget_tokens, m.notes),
        ]
    return Section("mixture", "Mixture", body, "How much of the training each domain gets.")


def _trainings(run: RunDirectory, curation: Curation) -> list[Section]:
    """One section per training that has logged anything."""
    out: list[Section] = []
    for name in planned_stages(run):
        store = run.stage(name).store
        records, left_out = _lines(store, "metrics.jsonl"), _lines(store, "spikes.jsonl")
        if not records and not left_out:
            continue
        body = [
            *training.training_section(records, _ends(records) if records else None),
            *incidents.incidents_section(left_out, records, posixpath.basename(run.store.root)),
            *incidents.looks_charts(records),
        ]
        title = "Training" if name == "train" else f"Training '{name}'"
        lead = "Loss per target over the steps; the faint line is what was logged, the strong one its moving average."
        out.append(Section(f"training-{len(out)}", title, body, lead))
    return out or [Section("training-0", "Training", nothing("Nothing has been trained yet."))]


def _lines(store: Store, name: str) -> list[dict[str, Any]]:
    """Records of a training, a line each; one cut off by a crash is left out."""
    if not store.exists(name):
        return []
    lines = store.read(name).decode("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _ends(records: Sequence[dict[str, Any]]) -> training.Ends:
    from mixloom.trainers.metrics import ends

    names = sorted({n for r in records for n in r["loss_by_modality"]})
    e = ends(records, names)
    first = {"all": e.first, **e.first_by_modality}
    return training.Ends(e.steps, first, {"all": e.last, **e.last_by_modality})


def _decoded(run: RunDirectory, shards: ShardManifest | None, documents: Documents) -> Section:
    lead = "What the model is given, decoded back from the token ids in the shards, beside what it was made from."
    anchor, title = "decoded", "Decoded from the shards"
    if shards is None:
        return Section(anchor, title, nothing("There are no shards yet."))
    if not run.store.local:
        return Section(
            anchor, title, nothing("Shards are decoded only from a run directory on a local disk.")
        )
    from mixloom.pipeline.shard_reader import ShardReader

    reader = ShardReader(run.stage("shards").store.root)
    shown = ShardDecoder(run, reader, documents).contexts()
    body: Content = decoded.decoded_section(shown, Budget(DECODED_BYTES))
    return Section(anchor, title, body if shown else nothing("The shards hold no context."), lead)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a document was made of: its segments, and their spans of tokens."""

    source: str
    segments: list[dict[str, Any]]
    spans: list[dict[str, Any]]

    def segment_at(self, position: int) -> dict[str, Any] | None:
        """The segment that holds a token of the document."""
        for span in self.spans:
            if span["start"] <= position < span["stop"]:
                return self.segments[span["segment"]]
        return None

    def cut_at(self, position: int) -> bool:
        """Whether the segment that holds a token is written in several pieces, between which others may stand."""
        own = [(s["segment"], s["kind"]) for s in self.spans]
        here = (s for s, span in zip(own, self.spans) if span["start"] <= position < span["stop"])
        return any(own.count(s) > 1 for s in here)


class ShardDecoder:
    """Contexts of the shards, decoded by the fitted tokenizers of the run."""

    def __init__(self, run: RunDirectory, reader: ShardReader, documents: Documents) -> None:
        from mixloom.tokenizers.devices import decoding_only
        from mixloom.tokenizers.fitted import Codecs

        self._run, self._reader, self._documents = run, reader, documents
        with decoding_only():  # also where the GPU they were made on is not
            codecs = Codecs.load(run.stage("tokenizer").store)
        self._vocabulary, self._text = codecs.vocabulary, codecs.text
        self._image, self._speech = codecs.image, codecs.speech

    def contexts(self) -> list[decoded.DecodedContext]:
        """A few contexts, of different modalities where there are any."""
        return [self._context(domain, i) for domain, i in self._choose()]

    def _choose(self) -> list[tuple[str, int]]:
        """The context richest in images, in speech and in different modalities, and one of mere text."""
        reader, table = self._reader, self._vocabulary.modality_table()
        each = max(1, EXAMINED // max(1, len(reader.domains)))
        places, counts = [], []
        for domain in reader.domains:
            there = reader.contexts(domain)
            for i in dict.fromkeys(k * there // min(there, each) for k in range(min(there, each))):
                ids, lengths = reader.context(domain, i)
                real = table[ids[: int(lengths.sum())]]
                places.append((domain, i))
                counts.append(np.bincount(real, minlength=len(MODALITIES)))
        if not places:
            return []
        c = np.array(counts)
        kinds = (c > 0).sum(axis=1)
        chosen: list[int] = []
        # Earlier contexts win ties. `argmax` over images and speech prefers contexts with words beside them.
        for score in (
            np.minimum(c[:, 1], 4 * c[:, 0]),
            np.minimum(c[:, 2], 4 * c[:, 0]),
            kinds * (kinds > 2),
        ):
            if score.max() > 0:
                chosen.append(int(score.argmax()))
        plain = np.flatnonzero(kinds == 1)
        chosen += plain[:1].tolist() if len(plain) else []
        return [places[i] for i in dict.fromkeys(chosen or [0])]

    def _context(self, domain: str, number: int) -> decoded.DecodedContext:
        ids, lengths = self._reader.context(domain, number)
        info = self._reader.info(domain, number)
        first = np.concatenate([[0], np.cumsum(lengths)])
        steps = self._steps(domain, number, ids)
        shown = self._first_documents(ids, lengths)
        origins = self._origins([info["doc_ids"][i] for i in shown])
        room = {"image": PICTURES, "speech": CLIPS}
        documents = []
        for i in shown:
            piece = ids[first[i] : first[i + 1]]
            origin = origins.get(info["doc_ids"][i])
            lasting = None if steps is None else steps[first[i] : first[i + 1]]
            pieces, more = self._pieces(piece, info["starts"][i], origin, room, lasting)
            documents.append(
                decoded.DecodedDocument(
                    info["doc_ids"][i],
                    info["sources"][i],
                    len(piece),
                    info["starts"][i],
                    tuple(pieces),
                    i + 1,
                    more,
                )
            )
        return decoded.DecodedContext(
            domain,
            number,
            info["shard"],
            int(lengths.sum()),
            len(ids),
            tuple(documents),
            len(lengths) - len(shown),
        )

    def _steps(self, domain: str, number: int, ids: np.ndarray) -> np.ndarray | None:
        """Steps of each unit of speech in the context, 0 for other tokens: int32 [slots]; None where shards do not tell."""
        durations = self._reader.durations(domain, number)
        if durations is None:
            return None
        units = self._vocabulary.block("speech")
        out = np.zeros(len(ids), np.int32)
        out[(ids >= units.start) & (ids < units.stop)] = durations
        return out

    def _first_documents(self, ids: np.ndarray, lengths: np.ndarray) -> list[int]:
        """Documents to show: the first of each combination of modalities, then the first of all, in their order."""
        table = self._vocabulary.modality_table()
        first = np.concatenate([[0], np.cumsum(lengths)])
        kinds = [tuple(np.unique(table[ids[a:b]])) for a, b in itertools.pairwise(first)]
        new = [i for i, k in enumerate(kinds) if k not in kinds[:i]]
        return sorted(list(dict.fromkeys([*new, *range(len(kinds))]))[:DOCUMENTS])

    def _origins(self, doc_ids: list[str]) -> dict[str, _Origin]:
        places = self._documents.locate(doc_ids)
        rows = self._documents.rows(doc_ids, ["doc_id", "source", "segments"])
        manifest = self._run.stage("tokenize").manifest()
        spans = _spans(self._run, manifest, places) if manifest else {}
        return {
            i: _Origin(rows[i]["source"], rows[i]["segments"], spans[i])
            for i in doc_ids
            if i in rows and i in spans
        }

    def _pieces(
        self,
        ids: np.ndarray,
        start: int,
        origin: _Origin | None,
        room: dict[str, int],
        steps: np.ndarray | None,
    ) -> tuple[list[decoded.DecodedPiece], int]:
        """Segments of one document in a context, and how many are left out. `room` is used up."""
        from mixloom.tokenizers.interleave import decode_tokens

        found = decode_tokens(ids, self._vocabulary)
        pieces = []
        for s in found[:SEGMENTS]:
            if s.kind == "text":
                pieces.append(decoded.DecodedPiece("text", len(s.ids), self._text.decode(s.ids)))
                continue
            if not room[s.kind]:
                pieces.append(decoded.DecodedPiece(s.kind, len(s.ids), note="not decoded on this page"))
                continue
            room[s.kind] -= 1
            segment = origin.segment_at(start + s.start) if origin else None
            media = (segment or {}).get("media")
            original = (origin.source, media) if origin and media else None
            lasting = None if steps is None else steps[s.start : s.start + len(s.ids)]
            cut = origin is not None and origin.cut_at(start + s.start)
            pieces.append(
                self._picture(s, original) if s.kind == "image" else self._clip(s, original, lasting, cut)
            )
        return pieces, len(found) - len(pieces)

    def _picture(self, s: Any, original: tuple[str, Any] | None) -> decoded.DecodedPiece:
        codec = self._image
        if codec is None or not codec.can_decode or len(s.ids) != codec.tokens:
            note = "cut by the end of the context" if not s.complete else "this codec cannot draw its codes"
            return decoded.DecodedPiece("image", len(s.ids), note=note)
        drawn = codec.decode(s.ids[None])[0]
        picture = pixels(drawn, "the picture as decoded from its codes", 1 if codec.size > 160 else 2)
        source = self._documents.image(*original) if original else None
        note, before = "", None
        if source is not None:
            from mixloom.tokenizers.pixels import psnr

            before = thumbnail(source, "the picture it was made from")
            note = f"PSNR {psnr(codec.prepare(source)[None], drawn[None]):.1f} dB"
        return decoded.DecodedPiece("image", len(s.ids), picture=picture, original_picture=before, note=note)

    def _clip(
        self, s: Any, original: tuple[str, Any] | None, lasting: np.ndarray | None, cut: bool
    ) -> decoded.DecodedPiece:
        """`cut`: the units are a stretch of the recording."""
        codec = self._speech
        made_from = "the recording of which this is a stretch" if cut else "the recording it was made from"
        before = self._documents.clip(*original, made_from) if original else None
        if codec is None or not codec.can_decode:
            note = "this codec cannot sound its units"
            return decoded.DecodedPiece("speech", len(s.ids), original_clip=before, note=note)
        # Long recordings are cut before decoding: most of the time would go into what nobody hears.
        units = s.ids[: int(2 * CLIP_SECONDS * codec.units_per_second)]
        lasting = None if lasting is None else lasting[: len(units)]
        label = "the recording as decoded from its units"
        sound = clip(codec.decode(units, lasting), codec.rate, label)
        note = "" if len(units) == len(s.ids) else f"from the first {plural(len(units), 'unit')}"
        note = note if s.complete else "the recording goes on in another context"
        return decoded.DecodedPiece("speech", len(s.ids), clip=sound, original_clip=before, note=note)


def _spans(
    run: RunDirectory, manifest: StageManifest, places: dict[str, tuple[str, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Spans of tokens of the segments of each document, from the stage `tokenize`."""
    parts = {p.name: p for p in manifest.parts}
    out: dict[str, list[dict[str, Any]]] = {}
    for part in sorted({part for part, _ in places.values()}):
        if part not in parts:
            continue
        table = read_columns(run.stage("tokenize").store, parts[part], ["doc_id", "spans"])
        for row, doc_id in enumerate(table["doc_id"].to_pylist()):
            if doc_id in places:
                out[doc_id] = table["spans"][row].as_py()
    return out
