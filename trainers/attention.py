"""Causal attention within documents: one interface, three ways to compute it.

The residual stream may lie in any order. A plan says, for one batch, how to bring queries, keys and values
into an order in which documents are whole, how to attend there, and how to come back.

    buckets   documents of similar length side by side, padded on the right: plain causal attention, no mask
              at all, and no work between documents. The way on a CPU, where contexts hold many documents.
    mask      [B, 1, L, L] boolean mask, causal and block-diagonal by document. The plain definition.
    flex      the same mask as a FlexAttention block mask. The way on a CUDA device.

What a document is, the batch says: without a document mask (`ModelConfig.document_mask`) all of a context is one.

    T rows of the residual stream; S slots (T and the padding inside buckets); N heads; H head width; D = N * H
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mixloom.trainers.data import Batch

Kind = Literal["buckets", "mask", "flex"]

# Longest piece of each bucket: 32, 48, 64, 96, 128, ...; so from 32 on padding stays under a third.
_BUCKET_ENDS = np.sort(np.concatenate([32 << np.arange(26), 48 << np.arange(26)]))


class _Move(torch.autograd.Function):
    """`x[index]` for rows, whose gradient is a plain read as well, because every row has exactly one place.

    The gradient of indexing would be an addition by index: slow, and without a fixed order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, idle: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, idle)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back, idle = ctx.saved_tensors
        out = grads[0].index_select(0, back)
        if idle is not None:
            out.index_fill_(0, idle, 0.0)
        return out, None, None, None


