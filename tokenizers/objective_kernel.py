"""Compiled loops of the objectives: choosing documents and spans, writing what is served, and the way back.

A piece is a document, or what packing left of one, inside a context. Cuts are the places between two tokens of a piece
that lie outside every image and recording and inside <doc> and </doc>; spans begin and end at cuts.

    PLAN row: int32 [3 + 2 * 64]   format (0 none, 1 spans, 2 prefix-suffix-middle, 3 suffix-prefix-middle),
                                   id of the mode token or 0, number of spans, then start and stop of each span
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mixloom.pipeline.ascending import last_at_most
from mixloom.pipeline.splitmix import mix
from mixloom.tokenizers.objective_settings import (
    DENOISE_R,
    DENOISE_X,
    END_SPAN,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
)
from mixloom.tokenizers.vocab import (
    DOC,
    END_DOC,
    END_IMAGE,
    END_SPEECH,
    IMAGE,
    MASK_COUNT,
    MASK_START,
    SPEECH,
)

CM3, FIM, UL2 = 1, 2, 3  # kinds, in rows of settings
# Columns of a row of settings: kind | cm3: mean and most of the spans | fim: share of SPM, ul2: 1 where all tokens
# are targets | ul2: first and last + 1 of its denoisers
SETTINGS = 6
SPANS, PSM, SPM = 1, 2, 3
PLAN = 3 + 2 * MASK_COUNT
MASK_STOP = MASK_START + MASK_COUNT


@njit(cache=True, nogil=True)
def piece_key(domain_key, context, epoch, piece):  # type: ignore[no-untyped-def]
    """Key uint64 of all draws for one piece of one context in one epoch."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = mix(np.uint64(domain_key) + golden * np.uint64(context + 1))
    key = mix(key + golden * np.uint64(epoch + 1))
    return mix(key + golden * np.uint64(piece + 1))


