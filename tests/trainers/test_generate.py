from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import BREAK, DOC, END_DOC, END_IMAGE, END_SPEECH, IMAGE, SPEECH
from mixloom.trainers.config import DENSE, ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.generate import Cache, Grammar, _choose, decode, generate
from mixloom.trainers.model import Model

OPTIONS = [
    {},
    {"untie": DENSE},
    {"norm": "swin", "qk_norm": True},
    {"untie": ("ffn",), "tie_embeddings": True},
]


def model_of(**options) -> Model:
    return Model(ModelConfig(dim=32, layers=2, heads=4, vocab_size=1024, seq_len=64, init_std=0.1, **options))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("prefill", [1, 7, 20])
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_sequence(
    make_contexts, vocabulary, options, prefill
):
    model, table = model_of(**options), modality_table(vocabulary)
    ids, lengths, _ = make_contexts(contexts=1, kinds=("tits",))
    tokens = ids[:, : int(lengths[0][0])]
    batch = make_batch(tokens, [np.array([tokens.shape[1]])], table)
    hidden = model(model.rows(batch, "mask", torch.float32))
    hidden = hidden if model.order(batch) is None else hidden[batch.inverse]
    expected = hidden @ model.head_weight.t()
    cache, sequence = Cache(model, 64, torch.float32), tokens[0].tolist()
    logits = decode(model, cache, sequence[:prefill], table)
    torch.testing.assert_close(logits, expected[prefill - 1], rtol=1e-4, atol=1e-4)
    for place in range(prefill, len(sequence)):
        logits = decode(model, cache, [sequence[place]], table)
        torch.testing.assert_close(logits, expected[place], rtol=1e-4, atol=1e-4)


def test_a_cache_that_is_full_refuses_more(vocabulary):
    model = model_of()
    with pytest.raises(ValueError, match="5 tokens, but the cache holds 4"):
        decode(model, Cache(model, 4, torch.float32), [1] * 5, modality_table(vocabulary))


def check(tokens: list[int], image_tokens: int) -> None:
    """A document is <doc>, text, whole images, whole speech, </doc>."""
    assert tokens[0] == DOC
    assert tokens[-1] == END_DOC
    at = 1
    while at < len(tokens) - 1:
        token = tokens[at]
        at += 1
        if token == IMAGE:
            assert all(512 <= t < 544 for t in tokens[at : at + image_tokens])
            at += image_tokens
            assert tokens[at] == END_IMAGE
            at += 1
        elif token == SPEECH:
            count = 0
            while tokens[at] != END_SPEECH:
                assert 768 <= tokens[at] < 784
                at, count = at + 1, count + 1
            assert count
            at += 1
        else:
            assert token == BREAK or 256 <= token < 512


@pytest.mark.parametrize("seed", range(8))
def test_whatever_an_untrained_model_says_is_a_whole_document(vocabulary, seed):
    model = model_of(untie=DENSE)
    with torch.no_grad():
        model.head.fill_(0.0)
    tokens = generate(model, vocabulary, image_tokens=5, max_tokens=60, seed=seed, temperature=1.0)
    check(tokens, 5)
    assert len(tokens) <= 60


