"""Losses of documents: they add up to the loss of the shards, and batches and splits of contexts change nothing."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.ledger import Counts
from mixloom.pipeline.manifest import build_manifest
from mixloom.pipeline.run import RunDirectory, StageManifest
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.shards import Context, key_prefix, shard_name, write_shard
from mixloom.trainers.checkpoint import save_checkpoint
from mixloom.trainers.config import DENSE, ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.losses import document_losses, loss_table, losses
from mixloom.trainers.model import Model

LENGTH = 48


def model_of(seed=0, **options) -> Model:
    config = ModelConfig(dim=16, layers=1, heads=2, vocab_size=1024, seq_len=LENGTH, init_std=0.2, **options)
    return Model(config, seed=seed).eval()


@pytest.fixture
def run(tmp_path, make_contexts, vocabulary):
    """A run with 7 contexts in 2 domains; document "both" has a piece in each of two contexts."""
    ids, lengths, _ = make_contexts(contexts=7, length=LENGTH)
    contexts = []
    for i in range(7):
        names = [f"{i}-{k}" for k in range(len(lengths[i]))]
        if i in (1, 5):
            names[0] = "both"
        used = ids[i][: int(lengths[i].sum())]
        contexts.append(Context(used, lengths[i].tolist(), names, ["s"] * len(names), [0] * len(names)))
    run = RunDirectory(str(tmp_path / "run"))
    run.store.write("config.yaml", b"{}\n")
    folder = tmp_path / "run" / "shards"
    folder.mkdir()
    entries = []
    for d, (domain, rows) in enumerate((("a", contexts[:4]), ("b", contexts[4:]))):
        common = {"prefix": key_prefix(d, 0), "seq_len": LENGTH, "vocabulary": vocabulary, "block": 2}
        entries.append(write_shard(folder, shard_name(domain, 0, 1), domain, rows, **common))
    build_manifest(entries, vocabulary, seq_len=LENGTH).save(folder)
    run.stage("shards").finish(StageManifest("shards", "k", {}, {}, Counts(), [], [], 1, 0.0, 0.0, {}, {}))
    return run


def plainly(model, reader):
    """Loss of each document by the whole softmax, one context at a time: {id: (sum, tokens)}."""
    table = modality_table(reader.manifest.vocabulary)
    out: dict[str, list[float]] = {}
    for domain in reader.domains:
        for i in range(reader.contexts(domain)):
            ids, lengths = reader.context(domain, i)
            batch = make_batch(ids[None], [lengths], table)
            with torch.no_grad():
                hidden = model(model.rows(batch, "mask", torch.float32))
            order = model.order(batch)
            hidden = hidden if order is None else hidden[batch.inverse]
            logs = torch.log_softmax(hidden @ model.head_weight.t(), 1).detach()
            at = 0
            for name, size in zip(reader.info(domain, i)["doc_ids"], lengths):
                for t in range(at, at + int(size) - 1):
                    target = int(ids[t + 1])
                    if table[target] == 0:
                        sums = out.setdefault(name, [0.0, 0])
                        sums[0] -= float(logs[t, target])
                        sums[1] += 1
                at += int(size)
    return out


@pytest.mark.parametrize("options", [{}, {"untie": DENSE}])
@pytest.mark.parametrize("batch_contexts", [1, 3, 8])
def test_losses_are_those_of_the_whole_softmax_and_pieces_add_up(run, options, batch_contexts):
    reader, model = ShardReader(run.stage("shards").store.root), model_of(**options)
    found = document_losses(model, reader, batch_contexts=batch_contexts, device="cpu")
    expected = plainly(model, reader)
    assert list(found) == sorted(expected)
    assert {k: n for k, (_, n) in found.items()} == {k: n for k, (_, n) in expected.items()}
    for name, (loss, n) in found.items():
        assert loss == pytest.approx(expected[name][0] / n, abs=1e-4)
    assert "both" in found


def checkpoint_of(folder, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    configs = {"model": model.config.model_dump(mode="json"), "train": {}}
    save_checkpoint(
        folder / "checkpoints",
        model=model,
        optimizer=optimizer,
        step=1,
        stream={},
        configs=configs,
        keep_last=1,
    )


def test_the_command_writes_a_column_per_training(run, tmp_path):
    root = tmp_path / "run"
    for name, seed in (("weak", 1), ("strong", 2)):
        checkpoint_of(root / name, model_of(seed))
    out = tmp_path / "losses.parquet"
    import typer

    app = typer.Typer()
    app.command()(losses)
    done = CliRunner().invoke(app, [str(root), "weak", str(root / "strong"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    table = pq.read_table(out)
    assert table.column_names == ["doc_id", "tokens", "weak", "strong"]
    assert table["doc_id"].to_pylist() == sorted(table["doc_id"].to_pylist())
    assert not np.allclose(table["weak"], table["strong"])
    again = loss_table(str(root), {"weak": root / "weak"}, batch_contexts=1)
    np.testing.assert_allclose(again["weak"], table["weak"], atol=1e-5)


def test_a_training_without_a_checkpoint_and_one_of_another_vocabulary_are_told(run, tmp_path):
    root = tmp_path / "run"
    with pytest.raises(UserError, match="gone has no checkpoint"):
        loss_table(str(root), {"gone": root / "gone"})
    other = Model(ModelConfig(dim=16, layers=1, heads=2, vocab_size=512, seq_len=LENGTH))
    checkpoint_of(root / "other", other)
    with pytest.raises(UserError, match=r"was trained on 512 ids, and the shards of .* have 1024"):
        loss_table(str(root), {"other": root / "other"})
