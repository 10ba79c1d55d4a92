"""A small set of shards, and manifests of any size without any shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mixloom.pipeline.manifest import ShardEntry, ShardManifest, build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

SEQ_LEN = 16
VOCABULARY = {
    "version": 1,
    "size": 1024,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [{"name": "text", "start": 0, "size": 1024, "used": 1024, "modality": 0, "fingerprint": "t"}],
    "fingerprint": "v",
}


@dataclass
class SizesOnly:
    """Stands for a reader where only the order of the contexts matters, not what is in them."""

    manifest: ShardManifest


def manifest_of(sizes: dict[str, tuple[int, int]]) -> ShardManifest:
    """A manifest with (contexts, tokens) per domain."""
    entries = []
    for name, (contexts, tokens) in sizes.items():
        counts = {"contexts": contexts, "documents": contexts, "tokens": tokens}
        by = {"tokens_by_modality": {"text": tokens}, "tokens_by_source": {"s": tokens}}
        entries.append(ShardEntry(name=f"{name}.tar", domain=name, sha256="0", bytes=0, **counts, **by))
    return build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN)


@pytest.fixture(scope="session")
def sizes_only():
    return lambda sizes: SizesOnly(manifest_of(sizes))


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Shards of three domains (40, 12 and 5 contexts) with different mean fills, over several tars."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.Generator(np.random.PCG64(3))
    entries = []
    for d, (domain, parts, longest) in enumerate([("aa", (25, 15), 4), ("bb", (12,), 8), ("cc", (5,), 2)]):
        for s, n in enumerate(parts):
            rows = []
            for i in range(n):
                lengths = rng.integers(1, longest + 1, 2).tolist()
                ids = rng.integers(1, 1000, sum(lengths)).astype(np.uint16)
                rows.append(
                    Context(ids, lengths, [f"{domain}{s}{i}a", f"{domain}{s}{i}b"], ["s", "s"], [0, 0])
                )
            name, common = shard_name(domain, s, len(parts)), {"seq_len": SEQ_LEN, "vocabulary": VOCABULARY}
            entries.append(write_shard(root, name, domain, rows, prefix=key_prefix(d, s), block=4, **common))
    build_manifest(entries, VOCABULARY, seq_len=SEQ_LEN).save(root)
    return root


@pytest.fixture
def reader(shards):
    return ShardReader(shards)
