from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mixloom.pipeline.errors import UserError
from mixloom.trainers.averaging import average
from mixloom.trainers.config import ModelConfig, RoutingConfig, TrainConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.experts import Ensemble, branch, text_embedder, text_reader
from mixloom.trainers.model import Model

SMALL = {"dim": 16, "layers": 1, "heads": 2, "vocab_size": 1024, "seq_len": 64, "init_std": 0.3}
CENTRES = np.eye(3, dtype=np.float32)
QUICK = TrainConfig(steps=3, batch_contexts=3, lr=1e-2, min_lr=1e-3, warmup=1, device="cpu")


def models(seeds):
    return [Model(ModelConfig(**SMALL), seed=s) for s in seeds]


def read(ids):
    return " ".join(str(i) for i in ids)


class Embed:
    """Vectors by the length of a text alone; remembers what it was asked for."""

    def __init__(self, known: bool = True) -> None:
        self.known = known
        self.texts: list[str] = []

    def __call__(self, texts):
        self.texts += texts
        out = np.zeros((len(texts), 3), np.float32)
        if self.known:
            out[np.arange(len(texts)), [len(t.split()) % 3 for t in texts]] = 1.0
        return out


@pytest.fixture
def batch(make_contexts, vocabulary):
    ids, lengths, _ = make_contexts()
    return make_batch(ids, lengths, modality_table(vocabulary))


def test_identical_experts_give_the_log_probabilities_of_the_one(batch):
    ensemble = Ensemble(models([4, 4, 4]), CENTRES, Embed(), read, RoutingConfig(every=4))
    by_expert = ensemble.expert_log_probs(batch)
    assert by_expert.shape == (3, len(batch.input_ids))
    np.testing.assert_allclose(ensemble.log_probs(batch), by_expert[0], atol=1e-6)
    targets = batch.targets.numpy()
    assert (by_expert[:, targets >= 0] < 0).all()
    assert (by_expert[:, targets < 0] == 0).all()


def test_an_expert_says_what_its_model_says_alone(batch):
    experts = models([0, 1, 2])
    ensemble = Ensemble(experts, CENTRES, Embed(), read)
    made = ensemble.expert_log_probs(batch)
    hidden = experts[1](experts[1].rows(batch, "mask", torch.float32))[batch.inverse]
    logits = torch.log_softmax(hidden @ experts[1].head_weight.T, -1)
    target = batch.targets.clamp(min=0)
    expected = torch.where(batch.targets >= 0, logits.gather(1, target[:, None])[:, 0], 0.0)
    np.testing.assert_allclose(made[1], expected.detach().numpy(), atol=1e-4)


def test_the_mixture_is_never_worse_than_the_weighted_mean_of_its_experts(batch):
    ensemble = Ensemble(models([0, 1, 2]), CENTRES, Embed(), read, RoutingConfig(every=4, temperature=2.0))
    share, by_expert = ensemble.weights(batch), ensemble.expert_log_probs(batch)
    mixed = ensemble.log_probs(batch)
    bound = (share * by_expert.T).sum(1)
    assert (mixed >= bound - 1e-9).all()
    assert (mixed[batch.targets.numpy() >= 0] > bound[batch.targets.numpy() >= 0] + 1e-6).any()
    assert (mixed <= by_expert.max(0) + 1e-9).all()


def test_a_cold_router_hands_every_prediction_to_the_nearest_expert(batch):
    ensemble = Ensemble(models([0, 1, 2]), CENTRES, Embed(), read, RoutingConfig(temperature=0, every=1))
    share, by_expert = ensemble.weights(batch), ensemble.expert_log_probs(batch)
    assert set(np.unique(share)) == {0.0, 1.0}
    row = int(batch.piece_lengths[0]) - 2  # a prediction inside the first document, from row + 1 tokens
    assert share[row].argmax() == (row + 1) % 3
    np.testing.assert_allclose(ensemble.log_probs(batch), by_expert[share.argmax(1), np.arange(len(share))])


