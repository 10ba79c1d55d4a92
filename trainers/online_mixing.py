"""Weights of domains that follow the losses while training: online data mixing, through the mixture log.

Albalak et al., arXiv 2312.02406; the arithmetic is `mixers.online`. Every few updates the mean loss of each domain since the
last time moves a bandit, and the weights it gives, within the caps of the whole run, become an entry of the mixture log from
the next update on. So what was served is a matter of record: the same log serves the same contexts, and a run that goes on
from a checkpoint finds the entries it has written already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import OnlineMixingConfig
from mixloom.trainers.data import StreamLike
from mixloom.trainers.distributed import World
from mixloom.trainers.metrics import Record


@runtime_checkable
class Remixing(Protocol):
    """A stream whose weights can change from some update on."""

    def remix(
        self,
        from_step: int,
        losses: Mapping[int, float],
        state: Mapping[str, Any] | None,
        config: OnlineMixingConfig,
        *,
        write: bool,
    ) -> dict[str, Any]:
        """Learn losses by number of domain, and serve by the new weights from update `from_step` on.

        Args:
            state: what the last call returned; None: the first. write: also into the log on disk; one rank does.

        Returns:
            The state of the bandit, JSON values.

        Raises:
            UserError: the caps leave too little for what is left to train on.
        """
        ...


class OnlineMixing:
    """Gathers losses by domain and changes the weights when it is time; the same on every rank.

    Args:
        config: None: nothing is ever changed. steps: of the whole run. state: of an earlier call, from its checkpoint.

    Raises:
        UserError: online mixing is asked of a stream that has no weights to change.
    """

    def __init__(
        self,
        config: OnlineMixingConfig | None,
        stream: StreamLike,
        world: World,
        steps: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self._stream, self._world, self._steps = config, stream, world, steps
        if config is not None and not isinstance(stream, Remixing):
            raise UserError(
                f"train.online_mixing needs a stream of shards with a mixture, and {type(stream).__name__} is none",
                fix="train on the shards of a run, or leave train.online_mixing out",
            )
        state = state or {"bandit": None, "sums": {}, "counts": {}}
        self._bandit: dict[str, Any] | None = state["bandit"]
        self._sums = {int(d): float(x) for d, x in state["sums"].items()}
        self._counts = {int(d): int(n) for d, n in state["counts"].items()}

    def see(self, record: Record) -> None:
        """Losses by domain of the updates since the last record."""
        if self.config is None:
            return
        for name, loss in record["loss_by_domain"].items():
            number, targets = int(name), int(record["targets_by_domain"][name])
            self._sums[number] = self._sums.get(number, 0.0) + loss * targets
            self._counts[number] = self._counts.get(number, 0) + targets

    def due(self, step: int) -> bool:
        """Whether the weights change after `step` updates: every so often, not before the warm-up, not at the end."""
        if self.config is None or not 0 < step < self._steps:
            return False
        return step % self.config.every == 0 and step >= self.config.warmup * self._steps

    def change(self, step: int) -> bool:
        """Change the weights from update `step` (from 0) on; returns whether later batches have changed."""
        assert self.config is not None
        assert isinstance(self._stream, Remixing)
        losses = {d: self._sums[d] / n for d, n in sorted(self._counts.items()) if n}
        self._sums, self._counts = {}, {}
        if not losses:
            return False
        try:
            self._bandit = self._stream.remix(
                step, losses, self._bandit, self.config, write=self._world.first
            )
        except UserError:  # the caps leave nothing to choose: the weights in force go on
            return False
        return True

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint, JSON values; None without online mixing."""
        if self.config is None:
            return None
        sums = {str(d): x for d, x in self._sums.items()}
        return {"bandit": self._bandit, "sums": sums, "counts": {str(d): n for d, n in self._counts.items()}}