@given(st.integers(1, 60), st.lists(st.integers(0, 1 << 30), min_size=60, max_size=60), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_every_path_the_grammar_allows_is_a_whole_document_within_the_limit(limit, choices, image_tokens):
    spans = [("text", 256, 0), ("image", 512, 1), ("speech", 768, 2)]
    used = {"text": 256, "image": 32, "speech": 16}
    ranges = [{"name": n, "start": a, "size": 256, "used": used[n], "modality": m} for n, a, m in spans]
    grammar = Grammar({"size": 1024, "ranges": ranges}, image_tokens=image_tokens, limit=limit + 1)
    tokens = [DOC]
    grammar.push(DOC)
    while tokens[-1] != END_DOC:
        allowed = np.flatnonzero(grammar.allowed())
        assert len(tokens) <= limit
        # Prefer the openings, which lead into the narrow places.
        rare = [int(t) for t in allowed if t in (IMAGE, SPEECH, END_SPEECH)]
        pool = rare if rare and choices[len(tokens) - 1] % 3 else allowed
        tokens.append(int(pool[choices[len(tokens) - 1] % len(pool)]))
        grammar.push(tokens[-1])
    check(tokens, image_tokens)


def test_after_an_image_begins_exactly_its_codes_and_its_end_are_allowed(vocabulary):
    grammar = Grammar(vocabulary, image_tokens=3)
    for token in (DOC, 300, IMAGE):
        grammar.push(token)
    for code in (512, 513, 514):
        assert np.flatnonzero(grammar.allowed()).tolist() == list(range(512, 544))
        grammar.push(code)
    assert np.flatnonzero(grammar.allowed()).tolist() == [END_IMAGE]
    grammar.push(END_IMAGE)
    assert grammar.allowed()[300]
    assert not grammar.allowed()[512]


def test_images_are_never_opened_when_their_length_is_unknown(vocabulary):
    grammar = Grammar(vocabulary)
    grammar.push(DOC)
    assert not grammar.allowed()[IMAGE]
    assert grammar.allowed()[SPEECH]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(vocabulary):
    model = model_of()
    one, same, other = (generate(model, vocabulary, seed=s, max_tokens=30) for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_temperature_zero_takes_the_likeliest_and_draws_nothing(vocabulary):
    model = model_of()
    one, two = (generate(model, vocabulary, seed=s, max_tokens=20, temperature=0.0) for s in (1, 2))
    assert one == two
    table, cache = modality_table(vocabulary), Cache(model, 20, torch.float32)
    grammar = Grammar(vocabulary, limit=20)
    grammar.push(DOC)
    logits = decode(model, cache, [DOC], table).numpy()
    assert one[1] == int(np.where(grammar.allowed(), logits, -np.inf).argmax())


def test_samples_follow_the_probabilities_of_the_model(vocabulary):
    model = model_of(untie=DENSE)
    with torch.no_grad():
        model.head.mul_(4.0)
    table = modality_table(vocabulary)
    logits = decode(model, Cache(model, 1, torch.float32), [DOC], table).double().numpy()
    grammar = Grammar(vocabulary, limit=2 + 60)
    grammar.push(DOC)
    p = np.where(grammar.allowed(), np.exp(logits - logits.max()), 0.0)
    p /= p.sum()
    rng = np.random.Generator(np.random.PCG64(0))
    masked = np.where(grammar.allowed(), logits, -np.inf)
    counts = np.bincount([_choose(masked, 1.0, rng) for _ in range(4000)], minlength=1024)
    assert counts[p == 0].sum() == 0
    top = p.argmax()
    assert counts[top] / 4000 == pytest.approx(p[top], abs=4 * (p[top] * (1 - p[top]) / 4000) ** 0.5)


@pytest.mark.parametrize(
    ("prompt", "options", "text"),
    [
        ([], {}, "the prompt has 0 tokens"),
        ([DOC] * 9, {"max_tokens": 8}, "the prompt has 9 tokens; allowed are 1 to max_tokens"),
        ([DOC], {"max_tokens": 65}, "max_tokens is 65, but the model was trained on 64 positions"),
        ([DOC, 5000], {"max_tokens": 8}, "outside the vocabulary of 1024"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(vocabulary, prompt, options, text):
    with pytest.raises(UserError, match=text):
        generate(model_of(), vocabulary, prompt, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "text"),
    [
        ([DOC, IMAGE], {}, "how many codes an image has is not known"),
        ([DOC, IMAGE], {"image_tokens": 10, "max_tokens": 8}, "2 tokens and its image lacks 10 codes"),
        (
            [DOC, IMAGE, 513, 514],
            {"image_tokens": 4, "max_tokens": 7},
            "4 tokens and its image lacks 2 codes",
        ),
        ([DOC, IMAGE, *range(512, 517)], {"image_tokens": 4}, "has 5 codes so far, and an image has 4"),
        ([DOC, IMAGE], {"image_tokens": 4, "modalities": ("text",)}, "images may not be sampled"),
        ([DOC, SPEECH], {"modalities": ("text",)}, "speech, which may not be sampled .modalities: text."),
        ([DOC, SPEECH], {"max_tokens": 4}, "which max_tokens .4. leaves no room"),
        ([DOC], {"modalities": ("image",)}, "only images are asked for, but how many codes"),
        ([DOC], {"modalities": ("image",), "image_tokens": 60, "max_tokens": 30}, "one takes 60 codes and 3"),
        ([DOC], {"image_tokens": -1}, "image_tokens is -1"),
        ([DOC], {"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_lengths_and_elements_that_cannot_work_out_are_refused(vocabulary, prompt, options, text):
    with pytest.raises(UserError, match=text):
        generate(model_of(), vocabulary, prompt, **{"max_tokens": 40, **options})


def test_a_modality_that_the_vocabulary_lacks_is_refused(vocabulary):
    silent = {**vocabulary, "ranges": [r for r in vocabulary["ranges"] if r["name"] != "speech"]}
    with pytest.raises(UserError, match="modalities names speech, and the vocabulary has none"):
        generate(model_of(), silent, [DOC], max_tokens=9, modalities=("speech",))


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_an_image_begun_in_the_prompt_gets_the_codes_it_lacks(vocabulary, missing):
    prompt = [DOC, IMAGE, *range(512, 516 - missing)]
    tokens = generate(model_of(), vocabulary, prompt, image_tokens=4, max_tokens=len(prompt) + missing + 2)
    assert tokens[: len(prompt)] == prompt
    check(tokens, 4)
