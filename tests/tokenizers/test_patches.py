"""Patches cover every byte once, in order, by a rule that a slow reader can follow."""

import inspect
import json
import json.decoder
import math
import shutil
import string
import textwrap
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.patch_kernel import BIT, cut_by_entropy
from mixloom.tokenizers.patches import Patcher, fit_patcher
from mixloom.tokenizers.settings import PatchConfig

SENTENCES = [
    f"The {a} {b} crossed the {c} at dawn, and the {b} {d}.\n"
    for a in ("old", "patient", "salty", "northern")
    for b in ("sailor", "lighthouse keeper", "captain")
    for c in ("harbour", "channel", "lagoon", "bay", "reef")
    for d in ("sang", "waited", "slept", "counted herring")
]
SMALL = {"contexts": 4096, "sample_bytes": 50_000}


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


TEXTS = [as_bytes(s) for s in SENTENCES]


@pytest.fixture(scope="module")
def fitted() -> dict[str, Patcher]:
    kinds = ("entropy", "monotonic", "space", "fixed")
    return {k: fit_patcher(TEXTS, PatchConfig(kind=k, longest=20, **SMALL))[0] for k in kinds}


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@pytest.mark.parametrize("kind", ["entropy", "monotonic", "space", "fixed"])
def test_patches_cover_all_bytes_and_none_is_empty_or_too_long(fitted, kind, raw):
    lengths = fitted[kind].lengths(np.frombuffer(raw, np.uint8))
    assert lengths.dtype == np.uint16
    assert int(lengths.sum(dtype=np.int64)) == len(raw)
    assert ((lengths >= 1) & (lengths <= 20)).all()


@given(st.text("aehrt .", max_size=60))
@pytest.mark.parametrize("kind", ["entropy", "monotonic"])
def test_cuts_follow_the_rule_byte_by_byte(fitted, kind, text):
    patcher = fitted[kind]
    data = as_bytes(text)
    entropy = patcher.expected(data).astype(int)
    expected, current = [], 0
    for i in range(len(data)):
        value = entropy[i] - (entropy[i - 1] if kind == "monotonic" and i else 0)
        if current and (value > patcher.threshold or current == 20):
            expected.append(current)
            current = 0
        current += 1
    assert patcher.lengths(data).tolist() == expected + ([current] if current else [])


def test_entropies_are_those_of_the_interpolated_counts():
    """Against a slow definition with dictionaries, at every byte of texts that were counted and of one that was not."""
    config = PatchConfig(order=3, **SMALL)
    read = TEXTS[:40]
    counted = [t.tobytes() for i, t in enumerate(read) if i % 8 != 7]
    patcher, _ = fit_patcher(read, config)
    seen: dict[bytes, Counter[int]] = {}
    for text in counted:
        for i, b in enumerate(text):
            for k in range(min(i, 3) + 1):
                seen.setdefault(text[i - k : i], Counter())[b] += 1
    kept = {c for c, n in seen.items() if not c or n.total() >= 2}

    def chance(context: bytes) -> list[float]:
        before = chance(context[1:]) if context else [1 / 256] * 256
        n = seen[context]
        return [(n[b] + len(n) * before[b]) / (n.total() + len(n)) for b in range(256)]

    for text in (counted[0], counted[9], b"The zebra crossed the quay"):
        found = patcher.expected(np.frombuffer(text, np.uint8))
        for i in range(len(text)):
            context = next(text[i - k : i] for k in range(min(i, 3), -1, -1) if text[i - k : i] in kept)
            bits = -sum(p * math.log2(p) for p in chance(context))
            assert abs(found[i] - bits * BIT) <= 1


def test_the_threshold_gives_the_length_that_was_asked_for():
    lines = "".join(inspect.getsource(m) for m in (json.decoder, string, textwrap)).splitlines(keepends=True)
    texts = [as_bytes("".join(lines[i : i + 5])) for i in range(0, len(lines), 5)]
    for kind in ("entropy", "monotonic"):
        for wanted in (3.0, 6.0):
            config = PatchConfig(kind=kind, bytes=wanted, **SMALL)
            patcher, facts = fit_patcher(texts, config)
            held = texts[7::8]
            average = sum(map(len, held)) / sum(len(patcher.lengths(t)) for t in held)
            assert average == pytest.approx(facts["bytes_per_patch"], abs=0.01)
            assert (
                wanted <= average < wanted * 1.6
            )  # few entropies occur in these texts, so it comes in steps


