"""Tokens by domain, source and modality; the vocabulary and its codecs; the mixture over domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixloom.pipeline.manifest import ShardManifest
from mixloom.pipeline.report.charts import Bar, bars, stack
from mixloom.pipeline.report.markup import Content, Html, el, name, number, percent, significant, size
from mixloom.pipeline.report.overview import MODALITIES
from mixloom.pipeline.report.tables import Column, facts, table


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """One domain of a mixture."""

    domain: str
    tokens: int
    weight: float
    epochs: float
    max_epochs: float
    capped: bool
    unimax: float | None = None


def token_sections(
    manifest: ShardManifest, text_bytes: int | None, codecs: Mapping[str, Mapping[str, object]]
) -> list[Content]:
    """Bars, a table per source, the vocabulary, and what is known of the codecs.

    Args:
        text_bytes: UTF-8 bytes of the text of the documents that were kept.
        codecs: facts of the stage `tokenizer`, by unit (text, image, speech).
    """
    t = manifest.totals
    whole = max(1, t.tokens)
    rows = [
        Bar(
            name(d.name),
            [
                (
                    f"m-{m}",
                    float(d.tokens_by_modality.get(m, 0)),
                    f"{m} {number(d.tokens_by_modality.get(m, 0))}",
                )
                for m in MODALITIES
            ],
            number(d.tokens),
        )
        for d in manifest.domains
    ]
    most = sorted(t.tokens_by_source.items(), key=lambda x: (-x[1], x[0]))
    sources = [Bar(name(s), [("plain", float(n), f"{s} {number(n)}")], number(n)) for s, n in most]
    present = [m for m in MODALITIES if t.tokens_by_modality.get(m)]
    cards: list[tuple[Content, Content]] = [
        (
            f"{m.capitalize()} tokens",
            [number(t.tokens_by_modality[m]), el("small", f" {percent(t.tokens_by_modality[m] / whole)}")],
        )
        for m in present
    ]
    text = t.tokens_by_modality.get("text", 0)
    if text_bytes and text:
        cards.append(("Bytes of text per text token", significant(text_bytes / text)))
    cards += [
        ("Context length", number(manifest.seq_len)),
        ("Fill of contexts", percent(t.tokens / (t.contexts * manifest.seq_len) if t.contexts else None)),
        ("Shards", [number(t.shards), el("small", f" {size(t.bytes)}")]),
    ]
    return [
        facts(cards),
        bars("Tokens by domain", rows, [(f"m-{m}", m) for m in present]),
        bars("Tokens by source", sources),
        vocabulary_table(manifest.vocabulary),
        codec_table(codecs),
    ]


def vocabulary_table(vocabulary: Mapping[str, object]) -> Html:
    """The ranges of ids."""
    ranges = vocabulary.get("ranges")
    rows: list[list[Content]] = []
    for r in ranges if isinstance(ranges, list) else []:
        start, extent = int(r["start"]), int(r["size"])
        ids = f"{number(start)} to {number(start + extent - 1)}" if extent else "none"
        rows.append([name(str(r["name"])), ids, number(int(r["size"])), number(int(r["used"]))])
    columns = [Column("Range", False), Column("Ids"), Column("Reserved"), Column("Used")]
    total = int(str(vocabulary.get("size", 0)))
    return table(f"Vocabulary: {number(total)} ids, stored as {vocabulary.get('dtype', '?')}", columns, rows)


_CODEC_FACTS = {
    "kind": "kind",
    "size": "codes",
    "fitted_on": "fitted on",
    "held_out": "held out of the fit",
    "tokens": "tokens of one",
    "psnr": "PSNR of its own pictures (dB)",
    "psnr_held_out": "PSNR of those held out (dB)",
    "codes_used": "codes used",
    "perplexity": "perplexity of codes",
    "seconds": "seconds of audio",
    "variance_explained": "variance explained",
    "bytes_per_patch": "bytes of a patch",
    "entropy_bits": "mean entropy of a byte (bits)",
}


def codec_table(codecs: Mapping[str, Mapping[str, object]]) -> Content:
    """What the stage `tokenizer` measured while fitting."""
    units = [u for u in MODALITIES if codecs.get(u, {}).get("size")]
    rows: list[list[Content]] = []
    for key, label in _CODEC_FACTS.items():
        values = [codecs[u].get(key) for u in units]
        if any(v is not None for v in values):
            rows.append([label, *map(_shown, values)])
    if not rows:
        return None
    return table("Tokenizers as they were fitted", [Column("", False), *map(Column, units)], rows)


def _shown(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return significant(float(value), 4)
    return "" if value is None else str(value)


def mixture_section(
    rows: Sequence[MixtureRow], estimator: str, budget: int, notes: Sequence[str]
) -> list[Content]:
    """Weights beside UniMax's where they are known, epochs and caps per domain."""
    beside = any(r.unimax is not None for r in rows)
    columns = [Column("Domain", False), Column("Weight", False), Column("of training")]
    columns += [*([Column("UniMax")] if beside else []), Column("of all tokens")]
    columns += [Column("Tokens"), Column("Tokens served"), Column("Epochs"), Column("Cap"), Column("", False)]
    most = max((r.weight for r in rows), default=0.0)
    whole = sum(r.tokens for r in rows)
    body: list[list[Content]] = [
        [
            name(r.domain),
            el("div", stack([("plain", r.weight, percent(r.weight, 2))], most), cls="cellbar"),
            percent(r.weight),
            *([percent(r.unimax)] if beside else []),
            percent(r.tokens / whole if whole else None),
            number(r.tokens),
            number(r.weight * budget),
            significant(r.epochs),
            significant(r.max_epochs),
            "at its cap" if r.capped else "",
        ]
        for r in rows
    ]
    spread = 1.0 / sum(r.weight**2 for r in rows) if rows else 0.0
    caption = (
        f"Mixture by {estimator}, for {number(budget)} tokens of training; effective number of domains"
        f" {significant(spread)}; caps bind for {number(sum(r.capped for r in rows))}"
    )
    return [table(caption, columns, body), [el("p", n, cls="note", dir="auto") for n in notes]]
