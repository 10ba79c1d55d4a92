"""Online data mixing: weights that change during training, by a bandit whose reward is the loss of a domain.

Albalak et al., arXiv 2312.02406: EXP3 with a moving average of rewards that are divided by the probability of the domain,
so that what is seen seldom does not count less. The state is plain numbers: a trainer keeps it in its checkpoint, and
writes the weights it gives to the mixture log, from which the stream is served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixloom.mixers.constraints import Bounds, tilted_weights
from mixloom.mixers.mixture import Mixture
from mixloom.pipeline.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OnlineState:
    """Where the bandit stands.

    Attributes:
        domains: n names.
        rewards: float64 [n], moving average of loss / probability; 0 until a domain was seen.
        probabilities: float64 [n], the policy in force; they sum to 1.
        updates: how many losses it has learned from.
        smoothing: how much of an old reward an update keeps; the paper takes 0.9.
    """

    domains: tuple[str, ...]
    rewards: Floats
    probabilities: Floats
    updates: int = 0
    smoothing: float = 0.9

    @classmethod
    def start(
        cls, domains: Sequence[str], weights: ArrayLike | None = None, smoothing: float = 0.9
    ) -> OnlineState:
        """Before any loss. `weights` [n] are those of the warm-up (about 1% of the steps); left out: uniform."""
        n = len(domains)
        w = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        return cls(tuple(domains), np.zeros(n), w, 0, smoothing)

    def update(self, losses: Mapping[str, float]) -> OnlineState:
        """Learn the mean training losses of the domains that the steps since the last update saw.

        rewards[i] = smoothing * rewards[i] + (1 - smoothing) * loss[i] / probability[i];
        probability = (1 - n e_t) softmax(e_{t-1} * rewards) + e_t, with e_t = min(1/n, sqrt(ln n / (n t))).

        Domains that the losses do not name keep their rewards. Losses that are not finite are passed over.

        Raises:
            ValueError: losses of a domain that is not one of these.
        """
        unknown = sorted(set(losses) - set(self.domains))
        if unknown:
            raise ValueError(f"losses name a domain '{unknown[0]}' that is not mixed")
        rewards = self.rewards.copy()
        for i, name in enumerate(self.domains):
            loss = losses.get(name, math.nan)
            if math.isfinite(loss):
                seen = loss / max(float(self.probabilities[i]), 1e-12)
                rewards[i] = self.smoothing * rewards[i] + (1.0 - self.smoothing) * seen
        t, n = self.updates + 1, len(self.domains)
        before, now = exploration(n, t - 1), exploration(n, t)
        logs = before * rewards
        grown = np.exp(logs - logs.max())
        policy = (1.0 - n * now) * grown / grown.sum() + now
        return replace(self, rewards=rewards, probabilities=policy / policy.sum(), updates=t)

    def weights(self, room: ArrayLike, left: float, floor: float = 0.0) -> Floats:
        """The policy under what the caps still leave: float64 [n], shares of the tokens that are left to train on.

        Args:
            room: [n], tokens each domain may still give: max_epochs * size - tokens served.
            left: tokens of the budget that are left, above 0.
            floor: least share of a domain, where its cap allows it.

        Raises:
            ValueError: the room is less than what is left.
        """
        caps = np.maximum(np.asarray(room, np.float64), 0.0) / left
        bounds = Bounds.plain(np.minimum(floor, caps), np.minimum(caps, 1.0))
        return tilted_weights(np.maximum(self.probabilities, 1e-300), bounds)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, exact; `OnlineState.from_json` reads it back."""
        return {
            "domains": list(self.domains),
            "rewards": self.rewards.tolist(),
            "probabilities": self.probabilities.tolist(),
            "updates": self.updates,
            "smoothing": self.smoothing,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OnlineState:
        """The state that `to_json` wrote."""
        rewards, policy = (np.array(data[k], np.float64) for k in ("rewards", "probabilities"))
        return cls(tuple(data["domains"]), rewards, policy, int(data["updates"]), float(data["smoothing"]))


def mixture_from_here(
    mixture: Mixture, state: OnlineState, served: Mapping[str, float], start: float, floor: float = 0.0
) -> Mixture:
    """The mixture for an entry of the mixture log: what was served as its first phase, the policy as its second.

    So the caps of the whole run are checked as for any other mixture, and the policy is kept within what they leave.

    Args:
        mixture: the one the training began with; its sizes, caps and budget stay.
        state: over the domains of the mixture, or those of them that have a weight.
        served: tokens each domain has given so far, as `Stream.exposure` counts them; at least one above 0.
        start: where the entry begins, as a share of the training (from_step / steps), above 0 and below 1.
        floor: least share of a domain, where its cap allows it.

    Raises:
        ValueError: nothing served, or a start outside 0..1.
        UserError: the caps leave too little for the rest of the budget.
    """
    given = np.array([float(served.get(d.name, 0.0)) for d in mixture.domains])
    if not (0.0 < start < 1.0 and given.sum() > 0):
        raise ValueError(
            f"online mixing begins after the first step: start is {start}, {given.sum():.0f} tokens served"
        )
    # Steps and tokens do not quite keep pace; the first phase must stand for at least what was served.
    given = given * max(1.0, start * mixture.budget_tokens / given.sum())
    left = (1.0 - start) * mixture.budget_tokens
    room = np.array([d.max_epochs * d.tokens for d in mixture.domains]) - given
    place = {d.name: i for i, d in enumerate(mixture.domains)}
    mine = [place[name] for name in state.domains]
    if np.maximum(room[mine], 0.0).sum() < left:
        raise UserError(
            f"the caps leave {np.maximum(room[mine], 0.0).sum():,.0f} tokens for the {left:,.0f} that are left to train on",
            fix="raise max_epochs, or train for fewer steps",
        )
    weights = np.zeros(len(given))
    weights[mine] = state.weights(room[mine], left, floor)
    phases = [
        {"start": at, "weights": dict(zip(mixture.names, (w / w.sum()).tolist()))}
        for at, w in ((0.0, given), (start, weights))
    ]
    kept = mixture.model_dump(exclude={"notes", "record", "phases"})
    return Mixture.model_validate({**kept, "phases": phases})


def exploration(domains: int, update: int) -> float:
    """e_t: the least probability of a domain at an update; 1/n at first, then falling with its square root."""
    if update < 1 or domains < 2:
        return 1.0 / domains
    return min(1.0 / domains, math.sqrt(math.log(domains) / (domains * update)))


def replay(state: OnlineState, losses: ArrayLike) -> tuple[OnlineState, Floats]:
    """Learn a whole trace [updates, n] (nan: not seen): the last state, and the policy after every update [updates, n]."""
    table = np.asarray(losses, np.float64)
    path = np.empty_like(table)
    for t, row in enumerate(table):
        state = state.update({d: float(x) for d, x in zip(state.domains, row) if not math.isnan(x)})
        path[t] = state.probabilities
    return state, path