@pytest.mark.parametrize("every", [1, 4, 5, 16])
def test_a_prediction_goes_by_what_was_read_before_it_and_by_nothing_later(batch, every):
    embed = Embed()
    ensemble = Ensemble(models([0, 1, 2]), CENTRES, embed, read, RoutingConfig(temperature=0.5, every=every))
    share = ensemble.weights(batch)
    lengths, start = batch.piece_lengths, 0
    ids = batch.input_ids.numpy()
    for length in lengths:
        for row in range(length):
            if batch.targets[start + row] < 0:
                continue
            steps = [n for n in (8, 16, 32) if n < every] + list(range(every, length + 1, every))
            before = [n for n in steps if n <= row + 1]
            if not before:
                np.testing.assert_allclose(share[start + row], 1 / 3)
                continue
            assert read(ids[start : start + before[-1]]) in embed.texts
            assert share[start + row].argmax() == before[-1] % 3
        start += length
    np.testing.assert_allclose(share.sum(1), 1.0)


def test_without_a_document_mask_a_prediction_goes_by_the_whole_context_before_it(make_contexts, vocabulary):
    ids, lengths, _ = make_contexts()
    whole = make_batch(ids, lengths, modality_table(vocabulary), document_mask=False)
    embed = Embed()
    Ensemble(models([0, 1, 2]), CENTRES, embed, read, RoutingConfig(every=8)).weights(whole)
    filled = int(lengths[0].sum())
    assert read(ids[0, : filled - filled % 8]) in embed.texts


def test_a_text_without_a_vector_gets_the_prior(batch):
    ensemble = Ensemble(models([0, 1, 2]), CENTRES, Embed(known=False), read, prior=np.array([2.0, 1.0, 1.0]))
    np.testing.assert_allclose(ensemble.weights(batch), [[0.5, 0.25, 0.25]] * len(batch.input_ids))


def test_the_next_token_is_that_of_the_ensemble_over_the_whole_vocabulary(make_contexts, vocabulary):
    ids, lengths, _ = make_contexts()
    table = modality_table(vocabulary)
    n = int(lengths[0][0])
    ensemble = Ensemble(models([0, 1, 2]), CENTRES, Embed(), read, RoutingConfig(every=2, temperature=0.7))
    document = make_batch(ids[:1, :n], [np.array([n])], table)
    log_probs = ensemble.log_probs(document)
    for known in (1, 3, n - 1):
        made = ensemble.next_log_probs(ids[0, :known].tolist(), table)
        assert made.shape == (1024,)
        assert np.exp(made).sum() == pytest.approx(1.0, abs=1e-6)
        assert made[ids[0, known]] == pytest.approx(log_probs[known - 1], abs=1e-4)


def test_wrong_numbers_of_centres_and_weights_are_refused():
    with pytest.raises(ValueError, match="3 centres for 2 experts"):
        Ensemble(models([0, 1]), CENTRES, Embed(), read)
    with pytest.raises(ValueError, match="2 experts need as many prior weights"):
        Ensemble(models([0, 1]), CENTRES[:2], Embed(), read, prior=np.ones(3))


def test_only_words_are_read_and_from_their_own_block(vocabulary):
    class Tokenizer:
        def decode(self, ids):
            return ",".join(str(i) for i in ids)

    ids = np.array([1, 256, 300, 3, 513, 4, 511, 769, 2], np.uint16)
    assert text_reader(vocabulary, Tokenizer())(ids) == "0,44,255"


def test_texts_get_the_vectors_that_documents_of_these_words_get():
    from mixloom.pipeline.embed_config import TfidfConfig
    from mixloom.pipeline.tfidf import TfidfSvd

    texts = ["barley malt hops", "hops yeast barley", "court statute section", "statute court council", ""]
    fitted = TfidfSvd.fit(texts, TfidfConfig(dim=3, min_df=1))
    made = text_embedder(fitted)(texts)
    assert made.shape == (5, 3)
    assert np.array_equal(made, fitted.transform(texts))
    assert not made[4].any()


