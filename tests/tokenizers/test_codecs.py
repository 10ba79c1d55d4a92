import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codecs import (
    load_image_codec,
    load_speech_codec,
    make_image_codec,
    make_speech_codec,
    speech_rate,
)
from mixloom.tokenizers.settings import ImageCodecConfig, SpeechCodecConfig

RNG = np.random.Generator(np.random.PCG64(0))
PICTURES = RNG.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
WAVE = (RNG.normal(0, 0.1, 24_000)).astype(np.float32)

CHAMELEON = {
    "num_embeddings": 64,
    "embed_dim": 16,
    "latent_channels": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
    "resolution": 32,
}
EMU3 = {
    "codebook_size": 64,
    "embed_dim": 4,
    "latent_channels": 4,
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
    "hidden_size": 64,
    "attn_resolutions": [],
}
JANUS = {
    "num_embeddings": 64,
    "embed_dim": 8,
    "latent_channels": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "projection_dim": 16,
    "image_token_embed_dim": 16,
}
DALLE = {"num_groups": 4, "hidden_size": 8, "num_blocks_per_group": 1, "vocab_size": 64}
MIMI = {
    "codebook_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "num_filters": 4,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 32,
    "num_quantizers": 4,
}


def _spread(codebook: torch.nn.Embedding, latents: torch.Tensor) -> None:
    """Fill a codebook with latents the encoder really makes, so that pictures get many different codes."""
    vectors = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    codebook.weight.data.copy_(vectors[torch.randperm(len(vectors))[: len(codebook.weight)]])


def _chameleon(directory: Path, config: dict = CHAMELEON) -> Path:
    from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

    torch.manual_seed(0)
    model = ChameleonVQVAE(ChameleonVQVAEConfig(**config)).eval()
    with torch.no_grad():
        _spread(model.quantize.embedding, model.quant_conv(model.encoder(torch.rand(4, 3, 64, 64) * 2 - 1)))
    model.save_pretrained(directory)
    return directory


def _emu3(directory: Path) -> Path:
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    torch.manual_seed(0)
    model = Emu3VQVAE(Emu3VQVAEConfig(**EMU3))
    model.quantize.embedding.weight.data.normal_(0, 0.3)
    model.save_pretrained(directory)
    return directory


def _janus(directory: Path) -> Path:
    from transformers import JanusVQVAE, JanusVQVAEConfig

    torch.manual_seed(0)
    model = JanusVQVAE(JanusVQVAEConfig(**JANUS)).eval()
    with torch.no_grad():
        _spread(model.quantize.embedding, model.quant_conv(model.encoder(torch.rand(4, 3, 64, 64) * 2 - 1)))
        model.quantize.embedding.weight *= torch.linspace(0.2, 5, 64)[:, None]  # lengths must not matter
    model.save_pretrained(directory)
    return directory


def _dalle(directory: Path) -> Path:
    from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

    torch.manual_seed(0)
    model = FlavaImageCodebook(FlavaImageCodebookConfig(**DALLE))
    with torch.no_grad():  # scores that differ from patch to patch, or one code would always win
        output = model.blocks.output.conv
        seen = torch.relu(model.blocks[:-1](torch.rand(4, 3, 64, 64))).mean(dim=(0, 2, 3))
        output.weight.normal_(0, 1)
        output.bias.copy_(-output.weight[:, :, 0, 0] @ seen)
    model.save_pretrained(directory)
    return directory


def _mimi(directory: Path) -> Path:
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    model = MimiModel(MimiConfig(**MIMI))
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):  # a fresh model has an empty codebook
            buffer.normal_(0, 1)
        elif name.endswith("cluster_usage"):
            buffer.fill_(1)
    model.save_pretrained(directory)
    return directory


def _drop_tensor(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(t for t in tensors if "conv" in t)[0])
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory):
    return _chameleon(tmp_path_factory.mktemp("chameleon"))


@pytest.fixture(scope="module")
def emu3(tmp_path_factory):
    return _emu3(tmp_path_factory.mktemp("emu3"))


@pytest.fixture(scope="module")
def mimi(tmp_path_factory):
    return _mimi(tmp_path_factory.mktemp("mimi"))


