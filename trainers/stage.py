"""Stage `train`: shards and a mixture -> a trained model, with its metrics and checkpoints."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from mixloom.mixers.estimate import MixtureConfig
from mixloom.mixers.mixture import MIXTURE_NAME, Mixture
from mixloom.mixers.stage import shards_of, weigh
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.stage import Stage, StageContext, UnitOutput
from mixloom.trainers.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    import numpy as np

    from mixloom.mixers.stream import Stream


class StreamSource:
    """A `Stream` as the trainer reads it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def batch_arrays(
        self, step: int, rank: int = 0, world: int = 1
    ) -> tuple[np.ndarray, list[Any], np.ndarray]:
        """Input ids [b, L], lengths of the pieces of each context, domain of each context; a rank's own contexts."""
        batch = self._stream.contexts(step, rank, world)
        return batch.input_ids, list(batch.doc_lengths), batch.domains

    def state(self, step: int) -> dict[str, Any]:
        return self._stream.state(step)

    def check(self, state: dict[str, Any]) -> None:
        self._stream.check(state)

    def documents(self, step: int) -> list[str]:
        """Ids of the documents in a step, each once, in the order they are served."""
        found = (self._stream.documents(ref)["doc_ids"] for ref in self._stream.batch(step))
        return list(dict.fromkeys(itertools.chain.from_iterable(found)))


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

    def settings(self) -> dict[str, Any]:
        fixed = self.train.model_dump(mode="json", exclude=set(self.train.free_to_change()))
        mixture = self.mixture.model_dump(mode="json") if self.mixture else None
        return {"model": self.model.model_dump(mode="json"), "train": fixed, "mixture": mixture}

    def expected_in(self, ctx: StageContext) -> int | None:
        return None  # contexts pass, not documents

    def execute(self, ctx: StageContext) -> None:
        from mixloom.mixers.stream import Stream
        from mixloom.pipeline.shard_reader import ShardReader
        from mixloom.trainers.trainer import train

        if not ctx.run.store.local:
            raise UserError(
                f"training needs a local run directory, and {ctx.run.store.root} is not one",
                fix="copy the folder shards/ of the run to a local disk and train there",
            )
        manifest = shards_of(ctx)
        config = self.train
        if self.mixture is None:
            mixture = Mixture.load(ctx.run.stage("mixture").store.root)
        else:
            mixture = weigh(manifest, self.mixture, config.steps * config.batch_contexts)
        directory = ctx.directory.store
        mixture.save(directory.url(MIXTURE_NAME))
        reader = ShardReader(ctx.run.stage("shards").store.root, verify=config.verify)
        stream = Stream(
            reader, mixture, seed=config.seed, batch_contexts=config.batch_contexts, steps=config.steps
        )
        started = time.perf_counter()
        with ctx.steps(self.name) as advance:
            result = train(
                StreamSource(stream),
                manifest.vocabulary,
                self.model,
                config,
                directory.root,
                progress=advance,
            )
        if result.stopped_early:
            raise UserError(
                f"{self.name}: stopped after {result.steps} of {config.steps} steps; a checkpoint is saved",
                fix="run the same command again to go on from it",
            )
        exposure = [e._asdict() for e in stream.exposure(config.steps)]
        info = {**result.to_json(), "exposure": exposure}
        ctx.commit(UnitOutput("train", info=info, seconds=time.perf_counter() - started))