def quiet(record):
    pass


def test_experts_branch_from_the_seed_and_are_trained_once(tmp_path, make_stream, vocabulary):
    config = ModelConfig(dim=16, layers=1, heads=2)
    seed = Model(config.filled(vocab_size=1024, seq_len=48), seed=9).state_dict()
    streams = {"a": make_stream(kinds=("t",)), "b": make_stream(kinds=("i", "ti"))}
    made = branch(seed, streams, vocabulary, config, QUICK, tmp_path, on_record=quiet)
    weights = {name: load_file(r.checkpoint / "model.safetensors") for name, r in made.items()}
    assert [r.checkpoint.parent.parent for r in made.values()] == [tmp_path / "a", tmp_path / "b"]
    assert not torch.equal(weights["a"]["embedding"], weights["b"]["embedding"])
    # Three small steps lead nowhere far: the start was the seed, not fresh weights.
    for state in weights.values():
        assert float((state["embedding"] - seed["embedding"]).abs().max()) < 0.1
        assert float((state["embedding"] - seed["embedding"]).abs().max()) > 0
    again = branch(seed, streams, vocabulary, config, QUICK, tmp_path, on_record=quiet)
    assert [r.tokens for r in again.values()] == [0, 0]
    merged = Model(config.filled(vocab_size=1024, seq_len=48))
    merged.load_state_dict(average(list(weights.values())))


def test_an_expert_alone_equals_the_same_training_by_hand(tmp_path: Path, make_stream, vocabulary):
    from mixloom.trainers.trainer import train

    config = ModelConfig(dim=16, layers=1, heads=2)
    first = train(make_stream(), vocabulary, config, QUICK, tmp_path / "seed", on_record=quiet)
    start = load_file(first.checkpoint / "model.safetensors")
    [made] = branch(
        start, {"x": make_stream()}, vocabulary, config, QUICK, tmp_path, on_record=quiet
    ).values()
    again = train(make_stream(), vocabulary, config, QUICK, tmp_path / "y", start=start, on_record=quiet)
    assert (made.checkpoint / "model.safetensors").read_bytes() == (
        again.checkpoint / "model.safetensors"
    ).read_bytes()
    assert made.loss_first < first.loss_first, "it begins where the seed ended"


def test_every_domain_of_some_shards_is_a_stream_of_its_own(tmp_path, vocabulary):
    from mixloom.pipeline.manifest import build_manifest
    from mixloom.pipeline.shard_reader import ShardReader
    from mixloom.pipeline.shards import Context, write_shard
    from mixloom.trainers.experts import domain_streams

    entries = []
    for d, name in enumerate(("domain-000", "domain-001")):
        contexts = [
            Context(np.full(16, 256 + 100 * d + i, np.uint16), [16], [f"{d}-{i}"], ["s"], [0])
            for i in range(8)
        ]
        shard = f"{name}-00000-of-00001.tar"
        entries.append(
            write_shard(
                tmp_path,
                shard,
                name,
                iter(contexts),
                prefix=f"d{d}",
                seq_len=16,
                vocabulary=vocabulary,
                block=4,
            )
        )
    build_manifest(entries, vocabulary, seq_len=16, config_fingerprint="x").save(tmp_path)
    reader = ShardReader(tmp_path)
    streams = domain_streams(reader, seed=0, batch_contexts=2, steps=8, max_epochs=2)
    assert list(streams) == ["domain-000", "domain-001"]
    for d, stream in enumerate(streams.values()):
        seen = [stream.batch_arrays(step) for step in range(8)]
        assert {int(x) // 100 for ids, _, _ in seen for x in ids[:, 0] - 256} == {d}
        assert sorted(n for step in range(4) for n in stream.documents(step)) == [
            f"{d}-{i}" for i in range(8)
        ]
    with pytest.raises(UserError, match="epochs"):
        domain_streams(reader, seed=0, batch_contexts=2, steps=80, max_epochs=2)
