"""Branch, train, merge over domains: a seed model, a copy of it per domain, and their ensemble at inference.

c-BTM (Gururangan et al., arXiv 2303.14177, section 3). `branch` trains the copies, each on its domain and without a
word between them, so they may run on different machines. `Ensemble` reads with all of them:
p(x_t | x_<t) = sum_j p_j(x_t | x_<t) p(D=j | x_<t), where p(D=j | x_<t) comes from the distance of the embedded text
so far to the centre of domain j (`pipeline.routing`). To keep one model instead: `averaging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mixloom.pipeline.distances import squared_distances
from mixloom.pipeline.routing import mixture_log_probs, routing_weights
from mixloom.pipeline.schema import Document, Locator, Segment, documents_batch
from mixloom.trainers.attention import choose
from mixloom.trainers.config import ModelConfig, RoutingConfig, TrainConfig
from mixloom.trainers.data import Batch, StreamLike, make_batch
from mixloom.trainers.metrics import OnRecord
from mixloom.trainers.model import Model
from mixloom.trainers.step import token_losses
from mixloom.trainers.trainer import TrainResult, train

if TYPE_CHECKING:
    from mixloom.pipeline.embedder import Embedder
    from mixloom.pipeline.shard_reader import ShardReader
    from mixloom.tokenizers.text_bytes import TextCoder
    from mixloom.trainers.stage import StreamSource

Embed = Callable[[Sequence[str]], np.ndarray]
Read = Callable[[np.ndarray], str]

_FIRST = 8  # tokens of a text before it is embedded for the first time
_CHUNK = 1024  # rows whose logits exist at one time


def branch(
    start: Mapping[str, Tensor],
    streams: Mapping[str, StreamLike],
    vocabulary: dict[str, Any],
    model_config: ModelConfig,
    config: TrainConfig,
    out_dir: Path | str,
    *,
    on_record: OnRecord | None = None,
) -> dict[str, TrainResult]:
    """Train a copy of the seed model on each stream, in `out_dir/<name>`; an expert that is done is not trained again.

    Args:
        start: `state_dict` of the seed model.
        streams: what each expert reads, by its name. config: of every expert, see `trainer.train`.

    Raises:
        UserError: as `trainer.train`.
    """
    out = {}
    for name, stream in streams.items():
        folder = Path(out_dir) / name
        out[name] = train(stream, vocabulary, model_config, config, folder, start=start, on_record=on_record)
    return out


def domain_streams(
    reader: ShardReader,
    *,
    seed: int,
    batch_contexts: int,
    steps: int,
    max_epochs: float,
    patches: bool = False,
) -> dict[str, StreamLike]:
    """The contexts of each domain of some shards alone, as `branch` takes them, by the name of the domain.

    Args:
        patches: for a model that reads speech in patches: also give those that the shards record.

    Raises:
        UserError: a domain would be served more often than `max_epochs`.
    """
    settings = {
        "seed": seed,
        "batch_contexts": batch_contexts,
        "steps": steps,
        "max_epochs": max_epochs,
        "patches": patches,
    }
    return {name: domain_stream(reader, name, **settings) for name in reader.domains}  # type: ignore[arg-type]


def domain_stream(
    reader: ShardReader,
    name: str,
    *,
    seed: int,
    batch_contexts: int,
    steps: int,
    max_epochs: float,
    patches: bool = False,
) -> StreamSource:
    """The contexts of one domain of some shards; arguments and errors are those of `domain_streams`."""
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream
    from mixloom.trainers.stage import StreamSource

    alone = {d: float(d == name) for d in reader.domains}
    mixing = MixtureConfig(method="fixed", weights=alone, max_epochs=max_epochs)
    mixture = weigh(reader.manifest, mixing, steps * batch_contexts)
    stream = Stream(reader, mixture, seed=seed, batch_contexts=batch_contexts, steps=steps)
    return StreamSource(stream, patches=patches)


def text_reader(vocabulary: dict[str, Any], tokenizer: TextCoder) -> Read:
    """The words of token ids, int [n], as a function; ids of other modalities are left out."""
    block = next(item for item in vocabulary["ranges"] if item["name"] == "text")
    first, used = int(block["start"]), int(block["used"])

    def read(ids: np.ndarray) -> str:
        local = np.asarray(ids, dtype=np.int64) - first
        return tokenizer.decode(local[(local >= 0) & (local < used)])

    return read


def text_embedder(embedder: Embedder) -> Embed:
    """Vectors of plain texts, by the embedder of a run."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        place = Locator(uri="")
        segments = [(Segment(kind="text", text=t),) for t in texts]
        return embedder.embed(
            documents_batch([Document(source="", locator=place, segments=s) for s in segments])
        )

    return embed


