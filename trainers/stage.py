"""Stage `train`: shards and a mixture -> a trained model, with its metrics and checkpoints."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.mixture import MIXTURE_NAME, Mixture
from mixloom.mixers.stage import shards_of, weigh
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.run import RunDirectory
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput, stage_key
from mixloom.trainers.config import ModelConfig, OnlineMixingConfig, TrainConfig
from mixloom.trainers.metrics import said

if TYPE_CHECKING:
    import numpy as np

    from mixloom.mixers.stream import Stream
    from mixloom.trainers.data import Arrays


class StreamSource:
    """A `Stream` as the trainer reads it.

    Args:
        patches: also give the lengths of patches, for a model that reads speech so.
    """

    def __init__(self, stream: Stream, *, patches: bool = False) -> None:
        self._stream, self._patches = stream, patches

    @property
    def stream(self) -> Stream:
        """As it is served now: with what was excluded while training."""
        return self._stream

    @property
    def steps(self) -> int:
        """Updates it can serve."""
        return self._stream.steps

    def batch_arrays(self, step: int, rank: int = 0, world: int = 1) -> Arrays:
        """Input ids [b, L], lengths of the pieces of each context, domain of each context; a rank's own contexts.

        Where objectives leave targets out, also which tokens count as targets, bool [b, L]. For a model that reads speech in
        patches, also their lengths, of each context uint16 [p], or None where the shards have none or the context is not
        served as it is stored.
        """
        batch = self._stream.contexts(step, rank, world)
        arrays = batch.input_ids, batch.doc_lengths, batch.domains
        if not self._patches:
            return arrays if batch.counted is None else (*arrays, batch.counted)
        taken, reader = getattr(batch, "taken", None), self._stream.reader
        changed = [False] * len(batch.refs) if taken is None else (taken > 0).any(axis=1).tolist()
        recorded = [
            None if other else reader.patches(ref.domain, ref.index)
            for other, ref in zip(changed, batch.refs)
        ]
        return *arrays, batch.counted, recorded

    def state(self, step: int) -> dict[str, Any]:
        return self._stream.state(step)

    def check(self, state: dict[str, Any]) -> None:
        self._stream.check(state)

    def documents(self, step: int) -> list[str]:
        """Ids of the documents in a step, each once, in the order they are served."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.context_documents(step))))

    def context_documents(self, step: int) -> list[list[str]]:
        """Ids of the documents of each context of a step, piece by piece."""
        return [list(self._stream.documents(ref)["doc_ids"]) for ref in self._stream.batch(step)]

    def exclude(
        self, from_step: int, rows: Sequence[tuple[int, int]], reason: str, *, write: bool
    ) -> list[str]:
        """Serve the contexts that stood at `rows` (step, number in the batch) no more from `from_step` on.

        Contexts that the log excludes already are passed over, so a run that goes on from before adds nothing.

        Args:
            write: also into the log on disk; True on one rank only.

        Returns:
            The documents of the contexts.

        Raises:
            UserError: without them a domain would be served beyond its max_epochs.
        """
        from mixloom.mixers.mixture_log import ExcludeEntry

        refs = list(dict.fromkeys(self._stream.batch(step)[row] for step, row in rows))
        known = {c for e in self._stream.log.entries if isinstance(e, ExcludeEntry) for c in e.contexts}
        names = (name for ref in refs for name in self._stream.documents(ref)["doc_ids"])
        documents = list(dict.fromkeys(names))
        contexts = tuple(dict.fromkeys((ref.domain, ref.index) for ref in refs))
        contexts = tuple(c for c in contexts if c not in known)
        if contexts and from_step < self._stream.steps:
            entry = ExcludeEntry(
                from_step=from_step, contexts=contexts, documents=tuple(documents), reason=reason
            )
            self._stream = self._stream.amended(entry, served=from_step, write=write)
        return documents

    def remix(
        self,
        from_step: int,
        losses: Mapping[int, float],
        state: Mapping[str, Any] | None,
        config: OnlineMixingConfig,
        *,
        write: bool,
    ) -> dict[str, Any]:
        """Serve by the weights of an online mixing from `from_step` on; see `online_mixing.Remixing`.

        An entry that the log has already, of a run that goes on from before it, is not written again.
        """
        from mixloom.mixers.mixture_log import MixtureEntry
        from mixloom.mixers.online import OnlineState, mixture_from_here

        stream = self._stream
        if state is None:
            weighed = {d: w for d, w in stream.mixture.weights.items() if w > 0}
            before = OnlineState.start(list(weighed), list(weighed.values()), config.smoothing)
        else:
            before = OnlineState.from_json(state)
        told = {stream.domains[number]: loss for number, loss in losses.items()}
        after = before.update({d: told[d] for d in before.domains if d in told})
        entries = (e for e in stream.log.entries if isinstance(e, MixtureEntry))
        if all(e.from_step != from_step for e in entries):
            served = {e.domain: float(e.tokens) for e in stream.exposure(from_step, exact=False)}
            mixture = mixture_from_here(
                stream.mixture, after, served, from_step / stream.steps, config.min_share
            )
            entry = MixtureEntry(from_step=from_step, mixture=mixture, reason="online mixing")
            self._stream = stream.amended(entry, served=from_step, write=write)
        return after.to_json()


