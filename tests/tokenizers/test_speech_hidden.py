import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codecs import load_speech_codec, make_speech_codec, speech_rate
from mixloom.tokenizers.melspectrum import RATE, spectral_convergence
from mixloom.tokenizers.settings import SpeechCodecConfig

KINDS = {
    "hubert": ("HubertConfig", "HubertModel"),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"),
    "wavlm": ("WavLMConfig", "WavLMModel"),
}
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def sound(seed: int, samples: int) -> np.ndarray:
    """Noise and tones that take turns."""
    rng = np.random.Generator(np.random.PCG64(seed))
    wave = np.zeros(samples)
    for at in range(0, samples, 1600):
        n = min(1600, samples - at)
        tone = np.sin(np.arange(n) * rng.choice([0.05, 0.2, 0.6, 1.5]))
        wave[at : at + n] = (tone if rng.random() < 0.7 else rng.normal(0, 1, n)) * rng.uniform(0.05, 0.4)
    return wave.astype(np.float32)


CLIPS = [sound(i, 2 * RATE) for i in range(3)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    import transformers

    root = tmp_path_factory.mktemp("hidden")
    torch.manual_seed(0)
    for kind, (config, model) in KINDS.items():
        extra = {"num_buckets": 32} if kind == "wavlm" else {}
        getattr(transformers, model)(getattr(transformers, config)(**TINY, **extra)).save_pretrained(
            root / kind
        )
    return {kind: root / kind for kind in KINDS}


def config_of(checkpoints, kind: str, **options) -> SpeechCodecConfig:
    return SpeechCodecConfig(
        **{"kind": kind, "path": str(checkpoints[kind]), "layer": 2, "units": 20, **options}
    )


@pytest.fixture(scope="module")
def fitted(checkpoints):
    return {kind: make_speech_codec(config_of(checkpoints, kind), CLIPS) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_a_layer_come_at_50_a_second_and_can_be_heard(checkpoints, fitted, kind):
    codec, facts = fitted[kind]
    assert (codec.kind, codec.codebook_size, codec.units_per_second, codec.rate) == (kind, 20, 50, RATE)
    assert speech_rate(config_of(checkpoints, kind)) == RATE
    assert {k: facts[k] for k in ("kind", "seconds", "steps", "units", "fitted_on")} == {
        "kind": kind,
        "seconds": 6.0,
        "steps": 300,
        "units": 20,
        "fitted_on": 3,
    }
    wave = CLIPS[1][:20_001]
    units, durations = codec.encode(wave)
    assert durations.sum() == -(-len(wave) // 320) == 63
    assert len(np.unique(units)) > 4
    again = codec.decode(units, durations)
    assert len(again) == 63 * 320
    padded = np.pad(wave, (0, len(again) - len(wave)))
    shuffled = codec.decode(np.random.Generator(np.random.PCG64(0)).permutation(units), durations)
    assert spectral_convergence(padded, again) < spectral_convergence(padded, shuffled)


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_what_the_whole_model_says_in_that_layer(checkpoints, fitted, kind):
    import transformers

    model = getattr(transformers, KINDS[kind][1]).from_pretrained(checkpoints[kind]).eval()
    wave = CLIPS[0][: 320 * 40]
    scaled = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.inference_mode():
        samples = torch.from_numpy(np.pad(scaled, 40))[None]
        states = model(samples, output_hidden_states=True).hidden_states[2][0].numpy()
    points = fitted[kind][0].features.points(wave)
    assert points.shape == states.shape == (40, 16)
    assert np.allclose(points, states, atol=1e-4)


def test_what_was_saved_holds_centroids_and_a_pointer(checkpoints, fitted, tmp_path):
    codec, _ = fitted["hubert"]
    codec.save(tmp_path)
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".npy"}
    loaded = load_speech_codec(tmp_path)
    assert loaded.fingerprint == codec.fingerprint
    assert loaded.encode(CLIPS[2])[0].tolist() == codec.encode(CLIPS[2])[0].tolist()
    again, facts = make_speech_codec(SpeechCodecConfig(kind="hubert", path=str(tmp_path)), [])
    assert again.fingerprint == codec.fingerprint
    assert facts == {"kind": "hubert"}
    np.save(tmp_path / "centroids.npy", np.load(tmp_path / "centroids.npy") + 1)
    with pytest.raises(UserError, match="have changed since it was fitted"):
        load_speech_codec(tmp_path)
    (tmp_path / "centroids.npy").unlink()
    with pytest.raises(UserError, match="cannot load"):
        load_speech_codec(tmp_path)


def test_the_fit_repeats_and_depends_on_the_layer(checkpoints, fitted):
    config = config_of(checkpoints, "hubert")
    assert make_speech_codec(config, iter(CLIPS))[0].fingerprint == fitted["hubert"][0].fingerprint
    other, _ = make_speech_codec(config.model_copy(update={"layer": 3}), CLIPS)
    assert other.fingerprint != fitted["hubert"][0].fingerprint


def test_a_long_recording_in_pieces_has_nearly_the_units_of_the_whole(checkpoints, fitted, tmp_path):
    """Attention and the normalisation of the first layer look at all of a piece: most units agree, not all."""
    codec, _ = fitted["wav2vec2"]
    codec.save(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    features = type(codec.features)(
        codec.config.model_copy(update={"chunk_seconds": 2.0, "context_seconds": 3.0})
    )
    wave = sound(9, 8 * RATE)
    whole, pieces = codec.features.points(wave), features.points(wave)
    assert whole.shape == pieces.shape == (400, 16)
    assert np.corrcoef(whole.ravel(), pieces.ravel())[0, 1] > 0.98
    assert content["config"]["chunk_seconds"] == 30


def test_points_are_the_same_in_any_company_also_where_pieces_share_a_pass(checkpoints, fitted):
    codec, _ = fitted["hubert"]
    config = codec.config.model_copy(update={"chunk_seconds": 0.5, "context_seconds": 0.2})
    features = type(codec.features)(config)
    features.at_once = 2
    waves = [sound(i, n * RATE // 4) for i, n in enumerate((1, 9, 0, 6))]
    alone = [features.points(w) for w in waves]
    for chosen in ([1, 0, 3], [3, 2, 1]):
        found = features.points_batch([waves[i] for i in chosen])
        for i, points in zip(chosen, found, strict=True):
            assert points.shape == (len(waves[i]) // features.hop + bool(len(waves[i]) % features.hop), 16)
            assert np.array_equal(points, alone[i])


def test_the_declared_normalisation_of_clips_is_followed(checkpoints, tmp_path):
    shutil.copytree(checkpoints["wav2vec2"], tmp_path / "m")
    file = tmp_path / "m" / "preprocessor_config.json"
    config = SpeechCodecConfig(kind="wav2vec2", path=str(tmp_path / "m"), layer=1, units=8, collapse=False)
    scaled, _ = make_speech_codec(config, CLIPS)
    assert np.allclose(scaled.features.points(CLIPS[0]), scaled.features.points(CLIPS[0] * 3), atol=1e-3)
    file.write_text(json.dumps({"sampling_rate": RATE, "do_normalize": False}))
    plain, _ = make_speech_codec(config, CLIPS)
    assert not np.allclose(plain.features.points(CLIPS[0]), scaled.features.points(CLIPS[0]), atol=1e-3)
    file.write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(UserError, match="hears 8000 samples"):
        make_speech_codec(config, CLIPS)


def test_what_cannot_be_is_an_error_the_user_can_act_on(checkpoints):
    with pytest.raises(UserError, match=r"layer is 9, but .* has 3"):
        make_speech_codec(config_of(checkpoints, "hubert", layer=9), CLIPS)
    with pytest.raises(UserError, match="no audio to fit on"):
        make_speech_codec(config_of(checkpoints, "hubert"), [np.zeros(0, np.float32)])
    with pytest.raises(UserError, match="holds no 'hubert' model"):
        make_speech_codec(SpeechCodecConfig(kind="hubert", path=str(checkpoints["wavlm"])), CLIPS)
    with pytest.raises(ValueError, match="expected a wave"):
        make_speech_codec(config_of(checkpoints, "hubert"), CLIPS)[0].encode(np.zeros(10))
