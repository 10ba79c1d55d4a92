"""A fastText classifier, read from its file and applied to Arrow batches.

Where a model has no more labels than dimensions, the output layer is folded into the rows once: the scores of a
document are then means of a few numbers per word instead of a hundred. That changes sums only by their rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixloom.pipeline.fasttext_file import FastTextFile, parse_model
from mixloom.pipeline.fasttext_kernel import build_table, forward, known_words, products, tree_probabilities
from mixloom.pipeline.model_file import read_file
from mixloom.pipeline.words import utf8_buffers

LABEL = "__label__"
_FOLD_ROWS = 1 << 16  # rows of the matrix folded at a time


@dataclass(frozen=True, slots=True)
class FastTextModel:
    """Labels and everything the kernel reads. Immutable, so that threads may share one.

    labels: as the file spells them, with `__label__`.
    """

    labels: tuple[str, ...]
    _file: FastTextFile
    _table: NDArray[np.int32]
    _matrix: NDArray[np.float32]
    _sums: NDArray[np.float32]
    _sum_rows: NDArray[np.int32]
    _places: NDArray[np.int32]
    _folded: bool
    _tree: tuple[NDArray[np.int32], NDArray[np.int32]] | None

    @classmethod
    def load(cls, path: str) -> FastTextModel:
        """Read a supervised model (`.bin` or `.ftz`) from a path or URL.

        Raises:
            UserError: the file is missing, damaged, or no supervised fastText model.
        """
        return cls.from_bytes(read_file(path), path)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> FastTextModel:
        """Read a supervised model from the bytes of its file; errors call it `name`."""
        file = parse_model(data, name)
        matrix = file.matrix
        folded = file.loss != "hs" and len(file.labels) <= file.dim
        if folded:
            matrix = np.empty((len(file.matrix), len(file.labels)), np.float32)
            for start in range(0, len(matrix), _FOLD_ROWS):
                rows = slice(start, start + _FOLD_ROWS)
                matrix[rows] = products(file.matrix[rows], file.output)
        places = _places(file)
        sums, sum_rows = known_words(
            file.word_bytes, file.word_bounds, file.minn, file.maxn, file.bucket,
            places, matrix,
        )  # fmt: skip
        if folded:
            file = replace(file, matrix=matrix[:0])  # the hundreds of megabytes that nobody reads again
        return cls(
            file.labels, file, build_table(file.word_bytes, file.word_bounds), matrix, sums, sum_rows,
            places, folded, _huffman(file.counts) if file.loss == "hs" else None,
        )  # fmt: skip

    def probabilities(self, texts: pa.Array) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score n documents; white space of any kind only separates words.

        Args:
            texts: string or large_string array [n]; null reads as "".

        Returns:
            float32 [n, labels] in the order of `labels` (they sum to 1 under softmax and hs, each stands alone
            under ova and ns), and int64 [n]: words found. Without any word the scores are what the model says
            of an empty line.
        """
        f = self._file
        data, offsets = utf8_buffers(texts)
        hidden, words = forward(
            data, offsets, self._table, f.word_bytes, f.word_bounds, self._sums, self._sum_rows, self._matrix,
            f.minn, f.maxn, f.bucket, f.word_ngrams, self._places,
        )  # fmt: skip
        if self._tree is not None:
            return tree_probabilities(hidden, f.output, *self._tree), words
        logits = hidden.astype(np.float64) if self._folded else products(hidden, f.output)
        if f.loss == "softmax":
            logits = np.exp(logits - logits.max(axis=1, keepdims=True))
            return (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32), words
        return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32), words


def _places(file: FastTextFile) -> NDArray[np.int32]:
    """The row of every bucket behind the words, -1 where it was pruned away; empty when nothing was pruned."""
    if file.pruned is None:
        return np.zeros(0, np.int32)
    places = np.full(file.bucket, -1, np.int32)
    places[file.pruned[:, 0]] = file.pruned[:, 1]
    return places


def _huffman(counts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Children (left, right), int32 [2 labels - 1] each, of the tree fastText builds over labels by frequency."""
    labels = len(counts)
    total = np.full(2 * labels - 1, 10**15, np.int64)
    total[:labels] = counts
    left, right = np.full(2 * labels - 1, -1, np.int32), np.full(2 * labels - 1, -1, np.int32)
    leaf, node = labels - 1, labels  # labels are sorted by falling frequency
    for parent in range(labels, 2 * labels - 1):
        children = []
        for _ in range(2):
            if leaf >= 0 and total[leaf] < total[node]:
                children.append(leaf)
                leaf -= 1
            else:
                children.append(node)
                node += 1
        left[parent], right[parent] = children
        total[parent] = total[children[0]] + total[children[1]]
    return left, right
