"""How well trained models read each document: mean loss per text token, the input of PreSelect's labels.

All models of one table read the same shards, so their losses of a document are over the same tokens and compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.run import RunDirectory, parquet_bytes
from mixloom.pipeline.shard_reader import ShardReader
from mixloom.pipeline.storage import Store
from mixloom.tokenizers.vocab import TEXT_MODALITY
from mixloom.trainers.attention import choose
from mixloom.trainers.checkpoint import latest_checkpoint, read_state, same_vocabulary
from mixloom.trainers.evaluate import batch_of
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.model import Model
from mixloom.trainers.step import token_losses

_CHUNK = 1024  # rows whose logits exist at one time


@torch.no_grad()
def document_losses(
    model: Model, reader: ShardReader, *, batch_contexts: int = 8, device: str | None = None
) -> dict[str, tuple[float, int]]:
    """Mean loss of every document of some shards, over the text tokens that are predicted.

    Every document is read by itself, whatever the model was trained to see beside it. The first token of a piece has
    nothing before it and does not count; a document cut into several contexts is the sum of its pieces.

    Args:
        batch_contexts: contexts read at a time; changes memory and speed only.
        device: "cpu" or "cuda"; default: cuda where there is one.

    Returns:
        By document id: nats per token, and the number of tokens. Documents without text are left out.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    model = model.to(where).eval()
    kind = choose(where, model.config.head_dim, compiled=False)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for domain, numbers in _contexts(reader, batch_contexts):
        batch = batch_of(
            model.config, reader.manifest.vocabulary, reader, domain, numbers, document_mask=True
        )
        names = [list(reader.info(domain, i)["doc_ids"]) for i in numbers]
        lengths = [reader.context(domain, i)[1] for i in numbers]
        moved = batch.to(where)
        per_token = token_losses(model, moved, kind, dtype, _CHUNK)
        text = ((batch.targets >= 0) & (batch.target_modality == TEXT_MODALITY)).numpy()
        piece = batch.documents.reshape(-1).numpy()
        total = np.bincount(piece[text], per_token.double().cpu().numpy()[text], len(batch.piece_lengths))
        count = np.bincount(piece[text], minlength=len(batch.piece_lengths))
        for name, loss, n in zip(_owners(names, lengths, batch.shape[1]), total, count, strict=True):
            if name is not None and n:
                sums[name] = sums.get(name, 0.0) + float(loss)
                counts[name] = counts.get(name, 0) + int(n)
    return {name: (sums[name] / counts[name], counts[name]) for name in sorted(sums)}


def _contexts(reader: ShardReader, height: int) -> Iterator[tuple[str, list[int]]]:
    """All contexts of all domains by domain and number, `height` at a time."""
    for domain in reader.domains:
        for start in range(0, reader.contexts(domain), height):
            yield domain, list(range(start, min(start + height, reader.contexts(domain))))


def _owners(names: list[list[str]], lengths: list[np.ndarray], length: int) -> list[str | None]:
    """The document of every piece of a batch, None for padding, as `make_batch` numbers pieces."""
    out: list[str | None] = []
    for own, sizes in zip(names, lengths, strict=True):
        out += [name for name, size in zip(own, sizes, strict=True) if size]
        out += [None] if int(np.sum(sizes)) < length else []
    return out


def loss_table(run_dir: str, trainings: dict[str, Path], *, batch_contexts: int = 8) -> pa.Table:
    """A row per document of a run's shards: doc_id, tokens, and the loss under each training (nats per text token).

    Args:
        trainings: folder of each training (its newest checkpoint is read), by the name of its column.

    Raises:
        UserError: no shards, no checkpoint, or a model of another vocabulary.
    """
    run = RunDirectory.existing(run_dir)
    run.stage("shards").reader()  # says so when there are none
    reader = ShardReader(run.stage("shards").store.root)
    columns: dict[str, dict[str, tuple[float, int]]] = {}
    for name, folder in trainings.items():
        checkpoint = latest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            raise UserError(
                f"{folder} has no checkpoint", fix="name the folder of a training, such as RUN/train"
            )
        same_vocabulary(read_state(checkpoint), reader.manifest.vocabulary, what=f"the shards of {run_dir}")
        model = load_checkpoint_model(checkpoint)
        size = int(reader.manifest.vocabulary["size"])
        if model.config.vocab_size != size:
            raise UserError(
                f"{folder} was trained on {model.config.vocab_size} ids, and the shards of {run_dir} have {size}",
                fix="compare models that were trained on shards of one tokenizer",
            )
        columns[name] = document_losses(model, reader, batch_contexts=batch_contexts)
    first = next(iter(columns.values()))
    ids = list(first)
    arrays = {
        "doc_id": pa.array(ids, pa.string()),
        "tokens": pa.array([first[i][1] for i in ids], pa.int64()),
    }
    arrays |= {name: pa.array([c[i][0] for i in ids], pa.float64()) for name, c in columns.items()}
    return pa.table(arrays)


def losses(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run whose documents are read.")],
    trainings: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAINING...", help="Folders of trainings; a bare name is a folder of the run."
        ),
    ],
    out: Annotated[str, typer.Option(help="The Parquet file to write.")] = "losses.parquet",
    batch_contexts: Annotated[int, typer.Option(min=1, help="Contexts read at a time.")] = 8,
) -> None:
    """Write the loss of every document under each of some trained models, for `preselect` of `mixloom quality fit`."""
    root = Path(RunDirectory.existing(run).store.root)
    found = {Path(t).name: Path(t) if "/" in t else root / t for t in trainings}
    if len(found) < len(trainings):
        raise UserError(
            f"two of {', '.join(trainings)} have one name", fix="rename a folder: columns need names"
        )
    table = loss_table(run, found, batch_contexts=batch_contexts)
    folder, slash, name = out.rpartition("/")
    Store.at(folder + slash or ".").write(name, parquet_bytes(table))
    print(f"wrote {out}: {table.num_rows} documents, {', '.join(found)}")