@njit(cache=True, nogil=True)
def _uniform(key, draw):  # type: ignore[no-untyped-def]
    """The draw-th number of a key, float64 in [0, 1)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    return np.float64(mix(key + golden * np.uint64(draw + 1)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def find_cuts(ids, modality, cuts):  # type: ignore[no-untyped-def]
    """Write the cuts of a piece, ascending, into int32 [n + 1]; returns their number.

    0 where the piece holds an id that only an objective writes. modality: uint8 [V]; a code outside sentinels says that
    the piece began inside an element, all of which then lies before the first cut.
    """
    n = len(ids)
    begin = 1 if n and ids[0] == DOC else 0
    end = n - 1 if n > begin and ids[n - 1] == END_DOC else n
    count, inside = 0, 0
    for i in range(begin, end):
        token = ids[i]
        if FIM_PREFIX <= token < MASK_STOP and (token <= DENOISE_X or token >= MASK_START):
            return 0
        if inside == 0:
            cuts[count] = i
            count += 1
            if token in (IMAGE, SPEECH):
                inside = 1
            elif modality[token] != 0 or token in (END_IMAGE, END_SPEECH):
                count = 0
        elif token in (END_IMAGE, END_SPEECH):
            inside = 0
    cuts[count] = end
    return count + 1 if count else 0


@njit(cache=True, nogil=True)
def _nearest(cuts, count, at):  # type: ignore[no-untyped-def]
    """Number of the cut nearest to a position; of two equally near the first."""
    low = last_at_most(cuts, count, at)
    if count > 1 and cuts[low + 1] - at < at - cuts[low]:
        return low + 1
    return low


@njit(cache=True, nogil=True)
def _draw_cuts(cuts, count, wanted, key, draw, chosen):  # type: ignore[no-untyped-def]
    """Draw `wanted` different cuts, each nearest to a uniform position, into `chosen`, ascending; returns how many."""
    first, length = cuts[0], cuts[count - 1] - cuts[0]
    found, tries = 0, 0
    while found < wanted and tries < 4 * wanted + 16:
        at = first + np.int64(_uniform(key, draw + tries) * (length + 1))
        tries += 1
        new = _nearest(cuts, count, at)
        place = found
        while place > 0 and chosen[place - 1] >= new:
            place -= 1
        if place < found and chosen[place] == new:
            continue
        for i in range(found, place, -1):
            chosen[i] = chosen[i - 1]
        chosen[place] = new
        found += 1
    return found


@njit(cache=True, nogil=True)
def _plan_cm3(cuts, count, key, mean, most, plan):  # type: ignore[no-untyped-def]
    """Spans between pairs of drawn cuts, their number drawn from a Poisson distribution and clamped to 1..most."""
    limit, product, wanted = np.exp(-mean), _uniform(key, 2), 0
    while product > limit and wanted < most:
        wanted += 1
        product *= _uniform(key, 2 + wanted)
    wanted = max(1, min(wanted, most))
    chosen = np.empty(2 * wanted, np.int64)
    found = _draw_cuts(cuts, count, 2 * wanted, key, 100, chosen)
    spans = found // 2
    if spans == 0:
        return False
    plan[0], plan[1], plan[2] = SPANS, 0, spans
    for i in range(2 * spans):
        plan[3 + i] = cuts[chosen[i]]
    return True


@njit(cache=True, nogil=True)
def _plan_fim(cuts, count, key, spm, plan):  # type: ignore[no-untyped-def]
    """A middle between two uniformly drawn cuts; any of the three parts may be empty."""
    first, length = cuts[0], cuts[count - 1] - cuts[0]
    a = _nearest(cuts, count, first + np.int64(_uniform(key, 3) * (length + 1)))
    b = _nearest(cuts, count, first + np.int64(_uniform(key, 4) * (length + 1)))
    plan[0] = SPM if _uniform(key, 2) < spm else PSM
    plan[1], plan[2] = 0, 1
    plan[3], plan[4] = cuts[min(a, b)], cuts[max(a, b)]
    return True


@njit(cache=True, nogil=True)
def _segment(total, parts, key, draw, out):  # type: ignore[no-untyped-def]
    """Cut `total` into `parts` lengths of at least 1, every way equally likely."""
    left, start, part = parts - 1, 0, 0
    for i in range(1, total):  # dividers before unit i, by selection sampling (Knuth, 3.4.2, algorithm S)
        if _uniform(key, draw + i) * (total - i) < left:
            out[part] = i - start
            part += 1
            start = i
            left -= 1
    out[part] = total - start


@njit(cache=True, nogil=True)
def _plan_ul2(cuts, count, key, denoisers, first, last, plan):  # type: ignore[no-untyped-def]
    """Spans of one denoiser, drawn; a unit is a token of text, or an image or a recording as a whole."""
    units = count - 1
    which = first + np.int64(_uniform(key, 2) * (last - first))
    mode, mean, rate = np.int64(denoisers[which, 0]), denoisers[which, 1], denoisers[which, 2]
    plan[0], plan[1] = SPANS, mode
    if mode != DENOISE_R and mode != DENOISE_X:
        noise = int(np.ceil(_uniform(key, 3) * min(1.0, 2.0 * rate) * units))
        noise = min(max(noise, 1), units - 1)
        plan[2], plan[3], plan[4] = 1, cuts[units - noise], cuts[units]
        return True
    noise = min(max(int(np.rint(units * rate)), 1), units - 1)
    spans = min(max(int(np.rint(noise / mean)), 1), MASK_COUNT, noise, units - noise)
    kept, gone = np.empty(spans, np.int64), np.empty(spans, np.int64)
    _segment(units - noise, spans, key, 10, kept)
    _segment(noise, spans, key, 10 + units, gone)
    plan[2], at = spans, 0
    for i in range(spans):
        at += kept[i]
        plan[3 + 2 * i] = cuts[at]
        at += gone[i]
        plan[4 + 2 * i] = cuts[at]
    return True


@njit(cache=True, nogil=True)
def plan_piece(ids, modality, key, settings, denoisers, cuts, plan):  # type: ignore[no-untyped-def]
    """Fill a row of plan for a piece; returns the tokens it adds, 0 where the piece cannot be rearranged."""
    plan[0] = 0
    count = find_cuts(ids, modality, cuts)
    if count < 3:  # less than two units: nothing to give away and something to keep
        return 0
    kind = np.int64(settings[0])
    if kind == CM3:
        made = _plan_cm3(cuts, count, key, settings[1], np.int64(settings[2]), plan)
        added = 3 * plan[2]
    elif kind == FIM:
        made = _plan_fim(cuts, count, key, settings[3], plan)
        added = 4
    else:
        made = _plan_ul2(cuts, count, key, denoisers, np.int64(settings[4]), np.int64(settings[5]), plan)
        added = 2 * plan[2] + 1
    if not made:
        plan[0] = 0
        return 0
    return added


@njit(cache=True, nogil=True)
def _copy(ids, start, stop, counts, out, counted, at):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        out[at] = ids[i]
        counted[at] = counts
        at += 1
    return at


@njit(cache=True, nogil=True)
def _put(token, counts, out, counted, at):  # type: ignore[no-untyped-def]
    out[at] = token
    counted[at] = counts
    return at + 1


@njit(cache=True, nogil=True)
def write_piece(ids, plan, everything, out, counted):  # type: ignore[no-untyped-def]
    """Write a piece as its plan says, and which of its tokens count as targets; returns its new length."""
    n = len(ids)
    if plan[0] == 0:
        return _copy(ids, 0, n, True, out, counted, 0)
    begin = 1 if ids[0] == DOC else 0
    end = n - 1 if ids[n - 1] == END_DOC else n
    at = _copy(ids, 0, begin, True, out, counted, 0)
    if plan[0] == SPANS:
        mode, spans = plan[1], plan[2]
        body = mode == 0 or everything
        if mode:
            at = _put(mode, False, out, counted, at)
        last = begin
        for i in range(spans):
            at = _copy(ids, last, plan[3 + 2 * i], body, out, counted, at)
            at = _put(MASK_START + i, False, out, counted, at)
            last = plan[4 + 2 * i]
        at = _copy(ids, last, end, body, out, counted, at)
        for i in range(spans):
            # A denoiser's sentinel also ends the span before it, so it is a target; the first ends nothing.
            at = _put(MASK_START + i, mode != 0 and i > 0, out, counted, at)
            at = _copy(ids, plan[3 + 2 * i], plan[4 + 2 * i], True, out, counted, at)
            if mode == 0:
                at = _put(END_SPAN, True, out, counted, at)
    else:
        a, b = plan[3], plan[4]
        at = _put(FIM_PREFIX, False, out, counted, at)
        if plan[0] == PSM:
            at = _copy(ids, begin, a, True, out, counted, at)
            at = _put(FIM_SUFFIX, False, out, counted, at)
            at = _copy(ids, b, end, True, out, counted, at)
            at = _put(FIM_MIDDLE, False, out, counted, at)
        else:
            at = _put(FIM_SUFFIX, False, out, counted, at)
            at = _copy(ids, b, end, True, out, counted, at)
            at = _put(FIM_MIDDLE, False, out, counted, at)
            at = _copy(ids, begin, a, True, out, counted, at)
        at = _copy(ids, a, b, True, out, counted, at)
        at = _put(END_SPAN, True, out, counted, at)
    return _copy(ids, end, n, True, out, counted, at)


@njit(cache=True, nogil=True)
def serve(  # type: ignore[no-untyped-def]
    ids,
    lengths,
    modality,
    keys,
    contexts,
    epochs,
    groups,
    rates,
    settings,
    denoisers,
    out,
    served,
    counted,
    taken,
):
    """Contexts as they are served.

    Args:
        ids: uint16 or uint32 [b, L]. lengths: int32 [b, p], zeros on the right. modality: uint8 [V].
        keys: uint64 [b], of the domain of each context. contexts, epochs: int64 [b].
        groups: int32 [b, p], row of `rates` of each piece.
        rates: float64 [g, k], share of each objective in a group. settings: float64 [k, 6]. denoisers: float64 [d, 3].

    Writes:
        out: like ids [b, L + room], all zero before. served: int32 [b, p], lengths in it.
        counted: bool [b, L + room], where a token counts as a target.
        taken: int8 [b, p]: 0 as stored by the draw, k + 1 objective k, -(k + 1) objective k that found no place.
    """
    width = out.shape[1]
    most = lengths.shape[1]
    cuts = np.empty(ids.shape[1] + 1, np.int32)
    plans = np.zeros((most, PLAN), np.int32)
    order = np.empty(most, np.float64)
    for b in range(ids.shape[0]):
        starts = np.zeros(most + 1, np.int64)
        pieces = 0
        for p in range(most):
            starts[p + 1] = starts[p] + lengths[b, p]
            pieces += lengths[b, p] > 0
            plans[p, 0] = 0
            order[p] = 2.0
            taken[b, p] = 0
        wanting = 0
        for p in range(pieces):
            key = piece_key(keys[b], contexts[b], epochs[b], p)
            u = _uniform(key, 0)
            for k in range(rates.shape[1]):
                share = rates[groups[b, p], k]
                if u < share:
                    taken[b, p] = -(k + 1)
                    order[p] = _uniform(key, 1)
                    wanting += 1
                    break
                u -= share
        free = width - starts[pieces]
        if wanting:
            turns = np.argsort(order)
            for t in range(wanting):
                p = turns[t]
                k = -taken[b, p] - 1
                key = piece_key(keys[b], contexts[b], epochs[b], p)
                piece = ids[b, starts[p] : starts[p + 1]]
                added = plan_piece(piece, modality, key, settings[k], denoisers, cuts, plans[p])
                if added == 0 or added > free:
                    plans[p, 0] = 0
                    continue
                free -= added
                taken[b, p] = k + 1
        at = 0
        for p in range(pieces):
            piece = ids[b, starts[p] : starts[p + 1]]
            everything = taken[b, p] > 0 and settings[taken[b, p] - 1, 3] > 0
            n = write_piece(piece, plans[p], everything, out[b, at:], counted[b, at:])
            served[b, p] = n
            at += n
        for i in range(at, width):
            counted[b, i] = True  # padding is never a target; it is not for an objective to say so


@njit(cache=True, nogil=True)
def _is_mode(token):  # type: ignore[no-untyped-def]
    return DENOISE_R <= token <= DENOISE_X


@njit(cache=True, nogil=True)
def restore_piece(ids, out):  # type: ignore[no-untyped-def]
    """Undo `write_piece`: write the stored piece and return its length; -1 where no plan gives these ids."""
    n = len(ids)
    begin = 1 if n and ids[0] == DOC else 0
    end = n - 1 if n > begin and ids[n - 1] == END_DOC else n
    at = 0
    for i in range(begin):
        out[at] = ids[i]
        at += 1
    if begin < end and ids[begin] == FIM_PREFIX:
        at = _restore_middle(ids, begin, end, out, at)
    else:
        at = _restore_spans(ids, begin, end, out, at)
    if at < 0:
        return -1
    for i in range(end, n):
        out[at] = ids[i]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _restore_middle(ids, begin, end, out, at):  # type: ignore[no-untyped-def]
    suffix, middle = -1, -1
    for i in range(begin + 1, end):
        if ids[i] == FIM_SUFFIX and suffix < 0:
            suffix = i
        elif ids[i] == FIM_MIDDLE and suffix >= 0 and middle < 0:
            middle = i
        elif FIM_PREFIX <= ids[i] <= FIM_MIDDLE:
            return -1
    if middle < 0 or ids[end - 1] != END_SPAN:
        return -1
    for i in range(begin + 1, suffix):
        out[at] = ids[i]
        at += 1
    for i in range(middle + 1, end - 1):
        out[at] = ids[i]
        at += 1
    for i in range(suffix + 1, middle):
        out[at] = ids[i]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _restore_spans(ids, begin, end, out, at):  # type: ignore[no-untyped-def]
    mode = begin < end and _is_mode(ids[begin])
    body = begin + 1 if mode else begin
    spans, answers = 0, end
    for i in range(body, end):
        if MASK_START <= ids[i] < MASK_STOP:
            if ids[i] == MASK_START + spans and spans < MASK_COUNT:
                spans += 1
            elif ids[i] == MASK_START and spans > 0:
                answers = i
                break
            else:
                return -1
    if spans == 0:
        if mode:
            return -1
        for i in range(body, end):
            out[at] = ids[i]
            at += 1
        return at
    where = np.zeros(spans + 1, np.int64)
    found = 0
    for i in range(answers, end):
        if MASK_START <= ids[i] < MASK_STOP:
            if found == spans or ids[i] != MASK_START + found:
                return -1
            where[found] = i
            found += 1
    if found != spans:
        return -1
    where[spans] = end
    tail = 0 if mode else 1
    for s in range(spans):
        if where[s + 1] - tail <= where[s] or (tail and ids[where[s + 1] - 1] != END_SPAN):
            return -1
    for i in range(body, answers):
        if MASK_START <= ids[i] < MASK_STOP:
            s = ids[i] - MASK_START
            for j in range(where[s] + 1, where[s + 1] - tail):
                out[at] = ids[j]
                at += 1
        else:
            out[at] = ids[i]
            at += 1
    return at