def test_a_chameleon_checkpoint_gives_the_ids_of_the_model_itself(chameleon, tmp_path):
    from transformers import ChameleonVQVAE

    config = ImageCodecConfig(kind="chameleon", path=str(chameleon), size=32)
    codec, facts = make_image_codec(config, [])
    ids = codec.encode(PICTURES)
    assert (facts["kind"], codec.tokens, codec.codebook_size) == ("chameleon", 64, 64)
    model = ChameleonVQVAE.from_pretrained(chameleon).eval()
    pixels = torch.from_numpy(PICTURES).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        expected = model.encode(pixels).image_tokens.view(3, -1).numpy()
    assert (ids == expected).mean() > 0.99
    assert len(np.unique(ids)) > 5
    codec.save(tmp_path)
    assert (load_image_codec(tmp_path).encode(PICTURES) == ids).all()
    assert not codec.can_decode
    with pytest.raises(UserError, match="cannot draw"):
        codec.decode(ids)


def test_an_emu3_checkpoint_encodes_and_draws(emu3, tmp_path):
    from transformers import Emu3VQVAE

    config = ImageCodecConfig(kind="emu3", path=str(emu3), size=32)
    codec, _ = make_image_codec(config, [])
    ids = codec.encode(PICTURES)
    assert ids.shape == (3, 256)
    assert len(np.unique(ids)) > 5
    drawn = codec.decode(ids)
    assert (drawn.dtype, drawn.shape) == (np.uint8, PICTURES.shape)
    model = Emu3VQVAE.from_pretrained(emu3).eval()
    with torch.no_grad():
        raw = model.decode(torch.from_numpy(ids[:1].reshape(1, 16, 16))).reshape(3, 32, 32)
    mean, deviation = torch.tensor(codec.mean).view(3, 1, 1), torch.tensor(codec.deviation).view(3, 1, 1)
    expected = ((raw * deviation + mean).clamp(0, 1) * 255).round().movedim(0, -1).numpy()
    assert np.abs(drawn[0].astype(float) - expected).max() <= 1
    codec.save(tmp_path)
    assert load_image_codec(tmp_path).fingerprint == codec.fingerprint


def test_a_mimi_checkpoint_gives_its_first_codebook_and_speaks(mimi, tmp_path):
    config = SpeechCodecConfig(kind="mimi", path=str(mimi), collapse=False)
    codec, _ = make_speech_codec(config, [])
    assert (codec.rate, speech_rate(config), codec.codebook_size) == (24_000, 24_000, 32)
    units, durations = codec.encode(WAVE)
    assert len(units) == 13
    assert (durations == 1).all()
    assert len(np.unique(units)) > 2
    assert codec.decode(units).shape == (13 * 1920,)
    collapsed, _ = make_speech_codec(config.model_copy(update={"collapse": True}), [])
    short, lengths = collapsed.encode(WAVE)
    assert np.repeat(short, lengths).tolist() == units.tolist()
    assert collapsed.fingerprint != codec.fingerprint
    codec.save(tmp_path)
    assert load_speech_codec(tmp_path).encode(WAVE)[0].tolist() == units.tolist()
    assert len(codec.encode(np.zeros(0, np.float32))[0]) == 0


