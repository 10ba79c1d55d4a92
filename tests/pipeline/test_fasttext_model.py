"""fastText models read from their files answer as the library itself does."""

from __future__ import annotations

import contextlib
import struct

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.fasttext_model import FastTextModel

_WORDS = "river stone über naïve 東京 город λόγος maison x 42 don't e\u0301t\u00e9 🙂 <tag> a/b"
WORDS = _WORDS.split()
KINDS = {
    "words": {"loss": "softmax", "dim": 12, "wordNgrams": 1, "minn": 0, "maxn": 0},
    "word n-grams": {"loss": "softmax", "dim": 6, "wordNgrams": 4, "bucket": 900, "minn": 0, "maxn": 0},
    "more labels than dimensions": {"loss": "softmax", "dim": 3, "wordNgrams": 2, "bucket": 500},
    "characters": {"loss": "softmax", "dim": 8, "wordNgrams": 1, "minn": 1, "maxn": 5, "bucket": 700},
    "both n-grams": {"loss": "softmax", "dim": 8, "wordNgrams": 2, "minn": 2, "maxn": 4, "bucket": 700},
    "tree": {"loss": "hs", "dim": 8, "wordNgrams": 1, "minn": 2, "maxn": 4, "bucket": 700},
    "one against all": {"loss": "ova", "dim": 8, "wordNgrams": 2, "bucket": 700},
    "quantised": {"loss": "softmax", "dim": 9, "wordNgrams": 2, "bucket": 700, "quantize": {"qnorm": True}},
    "pruned": {
        "loss": "hs", "dim": 8, "minn": 2, "maxn": 4, "bucket": 700, "quantize": {"cutoff": 400, "retrain": False},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """For each kind of model: the library's and the path of its file."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(4)
    labels = ["en", "de", "zh", "ru", "el"]
    lines = []
    for i in range(400):
        k = i % len(labels) if i % 3 else 0
        words = [*rng.choice(WORDS[k : k + 9], 12).tolist(), f"n{int(rng.integers(60))}"]
        lines.append(f"__label__{labels[k]} {' '.join(words)}")
    (folder / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    models = {}
    for name, options in KINDS.items():
        options = dict(options)
        quantize = options.pop("quantize", None)
        model = fasttext.train_supervised(
            str(folder / "train.txt"), thread=1, seed=1, epoch=8, lr=0.6, verbose=0, **options
        )
        if quantize is not None:
            model.quantize(str(folder / "train.txt"), thread=1, verbose=0, **quantize)
        path = folder / f"{name}.bin"
        model.save_model(str(path))
        models[name] = (model, FastTextModel.load(str(path)))
    return models


def by_the_library(model, labels, texts):
    found, scores = model.f.multilinePredict([t + "\n" for t in texts], -1, -1.0, "strict")
    out = np.zeros((len(texts), len(labels)))
    for row, (names, values) in enumerate(zip(found, scores)):
        for name, value in zip(names, values):
            out[row, labels.index(name)] = value
    return out


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30)
known = st.lists(st.sampled_from([*WORDS, "n7", "n8", "unheard"]), max_size=15).map(" ".join)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(plain | known, min_size=1, max_size=6))
@hypothesis_settings(max_examples=40)
def test_scores_are_those_of_the_library(trained, kind, texts):
    texts = [t for t in texts if "</s>" not in t and "__label__" not in t] or ["river"]
    library, ours = trained[kind]
    scores, words = ours.probabilities(pa.array(texts, pa.large_string()))
    assert scores.dtype == np.float32
    # The library adds 1e-5 to every probability, once per level of a tree, and looks sigmoids up in a table.
    tolerance = {"tree": 1e-4, "pruned": 1e-4, "one against all": 1e-2}.get(kind, 2e-5)
    np.testing.assert_allclose(scores, by_the_library(library, ours.labels, texts), atol=tolerance)
    separators = str.maketrans(dict.fromkeys("\t\v\f\r\0", " "))
    assert words.tolist() == [len([w for w in t.translate(separators).split(" ") if w]) for t in texts]


def test_newlines_only_separate_words_and_slices_and_nulls_are_read(trained):
    _, ours = trained["both n-grams"]
    whole = pa.array(["zzz", "river\nstone\r\n\n東京", None, "river stone 東京"])
    scores, words = ours.probabilities(whole.slice(1))
    np.testing.assert_array_equal(scores[0], scores[2])
    assert words.tolist() == [3, 0, 3]


def test_text_cannot_speak_fasttexts_own_words(trained):
    _, ours = trained["word n-grams"]
    scores, _ = ours.probabilities(pa.array(["river 東京", "river </s> 東京", "river __label__zh 東京"]))
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_a_batch_changes_no_score(trained):
    _, ours = trained["both n-grams"]
    texts = pa.array([" ".join(WORDS[i % 7 :]) for i in range(20)])
    together, _ = ours.probabilities(texts)
    alone = [ours.probabilities(texts.slice(i, 1))[0][0] for i in range(20)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_no_file_no_model_word_vectors_and_damage_are_told(trained, tmp_path):
    with pytest.raises(UserError, match=r"gone\.bin does not exist"):
        FastTextModel.load(str(tmp_path / "gone.bin"))
    with pytest.raises(UserError, match="is a folder"):
        FastTextModel.load(str(tmp_path))
    (tmp_path / "page.bin").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match="not a fastText model"):
        FastTextModel.load(str(tmp_path / "page.bin"))
    (tmp_path / "old.bin").write_bytes(struct.pack("<ii", 793712314, 11) + bytes(100))
    with pytest.raises(UserError, match="of version 11"):
        FastTextModel.load(str(tmp_path / "old.bin"))
    (tmp_path / "text.txt").write_text("a b c a b c\n" * 20)
    fasttext.train_unsupervised(
        str(tmp_path / "text.txt"), dim=4, minCount=1, bucket=50, thread=1, verbose=0
    ).save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(UserError, match="word vectors, not a classifier"):
        FastTextModel.load(str(tmp_path / "vectors.bin"))


@pytest.mark.parametrize("kind", ["both n-grams", "tree", "quantised", "pruned"])
def test_a_file_cut_anywhere_is_told_and_never_read_past_its_end(trained, kind, tmp_path):
    library, _ = trained[kind]
    library.save_model(str(tmp_path / "whole.bin"))
    data = (tmp_path / "whole.bin").read_bytes()
    for stop in [*range(8, 200, 7), *range(200, len(data), len(data) // 40), len(data) - 1]:
        with pytest.raises(UserError, match="damaged"):
            FastTextModel.from_bytes(data[:stop], "cut.bin")


def test_a_header_full_of_noise_is_told_or_read_but_never_crashes(trained, tmp_path):
    library, _ = trained["both n-grams"]
    library.save_model(str(tmp_path / "whole.bin"))
    data = bytearray((tmp_path / "whole.bin").read_bytes())
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(150):
        broken = bytearray(data)
        at = int(rng.integers(8, 92))
        broken[at : at + 4] = rng.bytes(4)
        with contextlib.suppress(UserError):
            FastTextModel.from_bytes(bytes(broken), "noise.bin").probabilities(pa.array(["river stone 東京"]))
            told -= 1
        told += 1
    assert told > 30
