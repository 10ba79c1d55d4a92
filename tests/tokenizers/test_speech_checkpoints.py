import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codecs import load_speech_codec, make_speech_codec, speech_rate
from mixloom.tokenizers.settings import SpeechCodecConfig

RATES = {"mimi": 24_000, "encodec": 24_000, "dac": 16_000}
SIZE = 32


def sound(seed: int, samples: int) -> np.ndarray:
    """Tones that come and go in noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    t = np.arange(samples)
    wave = rng.normal(0, 0.02, samples)
    for _ in range(12):
        at, width = rng.uniform(0, samples), rng.uniform(500, 6000)
        wave += (
            rng.uniform(0.05, 0.4) * np.sin(t * rng.uniform(0.01, 1.5)) * np.exp(-(((t - at) / width) ** 2))
        )
    return wave.astype(np.float32)


def _mimi(directory: Path) -> None:
    from transformers import MimiConfig, MimiModel

    config = {
        "codebook_size": SIZE,
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
        "sliding_window": 25,
    }
    model = MimiModel(MimiConfig(**config))
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):  # a fresh model has an empty codebook
            buffer.normal_(0, 1)
        elif name.endswith("cluster_usage"):
            buffer.fill_(1)
    model.save_pretrained(directory)


def _encodec(directory: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    config = {
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_size": SIZE,
        "codebook_dim": 16,
        "num_lstm_layers": 1,
        "target_bandwidths": [0.375, 1.5],
    }
    model = EncodecModel(EncodecConfig(**config)).eval()
    with torch.no_grad():
        seen = model.encoder(torch.from_numpy(sound(1, 48_000))[None, None])[0].T
        for i, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.copy_(seen[torch.randperm(len(seen))[:SIZE]] * 0.5**i)
    model.save_pretrained(directory)


def _dac(directory: Path) -> None:
    from transformers import DacConfig, DacModel

    config = {
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 32,
        "codebook_size": SIZE,
        "n_codebooks": 3,
        "downsampling_ratios": [2, 4, 8, 8],
        "upsampling_ratios": [8, 8, 4, 2],
    }
    DacModel(DacConfig(**config)).save_pretrained(directory)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("speech")
    for kind, make in {"mimi": _mimi, "encodec": _encodec, "dac": _dac}.items():
        make(root / kind)
    return {kind: root / kind for kind in RATES}


def codec_of(checkpoints, kind: str, **options):
    config = SpeechCodecConfig(kind=kind, path=str(checkpoints[kind]), **options)
    codec, facts = make_speech_codec(config, [])
    assert facts == {"kind": kind}
    assert speech_rate(config) == codec.rate == RATES[kind]
    return codec


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize(("codebooks", "layout"), [(1, "frames"), (3, "frames"), (3, "delayed")])
def test_a_codec_model_speaks_what_it_heard(checkpoints, kind, codebooks, layout):
    codec = codec_of(checkpoints, kind, codebooks=codebooks, layout=layout)
    wave = sound(2, 30_001)
    units, durations = codec.encode(wave)
    steps = -(-len(wave) // codec.hop)
    assert codec.codebook_size == SIZE * codebooks
    assert codec.units_per_second == pytest.approx(codec.rate / codec.hop * codebooks)
    assert durations.sum() == steps * codebooks
    assert len(np.unique(units)) > 2 * codebooks
    assert units.max() < codec.codebook_size
    if codebooks > 1:
        assert (durations == 1).all()
        assert [len(np.unique(units // SIZE)), units[0] // SIZE] == [3, 0]
    again = codec.decode(units, durations)
    assert again.dtype == np.float32
    assert len(again) == pytest.approx(steps * codec.hop, abs=codec.hop)
    samples = torch.from_numpy(np.pad(wave, (0, -len(wave) % codec.hop)))[None, None]
    with torch.inference_mode():
        codes = codec._codes(samples)[:, :codebooks]
        assert np.allclose(again, codec._wave(codes).flatten().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", RATES)
def test_a_recording_has_the_same_units_in_any_company_also_where_pieces_share_a_pass(checkpoints, kind):
    """What a GPU does, on a processor: whole pieces of long recordings go through the model three at a time."""
    codec = codec_of(checkpoints, kind, chunk_seconds=0.3, context_seconds=0.1)
    waves = [sound(i, n * codec.rate // 5) for i, n in enumerate((1, 9, 6, 0, 14))]
    lone = [codec.encode(w) for w in waves]
    codec.at_once = 3
    shapes = []
    real = codec._codes
    codec._codes = lambda samples: shapes.append(len(samples)) or real(samples)
    alone = [codec.encode(w) for w in waves]
    assert set(shapes) == {1, 3}
    for chosen in ([4, 0, 1], [2, 4], [3], [0, 1, 2, 3, 4]):
        found = codec.encode_batch([waves[i] for i in chosen])
        for i, (units, durations) in zip(chosen, found, strict=True):
            assert np.array_equal(units, alone[i][0])
            assert np.array_equal(durations, alone[i][1])
    steps = [np.concatenate([np.repeat(*found) for found in some]) for some in (lone, alone)]
    assert (steps[0] == steps[1]).mean() > 0.9, "another number of rows rounds differently at most"


@pytest.mark.parametrize("kind", RATES)
def test_what_was_saved_points_to_the_checkpoint_and_loads_as_the_same(checkpoints, kind, tmp_path):
    codec = codec_of(checkpoints, kind, codebooks=2)
    codec.save(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    loaded = load_speech_codec(tmp_path)
    wave = sound(3, 20_000)
    assert (loaded.fingerprint, loaded.kind) == (codec.fingerprint, kind)
    assert loaded.encode(wave)[0].tolist() == codec.encode(wave)[0].tolist()
    fromsaved = SpeechCodecConfig(kind=kind, path=str(tmp_path))
    assert speech_rate(fromsaved) == RATES[kind]
    assert make_speech_codec(fromsaved, [])[0].fingerprint == codec.fingerprint
    assert codec_of(checkpoints, kind).fingerprint != codec.fingerprint


@pytest.mark.parametrize(("kind", "agreement"), [("dac", 0.99), ("encodec", 0.94), ("mimi", 0.98)])
def test_a_long_recording_in_pieces_has_the_codes_of_the_whole(checkpoints, kind, agreement):
    whole = codec_of(checkpoints, kind, collapse=False)
    pieces = codec_of(checkpoints, kind, collapse=False, chunk_seconds=1.5, context_seconds=2.0)
    wave = sound(4, 6 * RATES[kind] + 77)
    a, b = whole.encode(wave)[0], pieces.encode(wave)[0]
    assert len(a) == len(b)
    assert (a == b).mean() >= agreement
    alone = codec_of(checkpoints, kind, collapse=False, chunk_seconds=1.0, context_seconds=0.0).encode(wave)[
        0
    ]
    assert (a == alone).mean() < 1, "without context there are seams"


@pytest.mark.parametrize("kind", RATES)
def test_nothing_and_nonsense(checkpoints, kind):
    codec = codec_of(checkpoints, kind)
    units, durations = codec.encode(np.zeros(0, np.float32))
    assert (units.shape, durations.shape, codec.decode(units, durations).shape) == ((0,), (0,), (0,))
    with pytest.raises(ValueError, match="expected a wave float32"):
        codec.encode(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(np.full(4000, np.inf, np.float32))
    with pytest.raises(ValueError, match="not in 1 codebooks of 32"):
        codec.decode(np.array([SIZE]))
    with pytest.raises(ValueError, match="1 durations"):
        codec.decode(np.array([1]), np.array([1, 1]))


def test_more_codebooks_than_a_model_has_are_an_error(checkpoints):
    for kind, has in (("dac", 3), ("mimi", 4), ("encodec", 4)):
        with pytest.raises(UserError, match=f"codebooks is 9, but .* has {has}"):
            codec_of(checkpoints, kind, codebooks=9)
    with pytest.raises(ValueError, match="kind 'logmel' has one"):
        SpeechCodecConfig(codebooks=2)
    with pytest.raises(ValueError, match="needs `path`"):
        SpeechCodecConfig(kind="dac")


def test_a_changed_checkpoint_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints["dac"], tmp_path / "dac")
    codec, _ = make_speech_codec(SpeechCodecConfig(kind="dac", path=str(tmp_path / "dac")), [])
    codec.save(tmp_path / "run")
    file = tmp_path / "dac" / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not the one this run was tokenized with"):
        load_speech_codec(tmp_path / "run")
    save_file({k: v for k, v in tensors.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors"):
        make_speech_codec(SpeechCodecConfig(kind="dac", path=str(tmp_path / "dac")), [])
    shutil.rmtree(tmp_path / "dac")
    with pytest.raises(UserError, match="cannot load"):
        load_speech_codec(tmp_path / "run")


def test_an_encodec_that_needs_loudness_beside_its_codes_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints["encodec"], tmp_path / "e")
    file = tmp_path / "e" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalize": True}))
    with pytest.raises(UserError, match="needs the loudness"):
        make_speech_codec(SpeechCodecConfig(kind="encodec", path=str(tmp_path / "e")), [])