@pytest.fixture(scope="module")
def janus(tmp_path_factory):
    return _janus(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def dalle(tmp_path_factory):
    return _dalle(tmp_path_factory.mktemp("dalle"))


def test_a_janus_checkpoint_takes_the_nearest_code_by_angle_as_it_draws(janus, tmp_path):
    from transformers import JanusVQVAE

    codec, _ = make_image_codec(ImageCodecConfig(kind="janus", path=str(janus), size=32), [])
    ids = codec.encode(PICTURES)
    assert (ids.shape, codec.tokens, codec.codebook_size) == ((3, 64), 64, 64)
    model = JanusVQVAE.from_pretrained(janus).eval()
    pixels = torch.from_numpy(PICTURES).movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        latents = model.quant_conv(model.encoder(pixels)).movedim(1, -1).reshape(3, 64, 1, 8)
        angles = torch.nn.functional.cosine_similarity(latents, model.quantize.embedding.weight, dim=-1)
        chosen = angles.gather(-1, torch.from_numpy(ids)[..., None])[..., 0]
        assert torch.allclose(chosen, angles.amax(-1), atol=1e-5)
        model.quantize.quant_state_dims = [8, 8]
        drawn = model.decode(torch.from_numpy(ids[:1]))[0]
    assert len(np.unique(ids)) > 5
    expected = ((drawn.clamp(-1, 1) + 1) * 127.5).round().movedim(0, -1).numpy()
    assert np.abs(codec.decode(ids)[0].astype(float) - expected).max() <= 1
    codec.save(tmp_path)
    assert (load_image_codec(tmp_path).encode(PICTURES) == ids).all()


def test_a_dalle_checkpoint_gives_the_indices_of_its_own_pixels(dalle):
    from transformers import FlavaImageCodebook

    codec, _ = make_image_codec(ImageCodecConfig(kind="dalle", path=str(dalle), size=32), [])
    ids = codec.encode(PICTURES)
    assert (ids.shape, codec.codebook_size, codec.can_decode) == ((3, 16), 64, False)
    model = FlavaImageCodebook.from_pretrained(dalle).eval()
    mapped = torch.from_numpy(PICTURES).movedim(-1, 1).float() / 255 * 0.8 + 0.1
    with torch.no_grad():
        expected = model.get_codebook_indices(mapped).reshape(3, -1).numpy()
    assert (ids == expected).mean() > 0.95
    assert len(np.unique(ids)) > 3


@pytest.mark.parametrize("kind", ["chameleon", "emu3", "janus", "dalle"])
def test_codes_do_not_depend_on_the_batch_and_batches_give_the_same_shapes(kind, request):
    """One at a time on a CPU whatever the call; in micro-batches, as on a GPU, all but borderline codes agree."""
    path = request.getfixturevalue(kind)
    codec, _ = make_image_codec(ImageCodecConfig(kind=kind, path=str(path), size=32, micro_batch=2), [])
    ids = codec.encode(PICTURES)
    assert (np.concatenate([codec.encode(p[None]) for p in PICTURES]) == ids).all()
    assert (codec.encode(PICTURES[::-1])[::-1] == ids).all()
    assert (codec.encode_batch([PICTURES[0], Image.fromarray(PICTURES[1])]) == ids[:2]).all()
    assert codec.encode_batch([]).shape == (0, codec.tokens)
    codec.at_once = 2
    batched = codec.encode(PICTURES)
    assert (batched == ids).mean() > 0.97
    assert (codec.encode_batch(list(PICTURES)) == batched).all()
    if codec.can_decode:
        drawn = codec.decode(ids).astype(float)
        codec.at_once = 1
        assert np.abs(drawn - codec.decode(ids)).max() <= 2


def test_a_hub_id_is_found_in_the_cache_and_never_fetched_unasked(chameleon, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = ImageCodecConfig(kind="chameleon", path="some-lab/codec", size=32)
    with pytest.raises(UserError, match=r"some-lab/codec is no directory.*in the hub's cache") as error:
        make_image_codec(config, [])
    assert "download: true" in str(error.value)
    revision = "0" * 40
    model = tmp_path / "models--some-lab--codec"
    shutil.copytree(chameleon, model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    codec, _ = make_image_codec(config, [])
    alone, _ = make_image_codec(config.model_copy(update={"path": str(chameleon)}), [])
    assert codec.fingerprint == alone.fingerprint


@pytest.mark.parametrize(
    ("kind", "make"),
    [("chameleon", _chameleon), ("emu3", _emu3), ("janus", _janus), ("dalle", _dalle), ("mimi", _mimi)],
)
def test_a_checkpoint_that_lacks_a_tensor_is_refused(kind, make, tmp_path):
    _drop_tensor(make(tmp_path))
    if kind == "mimi":
        with pytest.raises(UserError, match="lacks 1 tensors"):
            make_speech_codec(SpeechCodecConfig(kind=kind, path=str(tmp_path)), [])
    else:
        with pytest.raises(UserError, match="lacks 1 tensors"):
            make_image_codec(ImageCodecConfig(kind=kind, path=str(tmp_path), size=32), [])


@pytest.mark.parametrize("complete", [True, False])
def test_the_codec_inside_a_language_model_is_found(chameleon, tmp_path, complete):
    """A whole checkpoint keeps the codec under model.vqmodel; only the codec's tensors are read."""
    from transformers import ChameleonConfig

    text = {"vocab_size": 80, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    vocabulary_map = {f"IMGIMG{chr(65 + i // 26)}{chr(65 + i % 26)}Z": 4 + i for i in range(64)} | {
        "<image>": 70
    }
    ChameleonConfig(vq_config=CHAMELEON, vocabulary_map=vocabulary_map, **text).save_pretrained(tmp_path)
    inner = {f"model.vqmodel.{k}": v for k, v in load_file(chameleon / "model.safetensors").items()}
    if not complete:
        inner.pop("model.vqmodel.quantize.embedding.weight")
    inner["model.embed_tokens.weight"] = torch.zeros(80, 16)
    save_file(inner, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = ImageCodecConfig(kind="chameleon", path=str(tmp_path), size=32)
    if not complete:
        with pytest.raises(UserError, match=r"lacks 1 tensors, among them quantize\.embedding\.weight"):
            make_image_codec(config, [])
        return
    alone, _ = make_image_codec(config.model_copy(update={"path": str(chameleon)}), [])
    codec, _ = make_image_codec(config, [])
    assert codec.fingerprint == alone.fingerprint
    assert (codec.encode(PICTURES) == alone.encode(PICTURES)).all()


def test_a_checkpoint_of_another_kind_is_refused(emu3, tmp_path):
    with pytest.raises(UserError, match="holds no 'chameleon_vqgan' model"):
        make_image_codec(ImageCodecConfig(kind="chameleon", path=str(emu3), size=32), [])
    with pytest.raises(UserError, match="cannot load"):
        make_image_codec(ImageCodecConfig(kind="chameleon", path=str(tmp_path), size=32), [])


def test_a_checkpoint_that_changed_since_the_run_is_refused(tmp_path):
    source = _chameleon(tmp_path / "model")
    make_image_codec(ImageCodecConfig(kind="chameleon", path=str(source), size=32), [])[0].save(
        tmp_path / "run"
    )
    tensors = load_file(source / "model.safetensors")
    tensors["quantize.embedding.weight"] += 1
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not the one this run was tokenized with"):
        load_image_codec(tmp_path / "run")


def test_a_size_the_model_cannot_cut_is_refused(tmp_path):
    deep = CHAMELEON | {"channel_multiplier": [1, 1, 1, 1, 1]}
    config = ImageCodecConfig(kind="chameleon", path=str(_chameleon(tmp_path, deep)), size=24)
    with pytest.raises(UserError, match="size 24 is not a multiple of 16"):
        make_image_codec(config, [])


def test_embedded_codecs_are_fitted_saved_and_loaded_by_kind(tmp_path):
    done = []
    config = ImageCodecConfig(size=16, steps=3, crops=8, width=16, blocks=1, batch=4)
    image, facts = make_image_codec(config, iter(PICTURES), lambda n, of: done.append((n, of)))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert {"kind", "loss", "tokens", "held_out", "psnr", "codes_used", "perplexity"} == set(facts)
    speech_config = SpeechCodecConfig(units=8)
    speech, heard = make_speech_codec(speech_config, iter([WAVE]))
    assert (heard["kind"], heard["units"], speech_rate(speech_config)) == ("logmel", 8, 16_000)
    image.save(tmp_path / "image")
    speech.save(tmp_path / "speech")
    assert load_image_codec(tmp_path / "image").fingerprint == image.fingerprint
    assert load_speech_codec(tmp_path / "speech").fingerprint == speech.fingerprint
    reused, _ = make_image_codec(ImageCodecConfig(path=str(tmp_path / "image")), [])
    assert reused.fingerprint == image.fingerprint


def test_every_tenth_picture_is_held_out_of_the_fit_and_shown():
    config = ImageCodecConfig(size=16, steps=3, crops=32, width=16, blocks=1, batch=4)
    pictures = [np.full((16, 16, 3), 10 * i, np.uint8) for i in range(25)]
    shown = []
    codec, facts = make_image_codec(config, pictures, show=lambda *pair: shown.append(pair))
    assert facts["held_out"] == 2
    assert "psnr_held_out" in facts
    ((held, drawn),) = shown
    assert (held == np.stack([pictures[9], pictures[19]])).all()
    assert (drawn == codec.decode(codec.encode(held))).all()
    for changed, same in (((9, 19), True), ((8,), False)):  # what is held out has no say in the fit
        others = [p[::-1, ::-1] // 2 + 100 if i in changed else p for i, p in enumerate(pictures)]
        again, _ = make_image_codec(config, others)
        assert (again.fingerprint == codec.fingerprint) == same
    few: list = []
    _, facts = make_image_codec(config, pictures[:9], show=lambda *pair: few.append(pair))
    assert (facts["held_out"], len(few[0][0])) == (0, 9)


def test_an_unknown_kind_is_named_with_what_is_allowed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "chameleom"}))
    with pytest.raises(
        UserError,
        match=r"'chameleom' \(did you mean 'chameleon'\?\); allowed: fsq, chameleon, emu3, janus, dalle",
    ):
        load_image_codec(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        load_speech_codec(tmp_path / "nowhere")
