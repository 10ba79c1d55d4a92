"""Runs datatrove's English filters and its MinHash signature over documents; started by `curation.py` in its own Python.

    PEER_PYTHON benchmarks/peer_datatrove.py DOCUMENTS.jsonl OUT.json [--signatures N]

Reads one JSON object a line ({"text": ...}). Works in this one thread, with everything at its defaults; loading the
tokenizer is not counted. It imports nothing of mixloom: datatrove brings a fasttext that would take the place of ours.
"""

from __future__ import annotations

import json
import resource
import sys
import time


def main() -> None:
    documents, out = sys.argv[1], sys.argv[2]
    signatures = int(sys.argv[sys.argv.index("--signatures") + 1]) if "--signatures" in sys.argv else 0
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    with open(documents, encoding="utf-8") as f:
        texts = [json.loads(line)["text"] for line in f]
    filters = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(),
        "c4_fineweb": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    chain = ("gopher_repetition", "gopher_quality", "c4_fineweb", "fineweb")

    def verdict(name: str, document: Document) -> str:
        made = filters[name].filter(document)
        if made is True or (isinstance(made, tuple) and made[0]):
            return ""
        return made[1] if isinstance(made, tuple) else "dropped"

    for f in filters.values():  # load what is loaded on first use
        f.filter(Document(text="A first sentence. And a second one.", id="0"))
    verdicts: dict[str, list[str]] = {name: [] for name in (*filters, "chain")}
    edited: dict[str, list[str]] = {"c4": [], "c4_fineweb": []}

    def judge(names: tuple[str, ...]) -> float:
        """Every document through every one of these filters; CPU seconds."""
        started = time.process_time()
        for text in texts:
            for name in names:
                document = Document(text=text, id="0")
                verdicts[name].append(verdict(name, document))
                if name in edited:
                    edited[name].append(document.text)
        return time.process_time() - started

    judge(tuple(set(filters) - set(chain)))
    every_seconds = judge(chain)
    started = time.process_time()
    for text in texts:
        document = Document(
            text=text + " ", id="0"
        )  # another string, so that no tokens of the pass above are kept
        document.text = document.text[:-1]
        said = ""
        for name in chain:
            said = verdict(name, document)
            if said:
                break
        verdicts["chain"].append(said)
    filter_seconds = time.process_time() - started
    minhash = MinhashDedupSignature(output_folder="/tmp", config=MinhashConfig())
    started = time.process_time()
    for text in texts[:signatures]:
        minhash.get_signature(minhash.get_shingles(text))
    result = {
        "filter_seconds": filter_seconds,
        "every_seconds": every_seconds,
        "signature_seconds": time.process_time() - started,
        "verdicts": verdicts,
        "edited": edited,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    with open(out, "w", encoding="utf-8") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()
