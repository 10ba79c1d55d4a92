"""Tokens by source, domain and modality at once, counted from the shards: the manifest has no such cross."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import MODALITIES, modality_table


def count_cells(path: str | Path) -> tuple[dict[tuple[str, str, str], int], str]:
    """Read every token of the shards once: ({(source, domain, modality): tokens}, a note that says so).

    Raises:
        UserError: the shards are not there, are damaged, or do not hold what their manifest says.
    """
    from mixloom.pipeline.shard_reader import ShardReader

    reader = ShardReader(path)
    table = modality_table(reader.manifest.vocabulary)
    cells: dict[tuple[str, str, str], int] = {}
    for domain in reader.domains:
        for i in range(reader.contexts(domain)):
            ids, lengths = reader.context(domain, i)
            kinds = table[ids[: int(lengths.sum())]]
            ends = np.cumsum(lengths)
            sources = reader.info(domain, i)["sources"]
            for source, start, end in zip(sources, ends - lengths, ends):
                counts = np.bincount(kinds[start:end], minlength=len(MODALITIES))
                for modality, n in zip(MODALITIES, counts.tolist()):
                    if n:
                        key = (source, domain, modality)
                        cells[key] = cells.get(key, 0) + n
    total, expected = sum(cells.values()), reader.manifest.totals.tokens
    if total != expected:
        raise UserError(
            f"the shards hold {total:,} tokens with a source and a modality, their manifest says {expected:,}",
            fix="run `mixloom verify` on the run",
        )
    return (
        cells,
        f"source by modality is counted from all {total:,} tokens of the shards: the manifest has no such cross",
    )
