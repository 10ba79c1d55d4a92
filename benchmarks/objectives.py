"""What objectives cost when documents are served: tokens a second of one core, against the same contexts untouched.

    python benchmarks/objectives.py [--quick] [--json FILE]

Contexts of 2048 tokens, packed full with documents of 50 to 600 tokens, one in four with an image of 256 codes. Each
objective rearranges every document that finds room; ways are taken in rotation, CPU seconds, medians. Then every document is
restored and compared with the one that was stored.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from recording import options_parser, save

from mixloom.tokenizers.objective_settings import (
    CausalMask,
    FillMiddle,
    MixtureOfDenoisers,
    Objective,
    default_room,
)
from mixloom.tokenizers.objectives import Served, compiled, rates_by_group, restore, serve_contexts
from mixloom.tokenizers.vocab import DOC, END_DOC, END_IMAGE, IMAGE, Vocabulary

LENGTH, PIECES, CODES = 2048, 48, 256
WAYS: dict[str, list[Objective]] = {
    "untouched": [],
    "fim": [FillMiddle(rate=1)],
    "cm3": [CausalMask(rate=1)],
    "ul2": [MixtureOfDenoisers(rate=1)],
    "all three": [FillMiddle(rate=0.3), CausalMask(rate=0.3), MixtureOfDenoisers(rate=0.3)],
}


def contexts(count: int, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Packed contexts: uint16 [count, LENGTH], and int32 [count, PIECES] lengths."""
    rng = np.random.default_rng(0)
    ids, lengths = np.zeros((count, LENGTH), np.uint16), np.zeros((count, PIECES), np.int32)
    text, image = vocabulary.text, vocabulary.image
    for row, own in zip(ids, lengths, strict=True):
        at = 0
        for p in range(PIECES):
            parts = [[DOC], rng.integers(text.start, text.start + text.used, int(rng.integers(50, 600)))]
            if rng.random() < 0.25:
                parts += [[IMAGE], rng.integers(image.start, image.start + CODES, CODES), [END_IMAGE]]
            document = np.concatenate([*parts, [END_DOC]])
            if at + len(document) > LENGTH:
                break
            row[at : at + len(document)] = document
            own[p] = len(document)
            at += len(document)
    return ids, lengths


def serve(ids: np.ndarray, lengths: np.ndarray, objectives: list[Objective], table: np.ndarray) -> Served:
    count = len(ids)
    return serve_contexts(
        ids,
        lengths,
        compiled(objectives),
        rates_by_group(objectives, ["d"], ["s"]),
        np.zeros(lengths.shape, np.int32),
        room=default_room(objectives, LENGTH),
        modality=table,
        keys=np.zeros(count, np.uint64),
        contexts=np.arange(count),
        epochs=np.zeros(count, np.int64),
    )


def not_restored(ids: np.ndarray, lengths: np.ndarray, served: Served) -> int:
    """Documents that do not come back as they were stored."""
    wrong = 0
    for row, own, new, sizes in zip(ids, lengths, served.input_ids, served.doc_lengths, strict=True):
        stored = np.split(row, np.cumsum(own))[:-1]
        arranged = np.split(new, np.cumsum(sizes))[:-1]
        wrong += sum(
            not np.array_equal(restore(a), s) for a, s in zip(arranged, stored, strict=True) if len(s)
        )
    return wrong


def main() -> None:
    options = options_parser(__doc__ or "", data=False).parse_args()
    vocabulary = Vocabulary.build(8192, "t", image_size=1024, image_fingerprint="i")
    table = vocabulary.modality_table()
    ids, lengths = contexts(64 if options.quick else 512, vocabulary)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(6):
        for name, objectives in WAYS.items():
            began = time.process_time()
            serve(ids, lengths, objectives, table)
            if turn:  # the first one loads what is compiled
                taken[name].append(time.process_time() - began)
    rows: list[dict[str, Any]] = []
    documents = int((lengths > 0).sum())
    for name, objectives in WAYS.items():
        served = serve(ids, lengths, objectives, table)
        wanted = served.taken[lengths > 0]
        rows.append(
            {
                "objective": name,
                "million_tokens_per_cpu_s": float(lengths.sum() / statistics.median(taken[name]) / 1e6),
                "room": default_room(objectives, LENGTH),
                "documents_wanted": int((wanted != 0).sum()),
                "documents_rearranged": int((wanted > 0).sum()),
                "documents_not_restored": not_restored(ids, lengths, served),
            }
        )
        print(rows[-1])
    figures = {"contexts": len(ids), "tokens": int(lengths.sum()), "documents": documents, "objectives": rows}
    save(options.json, options.quick, figures, ("mixloom", "numpy", "numba"))


if __name__ == "__main__":
    main()
