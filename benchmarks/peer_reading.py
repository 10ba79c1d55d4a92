"""One side of `reading.py` or `loading.py`: writes its copy of the contexts, or reads them batch by batch; started in a Python of its own.

    PYTHON benchmarks/peer_reading.py write|read SIDE FOLDER MODE WORKERS

FOLDER holds `flat.bin` (the contexts, uint16, one after another), `about.json` (seq_len, contexts, batch; for sides with
batches also `end`, the id that ends documents, and `modalities`, how many ids each has) and what the sides have written. A batch is `batch` contexts in one array of its own, as a trainer gets it. Every side is read once
before it is timed, which also adds up its tokens: all sides must come to the same sum. Prints one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = 3
WARM = 8  # batches read before the clock starts: opening files, starting workers
LONG_ENOUGH, PASSES = 0.5, 30  # seconds on the clock, and the most passes to get there
Batches = Iterable[Any]


class Side:
    """The contexts as one side has them: `folder` of the benchmark, `about` them, and how to read."""

    def __init__(self, folder: Path, mode: str, workers: int) -> None:
        self.folder, self.mode, self.workers = folder, mode, workers
        about = json.loads((folder / "about.json").read_text())
        self.seq_len, self.contexts, self.batch = about["seq_len"], about["contexts"], about["batch"]

    @property
    def shuffled(self) -> bool:
        return self.mode == "shuffled"

    def flat(self) -> np.ndarray:
        data = np.memmap(self.folder / "flat.bin", np.uint16, "r")
        return data.reshape(self.contexts, self.seq_len)

    def order(self) -> np.ndarray:
        """Numbers of the contexts, batch by batch: int64 [batches, batch]."""
        numbers = np.arange(self.contexts)
        if self.shuffled:
            numbers = np.random.Generator(np.random.PCG64(SEED)).permutation(numbers)
        return numbers.reshape(-1, self.batch)

    def loader(self, dataset: Any, batch: int | None) -> Batches:
        from torch.utils.data import DataLoader

        return DataLoader(dataset, batch_size=batch, num_workers=self.workers)


class Loop:
    """Batches of a function, each worker its share: what a torch dataset has to be, without torch where it is not used."""

    def __init__(self, order: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> None:
        self.order, self.read = order, read

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Any:
        import torch

        return torch.from_numpy(self.read(self.order[i]))


def flat(side: Side) -> Batches:
    """A memory-mapped file of tokens, the most that can be had."""
    data, order = side.flat(), side.order()

    def read(numbers: np.ndarray) -> np.ndarray:
        return data[numbers] if side.shuffled else np.array(data[numbers[0] : numbers[-1] + 1])

    return side.loader(Loop(order, read), None) if side.workers else map(read, order)


def mixloom(side: Side) -> Batches:
    """Our reader on our tars."""
    from mixloom.pipeline.shard_reader import ShardReader

    reader, order = ShardReader(side.folder / "tars"), side.order()

    def read(numbers: np.ndarray) -> np.ndarray:
        return reader.batch(0, numbers)[0]

    return side.loader(Loop(order, read), None) if side.workers else map(read, order)


def mixloom_checked(side: Side) -> Batches:
    """The same, every sample compared with its checksum when it is first read."""
    from mixloom.pipeline.shard_reader import ShardReader

    reader, order = ShardReader(side.folder / "tars", verify=True), side.order()
    return (reader.batch(0, numbers)[0] for numbers in order)


def mixloom_stream(side: Side) -> Batches:
    """What a training reads: the stream over a mixture, with document lengths; as int32, once it is a torch dataset."""
    from mixloom.mixers.stream import as_iterable_dataset

    stream = _stream(side)
    if side.workers:
        return (b["input_ids"] for b in side.loader(as_iterable_dataset(stream), None))
    return (stream.contexts(step).input_ids for step in range(stream.steps))


def mixloom_thread(side: Side) -> Batches:
    """The same through a DataLoader without worker processes: a thread reads ahead."""
    from torch.utils.data import DataLoader

    from mixloom.mixers.stream import as_iterable_dataset

    return (b["input_ids"] for b in DataLoader(as_iterable_dataset(_stream(side)), batch_size=None))


def mixloom_batches(side: Side) -> Batches:
    """What our trainer eats: the stream, and batches with targets, masks and the modality-major order.

    Made where they are used for `workers` 0, else ahead by as many threads.
    """
    from mixloom.trainers.data import Prefetcher, modality_table
    from mixloom.trainers.stage import StreamSource

    stream, threads = _stream(side), side.workers
    vocabulary = stream.reader.manifest.vocabulary
    kinds = len(vocabulary["ranges"])
    table = modality_table(vocabulary)
    ahead: dict[str, Any] = {"parts": 1, "modality": table, "modalities": kinds}
    made = Prefetcher(
        StreamSource(stream), 0, stream.steps, depth=2 * threads, threads=max(threads, 1), **ahead
    )
    try:
        for _ in range(stream.steps):
            yield made.next()[0].input_ids
    finally:
        made.close()


def _stream(side: Side) -> Any:
    from mixloom.mixers.estimate import MixtureConfig
    from mixloom.mixers.stage import weigh
    from mixloom.mixers.stream import Stream
    from mixloom.pipeline.shard_reader import ShardReader

    reader = ShardReader(side.folder / "tars")
    mixture = weigh(reader.manifest, MixtureConfig(max_epochs=1), None)
    return Stream(reader, mixture, seed=SEED, batch_contexts=side.batch, steps=side.contexts // side.batch)


def webdataset(side: Side) -> Batches:
    """Plain WebDataset on our tars: a sample is a batch; members other than the tokens are passed over unread."""
    return _webdataset(side, "tars")


def webdataset_contexts(side: Side) -> Batches:
    """Plain WebDataset on tars in which a sample is a context, shuffled by a buffer of contexts."""
    rows = (np.asarray(x).reshape(side.seq_len) for x in _webdataset(side, "single", buffer=1000))
    return stacked(rows, side.batch)


def _webdataset(side: Side, folder: str, buffer: int = 64) -> Batches:
    import webdataset as wds

    tars = sorted(str(p) for p in (side.folder / folder).glob("*.tar"))
    data = wds.WebDataset(
        tars,
        shardshuffle=len(tars) if side.shuffled else False,
        seed=SEED,
        select_files=lambda name: name.endswith(".input_ids.npy"),
    )
    if side.shuffled:
        data = data.shuffle(buffer)
    data = data.decode().to_tuple("input_ids.npy")
    if side.workers:
        import torch

        return side.loader(data.map(lambda sample: torch.from_numpy(sample[0])), None)
    return (sample[0] for sample in data)


def mosaic(side: Side) -> Batches:
    """MosaicML Streaming, a sample is a context, uncompressed."""
    from streaming import StreamingDataset

    data = StreamingDataset(
        local=str(side.folder / "mds"), shuffle=side.shuffled, shuffle_seed=SEED, batch_size=side.batch
    )
    if side.workers:
        return (b["ids"] for b in side.loader(data, side.batch))
    return stacked((sample["ids"] for sample in data), side.batch)


def mosaic_blocks(side: Side) -> Batches:
    """MosaicML Streaming, a sample is a whole batch of contexts, which then cannot be shuffled one by one."""
    from streaming import StreamingDataset

    data = StreamingDataset(
        local=str(side.folder / "mds-blocks"), shuffle=side.shuffled, shuffle_seed=SEED, batch_size=1
    )
    if side.workers:
        return (b["ids"] for b in side.loader(data, None))
    return (np.array(sample["ids"]) for sample in data)


def litdata(side: Side) -> Batches:
    """LitData with its loader for tokens (memory-mapped chunks), an item is a context."""
    return _litdata(side, side.seq_len)


def litdata_blocks(side: Side) -> Batches:
    """The same, an item is a whole batch of contexts, which then cannot be shuffled one by one."""
    return _litdata(side, side.seq_len * side.batch)


def _litdata(side: Side, block: int) -> Batches:
    import torch
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    data = StreamingDataset(
        str(side.folder / "litdata"),
        item_loader=TokensLoader(block_size=block),
        shuffle=side.shuffled,
        seed=SEED,
    )
    if side.workers:
        own = side.batch if block == side.seq_len else 1
        return StreamingDataLoader(data, batch_size=own, num_workers=side.workers)
    if block != side.seq_len:
        return (item.clone() for item in data)
    # A generator, for iter() of such a dataset begins from the start, whoever calls it.
    return _torch_stacked((item for item in data), side.batch, torch)


def _torch_stacked(items: Iterator[Any], batch: int, torch: Any) -> Iterator[Any]:
    while some := [x for _, x in zip(range(batch), items)]:
        yield torch.stack(some)


def stacked(items: Iterator[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    """Contexts as batches."""
    while some := [x for _, x in zip(range(batch), items)]:
        yield np.stack(some)


def usual_batch(ids: np.ndarray, end: int, table: np.ndarray) -> dict[str, Any]:
    """What the model of our trainer eats, from tokens alone: documents are what `end` ends, the rest is array arithmetic.

    Args:
        ids: token ids [b, seq_len].
        end: id of the last token of every document.
        table: modality of every id, uint8.
    """
    import torch

    flat = np.asarray(ids).reshape(-1).astype(np.int64)
    seq_len = np.asarray(ids).shape[-1]
    last = flat == end
    last[seq_len - 1 :: seq_len] = True
    number = np.cumsum(last) - last
    starts = np.flatnonzero(np.append(True, last[:-1]))
    targets = np.append(flat[1:], 0)
    targets[last] = -100
    kinds = table[flat]
    perm = np.argsort(kinds, kind="stable")
    inverse = np.empty_like(perm)
    inverse[perm] = np.arange(len(flat))
    wanted = table[np.where(last, 0, targets)].astype(np.int64)
    made = {
        "input_ids": flat,
        "targets": targets,
        "positions": np.arange(len(flat)) - starts[number],
        "documents": number.reshape(-1, seq_len),
        "perm": perm,
        "inverse": inverse,
        "target_modality": wanted,
    }
    sizes, counts = np.bincount(kinds), np.bincount(wanted[~last])
    return {**{k: torch.from_numpy(v) for k, v in made.items()}, "sizes": sizes, "target_counts": counts}


def with_batches(read: Callable[[Side], Batches]) -> Callable[[Side], Batches]:
    """A side whose tokens become the batches of a training in the process that trains."""

    def batches(side: Side) -> Batches:
        about = json.loads((side.folder / "about.json").read_text())
        table = np.repeat(np.arange(len(about["modalities"]), dtype=np.uint8), about["modalities"])
        for ids in read(side):
            yield usual_batch(np.asarray(ids).reshape(-1, side.seq_len), about["end"], table)["input_ids"]

    return batches


SIDES: dict[str, Callable[[Side], Batches]] = {
    "flat": flat,
    "mixloom": mixloom,
    "mixloom_checked": mixloom_checked,
    "mixloom_stream": mixloom_stream,
    "mixloom_thread": mixloom_thread,
    "webdataset": webdataset,
    "webdataset_contexts": webdataset_contexts,
    "mosaic": mosaic,
    "mosaic_blocks": mosaic_blocks,
    "litdata": litdata,
    "litdata_blocks": litdata_blocks,
    "mixloom_batches": mixloom_batches,
    "webdataset_batches": with_batches(webdataset_contexts),
    "mosaic_batches": with_batches(mosaic),
    "litdata_batches": with_batches(litdata),
}


def write_mosaic(side: Side) -> None:
    from streaming import MDSWriter

    data, shape = side.flat(), f"{side.batch},{side.seq_len}"
    with MDSWriter(out=str(side.folder / "mds"), columns={"ids": f"ndarray:uint16:{side.seq_len}"}) as out:
        for row in data:
            out.write({"ids": np.array(row)})
    with MDSWriter(out=str(side.folder / "mds-blocks"), columns={"ids": f"ndarray:uint16:{shape}"}) as out:
        for i in range(0, side.contexts, side.batch):
            out.write({"ids": np.array(data[i : i + side.batch])})


def write_litdata(side: Side) -> None:
    from litdata import TokensLoader, optimize

    shards = 4
    each = side.contexts // shards
    optimize(
        fn=_tokens,
        inputs=[(str(side.folder), i * each, (i + 1) * each) for i in range(shards)],
        output_dir=str(side.folder / "litdata"),
        chunk_size=each * side.seq_len,
        item_loader=TokensLoader(),
        num_workers=1,
    )


def _tokens(part: tuple[str, int, int]) -> Iterator[Any]:
    import torch

    folder, start, stop = part
    side = Side(Path(folder), "sequential", 0)
    yield torch.from_numpy(np.array(side.flat()[start:stop]).reshape(-1))


WRITERS = {"mosaic": write_mosaic, "litdata": write_litdata}


def added(batches: Batches, side: Side) -> tuple[int, int]:
    """Contexts and the sum of all their tokens."""
    contexts = total = 0
    for batch in batches:
        ids = np.asarray(batch).reshape(-1, side.seq_len)
        contexts += len(ids)
        total += int(ids.sum(dtype=np.int64))
    return contexts, total


def timed(read: Callable[[Side], Batches], side: Side) -> dict[str, Any]:
    """Read everything once to add it up, then on the clock, again and again until that has taken long enough.

    In every pass the clock starts after some batches.
    """
    contexts, total = added(read(side), side)
    seconds, cpu, count, passes = 0.0, 0.0, 0, 0
    while passes < PASSES and seconds < LONG_ENOUGH:
        batches = iter(read(side))
        for _ in zip(range(WARM), batches):
            pass
        started, used = time.perf_counter(), time.process_time()
        for batch in batches:
            count += batch.size if isinstance(batch, np.ndarray) else batch.numel()
        seconds += time.perf_counter() - started
        cpu += time.process_time() - used
        passes += 1
    told = {"tokens": count, "seconds": seconds, "contexts": contexts, "sum": total, "passes": passes}
    return {**told, "cpu_seconds": cpu}  # of this process and its threads, not of workers


def main() -> None:
    what, name, folder, mode, workers = sys.argv[1:]
    side = Side(Path(folder), mode, int(workers))
    if what == "write":
        for old in {"mosaic": ("mds", "mds-blocks"), "litdata": ("litdata",)}[name]:
            shutil.rmtree(side.folder / old, ignore_errors=True)
        WRITERS[name](side)
        print(json.dumps({"written": name}))
        return
    print(json.dumps(timed(SIDES[name], side)))


if __name__ == "__main__":
    main()