class Ensemble:
    """Expert models that read together.

    Args:
        models: k experts of one configuration, on one device.
        centres: float32 [k, d], the centre of each expert's domain.
        embed: texts -> float32 [n, d], the vectors the centres were found among; a zero vector is no vector;
            see `text_embedder`.
        read: token ids of a text -> its words, see `text_reader`.
        prior: float [k], weights of the experts where there is nothing to go by; None: all alike.

    Raises:
        ValueError: not one centre, or not one weight, per expert.
    """

    def __init__(
        self,
        models: Sequence[Model],
        centres: np.ndarray,
        embed: Embed,
        read: Read,
        routing: RoutingConfig | None = None,
        prior: np.ndarray | None = None,
    ) -> None:
        if not models or len(models) != len(centres):
            raise ValueError(f"{len(centres)} centres for {len(models)} experts")
        self.models = [m.eval() for m in models]
        self.centres, self.embed, self.read = np.asarray(centres, np.float32), embed, read
        self.routing = routing or RoutingConfig()
        even = np.ones(len(models)) if prior is None else np.asarray(prior, np.float64)
        if even.shape != (len(models),) or (even < 0).any() or not even.sum() > 0:
            raise ValueError(f"{len(models)} experts need as many prior weights, none negative: {prior}")
        self.prior = even / even.sum()
        self.device = models[0].embedding.device
        self.kind = choose(self.device, models[0].config.head_dim, compiled=False)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def weights(self, batch: Batch) -> np.ndarray:
        """Weight of each expert for the prediction at every token, float64 [T, k], in sequence order.

        A prediction goes by the tokens before it that the model sees too: those of its document, or of its context
        where there is no document mask. They are embedded anew whenever they have grown by `routing.every`.
        """
        ids = batch.input_ids.cpu().numpy()
        seen = np.flatnonzero(batch.targets.cpu().numpy() >= 0)
        lengths = batch.piece_lengths
        starts = np.cumsum(lengths) - lengths
        texts: list[str] = []
        which = np.full(len(ids), -1, np.int64)  # the text each prediction goes by
        for piece in np.unique(np.searchsorted(starts, seen, side="right") - 1):
            start, length = int(starts[piece]), int(lengths[piece])
            known = _prefixes(length, self.routing.every)
            own = np.searchsorted(known, np.arange(1, length + 1), side="right") - 1
            which[start : start + length] = np.where(own >= 0, own + len(texts), -1)
            texts += [self.read(ids[start : start + n]) for n in known]
        by_text = np.concatenate([self._route(texts), self.prior[None]])
        return by_text[which]  # -1 is the last row, the prior

    def expert_log_probs(self, batch: Batch) -> np.ndarray:
        """Log probability of every target under each expert, float64 [k, T] in sequence order; 0 without a target."""
        moved = batch.to(self.device)
        losses = [token_losses(m, moved, self.kind, self.dtype, _CHUNK) for m in self.models]
        return -torch.stack(losses).double().cpu().numpy()

    def log_probs(self, batch: Batch) -> np.ndarray:
        """Log probability of every target under the ensemble, float64 [T] in sequence order; 0 without a target."""
        return mixture_log_probs(self.expert_log_probs(batch), self.weights(batch))

    @torch.no_grad()
    def next_log_probs(self, ids: Sequence[int], modality: np.ndarray) -> np.ndarray:
        """Log probabilities of the token after `ids`, float64 [V].

        Args:
            ids: the text so far, with its `<doc>`. modality: uint8 [V], see `data.modality_table`.
        """
        tokens = np.asarray(ids, np.uint32)[None]
        config = self.models[0].config
        batch = make_batch(tokens, [np.array([len(ids)])], modality, modalities=config.modalities)
        known = _prefixes(len(ids), self.routing.every)
        text = [self.read(tokens[0, : known[-1]])] if len(known) else []
        share = self._route(text) if text else self.prior[None]
        moved, logs = batch.to(self.device), []
        for model in self.models:
            hidden = model(model.rows(moved, self.kind, self.dtype), self.dtype)
            order = model.order(moved)
            last = hidden[-1 if order is None else int(moved.inverse[-1])]
            logs.append(torch.log_softmax((model.head_weight.to(self.dtype) @ last).double(), 0).cpu())
        return mixture_log_probs(torch.stack(logs).numpy()[:, None], share)[0]

    def _route(self, texts: list[str]) -> np.ndarray:
        """Weights of the experts for each text, float64 [n, k]; the prior where a text has no vector."""
        if not texts:
            return np.zeros((0, len(self.models)))
        vectors = self.embed(texts)
        out = np.repeat(self.prior[None], len(texts), axis=0)
        known = vectors.any(axis=1)
        if known.any():
            distances = squared_distances(vectors[known], self.centres)
            out[known] = routing_weights(distances, self.routing.temperature, self.routing.top_k)
        return out


def _prefixes(length: int, every: int) -> np.ndarray:
    """How many tokens of a text are known each time it is embedded, int64, ascending: 8, 16, ... and then by `every`."""
    first = [n for i in range(32) if (n := _FIRST << i) < every]
    return np.array([n for n in [*first, *range(every, length + 1, every)] if n <= length], dtype=np.int64)
