from __future__ import annotations

import pytest
import torch

from mixloom.pipeline.errors import UserError
from mixloom.trainers.config import DENSE, ModelConfig, TrainConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.export import export_model, export_transformers, load_checkpoint_model, load_exported
from mixloom.trainers.model import Model
from mixloom.trainers.trainer import train


def model_of(**options) -> Model:
    model = Model(
        ModelConfig(dim=32, layers=2, heads=4, vocab_size=1024, seq_len=64, init_std=0.1, **options)
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # norms that are not all ones, so that a mistake in their names shows
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.rand(parameter.shape, generator=generator))
    return model


def logits(model: Model, ids, vocabulary):
    batch = make_batch(ids, [[ids.shape[1]]] * ids.shape[0], modality_table(vocabulary))
    hidden = model(model.rows(batch, "mask", torch.float32))
    order = model.order(batch)
    return (hidden if order is None else hidden[batch.inverse]) @ model.head_weight.t()


@pytest.mark.parametrize(
    "options", [{}, {"untie": DENSE, "tie_embeddings": True}, {"norm": "swin", "qk_norm": True}]
)
def test_an_exported_model_comes_back_with_equal_logits(tmp_path, make_contexts, vocabulary, options):
    model = model_of(**options)
    export_model(model, vocabulary, tmp_path)
    loaded, loaded_vocabulary = load_exported(tmp_path)
    ids = make_contexts()[0]
    assert loaded_vocabulary == vocabulary
    assert loaded.config == model.config
    assert torch.equal(logits(loaded, ids, vocabulary), logits(model, ids, vocabulary))


def test_a_training_checkpoint_becomes_a_model(tmp_path, make_stream, vocabulary):
    config = TrainConfig(steps=2, batch_contexts=3, device="cpu")
    made = train(
        make_stream(), vocabulary, ModelConfig(dim=32, layers=1), config, tmp_path, on_record=lambda r: None
    )
    model = load_checkpoint_model(made.checkpoint)
    assert model.config.vocab_size == 1024
    fresh = Model(model.config)
    assert not torch.equal(model.embedding, fresh.embedding)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"tie_embeddings": True}])
def test_a_dense_model_gives_the_same_logits_in_transformers(tmp_path, make_contexts, vocabulary, options):
    transformers = pytest.importorskip("transformers")
    model = model_of(untie=DENSE, **options)
    export_transformers(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = make_contexts()[0]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids.astype("int64"))).logits
    torch.testing.assert_close(
        logits(model, ids, vocabulary).view(expected.shape), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("options", [{}, {"untie": DENSE, "norm": "swin"}])
def test_what_is_not_a_llama_is_not_written_as_one(tmp_path, options):
    with pytest.raises(UserError, match="only a dense model with norm: pre is a Llama"):
        export_transformers(model_of(**options), tmp_path)


def test_a_folder_without_a_model_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="holds no exported model"):
        load_exported(tmp_path)


def test_a_folder_with_another_kind_of_model_is_refused_in_words(tmp_path):
    export_transformers(model_of(untie=DENSE), tmp_path)
    with pytest.raises(UserError, match="model_type is 'llama', not 'mixloom'"):
        load_exported(tmp_path)
