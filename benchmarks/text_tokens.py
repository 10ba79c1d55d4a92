"""Text to ids: our path against bare `tokenizers` on the same text, both cores used, and the raw byte mode.

    python benchmarks/text_tokens.py --data ROOT [--quick] [--json FILE]

The text of all sets is cut into documents; a byte-level BPE of 8192 and one of 32768 ids are trained on every second
one. Ways, taken in rotation, the median turn of each counted: `encode_batch_fast` of `tokenizers` with its own
threads; `TextTokenizer.encode_batch` without and with the accelerator; and the function behind the stage
`tokenize`, which also builds the documents' token streams. Both clocks are given: wall seconds on all cores, and
CPU seconds. Ids are compared on every document. Last, the raw byte mode with each way of cutting patches.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recording import options_parser, save
from text_sets import documents, sets
from tokenizers import Tokenizer

from mixloom.tokenizers.fitted import Codecs
from mixloom.tokenizers.settings import PatchConfig, TextTokenizerConfig
from mixloom.tokenizers.text import TextTokenizer, train_text_tokenizer
from mixloom.tokenizers.text_bytes import make_text_tokenizer
from mixloom.tokenizers.transform import tokenize
from mixloom.tokenizers.vocab import Vocabulary

BATCH = 1000  # documents a call, as in a part of a run


def corpus(root: Path, quick: bool) -> list[str]:
    """Documents of up to 64 000 characters from every set with text; about 2 MB when quick."""
    out, size = [], 0
    for folder in sets(root).values():
        room = 100_000 if quick else 10_000_000
        for text in documents(folder):
            if room <= 0:
                break
            for at in range(0, len(text), 64_000):
                out.append(text[at : at + 64_000])
            room -= len(text)
            size += len(text)
    return [t for t in out if t]


def segments_batch(texts: list[str]) -> pa.RecordBatch:
    """The columns that the tokenizing function of the stage reads."""
    segments = [[{"kind": "text", "text": t, "media": None}] for t in texts]
    kind = pa.list_(
        pa.struct(
            [("kind", pa.string()), ("text", pa.string()), ("media", pa.struct([("uri", pa.string())]))]
        )
    )
    ids = pa.array([f"{i:08}" for i in range(len(texts))])
    return pa.record_batch(
        [ids, pa.array(["s"] * len(texts)), pa.array(segments, kind)], ["doc_id", "source", "segments"]
    )


def turns(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each way, medians over turns taken in rotation, after one that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            if turn:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        n: (statistics.median(w for w, _ in t), statistics.median(c for _, c in t)) for n, t in taken.items()
    }


def compared(tokenizer: TextTokenizer, texts: list[str], repeats: int) -> tuple[list[dict[str, Any]], int]:
    """A row for each way of encoding the texts, and the number of documents whose ids differ."""
    bare = Tokenizer.from_str(tokenizer._raw.decode())
    slow = TextTokenizer(tokenizer._raw, fast=False)
    codecs = Codecs(tokenizer, None, None, Vocabulary.build(tokenizer.size, tokenizer.fingerprint))
    batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    tables = [segments_batch(b) for b in batches]
    ways: dict[str, Callable[[], Any]] = {
        "tokenizers, bare": lambda: [bare.encode_batch_fast(b, add_special_tokens=False) for b in batches],
        "encode_batch, not accelerated": lambda: [slow.encode_batch(b) for b in batches],
        "encode_batch": lambda: [tokenizer.encode_batch(b) for b in batches],
        "tokenize of the stage": lambda: [tokenize(t, codecs, {}) for t in tables],
    }
    seconds = turns(ways, repeats)
    size = sum(len(t.encode()) for t in texts) / 1e6
    wall, cpu = seconds["tokenizers, bare"]
    rows = [
        {
            "ids": tokenizer.size,
            "way": name,
            "MB/s": round(size / w, 2),
            "MB/CPU s": round(size / c, 2),
            "time against bare": round(w / wall, 3),
            "CPU against bare": round(c / cpu, 3),
        }
        for name, (w, c) in seconds.items()
    ]
    expected = bare.encode_batch_fast(texts, add_special_tokens=False)
    wrong = sum(a.ids != b.tolist() for a, b in zip(expected, tokenizer.encode_batch(texts), strict=True))
    return rows, wrong


def patched(texts: list[str], kind: Any) -> dict[str, Any]:
    """Fit the raw byte mode to every second text and cut the others."""
    config = TextTokenizerConfig(kind="bytes", patches=PatchConfig(kind=kind))
    started = time.process_time()
    tokenizer, facts = make_text_tokenizer(config, texts[::2])
    fit = time.process_time() - started
    ids = tokenizer.encode_batch(texts[1::2])
    tokenizer.patch_lengths(ids[0])  # compiles
    started = time.process_time()
    lengths = [tokenizer.patch_lengths(i) for i in ids]
    seconds = time.process_time() - started
    size, count = sum(map(len, ids)), sum(len(n) for n in lengths if n is not None)
    assert all(
        n is not None and int(np.sum(n, dtype=np.int64)) == len(i) for n, i in zip(lengths, ids, strict=True)
    )
    return {
        "patches": kind,
        "fit CPU s": round(fit, 2),
        "contexts": facts.get("contexts"),
        "entropy (bits a byte)": facts.get("entropy_bits"),
        "threshold (bits)": facts.get("threshold_bits"),
        "bytes a patch, not fitted to": round(size / count, 2),
        "MB/CPU s": round(size / 1e6 / seconds, 1),
    }


def main() -> None:
    options = options_parser(__doc__ or "").parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    texts = corpus(options.data, options.quick)
    rows, wrong = [], 0
    for size in (8192,) if options.quick else (8192, 32768):
        tokenizer = train_text_tokenizer(texts[::2], TextTokenizerConfig(vocab_size=size))
        found, differ = compared(tokenizer, texts, 3 if options.quick else 7)
        rows += found
        wrong += differ
    patches = [patched(texts, kind) for kind in ("entropy", "monotonic", "space", "fixed")]
    for row in rows + patches:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    print(f"documents {len(texts)}, with other ids {wrong}")
    figures = {
        "documents": len(texts),
        "megabytes": round(sum(len(t.encode()) for t in texts) / 1e6, 1),
        "documents_with_other_ids": wrong,
        "encoding": rows,
        "bytes": patches,
    }
    save(options.json, options.quick, figures, ("mixloom", "tokenizers", "tiktoken", "numpy"))


if __name__ == "__main__":
    main()
