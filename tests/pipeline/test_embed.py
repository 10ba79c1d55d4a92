import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.embed import (
    embed_batch,
    sample_keys,
    text_column,
    vectors_of,
    vectors_schema,
)
from mixloom.pipeline.embed_config import TfidfConfig
from mixloom.pipeline.errors import UserError
from mixloom.pipeline.one_thread import one_thread
from mixloom.pipeline.schema import Document, Locator, Media, Segment, documents_batch
from mixloom.pipeline.term_tokens import slow_tokens as tokens
from mixloom.pipeline.tfidf import TfidfSvd

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def corpus(n: int, seed: int = 0, length: int = 30) -> list[str]:
    rng = np.random.Generator(np.random.PCG64(seed))
    topics = rng.permutation(len(WORDS)).reshape(5, -1)
    return [" ".join(WORDS[w] for w in rng.choice(topics[i % 5], length)) for i in range(n)]


def picture(alt: str | None = None) -> Segment:
    return Segment(
        kind="image", media=Media(uri="a.png", sha256="0" * 64, bytes=1), attrs={"alt": alt} if alt else {}
    )


def document(uri: str, *segments: Segment) -> Document:
    return Document(source="s", locator=Locator(uri=uri), segments=segments)


def text(words: str) -> Segment:
    return Segment(kind="text", text=words)


def test_numbers_and_single_letters_are_no_tokens_and_case_is_folded():
    assert tokens("In 1999 the 42nd MP3 of a B2B shop, x") == ["in", "the", "mp3", "of", "b2b", "shop"]


def test_scripts_without_spaces_are_cut_into_characters():
    assert tokens("我爱 naïve 東京abc") == ["我", "爱", "naïve", "東", "京", "abc"]


@pytest.mark.parametrize("sublinear", [True, False])
def test_vectors_equal_scikit_learns_tfidf_times_the_components(sublinear):
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    texts = [f"the {t} and 12 {t[:40]}" for t in corpus(60)]
    config = TfidfConfig(dim=8, min_df=3, max_df=0.4, sublinear_tf=sublinear)
    model = TfidfSvd.fit(texts, config)
    reference = TfidfVectorizer(
        tokenizer=tokens,
        token_pattern=None,
        stop_words=sorted(ENGLISH_STOP_WORDS),
        min_df=3,
        max_df=0.4,
        sublinear_tf=sublinear,
    )
    rows = reference.fit_transform(texts)
    assert list(model.terms) == reference.get_feature_names_out().tolist()
    expected = rows @ model.components.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.transform(texts), expected, atol=1e-6)


def test_components_span_the_exact_singular_vectors():
    texts = corpus(80, length=12)
    model = TfidfSvd.fit(texts, TfidfConfig(dim=4, min_df=1, max_df=1.0))
    full = TfidfSvd.fit(texts, TfidfConfig(dim=80, min_df=1, max_df=1.0))
    assert full.components.any(axis=0).sum() > 60
    np.testing.assert_allclose(
        np.abs((model.components.T @ full.components[:, :4]).diagonal()), 1.0, atol=1e-3
    )
    largest = model.components[np.argmax(np.abs(model.components), axis=0), np.arange(4)]
    assert (largest > 0).all()  # the sign of a singular vector is free; ours is fixed


def test_vectors_have_unit_length_and_unknown_words_give_zero():
    model = TfidfSvd.fit(corpus(50), TfidfConfig(dim=5))
    vectors = model.transform([*corpus(7, seed=3), "", "zzz 77", "the and of"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:7], axis=1), 1, atol=1e-6)
    assert not vectors[7:].any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 49), st.integers(0, 49))
def test_a_text_gets_the_same_bits_alone_and_in_any_batch(start, stop):
    texts = corpus(50, length=17)
    model = TfidfSvd.fit(texts[:40], TfidfConfig(dim=10, min_df=1))
    whole = model.transform(texts)
    assert model.transform(texts[start:stop]).tobytes() == whole[start:stop].tobytes()
    assert model.transform([texts[start]]).tobytes() == whole[start].tobytes()


def test_a_fit_does_not_depend_on_the_number_of_threads():
    from threadpoolctl import threadpool_limits

    texts = corpus(300, length=60)
    prints = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            prints.append(TfidfSvd.fit(texts, TfidfConfig(dim=20)).fingerprint)
    assert prints[0] == prints[1]


def test_the_thread_limit_is_lifted_only_by_the_last_to_leave():
    import faiss  # noqa: F401  (brings OpenMP in)
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[int]:
        return {lib["num_threads"] for lib in threadpool_info()}

    with threadpool_limits(2):
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert 2 in threads()


