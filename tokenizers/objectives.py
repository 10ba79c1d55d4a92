"""Training objectives other than plain next-token prediction, as rearrangements of documents that can be undone.

    cm3   <doc> A <mask:0> C <mask:0> B <eom> </doc>
    fim   <doc> <fim:prefix> A <fim:suffix> C <fim:middle> B <eom> </doc>          (prefix, suffix, middle)
          <doc> <fim:prefix> <fim:suffix> C <fim:middle> A B <eom> </doc>          (suffix, prefix, middle)
    ul2   <doc> <denoise:r> A <mask:0> C <mask:1> E <mask:0> B <mask:1> D </doc>

A token is never dropped or changed, images and recordings are moved whole, and `restore` gives back the stored ids.
What packing left of a long document is treated like a document: its <doc> or </doc> may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mixloom.pipeline.errors import UserError, nearest
from mixloom.tokenizers import objective_kernel as kernel
from mixloom.tokenizers.objective_settings import (
    DENOISE_R,
    DENOISE_S,
    DENOISE_X,
    CausalMask,
    FillMiddle,
    Objective,
)

Ids = npt.NDArray[np.unsignedinteger[Any]]

_MODES = {"r": DENOISE_R, "s": DENOISE_S, "x": DENOISE_X}


class Rearranged(NamedTuple):
    """A document as an objective serves it: ids, and bool of the same length, where a token counts as a target."""

    ids: Ids
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Compiled:
    """Objectives as the kernel reads them: settings float64 [k, 6], denoisers float64 [d, 3] (mode, span, rate)."""

    settings: npt.NDArray[np.float64]
    denoisers: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Served:
    """Contexts as served.

    Attributes:
        input_ids: like what was stored, [b, seq_len + room], padded on the right.
        doc_lengths: int32 [b, most pieces], zeros on the right.
        counted: bool [b, seq_len + room]: False where a token does not count when it is a target.
        taken: int8 [b, most pieces]: 0 left as stored, k + 1 rearranged by objective k, -(k + 1) meant for it but
            left as stored, for want of room or because there was nothing to cut.
    """

    input_ids: Ids
    doc_lengths: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    taken: npt.NDArray[np.int8]


def compiled(objectives: Sequence[Objective]) -> Compiled:
    """The settings of objectives as arrays."""
    rows = np.zeros((len(objectives), kernel.SETTINGS))
    denoisers: list[tuple[float, float, float]] = []
    for row, objective in zip(rows, objectives):
        if isinstance(objective, CausalMask):
            row[:3] = kernel.CM3, objective.mean_spans, objective.max_spans
        elif isinstance(objective, FillMiddle):
            row[0], row[3] = kernel.FIM, objective.spm
        else:
            first = len(denoisers)
            denoisers += [(_MODES[d.mode], d.span, d.rate) for d in objective.denoisers]
            row[0], row[3] = kernel.UL2, objective.loss == "all"
            row[4:] = first, len(denoisers)
    return Compiled(rows, np.array(denoisers, np.float64).reshape(-1, 3))


def rearrange(ids: Ids, objective: Objective, key: int, modality: npt.NDArray[np.uint8]) -> Rearranged | None:
    """One document as an objective serves it, or None where there is nothing to cut.

    Args:
        ids: uint16 or uint32 [n], a document or what packing left of one.
        key: of the draws, 0 to 2^64 - 1; the same key gives the same result.
        modality: uint8 [V], see `Vocabulary.modality_table`.
    """
    tables = compiled([objective])
    cuts, plan = np.empty(len(ids) + 1, np.int32), np.zeros(kernel.PLAN, np.int32)
    added = kernel.plan_piece(ids, modality, np.uint64(key), tables.settings[0], tables.denoisers, cuts, plan)
    if not added:
        return None
    out, counted = np.empty(len(ids) + added, ids.dtype), np.empty(len(ids) + added, np.bool_)
    written = kernel.write_piece(ids, plan, tables.settings[0, 3] > 0, out, counted)
    assert written == len(out), "a plan says what it adds"
    return Rearranged(out, counted)


def restore(ids: Ids) -> Ids:
    """The stored ids of one document, from the ids served; a document that was not rearranged comes back as it is.

    Raises:
        ValueError: ids that no objective writes, as a model may have sampled them.
    """
    out = np.empty(len(ids), ids.dtype)
    n = int(kernel.restore_piece(ids, out))
    if n < 0:
        raise ValueError(
            "these ids hold sentinels of an objective, but not in an order in which one writes them"
        )
    return out[:n].copy()


def rates_by_group(
    objectives: Sequence[Objective], domains: Sequence[str], sources: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Share of the documents each objective takes: float64 [domains * sources, k], source running fastest.

    Raises:
        UserError: a domain or source that is not there, or rates that add up to more than 1 somewhere.
    """
    out = np.zeros((len(domains), len(sources), len(objectives)))
    for k, objective in enumerate(objectives):
        _require_known("domains", objective.kind, objective.domains, domains)
        _require_known("sources", objective.kind, objective.sources, sources)
        for d, domain in enumerate(domains):
            for s, source in enumerate(sources):
                asked = objective.domains is None or domain in objective.domains
                if asked and (objective.sources is None or source in objective.sources):
                    out[d, s, k] = objective.rate
    total = out.sum(axis=2)
    if out.size and float(total.max()) > 1 + 1e-9:
        at = int(total.argmax())
        domain, source = domains[at // len(sources)], sources[at % len(sources)]
        raise UserError(
            f"train.objectives: the rates of domain '{domain}', source '{source}' add up to"
            f" {total.max():g}; a document is rearranged by one objective at most",
            fix="lower the rates to a sum of at most 1, or give each objective domains or sources of its own",
        )
    return out.reshape(len(domains) * len(sources), len(objectives))


def _require_known(field: str, kind: str, asked: Sequence[str] | None, there: Sequence[str]) -> None:
    for name in asked or ():
        if name not in there:
            shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
            raise UserError(
                f"train.objectives: {kind} names '{name}' in {field}, and the shards have none of that name"
                f"{nearest(name, there)}",
                fix=f"{field} of these shards: {shown}",
            )


def serve_contexts(
    input_ids: Ids,
    doc_lengths: npt.NDArray[np.int32],
    tables: Compiled,
    rates: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int32],
    *,
    room: int,
    modality: npt.NDArray[np.uint8],
    keys: npt.NDArray[np.uint64],
    contexts: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
) -> Served:
    """Rearrange the documents of packed contexts, as many as their padding and `room` more tokens hold.

    Documents take turns in an order of their own draws, so none is preferred for its place. What happens to a context
    depends on its key, number and epoch, and not on the others beside it.

    Args:
        input_ids: [b, L], padded on the right. doc_lengths: [b, most pieces], zeros on the right.
        rates: [g, k], see `rates_by_group`. groups: [b, most pieces], the row of `rates` for each piece.
        keys: [b], of the domains; contexts: [b], numbers in their domains; epochs: [b].
    """
    b, length = input_ids.shape
    out = np.zeros((b, length + room), input_ids.dtype)
    counted = np.empty((b, length + room), np.bool_)
    served, taken = np.zeros(doc_lengths.shape, np.int32), np.zeros(doc_lengths.shape, np.int8)
    kernel.serve(
        np.ascontiguousarray(input_ids),
        np.ascontiguousarray(doc_lengths, np.int32),
        modality,
        keys,
        contexts,
        epochs,
        groups,
        rates,
        tables.settings,
        tables.denoisers,
        out,
        served,
        counted,
        taken,
    )
    return Served(out, served, counted, taken)
