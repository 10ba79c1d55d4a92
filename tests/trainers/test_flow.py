"""Images as vectors inside the model: noise, the two-way attention inside an image, the loss, and sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import DOC, END_DOC, END_IMAGE, IMAGE
from mixloom.trainers.checkpoint import latest_checkpoint
from mixloom.trainers.config import ModelConfig, TrainConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.export import load_checkpoint_model
from mixloom.trainers.flow import FlowHead, image_numbers, scaled_vectors, text_follows, with_flow_setting
from mixloom.trainers.generate import Cache, decode, generate, sample_image
from mixloom.trainers.hashed import normal, uniform
from mixloom.trainers.model import Model
from mixloom.trainers.model_config import FlowConfig
from mixloom.trainers.step import batch_losses
from mixloom.trainers.trainer import train

FLOW = {"channels": 3, "codes": 32, "first": 512}
SMALL = {"dim": 32, "layers": 2, "heads": 4, "vocab_size": 1024, "seq_len": 64, "init_std": 0.1}
KINDS = [{"untie": ("attention", "ffn", "norm")}, {"untie": ()}]
VECTORS = np.random.Generator(np.random.PCG64(0)).normal(size=(32, 3)).astype(np.float32)


def model_of(**options) -> Model:
    flow = {**FLOW, **options.pop("flow", {})}
    model = Model(ModelConfig(**{**SMALL, **options}, flow=FlowConfig(**flow)))
    model.flow.vectors.data.copy_(torch.from_numpy(scaled_vectors(VECTORS)))
    return model


@pytest.fixture
def batch_of(make_contexts, vocabulary):
    table = modality_table(vocabulary)

    def make(**options):
        ids, lengths, domains = make_contexts(**options)
        return make_batch(ids, lengths, table, domains=domains)

    return make


def hidden(model, batch, **options):
    out = model(model.rows(batch, "mask", torch.float32, **options))
    return out if model.order(batch) is None else out[batch.inverse]


def document(text=5, image=(512, 513, 514, 515), after=6):
    body = [DOC, *range(300, 300 + text), IMAGE, *image, END_IMAGE, *range(320, 320 + after), END_DOC]
    return np.array(body, np.uint16)


def one(ids, vocabulary):
    return make_batch(ids[None], [np.array([len(ids)])], modality_table(vocabulary))


@pytest.mark.parametrize("options", KINDS)
def test_tokens_of_an_image_see_each_other_and_nothing_before_it_does(vocabulary, options, monkeypatch):
    model, ids = model_of(**options), document()
    first = 7  # the first code
    monkeypatch.setattr(FlowHead, "noised", lambda self, ids, images, salt: self.clean(ids.reshape(-1)))
    before = hidden(model, one(ids, vocabulary))
    later = ids.copy()
    later[first + 3] = 530  # the last code of the image
    after = hidden(model, one(later, vocabulary))
    torch.testing.assert_close(after[:first], before[:first], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[first], before[first], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", KINDS)
def test_text_sees_nothing_ahead(vocabulary, options, monkeypatch):
    model, ids = model_of(**options), document()
    monkeypatch.setattr(FlowHead, "noised", lambda self, ids, images, salt: self.clean(ids.reshape(-1)))
    before = hidden(model, one(ids, vocabulary))
    changed = ids.copy()
    changed[-3] = 400
    after = hidden(model, one(changed, vocabulary))
    cut = len(ids) - 3
    torch.testing.assert_close(after[:cut], before[:cut], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[cut], before[cut], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", KINDS)
def test_reading_with_a_cache_equals_reading_at_once(vocabulary, options, monkeypatch):
    model, ids = model_of(**options).eval(), document()
    monkeypatch.setattr(FlowHead, "noised", lambda self, ids, images, salt: self.clean(ids.reshape(-1)))
    full = hidden(model, one(ids, vocabulary)) @ model.head_weight.t()
    table, cache = modality_table(vocabulary), Cache(model, len(ids), torch.float32)
    torch.testing.assert_close(decode(model, cache, ids[:7].tolist(), table), full[6], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        decode(model, cache, ids[7:11].tolist(), table), full[10], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(decode(model, cache, ids[11:].tolist(), table), full[-1], rtol=1e-4, atol=1e-4)


def test_images_are_numbered_run_by_run_and_never_across_documents():
    image = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0]]).bool()
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]])
    assert image_numbers(image, documents).tolist() == [[-1, 0, 0, -1, 1, 1, 2, -1]]


def test_text_right_after_an_image_is_seen():
    ids = torch.from_numpy(np.stack([document(), np.roll(document(after=6), 0)]).astype(np.int64))
    ids[1, 12] = IMAGE  # behind </image> stands no text but another image's beginning
    images = torch.full_like(ids, -1)
    images[:, 7:11] = 0
    found = text_follows(ids, images)
    assert found[0, 7:11].all()
    assert not found[1].any()
    assert not found[0, :7].any()


def test_noise_belongs_to_the_context_and_the_salt_alone(batch_of):
    head, batch = model_of().flow, batch_of(contexts=3, seed=2)
    ids = batch.input_ids.view(batch.shape)
    images = image_numbers(head.is_image(ids), batch.documents)
    whole = head.noised(ids, images, 5)
    rows = torch.arange(batch.shape[1])
    second = head.noised(ids[1:2], images[1:2], 5)
    torch.testing.assert_close(second.x, whole.x[len(rows) : 2 * len(rows)], rtol=0, atol=0)
    assert not torch.equal(head.noised(ids, images, 6).x, whole.x)
    assert float(whole.times.min()) >= 0 and float(whole.times.max()) <= 1  # noqa: PT018
    torch.testing.assert_close(
        whole.x + (1 - whole.times[:, None]) * whole.velocity, head.vectors_of(batch.input_ids)
    )


def test_hashed_numbers_are_uniform_and_normal():
    seeds = torch.arange(40000)
    flat, bell = uniform(seeds, 2), normal(seeds, 2)
    assert abs(float(flat.mean()) - 0.5) < 0.01
    assert abs(float(bell.mean())) < 0.02
    assert abs(float(bell.std()) - 1) < 0.02
    assert abs(float(torch.corrcoef(bell.t())[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([bell[1:, 0], bell[:-1, 0]]))[0, 1])) < 0.02


@pytest.mark.parametrize("options", KINDS)
def test_the_loss_of_an_image_token_is_its_squared_error_and_text_keeps_its_cross_entropy(batch_of, options):
    model, batch = model_of(**options), batch_of(contexts=2)
    losses = batch_losses(model, batch, "mask", torch.float32, 32, salt=3)
    assert losses.counts.tolist() == batch.target_counts
    seen = hidden(model, batch, salt=3)
    noised = model.flow.noised(
        batch.input_ids.view(batch.shape),
        image_numbers(model.flow.is_image(batch.input_ids.view(batch.shape)), batch.documents),
        3,
    )
    error = (model.flow.velocity(seen) - noised.velocity).square().mean(1)
    logs = torch.log_softmax(seen @ model.head_weight.t(), dim=1)
    expected = [0.0, 0.0, 0.0]
    for i, target in enumerate(batch.targets.tolist()):
        if 512 <= target < 544:
            expected[1] += error[i + 1].item()
        elif target >= 0:
            expected[2 if target >= 768 else 0] += -logs[i, target].item()
    np.testing.assert_allclose(losses.sums.numpy(), expected, rtol=1e-4)
    total = expected[0] + expected[2] + 5.0 * expected[1]
    np.testing.assert_allclose(losses.total.item(), total, rtol=1e-4)


@pytest.mark.parametrize("options", KINDS)
def test_every_parameter_learns_but_the_vectors(batch_of, options):
    model = model_of(**options)
    batch_losses(model, batch_of(contexts=4), "mask", torch.float32, 32).total.backward()
    for name, parameter in model.named_parameters():
        if name == "flow.vectors":
            assert parameter.grad is None
        else:
            assert bool(parameter.grad.abs().sum() > 0), name


class Same:
    """Documents that all hold the same image."""

    def __init__(self, contexts):
        self.contexts = contexts

    def batch_arrays(self, step):
        ids = np.stack([document()] * self.contexts)
        rng = np.random.Generator(np.random.PCG64(step))
        ids[:, 1:6] = rng.integers(
            300, 400, (self.contexts, 5)
        )  # no two contexts alike: they would have the same noise
        return ids, [np.array([ids.shape[1]])] * self.contexts, np.zeros(self.contexts, np.int32)

    def state(self, step):
        return {"step": step}

    def check(self, state):
        pass

    def documents(self, step):
        return []


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    names = [("special", 0, 256, 104, 0), ("text", 256, 256, 256, 0), ("image", 512, 256, 32, 1)]
    ranges = [
        {"name": n, "start": a, "size": s, "used": u, "modality": m, "fingerprint": ""}
        for n, a, s, u, m in names
    ]
    vocabulary = {
        "version": 1,
        "size": 768,
        "pad": 0,
        "dtype": "uint16",
        "ranges": ranges,
        "fingerprint": "f",
    }
    folder = tmp_path_factory.mktemp("flow")
    model = ModelConfig(dim=48, layers=2, heads=4, modalities=2, flow=FlowConfig(steps=16))
    config = TrainConfig(
        steps=250, batch_contexts=16, lr=4e-3, min_lr=4e-4, log_every=50, checkpoint_every=0, threads=1
    )
    result = train(
        Same(16), vocabulary, model, config, folder, image_vectors=VECTORS, on_record=lambda r: None
    )
    return load_checkpoint_model(latest_checkpoint(folder / "checkpoints")), vocabulary, result


def test_a_model_that_has_seen_one_image_samples_it(trained):
    model, vocabulary, result = trained
    assert result.loss_last_by_modality["image"] < 0.5 * result.loss_first_by_modality["image"]
    table, cache = modality_table(vocabulary), Cache(model, 32, torch.float32)
    decode(model, cache, document()[:7].tolist(), table)
    found = sample_image(model, cache, 4, table, np.random.Generator(np.random.PCG64(1)))
    assert found == [512, 513, 514, 515]
    assert cache.length == 7


def test_generated_documents_hold_whole_images(trained):
    model, vocabulary, _ = trained
    tokens = generate(
        model, vocabulary, document()[:6].tolist(), image_tokens=4, max_tokens=19, temperature=0.0
    )
    assert tokens[6:12] == [IMAGE, 512, 513, 514, 515, END_IMAGE]
    assert tokens == generate(
        model, vocabulary, document()[:6].tolist(), image_tokens=4, max_tokens=19, temperature=0.0
    )


def test_the_vectors_of_the_codec_are_kept_in_the_checkpoint(trained):
    model, _, _ = trained
    np.testing.assert_allclose(model.flow.vectors.detach().numpy(), scaled_vectors(VECTORS), rtol=1e-6)
    assert model.config.flow.codes == 32
    assert model.flow.nearest(model.flow.vectors[[4, 9]]).tolist() == [516, 521]


def test_a_flow_loss_without_vectors_is_told(vocabulary):
    config = ModelConfig(**SMALL, flow=FlowConfig())
    with pytest.raises(UserError, match=r"model\.flow learns images as vectors, but none are given"):
        with_flow_setting(config, vocabulary, None)
    with pytest.raises(
        UserError, match="31 vectors of image codes are given, but the vocabulary has 32 codes"
    ):
        with_flow_setting(config, vocabulary, VECTORS[:31])
    with pytest.raises(ValueError, match=r"flow\.codes is 0"):
        Model(config)


@pytest.mark.parametrize(("codes", "text"), [([], "lacks 4 codes"), ([512, 513], "draws whole images only")])
def test_an_image_that_cannot_be_drawn_whole_is_refused(vocabulary, codes, text):
    with pytest.raises(UserError, match=text):
        generate(model_of(), vocabulary, [DOC, IMAGE, *codes], image_tokens=4, max_tokens=7)
