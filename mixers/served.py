"""Contexts as a stream serves them, for a person to read: with the objectives of the training applied."""

from __future__ import annotations

import numpy as np

from mixloom.mixers.stream import Stream
from mixloom.tokenizers.inspect_contexts import ReadContext, read_context
from mixloom.tokenizers.inspect_decoders import Decoders
from mixloom.tokenizers.inspect_source import StoredContext


def read_served(
    stream: Stream, step: int, decoders: Decoders, *, most: int | None = None
) -> list[ReadContext]:
    """The contexts of one step, in the order they are served, as `inspect_page` and the terminal view take them.

    Args:
        most: only the first so many.

    Raises:
        IndexError: a step outside the run.
    """
    batch = stream.contexts(step)
    out = []
    for i, ref in enumerate(batch.refs[:most]):
        about = stream.documents(ref)
        stored = StoredContext(
            batch.input_ids[i],
            np.asarray(batch.doc_lengths[i], np.int32),
            about,
            ref.domain,
            ref.index,
            about["shard"],
            about["key"],
            about["row"],
        )
        out.append(read_context(stored, decoders))
    return out