@dataclass(frozen=True)
class Plan:
    """How to attend in one batch.

    to_slots int [S]: row of each slot (slots of bucket padding name row 0); None where rows are the slots.
    to_rows int [T]: slot of each row (int32 or int64). idle int64: slots of bucket padding, or None where there are none.
    groups: (documents or contexts, length) of every bucket. cos, sin [S, 1, 1, H/2]: rotary tables by slot.
    """

    heads: int
    to_slots: Tensor | None
    to_rows: Tensor | None
    idle: Tensor | None
    groups: list[tuple[int, int]]
    cos: Tensor
    sin: Tensor
    mask: Any  # None, a boolean Tensor [B, 1, L, L], or a BlockMask

    def attend(self, qkv_TE: Tensor, layer: int) -> Tensor:
        """Attention output [T, D] for merged queries, keys, values [T, 3D]; both in the order of the residual stream."""
        dim = qkv_TE.shape[1] // 3
        if self.to_slots is not None:
            qkv_SE = _Move.apply(qkv_TE, self.to_slots, self.to_rows, None)
        else:
            qkv_SE = qkv_TE
        qkv_S3NH = qkv_SE.view(-1, 3, self.heads, dim // self.heads)
        # Splits, not slices: the gradient of a split is one copy, that of a slice a buffer of zeros and an addition.
        qk_S2NH, v_S1NH = qkv_S3NH.split([2, 1], dim=1)
        qk_S2NH = rotate(qk_S2NH, self.cos, self.sin)
        slots = [count * length for count, length in self.groups]
        out = []
        for (count, length), qk, v in zip(self.groups, qk_S2NH.split(slots), v_S1NH.split(slots)):
            q, k = qk.view(count, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            v = v.view(count, length, self.heads, -1).transpose(1, 2)
            out.append(_sdpa(q, k, v, self.mask).transpose(1, 2).reshape(-1, dim))
        o_SD = out[0] if len(out) == 1 else torch.cat(out)
        if self.to_rows is None:
            return o_SD
        return _Move.apply(o_SD, self.to_rows, self.to_slots, self.idle)


def rotary_table(seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [seq_len, H/2], of the rotary positions (Su et al., arXiv 2104.09864)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + H/2]) of the last axis by the given angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return _flex()(q, k, v, block_mask=mask)


@functools.cache
def _flex_compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex() -> Callable[..., Tensor]:
    if torch.compiler.is_compiling():
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention
    return _flex_compiled()


def document_mask(documents: Tensor, images: Tensor | None = None) -> Tensor:
    """Boolean [B, 1, L, L]: key at or before the query, in the same document; or both in the same image.

    documents: integers [B, L]. images: int64 [B, L], -1 outside of images; only where images are read in both directions.
    """
    length = documents.shape[1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    seen = same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    if images is None:
        return seen
    inside = images[:, None, :, None] == images[:, None, None, :]
    return seen | (same & inside & (images >= 0)[:, None, :, None])


def block_mask(documents: Tensor, images: Tensor | None = None, *, compiled: bool) -> Any:
    """The same mask for FlexAttention; its function of (context, head, query, key) is `document_mask` pointwise."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (documents[b, q] == documents[b, k])

    def visible_with_images(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert images is not None
        inside = (images[b, q] == images[b, k]) & (images[b, q] >= 0)
        return ((k <= q) | inside) & (documents[b, q] == documents[b, k])

    contexts, length = documents.shape
    rule = visible if images is None else visible_with_images
    return create_block_mask(rule, contexts, None, length, length, device=documents.device, _compile=compiled)


def choose(device: torch.device, head_dim: int, *, compiled: bool) -> Kind:
    """The way to attend on this device.

    FlexAttention needs a head width that is a power of two from 16 on; bucket sizes change with every batch,
    which a compiled graph would pay for with compiling again.
    """
    if device.type != "cuda":
        return "mask" if compiled else "buckets"
    return "flex" if head_dim >= 16 and head_dim & (head_dim - 1) == 0 else "mask"


def make_plan(
    batch: Batch,
    *,
    heads: int,
    rotary: tuple[Tensor, Tensor],
    modality_major: bool,
    kind: Kind,
    dtype: torch.dtype,
    images: Tensor | None = None,
) -> Plan:
    """Plan for a batch that is already on its device.

    Args:
        images: int64 [B, L], the image of each token or -1: images are read in both directions, for which buckets have no
            way, so they become a mask.
        rotary: float32 [max positions, H/2] twice, see `rotary_table`; positions of the batch must lie inside.
        modality_major: whether the residual stream lies in the order of `batch.perm`, or in sequence order.
    """
    if kind == "buckets" and images is None:
        slots, back, groups, idle = _bucket(batch.piece_lengths)
        source = torch.from_numpy(slots)  # sequence index of every slot
        rows = batch.inverse[source] if modality_major else source
        slot_of = torch.from_numpy(back)[batch.perm] if modality_major else torch.from_numpy(back)
        positions = batch.positions[source]
        return _plan(heads, rows, slot_of, torch.from_numpy(idle), groups, rotary, positions, None, dtype)
    mask = (
        block_mask(batch.documents, images, compiled=batch.perm.is_cuda)
        if kind == "flex"
        else document_mask(batch.documents, images)
    )
    to_slots, to_rows = (batch.inverse, batch.perm) if modality_major else (None, None)
    return _plan(heads, to_slots, to_rows, None, [batch.shape], rotary, batch.positions, mask, dtype)


def _plan(
    heads: int,
    to_slots: Tensor | None,
    to_rows: Tensor | None,
    idle: Tensor | None,
    groups: list[tuple[int, int]],
    rotary: tuple[Tensor, Tensor],
    positions: Tensor,
    mask: Any,
    dtype: torch.dtype,
) -> Plan:
    cos, sin = (table[positions][:, None, None, :].to(dtype) for table in rotary)
    return Plan(heads, to_slots, to_rows, idle, groups, cos, sin, mask)


def _bucket(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]], np.ndarray]:
    """Lay pieces of similar length side by side, each padded to the longest of its bucket.

    Returns the sequence index of every slot [S] (0 for padding), the slot of every sequence index [T],
    (pieces, length) of every bucket, and the padding slots.
    """
    edge = np.searchsorted(_BUCKET_ENDS, lengths)
    starts = np.cumsum(lengths) - lengths
    slots, groups = [], []
    for e in np.unique(edge):
        members = np.flatnonzero(edge == e)
        longest = int(lengths[members].max())
        column = np.arange(longest)
        real = column < lengths[members][:, None]
        slots.append(np.where(real, starts[members][:, None] + column, -1).reshape(-1))
        groups.append((members.shape[0], longest))
    slot = np.concatenate(slots)
    idle_slots = np.flatnonzero(slot < 0)
    back = np.empty(int(lengths.sum()), dtype=np.int64)
    back[slot[slot >= 0]] = np.flatnonzero(slot >= 0)
    slot[idle_slots] = 0
    return slot, back, groups, idle_slots
