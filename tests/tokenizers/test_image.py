import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.codebook import FiniteScalarQuantiser
from mixloom.tokenizers.image import ImageCodec, codebook_use, fit_image_codec, psnr
from mixloom.tokenizers.pixels import square
from mixloom.tokenizers.settings import ImageCodecConfig

QUICK = ImageCodecConfig(
    size=32, downsample=8, levels=(8, 5, 5, 5), steps=40, batch=16, crops=256, width=32, blocks=1
)


def scene(seed: int) -> Image.Image:
    """A drawn picture: a horizon, a sun and a house in random colours and places."""
    rng = np.random.Generator(np.random.PCG64(seed))
    width, height = (int(n) for n in rng.integers(90, 160, 2))
    colour = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(5)]
    picture = Image.new("RGB", (width, height), colour[0])
    draw = ImageDraw.Draw(picture)
    horizon = int(rng.integers(height // 2, height))
    draw.rectangle((0, horizon, width, height), fill=colour[1])
    x, y, r = (int(n) for n in (*rng.integers(20, 70, 2), rng.integers(8, 25)))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour[2])
    left, side = int(rng.integers(0, width - 40)), int(rng.integers(20, 40))
    draw.rectangle((left, horizon - side, left + side, horizon + 5), fill=colour[3])
    draw.polygon(
        ((left, horizon - side), (left + side, horizon - side), (left + side // 2, horizon - 2 * side)),
        colour[4],
    )
    return picture


@pytest.fixture(scope="module")
def quick() -> ImageCodec:
    return fit_image_codec([scene(i) for i in range(12)], QUICK)


@pytest.fixture(scope="module")
def pictures(quick) -> np.ndarray:
    return np.stack([quick.prepare(scene(100 + i)) for i in range(9)])


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,), (7, 8, 2)])
def test_every_code_of_the_quantiser_can_be_reached_and_has_its_own_id(levels):
    quantiser = FiniteScalarQuantiser(levels)
    ids = torch.arange(quantiser.size)
    codes = quantiser.codes(ids)
    assert torch.equal(quantiser.ids(codes), ids)
    axes = [torch.linspace(-6, 6, 400)] * len(levels)
    for i, level in enumerate(levels):
        z = torch.zeros(400, len(levels))
        z[:, i] = axes[i]
        assert len(quantiser.quantise(z)[:, i].unique()) == level
    assert codes.abs().max() <= 1


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4))
def test_any_latent_quantises_to_a_code_in_the_book(latent):
    quantiser = FiniteScalarQuantiser((8, 5, 5, 5))
    codes = quantiser.quantise(torch.tensor([latent]))
    (number,) = quantiser.ids(codes).tolist()
    assert 0 <= number < 1000
    assert torch.equal(quantiser.codes(torch.tensor([number])), codes)


def test_the_gradient_passes_through_the_rounding():
    z = torch.tensor([[0.3, -0.2, 0.1, 0.0]], requires_grad=True)
    FiniteScalarQuantiser((8, 5, 5, 5)).quantise(z).sum().backward()
    assert (z.grad > 0.1).all()


def test_drawn_scenes_are_recognised_after_a_short_fit():
    config = ImageCodecConfig(steps=150, crops=512)
    codec = fit_image_codec([scene(i) for i in range(36)], config)
    unseen = np.stack([codec.prepare(scene(1000 + i)) for i in range(12)])
    ids = codec.encode(unseen)
    drawn = codec.decode(ids)
    assert ids.shape == (12, 256)
    assert psnr(unseen, drawn) > 23
    flat = np.broadcast_to(unseen.mean(axis=(1, 2), keepdims=True), unseen.shape).round().astype(np.uint8)
    assert psnr(unseen, drawn) > psnr(unseen, flat) + 4
    # Recognisable: each drawing is nearer to its own picture than to any other.
    distance = np.square(drawn[:, None].astype(float) - unseen[None]).mean(axis=(2, 3, 4))
    assert distance.argmin(axis=1).tolist() == list(range(12))
    assert codebook_use(ids, codec.codebook_size).used > 60


def test_codes_do_not_depend_on_batch_order_or_threads(quick, pictures):
    before = torch.get_num_threads()
    whole = quick.encode(pictures)
    assert whole.dtype == np.int64
    assert whole.shape == (9, 16)
    alone = np.concatenate([quick.encode(p[None]) for p in pictures])
    backwards = quick.encode(pictures[::-1])[::-1]
    torch.set_num_threads(2 if before == 1 else 1)
    other_threads = quick.encode(pictures)
    torch.set_num_threads(before)
    for ids in (alone, backwards, other_threads):
        assert (ids == whole).all()
    assert len(np.unique(whole)) > 5


def test_micro_batches_as_on_a_gpu_give_the_same_codes_but_for_borderline_ones(quick, pictures):
    whole, drawn = quick.encode(pictures), quick.decode(quick.encode(pictures))
    quick.at_once = 4
    try:
        assert (quick.encode(pictures) == whole).mean() > 0.97
        assert (quick.encode_batch(list(pictures)) == quick.encode(pictures)).all()
        assert np.abs(quick.decode(whole).astype(int) - drawn).max() <= 2
    finally:
        quick.at_once = 1


