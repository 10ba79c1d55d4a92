"""Sizes by any grouping, from manifests, shards and CSVs."""

from __future__ import annotations

import numpy as np
import pytest

from mixloom.mixers.sources import Sources, load_sources
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.manifest import ShardEntry, ShardManifest, TextEntry, build_manifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard

VOCABULARY = {
    "version": 1,
    "size": 300,
    "pad": 0,
    "dtype": "uint16",
    "ranges": [
        {"name": "text", "start": 0, "size": 100, "used": 100, "modality": 0, "fingerprint": "t"},
        {"name": "image", "start": 100, "size": 100, "used": 100, "modality": 1, "fingerprint": "i"},
        {"name": "speech", "start": 200, "size": 100, "used": 100, "modality": 2, "fingerprint": "s"},
    ],
    "fingerprint": "v",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Shards of two domains whose contexts mix sources and modalities, and the true counts of every cell."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    entries, truth = [], {}
    for d, domain in enumerate(("one", "two")):
        rows = []
        for i in range(7):
            lengths, sources, pieces = rng.integers(1, 5, 3).tolist(), [], []
            for n in lengths:
                source = ("web", "books", "talks")[int(rng.integers(0, 2 + d))]
                modality = int(rng.integers(0, 3))
                pieces.append(rng.integers(100 * modality + 1, 100 * modality + 100, n))
                sources.append(source)
                key = (source, domain, ("text", "image", "speech")[modality])
                truth[key] = truth.get(key, 0) + n
            ids = np.concatenate(pieces).astype(np.uint16)
            rows.append(Context(ids, lengths, [f"{d}{i}{k}" for k in range(3)], sources, [0, 0, 0]))
        name = shard_name(domain, 0, 1)
        entry = write_shard(
            root, name, domain, rows, seq_len=16, vocabulary=VOCABULARY, prefix=key_prefix(d, 0), block=4
        )
        entries.append(entry)
    build_manifest(entries, VOCABULARY, seq_len=16).save(root)
    return root, truth


@pytest.mark.parametrize(
    "axes",
    [
        ("domain",),
        ("source",),
        ("modality",),
        ("source", "domain"),
        ("domain", "modality"),
        ("source", "modality"),
        ("source", "domain", "modality"),
        ("modality", "source"),
    ],
)
def test_any_grouping_counts_what_is_in_the_shards(mixed, axes):
    root, truth = mixed
    expected: dict[str, int] = {}
    for cell, n in truth.items():
        parts = dict(zip(("source", "domain", "modality"), cell))
        name = "/".join(parts[a] for a in ("source", "domain", "modality") if a in axes)
        expected[name] = expected.get(name, 0) + n
    found = load_sources(root, axes)
    assert dict(zip(found.names, found.tokens)) == expected
    assert found.names == sorted(found.names)
    assert found.group_by == axes
    counted = {"source", "modality"} <= set(axes)
    assert bool(found.notes) == counted
    assert found.fingerprint == ShardReader(root).manifest.fingerprint
    for d in found.domains:
        for parts in (d.tokens_by_modality, d.tokens_by_source):
            assert not parts or sum(n for _, n in parts) == d.tokens


def test_a_manifest_alone_cannot_cross_sources_with_modalities(mixed):
    manifest = ShardManifest.load(mixed[0])
    with pytest.raises(UserError, match="by source and by modality, but not by both"):
        Sources.from_manifest(manifest, "m", ("source", "modality"))


def test_sources_come_with_the_bytes_of_their_text():
    entry = ShardEntry(
        name="a.tar", domain="a", sha256="0", bytes=0, contexts=1, documents=1, tokens=5,
        tokens_by_modality={"text": 5}, tokens_by_source={"s": 3, "t": 2},
    )  # fmt: skip
    texts = [
        TextEntry(source="s", language=x, documents=1, bytes=b, tokens=2, bytes_per_token=4)
        for x, b in (("en", 9), ("de", 4))
    ]
    manifest = build_manifest([entry], VOCABULARY, seq_len=16, texts=texts)
    found = Sources.from_manifest(manifest, "m", ("source",))
    assert {d.name: d.bytes for d in found.domains} == {"s": 13, "t": None}


def csv(tmp_path, text: str):
    path = tmp_path / "sizes.csv"
    path.write_text(text)
    return path


def test_a_csv_may_say_bytes_modality_licence_and_source(tmp_path):
    path = csv(
        tmp_path,
        "domain,tokens,bytes,modality,licence,source\na,10,44,text,cc0,web\nb,5,,speech,,talks\n",
    )
    found = load_sources(path)
    a, b = found.domains
    assert (a.bytes, a.licence, a.tokens_by_modality, a.tokens_by_source) == (
        44,
        "cc0",
        (("text", 10),),
        (("web", 10),),
    )
    assert (b.bytes, b.licence) == (None, "")
    assert found.tokens_by_modality == {"text": 10, "speech": 5}


def test_mixed_domains_are_given_in_parts_and_everything_comes_back_from_the_rows(tmp_path):
    path = csv(
        tmp_path,
        'domain,tokens,licence,tokens:text,tokens:image,source:web,source:books\n"a,b",10,"x ""y""",4,6,10,\nc,3,,3,,1,2\n',
    )
    found = load_sources(path)
    back = Sources.from_rows(found.rows(), found.origin, found.fingerprint)
    assert back == found
    assert dict(back.domains[0].tokens_by_modality) == {"text": 4, "image": 6}
    assert dict(back.domains[1].tokens_by_source) == {"web": 1, "books": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain,tokens,tokens:text\na,5,4\n", r"columns tokens:\* sum to 4, tokens is 5"),
        ("domain,tokens,source:x\na,5,6\n", r"columns source:\* sum to 6, tokens is 5"),
        ("domain,tokens,bytes\na,5,many\n", "line 2: bytes is 'many', not a whole number"),
        ("domain,tokens\na,5,6\n", "more cells than the header"),
        ("domain,tokens\na,0\n", "'a' has 0 tokens"),
        ("domain,tokens\na,1\na,2\n", "used twice"),
        ("domain\na\n", "no column tokens"),
    ],
)
def test_counts_that_are_wrong_say_where(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        load_sources(csv(tmp_path, text))


def test_what_nothing_reads_is_said_and_groupings_of_a_csv_are_refused(tmp_path):
    path = csv(tmp_path, "domain,tokens,owner\na,5,me\n")
    assert load_sources(path).notes == ("columns of the counts that nothing reads: owner",)
    with pytest.raises(UserError, match=r"lines of .* are the domains"):
        load_sources(path, ("source",))


def test_the_fingerprint_follows_all_that_is_read(tmp_path):
    one = load_sources(csv(tmp_path, "domain,tokens,modality\na,5,text\n")).fingerprint
    two = load_sources(csv(tmp_path, "domain,tokens,modality\na,5,speech\n")).fingerprint
    assert one != two