class TrainStage(Stage):
    """Shards -> model.

    Args:
        model: the model; sizes that the data decide are filled in.
        train: how to train it.
        mixture: how to weigh the domains for this training; None: as the stage `mixture` of the run did.
        name: folder of this training in the run.
    """

    version = 1

    def __init__(
        self, model: ModelConfig, train: TrainConfig, mixture: MixtureConfig | None, name: str = "train"
    ) -> None:
        self.model, self.train, self.mixture = model, train, mixture
        self.name = name  # type: ignore[misc]
        self.inputs = ("shards",) if mixture is not None else ("shards", "mixture")
        self._begun = False

    def settings(self) -> dict[str, Any]:
        fixed = self.train.model_dump(mode="json", exclude=set(self.train.free_to_change()))
        mixture = self.mixture.model_dump(mode="json") if self.mixture else None
        return {"model": self.model.model_dump(mode="json"), "train": fixed, "mixture": mixture}

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # contexts pass, not documents

    def image_vectors(self, run: RunDirectory) -> np.ndarray | None:
        """What the run's image codec decodes its codes from, where the model learns images as vectors."""
        if self.model.flow is None:
            return None
        from mixloom.tokenizers.fitted import Codecs

        codec = Codecs.load(run.stage("tokenizer").store).image
        return codec.vectors() if codec is not None else None

    def _mixture(self, run: RunDirectory, manifest: ShardManifest) -> Mixture:
        if self.mixture is None:
            return Mixture.load(run.stage("mixture").store.root)
        return weigh(manifest, self.mixture, self.train.steps * self.train.batch_contexts)

    def source(self, run: RunDirectory, mixture: Mixture | None = None) -> StreamSource:
        """The stream of this training, with what the mixture log in its folder says.

        Args:
            mixture: of its domains; None: the one that is saved in the folder of the training.
        """
        from mixloom.mixers.mixture_log import LOG_NAME, MixtureLog
        from mixloom.mixers.objective_stream import with_objectives
        from mixloom.mixers.stream import Stream
        from mixloom.pipeline.shard_reader import ShardReader

        folder, config = run.stage(self.name).store.root, self.train
        stream = Stream(
            ShardReader(run.stage("shards").store.root, verify=config.verify),
            mixture or Mixture.load(folder),
            seed=config.seed,
            batch_contexts=config.batch_contexts,
            steps=config.steps,
            log=MixtureLog.load(Path(folder) / LOG_NAME),
        )
        return StreamSource(
            with_objectives(stream, config.objectives, config.objective_room),
            patches=self.model.speech_patches is not None,
        )

    def refuse_to_replace(self, run: RunDirectory, inputs: Mapping[str, str]) -> None:
        """Raise UserError where the folder holds a training of other settings, which a new one would delete.

        Args:
            inputs: fingerprints of the inputs, by stage.
        """
        from mixloom.trainers.checkpoint import latest_checkpoint

        directory = run.stage(self.name)
        checkpoint = latest_checkpoint(Path(directory.store.root) / "checkpoints")
        if checkpoint is None:
            return
        manifest = directory.manifest()
        key = manifest.key if manifest is not None else (directory.progress() or {}).get("key")
        if key == stage_key(self, dict(inputs)):
            return
        changed = self._changed(checkpoint) or ["its mixture, its shards or the program"]
        raise UserError(
            f"{directory.store.root} holds another training, up to {checkpoint.name}; different are: {'; '.join(changed)}",
            fix=f"put the settings back to go on with it, choose another name (name={self.name}-2), or delete that folder",
        )

    def _changed(self, checkpoint: Path) -> list[str]:
        """Settings that a checkpoint was made with others of, in words."""
        from mixloom.trainers.checkpoint import read_state

        was = read_state(checkpoint)["configs"]
        sizes = {"vocab_size", "seq_len", "flow"}  # that the data decide or fill in
        model = {k: v for k, v in self.model.model_dump(mode="json").items() if k not in sizes}
        lines = [
            f"model.{k} (was {was['model'].get(k)!r}, is {v!r})"
            for k, v in model.items()
            if was["model"].get(k) != v
        ]
        return lines + [f"train.{line}" for line in self.train.differences(was["train"])]

    def follow(self, run: RunDirectory) -> None:
        """What every rank but the first does: wait for it to say that there is something to train, and train along."""
        from mixloom.trainers.distributed import join
        from mixloom.trainers.trainer import train

        world = join(self.train)
        if not world.told(0):
            return
        manifest = ShardManifest.load(run.stage("shards").store.root)
        train(
            self.source(run, self._mixture(run, manifest)),
            manifest.vocabulary,
            self.model,
            self.train,
            run.stage(self.name).store.root,
            world=world,
            image_vectors=self.image_vectors(run),
        )

    def release(self) -> None:
        """Tell the ranks in `follow` that there is nothing to train, unless training has begun."""
        from mixloom.trainers.launch import rank_and_world

        if rank_and_world()[1] > 1 and not self._begun:
            from mixloom.trainers.distributed import join

            join(self.train).told(0)

    def execute(self, ctx: StageContext) -> None:
        from mixloom.mixers.objective_stream import sampled_shares
        from mixloom.trainers.distributed import join
        from mixloom.trainers.trainer import train

        if not ctx.run.store.local:
            raise UserError(
                f"training needs a local run directory, and {ctx.run.store.root} is not one",
                fix="copy the folder shards/ of the run to a local disk and train there",
            )
        manifest = shards_of(ctx)
        directory = ctx.directory.store
        mixture = self._mixture(ctx.run, manifest)
        mixture.save(directory.url(MIXTURE_NAME))
        source = self.source(ctx.run, mixture)
        world = join(self.train)
        self._begun = True
        world.told(1)  # to the ranks in `follow`
        started = time.perf_counter()
        with ctx.steps(self.name) as advance:
            result = train(
                source,
                manifest.vocabulary,
                self.model,
                self.train,
                directory.root,
                progress=advance,
                on_record=said(ctx.console),
                world=world,
                image_vectors=self.image_vectors(ctx.run),
            )
        if result.stopped_early:
            raise UserError(
                f"{self.name}: stopped after {result.steps} of {self.train.steps} steps; a checkpoint is saved",
                fix="run the same command again to go on from it",
            )
        exposure = [e._asdict() for e in source.stream.exposure(self.train.steps)]
        shares = [s._asdict() for s in sampled_shares(source.stream)]
        info = {**result.to_json(), "exposure": exposure, "objectives": shares}
        ctx.commit(UnitOutput("train", info=info, seconds=time.perf_counter() - started))