def test_pictures_of_any_size_are_encoded_in_one_call(quick):
    mixed = [scene(7), np.asarray(scene(8)), scene(9).resize((20, 300))]
    expected = np.concatenate([quick.encode(quick.prepare(p)[None]) for p in mixed])
    assert (quick.encode_batch(mixed) == expected).all()
    assert quick.encode_batch([]).shape == (0, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_an_error_the_user_can_act_on(quick):
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        fit_image_codec([scene(1)], QUICK.model_copy(update={"device": "cuda"}))
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        ImageCodec(QUICK.model_copy(update={"device": "cuda"}), quick._model.state_dict())


def test_the_fit_repeats_exactly_whatever_the_threads_and_random_state_around_it(quick):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1234)
    state = torch.random.get_rng_state()
    again = fit_image_codec([scene(i) for i in range(12)], QUICK)
    assert again.fingerprint == quick.fingerprint
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.set_num_threads(before)
    other = fit_image_codec([scene(i) for i in range(12)], QUICK.model_copy(update={"seed": 1}))
    assert other.fingerprint != quick.fingerprint


def test_saved_codec_loads_as_the_same(quick, pictures, tmp_path):
    quick.save(tmp_path / "image")
    loaded = ImageCodec.load(tmp_path / "image")
    assert loaded.fingerprint == quick.fingerprint
    ids = loaded.encode(pictures)
    assert (ids == quick.encode(pictures)).all()
    assert (loaded.decode(ids) == quick.decode(ids)).all()
    assert sorted(p.name for p in (tmp_path / "image").iterdir()) == ["config.json", "model.safetensors"]


def test_weights_of_another_fit_are_refused(quick, tmp_path):
    quick.save(tmp_path / "a")
    fit_image_codec([scene(50)], QUICK.model_copy(update={"steps": 1})).save(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").rename(tmp_path / "a" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors .* is not the one config\.json describes"):
        ImageCodec.load(tmp_path / "a")
    with pytest.raises(UserError, match="cannot load"):
        ImageCodec.load(tmp_path / "b")


def test_progress_is_reported_at_every_step():
    seen = []
    config = QUICK.model_copy(update={"steps": 5, "crops": 16})
    fit_image_codec([scene(1)], config, lambda step, steps, loss: seen.append((step, steps, loss > 0)))
    assert seen == [(i, 5, True) for i in range(1, 6)]


def test_no_pictures_is_an_error_the_user_can_act_on():
    with pytest.raises(UserError, match="no picture to fit on"):
        fit_image_codec([], QUICK)


def test_wrong_pixels_and_codes_are_refused(quick):
    with pytest.raises(ValueError, match="expected uint8"):
        quick.encode(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        quick.encode(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="expected codes"):
        quick.decode(np.zeros((1, 15), np.int64))
    with pytest.raises(ValueError, match="not in a codebook of 1000"):
        quick.decode(np.full((1, 16), 1000))
    assert quick.encode(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 16)
    assert quick.decode(np.zeros((0, 16), np.int64)).shape == (0, 32, 32, 3)


def test_each_policy_makes_a_square_of_a_wide_picture():
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste((0, 0, 255), (40, 0, 80, 40))
    crop, pad, stretch = (square(wide, 24, policy) for policy in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (24, 24, 3)
    assert (crop[:, 1:-1] == (0, 0, 255)).all(), "only the centre is left"
    assert (pad[[0, 7, 16, 23]] == 128).all(), "grey above and below"
    assert pad[12, 0].tolist() == [255, 0, 0]
    assert stretch[0, 0].tolist() == stretch[23, 23].tolist() == [255, 0, 0]
    assert stretch[12, 12].tolist() == [0, 0, 255]


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1)])
@pytest.mark.parametrize("policy", ["crop", "pad", "stretch"])
def test_extreme_shapes_become_squares_too(shape, policy):
    assert square(Image.new("L", shape, 200), 16, policy).shape == (16, 16, 3)


def test_arrays_are_taken_as_pictures_and_other_arrays_refused():
    grey = np.full((20, 30), 77, np.uint8)
    assert (square(grey, 16, "stretch") == 77).all()
    with pytest.raises(ValueError, match="got float64"):
        square(np.zeros((4, 4, 3)), 16, "crop")  # type: ignore[arg-type]


def test_psnr_has_its_textbook_value():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    assert psnr(black, black) == np.inf


def test_codebook_use_counts_distinct_codes():
    use = codebook_use(np.array([[1, 1], [2, 2]]), 10)
    assert (use.used, use.size) == (2, 10)
    assert use.perplexity == pytest.approx(2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 40, "downsample": 16}, "multiple of downsample"),
        ({"levels": (8, 1)}, "at least 2"),
        ({"width": 49}, "exceeds the 48 values"),
        ({"kind": "emu3"}, "needs `path`"),
        ({"budget": 3}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ImageCodecConfig(**wrong)
