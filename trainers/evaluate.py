"""How well a trained model foretells held-out shards, by modality and by domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mixloom.pipeline.errors import UserError, nearest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.tokenizers.vocab import require_same_vocabulary
from mixloom.trainers.attention import choose
from mixloom.trainers.data import Batch, make_batch, modality_table
from mixloom.trainers.model import Model
from mixloom.trainers.model_config import ModelConfig
from mixloom.trainers.speech_batch import patched
from mixloom.trainers.step import batch_losses, names_of

ALL = "all"
_CHUNK = 1024  # tokens whose logits exist at one time


class Row(NamedTuple):
    """Loss on the targets of one modality in one domain; `all` stands for every one.

    loss: nats per target, None without targets; for images of a model with a flow loss the squared error of the velocity.
    bits_per_byte: of text, by the bytes per token of the shards; None where that does not apply or is not known.
    """

    domain: str
    modality: str
    loss: float | None
    targets: int
    bits_per_byte: float | None

    @property
    def perplexity(self) -> float | None:
        return None if self.loss is None else math.exp(min(self.loss, 700.0))


@torch.no_grad()
def evaluate(
    model: Model,
    vocabulary: dict[str, Any],
    reader: ShardReader,
    *,
    domains: Sequence[str] | None = None,
    most: int | None = None,
    batch_contexts: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Losses of a model on the contexts of some shards, as it reads them in training: one row per domain and modality.

    Where experts choose their tokens, their choice is foretold from each token alone, as when sampling.

    Args:
        vocabulary: serialised, of the model. domains: only these; None: all.
        most: contexts per domain at most, spread evenly over it; None: all.
        batch_contexts: contexts read at a time; changes memory and speed only.
        progress: called with contexts done and contexts in all.

    Raises:
        UserError: shards of another vocabulary or with longer contexts than the model has positions; a domain that is
            not there.
    """
    _check(model, vocabulary, reader)
    names = names_of(vocabulary, model.config.modalities)
    chosen = {d: spread(reader.contexts(d), most) for d in _domains(reader, domains)}
    total, done = sum(map(len, chosen.values())), 0
    sums = np.zeros((len(chosen), len(names)))
    counts = np.zeros((len(chosen), len(names)), np.int64)
    for i, (domain, numbers) in enumerate(chosen.items()):
        for at in range(0, len(numbers), batch_contexts):
            part = numbers[at : at + batch_contexts]
            own, seen = _losses(model, vocabulary, reader, domain, part)
            sums[i] += own
            counts[i] += seen
            done += len(part)
            if progress is not None:
                progress(done, total)
    return _rows(list(chosen), names, sums, counts, _bytes_per_token(reader))


def _losses(
    model: Model, vocabulary: dict[str, Any], reader: ShardReader, domain: str, numbers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Summed losses float64 [K] and targets int64 [K] of some contexts, by modality of the target."""
    device = model.embedding.device
    batch = batch_of(model.config, vocabulary, reader, domain, numbers)
    kind = choose(device, model.config.head_dim, compiled=False)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    losses = batch_losses(model, batch.to(device), kind, dtype, _CHUNK, causal=True)
    return losses.sums.double().cpu().numpy(), np.asarray(batch.target_counts)


def batch_of(
    config: ModelConfig,
    vocabulary: dict[str, Any],
    reader: ShardReader,
    domain: str,
    numbers: Sequence[int],
    *,
    document_mask: bool | None = None,
) -> Batch:
    """Some contexts of a domain as a model reads them, speech in the patches that the shards record.

    Args:
        document_mask: whether documents are read apart; None: as the model does.
    """
    ids, lengths = contexts_of(reader, domain, numbers)
    apart = config.document_mask if document_mask is None else document_mask
    table = modality_table(vocabulary)
    batch = make_batch(ids, lengths, table, modalities=config.modalities, document_mask=apart)
    if config.speech_patches is None:
        return batch
    return patched(batch, config, [reader.patches(domain, i) for i in numbers])


def contexts_of(
    reader: ShardReader, domain: str, numbers: Sequence[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Some contexts of a domain: input ids [n, seq_len], and the lengths of the pieces of each."""
    found = [reader.context(domain, i) for i in numbers]
    return np.stack([ids for ids, _ in found]), [lengths for _, lengths in found]


def _check(model: Model, vocabulary: dict[str, Any], reader: ShardReader) -> None:
    manifest = reader.manifest
    if vocabulary["fingerprint"] != manifest.vocabulary["fingerprint"]:
        require_same_vocabulary(vocabulary, manifest.vocabulary, what=f"the shards in {reader.directory}")
    if manifest.seq_len > model.config.seq_len:
        raise UserError(
            f"the shards in {reader.directory} have contexts of {manifest.seq_len} tokens, the model"
            f" {model.config.seq_len} positions",
            fix=f"pack the held-out documents again with shards.seq_len {model.config.seq_len} or less",
        )


def _domains(reader: ShardReader, asked: Sequence[str] | None) -> list[str]:
    for name in asked or ():
        if name not in reader.domains:
            raise UserError(
                f"the shards in {reader.directory} have no domain '{name}'{nearest(name, reader.domains)}",
                fix=f"domains are: {', '.join(reader.domains)}",
            )
    return list(asked or reader.domains)


def spread(count: int, most: int | None) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread."""
    if most is None or most >= count:
        return list(range(count))
    return [i * count // most for i in range(most)]


def _bytes_per_token(reader: ShardReader) -> float | None:
    entries = reader.manifest.texts
    tokens = sum(e.tokens for e in entries)
    return sum(e.bytes for e in entries) / tokens if tokens else None


def _rows(
    domains: list[str], names: list[str], sums: np.ndarray, counts: np.ndarray, bytes_per_token: float | None
) -> list[Row]:
    def row(domain: str, name: str, total: float, targets: int) -> Row:
        loss = float(total) / int(targets) if targets else None
        text = name == "text" and loss is not None and bytes_per_token
        bits = loss / math.log(2) / bytes_per_token if text and loss is not None and bytes_per_token else None
        return Row(domain, name, loss, int(targets), bits)

    table = list(zip([*domains, ALL], [*sums, sums.sum(0)], [*counts, counts.sum(0)], strict=True))
    if len(domains) == 1:
        table = table[:1]
    out = []
    for domain, own, seen in table:
        out += [row(domain, n, s, c) for n, s, c in zip(names, own, seen, strict=True) if c]
        if sum(c > 0 for c in seen) != 1:
            out.append(row(domain, ALL, own.sum(), seen.sum()))
    return out
