"""A recipe: one configuration, and the stages it stands for.

This is the one place that knows all four folders; each section of the configuration lives beside its owner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.stage import MixtureStage
from mixloom.pipeline.annotate_config import AnnotateConfig
from mixloom.pipeline.annotate_stage import AnnotateStage
from mixloom.pipeline.cluster import ClusterConfig
from mixloom.pipeline.cluster_stage import ClusterStage
from mixloom.pipeline.console import Console
from mixloom.pipeline.decide import FilterConfig, RulePlan
from mixloom.pipeline.decontaminate_config import DecontaminateConfig
from mixloom.pipeline.decontaminate_stage import DecontaminateStage
from mixloom.pipeline.dedup_config import DedupConfig
from mixloom.pipeline.dedup_stage import ExactDedupStage, NearDedupStage
from mixloom.pipeline.embed_config import EmbedConfig
from mixloom.pipeline.embed_stage import EmbedStage
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.filter_stage import FilterStage
from mixloom.pipeline.image_dedup_config import ImageDedupConfig
from mixloom.pipeline.image_dedup_stage import ImageDedupStage
from mixloom.pipeline.incremental_stage import AgainstDedupStage, DedupIndexStage
from mixloom.pipeline.ingest.config import SourceConfig
from mixloom.pipeline.ingest_stage import IngestStage
from mixloom.pipeline.interrupts import stop_if_asked
from mixloom.pipeline.noise_config import NoiseConfig
from mixloom.pipeline.order_config import OrderConfig
from mixloom.pipeline.order_stage import OrderStage
from mixloom.pipeline.paragraph_config import ParagraphConfig
from mixloom.pipeline.paragraph_stage import ParagraphDedupStage
from mixloom.pipeline.pii_config import PiiConfig
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.semantic_config import SemanticConfig
from mixloom.pipeline.semantic_stage import SemanticDedupStage
from mixloom.pipeline.span_stages import NoiseStage, PiiStage
from mixloom.pipeline.stage import RunSettings, Stage, run_stage
from mixloom.pipeline.storage import resolve
from mixloom.tokenizers.fit import TokenizerConfig, TokenizerStage
from mixloom.tokenizers.image_embedder import IMAGE_MODELS
from mixloom.tokenizers.stages import PackStage, ShardsConfig, ShardsStage, TokenizeStage
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.heldout_stage import HeldOutStage
from mixloom.trainers.launch import rank_and_world
from mixloom.trainers.stage import TrainStage
from mixloom.trainers.utilities_config import UtilitiesConfig
from mixloom.trainers.utilities_stage import UtilitiesStage

# Sections that draw. MinHash keeps its own seed, for signatures of two seeds do not compare.
SEEDED = (
    ("embed",),
    ("cluster",),
    ("order",),
    ("tokenizer", "image"),
    ("tokenizer", "speech"),
    ("tokenizer", "layout"),
    ("shards",),
    ("utilities",),
    ("train",),
)
OPTIONAL = ("train", "utilities")  # sections whose absence means something


def _set_default(tree: dict[str, Any], path: Sequence[str], seed: Any) -> None:
    """Set `seed` in the section at `path` unless it has one; other mappings than `tree` itself are copied."""
    for name in path:
        if name in OPTIONAL and tree.get(name) is None:
            return
        section = tree.get(name, {})
        if not isinstance(section, dict):
            return  # a model that is complete already, or a mistake that is told elsewhere
        tree[name] = dict(section)
        tree = tree[name]
    tree.setdefault("seed", seed)


class RunConfig(BaseModel):
    """Everything one run does. Only `run_dir` and `sources` have no default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: str = Field(description="where everything is written (path or URL)")
    data_root: str = Field(
        ".", description="folder or URL against which the paths of the sources are resolved"
    )
    sources: list[SourceConfig] = Field(
        min_length=1, description="what to read; docs/ingest.md lists the formats"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="seed of every section that draws and states none of its own"
    )
    workers: int = Field(
        1, ge=1, le=1024, description="threads or processes of the local runner; changes time only"
    )
    part_documents: int = Field(4000, ge=1, le=100_000, description="documents in one part, at most")
    part_bytes: int = Field(32 << 20, ge=1024, description="bytes of text in one part, about")
    part_media: int = Field(1000, ge=1, le=1_000_000, description="images and recordings in one part, about")
    max_failed_share: float = Field(
        0.01, ge=0, le=1, description="share of failed documents above which a stage of 1000 or more stops"
    )
    annotate: AnnotateConfig = Field(AnnotateConfig(), description="measures of every document")
    filter: FilterConfig = Field(FilterConfig(), description="rules that decide on the measures")
    noise: NoiseConfig | None = Field(
        None,
        description="cut runs of noise out of documents; left out: they stay (see annotate.noise for measures)",
    )
    dedup: DedupConfig = Field(DedupConfig(), description="exact and near duplicates")
    dedup_paragraphs: ParagraphConfig | None = Field(
        None, description="remove paragraphs or lines that stand in several documents; left out: they stay"
    )
    dedup_images: ImageDedupConfig | None = Field(
        None, description="remove repeated images; needs annotate.media; left out: they stay"
    )
    dedup_semantic: SemanticConfig | None = Field(
        None,
        description="drop documents whose vectors are nearly equal, inside each cell; left out: they stay",
    )
    decontaminate: DecontaminateConfig | None = Field(
        None, description="drop or cut what overlaps with evaluation sets; left out: nothing is compared"
    )
    pii: PiiConfig | None = Field(
        None, description="mask personal data and secrets; left out: they are not looked for"
    )
    embed: EmbedConfig = Field(EmbedConfig(), description="document vectors, of text, images or both")
    cluster: ClusterConfig = Field(ClusterConfig(), description="domains")
    order: OrderConfig = Field(OrderConfig(), description="order of documents in context")
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="text tokenizer and codecs")
    shards: ShardsConfig = Field(ShardsConfig(), description="packed contexts")
    utilities: UtilitiesConfig | None = Field(
        None,
        description="measure how much each domain is worth for each skill, by small trainings; left out: not measured",
    )
    mixture: MixtureConfig = Field(MixtureConfig(), description="weights of the domains")
    model: ModelConfig = Field(
        ModelConfig(), description="the model to train; used when there is a train section"
    )
    train: TrainConfig | None = Field(
        None, description="how to train; left out: the run ends with the mixture"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, tree: Any) -> Any:
        """Hand the seed of the run to every section that states none of its own."""
        if not isinstance(tree, dict) or "seed" not in tree:
            return tree
        tree = dict(tree)
        for path in SEEDED:
            _set_default(tree, path, tree["seed"])
        return tree

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [s.name for s in self.sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two sources are named '{twice[0]}'; give each a name of its own")
        unknown = sorted(set(self.filter.by_source) - set(names))
        if unknown:
            raise ValueError(
                f"filter.by_source names '{unknown[0]}', which is not a source; sources are {', '.join(names)}"
            )
        for name in self.tokenizer.layout.unknown(names):
            raise ValueError(
                f"tokenizer.layout.by_source names '{name}', which is not a source; sources are {', '.join(names)}"
            )
        unseen = [n for n, own in sorted(self.tokenizer.layout.by_source.items()) if own.alt]
        if unseen and (self.pii is not None or self.decontaminate is not None):
            raise ValueError(
                f"tokenizer.layout.by_source.{unseen[0]}: alt writes attributes of images, which pii and decontaminate do "
                "not see; set alt_text: true of the source instead, which makes them texts"
            )
        self._tables()
        return self

    def _tables(self) -> None:
        """What the method of the mixture needs is named or measured; told before anything runs."""
        method, measured = self.mixture.method, self.utilities
        if method == "utilimax" and self.mixture.utilities is None and measured is None:
            raise ValueError(
                "mixture.method is utilimax, and no utilities are given: name a file in mixture.utilities, or add a"
                " section `utilities` with the skills to measure them for"
            )
        if method == "regmix" and self.mixture.trials is None and not (measured and measured.trials > 1):
            raise ValueError(
                "mixture.method is regmix, and no trials are given: name a file in mixture.trials, or add a section"
                " `utilities` with skills and `trials: 64` or more"
            )
        if method == "doremi" and self.mixture.excess is None and not (measured and measured.excess):
            raise ValueError(
                "mixture.method is doremi, and no excess losses are given: name a file in mixture.excess, or add a"
                " section `utilities` with skills and `excess: true`"
            )

    @property
    def training_contexts(self) -> int | None:
        """Contexts the training is served, when there is one."""
        return self.train.steps * self.train.batch_contexts if self.train else None


class _Chain:
    """Deciding and editing stages, each after the one before it, and what they leave for the next."""

    def __init__(self, survivors: str, edits: list[str]) -> None:
        self.survivors = survivors  # the stage whose survivors are alive now
        self.edits = edits  # the stages whose edits are in the documents now
        self.late: str | None = None  # the stage that dropped documents after they had their cells
        self.compared: tuple[str, ...] = ()  # the edits in the text that is compared with earlier runs
        self.stages: list[Stage] = []

    def seen_by(self, stage: Stage) -> Stage:
        """A stage that reads the documents as they are now."""
        stage.edits = tuple(self.edits)
        return stage

    def add(self, stage: Stage, changes: bool = False) -> None:
        """A stage that decides, and `changes` documents or not."""
        self.stages.append(self.seen_by(stage))
        self.survivors = stage.name
        if changes:
            self.edits.append(stage.name)


def _curation(config: RunConfig, chain: _Chain) -> _Chain:
    """What decides about documents after the filter. Duplicates are found in the text as it was before it is masked."""
    annotate, dedup = config.annotate, config.dedup
    if config.noise is not None:
        chain.add(NoiseStage(config.noise, chain.survivors, annotate), changes=True)
    if dedup.exact:
        chain.add(ExactDedupStage(dedup, chain.survivors))
    chain.compared = tuple(chain.edits)
    if dedup.against:
        chain.add(AgainstDedupStage(dedup, chain.survivors))
    if dedup.near is not None:
        chain.add(NearDedupStage(dedup, chain.survivors))
    if config.dedup_paragraphs is not None:
        chain.add(ParagraphDedupStage(config.dedup_paragraphs, chain.survivors, annotate), changes=True)
    if config.dedup_images is not None:
        chain.add(ImageDedupStage(config.dedup_images, chain.survivors, annotate), changes=True)
    if config.decontaminate is not None:
        stage = DecontaminateStage(config.decontaminate, chain.survivors, annotate, config.data_root)
        chain.add(stage, changes=True)
    if config.pii is not None:
        chain.add(PiiStage(config.pii, chain.survivors, annotate), changes=True)
    return chain


def _semantic(config: RunConfig, chain: _Chain) -> list[Stage]:
    """What decides when documents have their cells, and the index for later runs, which comes after every drop."""
    out: list[Stage] = []
    if config.dedup_semantic is not None:
        stage = SemanticDedupStage(config.dedup_semantic, config.dedup, chain.survivors)
        out.append(chain.seen_by(stage))
        chain.survivors = chain.late = stage.name
    if config.dedup.index is not None:
        index = DedupIndexStage(config.dedup, chain.survivors)
        index.edits = chain.compared
        out.append(index)
    return out


def _mixing(config: RunConfig) -> list[Stage]:
    """Utilities where they are measured, then the mixture."""
    contexts = config.training_contexts
    if config.utilities is None:
        return [MixtureStage(config.mixture, contexts)]
    measured = UtilitiesStage(config.utilities, config.data_root, contexts)
    return [measured, MixtureStage(config.mixture, contexts, measured.name)]


def stages_of(config: RunConfig, roots: dict[str, str]) -> list[Stage]:
    """The stages of a run, in order.

    Args:
        roots: where each source lies, by name.
    """
    plan = RulePlan.load(config.filter)
    filters = [FilterStage(plan, step) for step in range(plan.stages)]
    chain = _curation(config, _Chain(filters[-1].name, [f.name for f in filters] if len(filters) > 1 else []))
    stages: list[Stage] = [
        IngestStage(config.sources, roots, config.part_documents, config.part_bytes, config.part_media),
        AnnotateStage(config.annotate, roots),
        *filters,
        *chain.stages,
        chain.seen_by(EmbedStage(config.embed, chain.survivors, roots, IMAGE_MODELS)),
        chain.seen_by(ClusterStage(config.cluster)),
        *_semantic(config, chain),
        chain.seen_by(OrderStage(config.order, chain.late)),
        chain.seen_by(TokenizerStage(config.tokenizer, chain.survivors, roots)),
        chain.seen_by(_tokenize(config.tokenizer, roots, chain.late)),
        PackStage(config.shards),
        ShardsStage(config.shards),
        *_mixing(config),
    ]
    train = TrainStage(config.model, config.train, None) if config.train is not None else None
    stages += [train] if train is not None else []
    if config.utilities is not None and (train is not None or config.utilities.compare):
        contexts = config.training_contexts
        stages.append(HeldOutStage(config.utilities, config.data_root, contexts, train))
    return stages


def _tokenize(config: TokenizerConfig, roots: dict[str, str], late: str | None) -> TokenizeStage:
    return TokenizeStage(roots, late, config.layout, config.speech_patches, config.micro_batch)


def run_recipe(config: RunConfig, console: Console, runner_args: Sequence[str] = ()) -> bool:
    """Bring a run up to date.

    Returns:
        Whether any stage had work to do.

    Raises:
        UserError: anything wrong with the configuration or the input, told with its fix.
    """
    roots = {s.name: resolve(config.data_root, s.path) for s in config.sources}
    run = RunDirectory(config.run_dir)
    with run.lock():
        stages = stages_of(config, roots)
        _save(run, config, [s.name for s in stages])
        settings = RunSettings(config.seed, config.workers, tuple(runner_args), config.max_failed_share)
        return run_stages(stages, run, settings, console)


def run_stages(
    stages: Sequence[Stage],
    run: RunDirectory,
    settings: RunSettings,
    console: Console,
    manifests: dict[str, StageManifest] | None = None,
) -> bool:
    """Run stages in order, each after its inputs; returns whether any did work."""
    manifests = dict(manifests or {})
    worked = False
    for stage in stages:
        began = time.perf_counter()
        manifest, did = run_stage(stage, run, settings, console, manifests)
        manifests[stage.name] = manifest
        worked |= did
        if did:
            console.say(_line(manifest, time.perf_counter() - began))
        _check_alive(manifest, run)
        stop_if_asked()
    return worked


def _check_alive(manifest: StageManifest, run: RunDirectory) -> None:
    """Stop where no document is left: what comes after could only fail in a less telling way."""
    c = manifest.counts
    if c.kept or (not c.documents_in and manifest.stage != IngestStage.name):
        return
    why = ", ".join(
        f"{n} {reason}" for reason, n in sorted(c.dropped.items(), key=lambda x: (-x[1], x[0]))[:5]
    )
    raise UserError(
        f"{manifest.stage}: no document is left of {c.documents_in}{': ' if why else ''}{why}",
        fix=f"look at {run.stage(manifest.stage).store.url('rejects')} for the reason of each"
        if why
        else "give sources that hold documents",
    )


def _line(m: StageManifest, seconds: float) -> str:
    c = m.counts
    if not c.documents_in:
        return f"{m.stage:<12} done, {seconds:.1f} s"
    gone = [f"{n} {reason}" for reason, n in sorted({**c.dropped, **c.failed}.items(), key=lambda x: -x[1])]
    less = f" ({', '.join(gone[:4])}{', ...' if len(gone) > 4 else ''})" if gone else ""
    return f"{m.stage:<12} {c.documents_in} in, {c.kept} kept{less}, {seconds:.1f} s"


def _save(run: RunDirectory, config: BaseModel, stages: list[str]) -> None:
    """Save the resolved configuration and the list of stages (only when they changed)."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
    if not run.store.exists("config.yaml") or run.store.read("config.yaml") != text:
        run.store.write("config.yaml", text)
    run.save_plan(stages)


class TrainRecipe(BaseModel):
    """Training on the shards of a finished run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: str = Field(description="the run whose shards are trained on; the model is written into it too")
    name: str = Field(
        "train", pattern=r"^[A-Za-z0-9_-]+$", description="folder of this training inside the run"
    )
    mixture: MixtureConfig = Field(MixtureConfig(), description="weights of the domains for this training")
    model: ModelConfig = Field(ModelConfig(), description="the model")
    train: TrainConfig = Field(TrainConfig(), description="how to train it")


def train_recipe(config: TrainRecipe, console: Console) -> bool:
    """Train on a run; returns whether there was anything to do. Under torchrun rank 0 runs the stage, and others follow.

    Raises:
        UserError: the run is not there or has no shards, or the folder holds a training of other settings.
    """
    run = RunDirectory.existing(config.run_dir)
    shards = run.stage("shards").manifest()
    if shards is None:
        raise UserError(f"{run.store.root} has no finished shards", fix="run `mixloom run` on it first")
    stage = TrainStage(config.model, config.train, config.mixture, config.name)
    if rank_and_world()[0]:
        stage.follow(run)
        return False
    try:
        with run.lock():
            stage.refuse_to_replace(run, {"shards": shards.fingerprint})
            run.save_plan(training=stage.name)
            return run_stages([stage], run, RunSettings(config.train.seed), console, {"shards": shards})
    finally:
        stage.release()
