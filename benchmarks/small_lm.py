"""Small language models on real documents: texts to packed contexts, training by the project's trainer, losses by token."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.packing import pack
from mixloom.tokenizers.settings import TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer
from mixloom.tokenizers.vocab import DOC, END_DOC, Vocabulary
from mixloom.trainers.attention import choose
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import Arrays, Batch, make_batch, modality_table
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.model import Model
from mixloom.trainers.step import token_losses
from mixloom.trainers.trainer import train

HEIGHT = 16  # contexts evaluated at a time


@dataclass(frozen=True)
class Setting:
    """Size of the model and of its contexts."""

    vocab: int = 2048
    dim: int = 128
    layers: int = 2
    heads: int = 4
    length: int = 768


@dataclass(frozen=True)
class Contexts:
    """Packed contexts: ids uint16 [C, L], lengths of the pieces of each, and the document of each piece."""

    ids: np.ndarray
    lengths: list[np.ndarray]
    documents: list[np.ndarray]

    @property
    def arrays(self) -> Arrays:
        return self.ids, self.lengths, np.zeros(len(self.ids), np.int32)

    @property
    def tokens(self) -> int:
        return int(sum(n.sum() for n in self.lengths))


def tokenized(
    texts: Sequence[str], sample: Sequence[str], vocab: int
) -> tuple[TextTokenizer, dict[str, Any], list[np.ndarray]]:
    """A byte-level BPE trained on `sample`, its serialised vocabulary, and the ids of every text with its boundaries."""
    tokenizer = train_text_tokenizer(sample, TextTokenizerConfig(vocab_size=vocab - 256))
    vocabulary = Vocabulary.build(tokenizer.size, tokenizer.fingerprint)
    first = vocabulary.text.start
    ids = [
        np.concatenate([[DOC], local.astype(np.int64) + first, [END_DOC]]).astype(np.uint16)
        for local in tokenizer.encode_batch(texts)
    ]
    return tokenizer, vocabulary.to_json(), ids


def packed(
    documents: Sequence[np.ndarray],
    order: np.ndarray,
    length: int,
    window: int,
    groups: np.ndarray | None = None,
) -> Contexts:
    """Documents in the given order as contexts. groups: near duplicates by document, see `packing.pack`."""
    plan = pack(
        [len(documents[d]) for d in order], length, window, groups=None if groups is None else groups[order]
    )
    ids = np.zeros((len(plan), length), np.uint16)
    lengths, owners = [], []
    for c in range(len(plan)):
        pieces = plan.pieces(c)
        row = np.concatenate([documents[order[d]][a:b] for d, a, b in pieces])
        ids[c, : len(row)] = row
        lengths.append(np.array([b - a for _, a, b in pieces], np.int32))
        owners.append(np.array([order[d] for d, _, _ in pieces]))
    return Contexts(ids, lengths, owners)


class Shuffled:
    """Contexts in a new random order every epoch, as the trainer reads them."""

    def __init__(self, contexts: Contexts, seed: int, batch: int) -> None:
        self.contexts, self.seed, self.batch = contexts, seed, batch

    def rows(self, step: int) -> list[int]:
        n = len(self.contexts.ids)
        out = []
        for at in range(step * self.batch, (step + 1) * self.batch):
            rng = np.random.Generator(np.random.PCG64([self.seed, at // n]))
            out.append(int(rng.permutation(n)[at % n]))
        return out

    def batch_arrays(self, step: int) -> Arrays:
        rows = self.rows(step)
        return (
            self.contexts.ids[rows],
            [self.contexts.lengths[r] for r in rows],
            np.zeros(self.batch, np.int32),
        )

    def state(self, step: int) -> dict[str, Any]:
        return {"step": step}

    def check(self, state: dict[str, Any]) -> None:
        if "step" not in state:
            raise UserError("the checkpoint belongs to another stream")

    def documents(self, step: int) -> list[str]:
        return [str(d) for row in self.rows(step) for d in self.contexts.documents[row]]


def model_config(setting: Setting, *, document_mask: bool) -> ModelConfig:
    """A dense model. Its first weights are wider than the default: a run of a million tokens has no time to grow them."""
    return ModelConfig(
        dim=setting.dim,
        layers=setting.layers,
        heads=setting.heads,
        modalities=3,
        untie=(),
        tie_embeddings=True,
        init_std=0.1,
        document_mask=document_mask,
        seq_len=setting.length,
    )


def train_config(steps: int, seed: int, lr: float = 6e-3, batch: int = 2) -> TrainConfig:
    """One thread: two trainings side by side use two cores better than one does."""
    return TrainConfig(
        steps=steps,
        batch_contexts=batch,
        lr=lr,
        min_lr=lr / 10,
        warmup=min(30, 1 + steps // 10),
        seed=seed,
        device="cpu",
        threads=1,
        log_every=max(1, steps // 20),
        checkpoint_every=0,
        keep_last=1,
    )


def trained(
    contexts: Contexts,
    vocabulary: dict[str, Any],
    model: ModelConfig,
    config: TrainConfig,
    start: dict[str, np.ndarray] | None = None,
) -> Model:
    """A model trained on these contexts, from given weights or fresh ones."""
    weights = None if start is None else tensors(start)
    with tempfile.TemporaryDirectory() as folder:
        stream = Shuffled(contexts, config.seed, config.batch_contexts)
        result = train(
            stream, vocabulary, model, config, folder, start=weights, on_record=lambda record: None
        )
        return load_checkpoint_model(result.checkpoint)


def tensors(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def arrays(model: Model) -> dict[str, np.ndarray]:
    """The weights of a model, for another process."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def batches(contexts: Contexts, vocabulary: dict[str, Any], *, document_mask: bool) -> list[Batch]:
    """Contexts to evaluate on, a few at a time."""
    table = modality_table(vocabulary)
    return [
        make_batch(
            contexts.ids[i : i + HEIGHT],
            contexts.lengths[i : i + HEIGHT],
            table,
            modalities=3,
            document_mask=document_mask,
        )
        for i in range(0, len(contexts.ids), HEIGHT)
    ]


def losses(
    model: Model, contexts: Contexts, vocabulary: dict[str, Any], *, document_mask: bool
) -> np.ndarray:
    """Nats of every target, float64 [C, L]; NaN where there is none."""
    kind = choose(torch.device("cpu"), model.config.head_dim, compiled=False)
    out = []
    for batch in batches(contexts, vocabulary, document_mask=document_mask):
        found = token_losses(model, batch, kind, torch.float32, 1024).double().numpy()
        out.append(np.where(batch.targets.numpy() >= 0, found, np.nan).reshape(batch.shape))
    return np.concatenate(out)