def test_a_patch_starts_at_what_cannot_be_guessed_and_holds_what_can():
    patcher, _ = fit_patcher(TEXTS, PatchConfig(bytes=9, **SMALL))
    data = as_bytes("The old sailor crossed the lagoon at dawn, and the old sailor slept.\n")
    patches, at = [], 0
    for n in patcher.lengths(data):
        patches.append(data[at : at + n].tobytes().decode())
        at += n
    # Who, where and what differ from sentence to sentence; the words between them never do.
    assert {"sailor ", "crossed the ", "agoon at dawn, and the ", "lept.\n"} <= set(patches)


def test_words_and_wide_characters_are_patches_by_spaces(fitted):
    data = as_bytes("ab, (cd)  e\u00e9f \u7e54\u6a5f.")
    cut, at = [], 0
    for n in fitted["space"].lengths(data):
        cut.append(data[at : at + n].tobytes().decode())
        at += n
    assert cut == ["ab, (", "cd)  ", "e\u00e9f ", "\u7e54", "\u6a5f."]


def test_fixed_patches_have_the_declared_length():
    patcher, _ = fit_patcher([], PatchConfig(kind="fixed", bytes=4))
    assert patcher.lengths(as_bytes("abcdefghij")).tolist() == [4, 4, 2]
    assert patcher.lengths(as_bytes("")).tolist() == []
    with pytest.raises(ValueError, match="without a model"):
        patcher.expected(as_bytes("a"))


def test_the_first_byte_begins_the_first_patch_whatever_its_entropy():
    assert cut_by_entropy(np.array([9000, 1, 1], np.uint16), 100, False, 64).tolist() == [3]
    assert cut_by_entropy(np.array([1, 9000, 9000], np.uint16), 100, False, 64).tolist() == [1, 1, 1]
    assert cut_by_entropy(np.array([1, 9000, 9000], np.uint16), 100, True, 64).tolist() == [1, 2]


def test_the_same_texts_give_the_same_bytes(tmp_path):
    for name in "ab":
        fit_patcher(TEXTS, PatchConfig(**SMALL))[0].save(tmp_path / name)
    for file in ("patches.json", "contexts.npy", "entropies.npy"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_no_more_contexts_are_kept_than_allowed_and_every_suffix_with_them():
    patcher, facts = fit_patcher(TEXTS, PatchConfig(contexts=500, sample_bytes=50_000))
    assert 256 < facts["contexts"] <= 500
    known = {(int(k) >> 56, int(k) & ((1 << 56) - 1)) for k in patcher.keys}
    assert all((k - 1, c & ((1 << 8 * (k - 1)) - 1)) in known for k, c in known if k)


@pytest.mark.parametrize("texts", [[], [as_bytes("")], [as_bytes("a")], [as_bytes("ab"), as_bytes("")]])
def test_hardly_any_text_is_enough(texts):
    patcher, _ = fit_patcher(texts, PatchConfig())
    data = as_bytes("anything at all")
    assert int(patcher.lengths(data).sum()) == len(data)


def test_a_saved_patcher_loads_as_the_same_and_a_broken_one_is_refused(fitted, tmp_path):
    data = as_bytes("The patient captain waited at the reef.")
    for kind, patcher in fitted.items():
        patcher.save(tmp_path / kind)
        assert (Patcher.load(tmp_path / kind).lengths(data) == patcher.lengths(data)).all()
    (tmp_path / "entropy" / "entropies.npy").unlink()
    with pytest.raises(UserError, match="patches: cannot load"):
        Patcher.load(tmp_path / "entropy")
    shutil.copy(tmp_path / "monotonic" / "contexts.npy", tmp_path / "entropy" / "entropies.npy")
    with pytest.raises(UserError, match="do not belong together"):
        Patcher.load(tmp_path / "entropy")
