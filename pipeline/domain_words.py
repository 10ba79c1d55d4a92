"""What the domains of a run are about, from the words of sampled documents: no embedder need know any words.

Called by the stage `cluster`: `described_output` per part where the documents lie, `telling_words` and `examples` once
per run on what it wrote.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixloom.pipeline.embed import text_column
from mixloom.pipeline.engine import part_of, seconds_since_start
from mixloom.pipeline.sampling import sampled
from mixloom.pipeline.stage import OutputTable, UnitOutput
from mixloom.pipeline.tfidf_counts import count_texts

MAX_CHARACTERS = 20_000  # of a document, whose words are counted
SNIPPET = 160  # characters of an example


def described_output(batch: pa.RecordBatch, bound: str) -> UnitOutput:
    """The words and the beginnings of the sampled documents of a part (columns doc_id, source, segments), as a unit
    `sample-<part>`: tables `sample/<part>` (doc_id, source, snippet, hashes) and `words/<part>` (`FREQUENCIES`)."""
    part = part_of(batch)
    some = batch.filter(sampled(batch.column("doc_id"), bound))
    texts = text_column(some)
    counted, frequencies = count_texts(some.column("doc_id"), texts, MAX_CHARACTERS)
    head = pc.utf8_slice_codeunits(texts, 0, 4 * SNIPPET)  # blanks are many in some texts
    snippet = pc.utf8_slice_codeunits(
        pc.utf8_trim_whitespace(pc.replace_substring_regex(head, r"\s+", " ")), 0, SNIPPET
    )
    sample = counted.select(["doc_id", "hashes"])
    sample = sample.append_column("source", some.column("source")).append_column("snippet", snippet)
    named = ((f"sample/{part}", sample), (f"words/{part}", frequencies))
    tables = tuple(OutputTable(name, table) for name, table in named if table.num_rows)
    return UnitOutput(f"sample-{part}", tables, seconds=seconds_since_start(batch))


def telling_words(
    hashes: pa.ChunkedArray, words: pa.Table, domain: np.ndarray, k: int, n: int = 10
) -> list[list[str]]:
    """The n words that tell each of k domains apart, best first, from the distinct words of its sampled documents.

    A class-based tf-idf on shares of documents: p ln(p / q), where p of the documents of the domain have the word and q of
    all; words under every subject come to nothing in any language, and English stop words are left out. Only words above 0 that two documents of
    the domain have (one, where it has but one) are listed, ties by the word.

    Args:
        hashes: list<uint64> [d], the distinct words of each sampled document.
        words: table `FREQUENCIES` of the same documents, merged.
        domain: int [d], from 0 to k - 1; other numbers count for no domain, but in q.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    lengths = pc.list_value_length(hashes).to_numpy().astype(np.int64)
    flat = pc.list_flatten(hashes).to_numpy()
    names, df = words["word"].to_pylist(), words["df"].to_numpy()
    term = np.searchsorted(words["hash"].to_numpy(), flat)
    of = np.repeat(domain.astype(np.int64), lengths)
    out: list[list[str]] = []
    for j in range(k):
        documents = int((domain == j).sum())
        found, count = np.unique(term[of == j], return_counts=True)
        enough = count >= min(2, documents)
        found, count = found[enough], count[enough]
        share = count / max(documents, 1)
        score = share * np.log(share / (df[found] / max(len(domain), 1)))
        scored = ((-s, names[t]) for s, t in zip(score.tolist(), found.tolist(), strict=True) if s > 1e-12)
        ranked = sorted(x for x in scored if x[1] not in ENGLISH_STOP_WORDS)
        out.append([word for _, word in ranked[:n]])
    return out


def examples(
    sample: pa.Table, domain: np.ndarray, distance: np.ndarray, k: int, n: int = 3
) -> list[list[dict[str, str]]]:
    """The n sampled documents nearest to the centre of each domain (ties by doc_id): doc_id, source, beginning.

    Args:
        sample: doc_id, source and snippet of d documents.
        domain, distance: int [d] and float [d] of the same.
    """
    ids = sample["doc_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (int(domain[i]), float(distance[i]), ids[i]))
    chosen: list[list[int]] = [[] for _ in range(k)]
    for i in order:
        if 0 <= domain[i] < k and len(chosen[domain[i]]) < n:
            chosen[domain[i]].append(i)
    columns = {name: sample[name].to_pylist() for name in ("source", "snippet")}
    return [
        [{"doc_id": ids[i], "source": columns["source"][i], "text": columns["snippet"][i]} for i in rows]
        for rows in chosen
    ]
