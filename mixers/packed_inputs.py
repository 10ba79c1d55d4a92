"""What a Hugging Face style causal model takes, from packed batches of the stream: nothing crosses a document's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100


def packed_inputs(batch: dict[str, Any], *, document_mask: bool = True) -> dict[str, Tensor]:
    """Model inputs for a batch of `stream.as_iterable_dataset`; torch is imported here.

    Args:
        batch: input_ids int [b, seq_len], doc_lengths int [b, most pieces] with zeros on the right.
        document_mask: keep documents apart by a mask and positions of their own; False leaves both out, and
            documents see those before them in their context. Labels are the same either way.

    Returns:
        input_ids int64 [b, seq_len]; labels int64 [b, seq_len], not yet shifted: -100 in padding and at the first token
        of a document, which nothing before it is to predict; with a document mask position_ids int64 [b, seq_len] and
        attention_mask bool [b, 1, seq_len, seq_len], True where a query (row) sees a key. Padding sees itself only.
    """
    import torch

    ids, lengths = batch["input_ids"].long(), batch["doc_lengths"].long()
    rows, length = ids.shape
    ends = lengths.cumsum(1)
    at = torch.arange(length, device=ids.device).expand(rows, length).contiguous()
    piece = torch.searchsorted(ends, at, right=True)  # number of the document; beyond the last one in padding
    starts = torch.cat([ends - lengths, ends[:, -1:]], 1).gather(1, piece.clamp(max=lengths.shape[1]))
    padding = at >= ends[:, -1:]
    labels = ids.masked_fill(padding | (at == starts), IGNORE)
    made = {"input_ids": ids, "labels": labels}
    if not document_mask:
        return made
    number = torch.where(padding, lengths.shape[1] + 1 + at, piece)
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    mask = causal & (number[:, :, None] == number[:, None, :])
    positions = torch.where(padding, 0, at - starts)
    return {**made, "position_ids": positions, "attention_mask": mask[:, None]}
