"""Languages: by the shipped model, and by a fastText model loaded as a user would."""

from __future__ import annotations

import threading

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.language import LanguageModel, language_columns, language_fingerprint
from mixloom.pipeline.language_codes import language_code
from mixloom.pipeline.language_config import LanguageConfig

SENTENCES = {
    "en": "The old ferry crosses the river every morning before the market opens its doors",
    "de": "Die alte Fähre überquert jeden Morgen den Fluss bevor der Markt seine Türen öffnet",
    "fr": "Le vieux bac traverse la rivière chaque matin avant que le marché n'ouvre ses portes",
    "es": "El viejo transbordador cruza el río cada mañana antes de que el mercado abra sus puertas",
    "ru": "Старый паром пересекает реку каждое утро до открытия рынка и возвращается вечером",
    "el": "Το παλιό πορθμείο διασχίζει το ποτάμι κάθε πρωί πριν ανοίξει η αγορά τις πόρτες της",
    "ja": "古い渡し船は市場が開く前に毎朝川を渡り、夕方になると岸に戻ってくる",
    "ar": "تعبر العبارة القديمة النهر كل صباح قبل أن يفتح السوق أبوابه وتعود في المساء",
    "hi": "पुरानी नाव हर सुबह बाजार खुलने से पहले नदी पार करती है और शाम को लौट आती है",
}


@pytest.fixture(scope="module")
def builtin():
    return LanguageModel.load(None)


@pytest.fixture(scope="module")
def lid_file(tmp_path_factory):
    """A small model in the format of lid.176: hierarchical softmax over character n-grams."""
    folder = tmp_path_factory.mktemp("lid")
    rng = np.random.default_rng(0)
    lines = []
    for code, sentence in SENTENCES.items():
        pieces = list(sentence) if code == "ja" else sentence.split()
        joint = "" if code == "ja" else " "
        for _ in range(40):
            lines.append(f"__label__{code} {joint.join(rng.permutation(pieces)[:9])}")
    lines = [lines[i] for i in rng.permutation(len(lines))]
    (folder / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {"dim": 16, "minn": 2, "maxn": 4, "loss": "hs", "bucket": 5000, "epoch": 25, "lr": 0.5}
    model = fasttext.train_supervised(str(folder / "train.txt"), thread=1, seed=1, verbose=0, **options)
    model.save_model(str(folder / "lid.bin"))
    return folder / "lid.bin"


def answers(model):
    codes, scores = model.identify(pa.array(list(SENTENCES.values()), pa.large_string()))
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    return codes.to_pylist()


def test_the_shipped_model_knows_common_languages(builtin):
    assert answers(builtin) == list(SENTENCES)


def test_a_fasttext_file_answers_with_the_codes_of_its_labels(lid_file):
    model = LanguageModel.load(str(lid_file))
    assert sorted(model.languages) == sorted(SENTENCES)
    assert answers(model) == list(SENTENCES)


def test_the_compiled_walk_answers_as_the_package_it_comes_from(builtin):
    package = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    rng = np.random.default_rng(3)
    sentences = [*SENTENCES.values(), "SHOUTED IN ENGLISH ALL THE WAY", "e\u0301te\u0301 a\u0300 la plage"]
    texts = [" ".join(rng.choice(s.split(), 1 + i % 9)) for i in range(8) for s in sentences]
    codes, scores = builtin.identify(pa.array(texts))
    theirs = [package.classify(t) for t in texts]
    # Of a text in which it finds nothing the package says its first doubled class, for want of another.
    nothing = package.classify("")
    theirs = [("und", 0.0) if answer == nothing else answer for answer in theirs]
    assert 0 < sum(c == "und" for c, _ in theirs) < 20
    assert codes.to_pylist() == [c for c, _ in theirs]
    np.testing.assert_allclose(scores, [s for _, s in theirs], atol=2e-4)


@pytest.mark.parametrize("kind", ["builtin", "file"])
def test_text_without_a_letter_is_undetermined_with_score_0(builtin, lid_file, kind):
    model = builtin if kind == "builtin" else LanguageModel.load(str(lid_file))
    codes, scores = model.identify(pa.array(["", None, "   \n", "12.50 / 3 — 7", "🙂🙂", "\u0301"]))
    assert codes.to_pylist() == ["und"] * 6
    assert scores.tolist() == [0.0] * 6
    codes, scores = model.identify(pa.array([], pa.large_string()))
    assert (len(codes), len(scores)) == (0, 0)
    codes, scores = model.identify(
        pa.array(["a", "ñ", "ß" * 3, "the market"])
    )  # whatever it says, it raises nothing
    assert [(c == "und") == (s == 0) for c, s in zip(codes.to_pylist(), scores)] == [True] * 4
    assert scores[3] > 0


def test_only_the_start_of_a_long_text_is_read(builtin):
    long = (SENTENCES["en"] + " ") * 30
    texts = pa.array([long + SENTENCES["ru"] * 400, "日本" * 30 + long])
    short = LanguageModel.load(None, max_chars=60)
    assert short.identify(texts)[0].to_pylist()[0] == "en"
    assert short.identify(texts)[0].to_pylist()[1] in ("ja", "zh")
    assert LanguageModel.load(None, max_chars=100_000).identify(texts)[0].to_pylist() == ["ru", "en"]


def test_newlines_are_spaces_and_case_is_kept(lid_file):
    model = LanguageModel.load(str(lid_file))
    codes, scores = model.identify(
        pa.array([SENTENCES["de"], SENTENCES["de"].replace(" ", "\n"), SENTENCES["de"].lower()])
    )
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]
    assert codes.to_pylist()[:2] == ["de", "de"]