def test_a_text_whose_words_lie_outside_the_kept_directions_gives_zero_not_noise():
    texts = ["apple pear plum"] * 30 + ["car bus tram"] * 20 + ["red blue"] * 3
    model = TfidfSvd.fit(texts, TfidfConfig(dim=2, max_df=1.0))
    vectors = model.transform(texts)
    assert vectors[:50].any(axis=1).all()
    assert not vectors[50:].any()


def test_dim_holds_for_corpora_smaller_than_it():
    for texts in ([], [""], ["apple"], ["apple pie", "apple tart"], ["same words"] * 5):
        model = TfidfSvd.fit(texts, TfidfConfig(dim=16))
        vectors = model.transform([*texts, "pear"])
        assert vectors.shape == (len(texts) + 1, 16)
        assert not vectors[-1].any()
        lengths = np.linalg.norm(vectors[:-1], axis=1)
        assert np.allclose(lengths, 1, atol=1e-6) == (texts not in ([""],))
        assert np.isfinite(vectors).all()


def test_vocabulary_keeps_the_most_frequent_terms_with_ties_by_name():
    texts = ["kiwi lemon mango", "kiwi lemon", "kiwi mango", "plum"]
    model = TfidfSvd.fit(texts, TfidfConfig(dim=2, vocabulary=2, min_df=1, max_df=1.0))
    assert model.terms == ("kiwi", "lemon")


def test_only_the_first_characters_are_read():
    model = TfidfSvd.fit(
        ["apple pear", "pear plum"], TfidfConfig(dim=2, min_df=1, max_df=1.0, max_characters=5)
    )
    assert model.terms == ("apple", "pear")


def test_a_saved_model_is_the_same_model_and_the_same_bytes(tmp_path):
    model = TfidfSvd.fit(corpus(50), TfidfConfig(dim=6))
    model.save(tmp_path / "a")
    again = TfidfSvd.load(tmp_path / "a")
    again.save(tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert again.fingerprint == model.fingerprint
    assert again.transform(corpus(9, 4)).tobytes() == model.transform(corpus(9, 4)).tobytes()
    assert TfidfSvd.fit(corpus(50, 1), TfidfConfig(dim=6)).fingerprint != model.fingerprint


def test_a_changed_or_missing_model_file_is_named(tmp_path):
    TfidfSvd.fit(corpus(20), TfidfConfig(dim=3)).save(tmp_path)
    data = bytearray((tmp_path / "components.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "components.npy").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"components\.npy does not match its checksum"):
        TfidfSvd.load(tmp_path)
    (tmp_path / "idf.npy").unlink()
    (tmp_path / "components.npy").unlink()
    with pytest.raises(UserError, match=r"components\.npy does not exist"):
        TfidfSvd.load(tmp_path)
    with pytest.raises(UserError, match=r"model\.json does not exist"):
        TfidfSvd.load(tmp_path / "elsewhere")
    header = (tmp_path / "model.json").read_text().replace('"dim":3', '"dim":4')
    (tmp_path / "model.json").write_text(header)
    with pytest.raises(UserError, match="was changed after it was written"):
        TfidfSvd.load(tmp_path)


def test_words_of_a_document_are_its_text_and_the_alt_of_its_media():
    documents = [
        document("a", text("one"), picture("a red apple"), text("two")),
        document("b", picture()),
        document("c"),
        document("d", text("three")),
    ]
    batch = documents_batch(documents)
    assert [t.split() for t in text_column(batch).to_pylist()] == [
        ["one", "a", "red", "apple", "two"],
        [],
        [],
        ["three"],
    ]
    assert text_column(batch.slice(3)).to_pylist() == ["three"]
    assert text_column(batch.slice(0, 0)).to_pylist() == []


def test_a_part_becomes_vectors_with_ids_rows_and_whether_it_has_text():
    batch = documents_batch(
        [document(str(i), text(t)) for i, t in enumerate(corpus(20))] + [document("p", picture())]
    )
    model = TfidfSvd.fit(text_column(batch).to_pylist(), TfidfConfig(dim=8))
    out = embed_batch(model, batch)
    assert out.schema == vectors_schema(8)
    assert out.column("has_text").to_pylist() == [True] * 20 + [False]
    assert out.column("row").to_pylist() == list(range(21))
    some = embed_batch(model, batch, np.array([20, 3], np.int32))
    assert some.column("doc_id").to_pylist() == [
        batch.column("doc_id")[20].as_py(),
        batch.column("doc_id")[3].as_py(),
    ]
    assert vectors_of(some).tobytes() == vectors_of(out)[[20, 3]].tobytes()
    assert vectors_of(out.slice(5, 2)).tobytes() == vectors_of(out)[5:7].tobytes()


def test_sampling_keys_change_with_the_seed_and_look_uniform():
    ids = [str(i) for i in range(4000)]
    keys = sample_keys(ids, 0)
    assert keys.dtype == np.uint64
    assert (keys != sample_keys(ids, 1)).all()
    assert abs((keys / 2.0**64).mean() - 0.5) < 0.02
