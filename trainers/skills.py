"""Skills: named held-out sets, as contexts that a model of this vocabulary is evaluated on.

The loss is told in bits per byte of text, so that skills whose text takes more or fewer tokens compare; where a set
holds images or speech, which have no bytes of text, in bits per token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ingest.config import Source
from mixloom.pipeline.packing import pack
from mixloom.pipeline.storage import Store, resolve
from mixloom.trainers.attention import choose
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.model import Model
from mixloom.trainers.speech_batch import patched
from mixloom.trainers.step import token_losses
from mixloom.trainers.utilities_config import ShardSkill, UtilitiesConfig

if TYPE_CHECKING:
    from mixloom.pipeline.schema import Document

_HEIGHT = 16  # contexts evaluated at a time
_WINDOW = 64  # documents that packing looks ahead


@dataclass(frozen=True, eq=False)
class SkillSet:
    """One held-out set.

    Attributes:
        name: of the skill.
        ids: uint16 or uint32 [C, L], padded on the right. lengths: per context, int32 [pieces].
        documents: how many.
        bytes: of their text, UTF-8. unit: what losses are told per.
        patches: per context, tokens of each patch of speech as its shards record them, uint16 [p] or None; None: nowhere.
    """

    name: str
    ids: NDArray[Any]
    lengths: list[NDArray[np.int32]]
    documents: int
    bytes: int
    unit: Literal["byte", "token"]
    patches: list[NDArray[Any] | None] | None = None

    @property
    def tokens(self) -> int:
        return int(sum(int(n.sum()) for n in self.lengths))

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first of each piece."""
        return self.tokens - sum(int(np.count_nonzero(n)) for n in self.lengths)

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokens, their pieces and the bytes; the name is left out."""
        h = hashlib.sha256(f"{self.unit} {self.bytes} {self.ids.shape}".encode())
        for row, own in zip(self.ids, self.lengths):
            h.update(own.astype("<i4").tobytes() + row[: int(own.sum())].astype("<u4").tobytes())
        for cut in self.patches or ():
            h.update(b"-" if cut is None else np.asarray(cut).astype("<u2").tobytes())
        return h.hexdigest()

    def bits(self, nats: float) -> float:
        """Bits per byte (or token) of a sum of losses over the whole set."""
        return nats / math.log(2) / (self.bytes if self.unit == "byte" else self.targets)


@torch.no_grad()
def context_nats(model: Model, skill: SkillSet, vocabulary: dict[str, Any]) -> NDArray[np.float64]:
    """Sum of the losses of each context in nats: float64 [C]."""
    device = model.embedding.device
    kind = choose(device, model.config.head_dim, compiled=False)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    table, out = modality_table(vocabulary), []
    for at in range(0, len(skill.ids), _HEIGHT):
        batch = make_batch(
            skill.ids[at : at + _HEIGHT],
            skill.lengths[at : at + _HEIGHT],
            table,
            modalities=model.config.modalities,
            document_mask=model.config.document_mask,
        )
        recorded = None if skill.patches is None else skill.patches[at : at + _HEIGHT]
        batch = patched(batch, model.config, recorded)
        losses = token_losses(model, batch.to(device), kind, dtype, 1024)
        out.append(losses.double().view(batch.shape).sum(1).cpu().numpy())
    return np.concatenate(out)


def packed_skill(
    name: str, documents: Sequence[NDArray[Any]], sizes: Sequence[int], seq_len: int, dtype: str
) -> SkillSet:
    """Tokenised documents, cut after no more than their own end, as contexts.

    Args:
        documents: ids of each, with its boundaries. sizes: bytes of text of each; a document without any makes the
            whole set be told per token.

    Raises:
        UserError: no document.
    """
    if not documents:
        raise UserError(f"the skill '{name}' holds no document", fix="check its path, glob and format")
    plan = pack([len(d) for d in documents], seq_len, _WINDOW)
    ids = np.zeros((len(plan), seq_len), dtype)
    lengths = []
    for c in range(len(plan)):
        pieces = plan.pieces(c)
        row = np.concatenate([documents[d][a:b] for d, a, b in pieces])
        ids[c, : len(row)] = row
        lengths.append(np.array([b - a for _, a, b in pieces], np.int32))
    unit: Literal["byte", "token"] = "byte" if min(sizes) > 0 else "token"
    return SkillSet(name, ids, lengths, len(documents), int(sum(sizes)), unit)


def load_skills(
    config: UtilitiesConfig, data_root: str, tokenizer: Store, vocabulary: dict[str, Any], seq_len: int
) -> list[SkillSet]:
    """Read and tokenise the held-out sets of a section, as many documents of each, in the order of a hash, as it says.

    Args:
        data_root: against which the paths of skills are resolved.
        tokenizer: the folder of a run's fitted tokenizers. vocabulary: of the shards the models read.

    Raises:
        UserError: a set that is not there or empty, a document of it that cannot be read, or shards of another vocabulary.
    """
    out, most = [], config.skill_tokens
    for s in config.skills:
        path = resolve(data_root, s.path)
        if isinstance(s, ShardSkill):
            out.append(_from_shards(s, path, vocabulary, seq_len, most))
        else:
            cut = [_cut(d, config.skill_characters) for d in _documents(s, path)]
            out.append(_tokenised(s.name, cut, {s.name: path}, tokenizer, vocabulary, seq_len, most))
    return out


def _from_shards(
    skill: ShardSkill, path: str, vocabulary: dict[str, Any], seq_len: int, most: int
) -> SkillSet:
    from mixloom.pipeline.shard_reader import ShardReader

    reader = ShardReader(path)
    manifest = reader.manifest
    if manifest.vocabulary["fingerprint"] != vocabulary["fingerprint"] or manifest.seq_len != seq_len:
        raise UserError(
            f"the skill '{skill.name}' names shards of another vocabulary or context length ({manifest.seq_len};"
            f" this run has {seq_len})",
            fix="tokenise it with the tokenizer of this run (tokenizer.text.path), or give its text as a source",
        )
    mean = manifest.totals.tokens / manifest.totals.contexts
    wanted = max(1, min(manifest.totals.contexts, round(most / mean)))
    # Every domain has its share; contexts of a domain stand in random order already.
    share = wanted / manifest.totals.contexts
    ids, lengths, patches = [], [], []
    for d in manifest.domains:
        for i in range(max(1, round(share * d.contexts))):
            row, own = reader.context(d.name, i)
            ids.append(row)
            lengths.append(np.array(own))
            patches.append(reader.patches(d.name, i))
    taken = sum(int(n.sum()) for n in lengths)
    other = any(n for m, n in manifest.totals.tokens_by_modality.items() if m != "text")
    size = 0 if other else sum(t.bytes for t in manifest.texts) * taken // manifest.totals.tokens
    documents = sum(int(np.count_nonzero(n)) for n in lengths)
    unit: Literal["byte", "token"] = "byte" if size else "token"
    recorded = None if all(p is None for p in patches) else patches
    return SkillSet(skill.name, np.stack(ids), lengths, documents, size, unit, recorded)


def _documents(skill: Source, path: str) -> list[Document]:
    """All documents of a held-out set, in the order of a hash."""
    from mixloom.pipeline.ingest.plan import plan_splits
    from mixloom.pipeline.ingest.readers import read_split
    from mixloom.pipeline.schema import Failure

    found: list[Document] = []
    for split in plan_splits(skill, path):
        for item in read_split(split, skill, path):
            if isinstance(item, Failure):
                raise UserError(
                    f"the skill '{skill.name}': {item.locator.uri}: {item.reason}: {item.detail}",
                    fix="leave the file out with `exclude`, or correct it; a held-out set is read whole or not at all",
                )
            found.append(item)
    found.sort(key=lambda d: d.doc_id)  # a hash: a draw that new documents do not change much
    return found


def _cut(document: Document, most: int) -> Document:
    """The first characters of a document of text alone; any other as it is."""
    if any(s.kind != "text" for s in document.segments):
        return document
    kept, left = [], most
    for s in document.segments:
        if left > 0 and s.text:
            kept.append(replace(s, text=s.text[:left]))
            left -= len(s.text)
    return replace(document, segments=tuple(kept))


def _tokenised(
    name: str,
    found: Sequence[Document],
    roots: dict[str, str],
    tokenizer: Store,
    vocabulary: dict[str, Any],
    seq_len: int,
    most: int,
) -> SkillSet:
    from mixloom.pipeline.schema import documents_batch
    from mixloom.tokenizers.fitted import Codecs
    from mixloom.tokenizers.transform import tokenize

    codecs = Codecs.load(tokenizer)
    documents, sizes = [], []
    tokens = 0
    for at in range(0, len(found), _HEIGHT):
        if tokens >= most:
            break
        some = found[at : at + _HEIGHT]
        encoded, failures = tokenize(documents_batch(some), codecs, roots)
        if failures:
            raise UserError(
                f"the skill '{name}': {failures[0][1]}", fix="leave the document out, or correct it"
            )
        for document, e in zip(some, encoded):
            if tokens < most:  # whole documents, and at least one
                assert e is not None
                documents.append(np.asarray(e.ids))
                sizes.append(_text_bytes(document))
                tokens += len(e.ids)
    return packed_skill(name, documents, sizes, seq_len, str(vocabulary["dtype"]))


def _text_bytes(document: Document) -> int:
    """UTF-8 bytes of a document of text alone; 0 where it holds anything else."""
    if any(s.kind != "text" for s in document.segments):
        return 0
    return sum(len((s.text or "").encode("utf-8")) for s in document.segments)