def test_answers_do_not_depend_on_the_batch_nor_on_threads(builtin):
    texts = pa.array(list(SENTENCES.values()) * 6)
    codes, scores = builtin.identify(texts)
    alone = [builtin.identify(texts.slice(i, 1)) for i in range(len(texts))]
    assert codes.to_pylist() == [c[0].as_py() for c, _ in alone]
    np.testing.assert_array_equal(scores, np.concatenate([s for _, s in alone]))
    found = []
    threads = [threading.Thread(target=lambda: found.append(builtin.identify(texts))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    for c, s in found:
        assert c.equals(codes)
        np.testing.assert_array_equal(s, scores)


def test_the_columns_are_null_below_the_least_score_and_keep_the_score(builtin):
    texts = pa.array([SENTENCES["en"], "ok", "123"])
    scores = builtin.identify(texts)[1]
    config = LanguageConfig(min_score=float(scores[0]))
    language, score = language_columns(texts, builtin, config)
    assert language.type == pa.string()
    assert score.type == pa.float32()
    assert language.to_pylist() == ["en", None, None]
    assert score.to_pylist() == scores.tolist()
    assert score[2].as_py() == 0


def test_a_model_whose_labels_are_no_languages_is_refused(tmp_path):
    (tmp_path / "q.txt").write_text("__label__hq good words here\n__label__cc other words there\n" * 20)
    model = fasttext.train_supervised(str(tmp_path / "q.txt"), dim=4, thread=1, verbose=0)
    model.save_model(str(tmp_path / "quality.bin"))
    with pytest.raises(UserError, match="2 of its 2 labels are no languages, for example '__label__") as e:
        LanguageModel.load(str(tmp_path / "quality.bin"))
    assert "annotate.quality" in e.value.fix


def test_a_path_that_is_missing_or_no_model_is_told_with_its_fix(tmp_path):
    with pytest.raises(UserError, match=r"the model .*lid\.176\.bin does not exist"):
        LanguageModel.load(str(tmp_path / "lid.176.bin"))
    (tmp_path / "lid.176.ftz").write_text("404: not found")
    with pytest.raises(UserError, match="is not a fastText model") as e:
        LanguageModel.load(str(tmp_path / "lid.176.ftz"))
    assert ".ftz" in e.value.fix


def test_labels_become_codes():
    spelt = {"en": "en", "arz": "arz", "eng_Latn": "eng_Latn", "zh-Hant": "zh-Hant", "iw": "he"}
    assert {label: language_code(label) for label in spelt} == spelt
    assert [language_code(x) for x in ("hq", "EN", "english", "e", "", "en_latn", "12")] == [None] * 7


def test_another_file_is_another_fingerprint(lid_file, tmp_path):
    assert language_fingerprint(LanguageConfig()).startswith("py3langid 0.")
    first = language_fingerprint(LanguageConfig(model=str(lid_file)))
    (tmp_path / "copy.bin").write_bytes(lid_file.read_bytes())
    assert language_fingerprint(LanguageConfig(model=str(tmp_path / "copy.bin"))) == first
    (tmp_path / "copy.bin").write_bytes(lid_file.read_bytes() + b"x")
    assert language_fingerprint(LanguageConfig(model=str(tmp_path / "copy.bin"))) != first
