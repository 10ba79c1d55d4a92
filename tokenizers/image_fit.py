"""The fit of the default image codec: random crops of the corpus, squared error, Muon and AdamW along a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mixloom.pipeline.errors import UserError
from mixloom.pipeline.torch_threads import torch_threads
from mixloom.tokenizers.autoencoder import Autoencoder, to_float
from mixloom.tokenizers.codebook import FiniteScalarQuantiser
from mixloom.tokenizers.devices import placed, settled
from mixloom.tokenizers.muon import Muon
from mixloom.tokenizers.pixels import Picture, Pixels, square
from mixloom.tokenizers.settings import ImageCodecConfig

Progress = Callable[[int, int, float], None]  # step, of steps, loss

_WARM_UP = 20  # steps
_MUON = 5.0  # its rate is this many times that of AdamW


def fit_weights(
    images: Iterable[Picture], config: ImageCodecConfig, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Weights of an `Autoencoder` fitted to pictures of any shape; the first `max_images` are taken.

    The same pictures, config and version of torch give the same weights on the same kind of machine.

    Raises:
        UserError: no picture at all, or a device that is not there.
    """
    config = settled(config)
    placed(config.device, "image codec")
    rng = np.random.Generator(np.random.PCG64(config.seed))
    crops = draw_crops(images, config, rng)
    quantiser = FiniteScalarQuantiser(config.levels)
    with torch_threads(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Autoencoder(config)
        model.start_from_components(to_float(crops[:1024]))
        # Channels last: the convolutions take a third less time on a CPU.
        model = model.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        kernels = [p for m in model.mixers() for p in (m.first.weight, m.second.weight)]
        others = [p for p in model.parameters() if all(p is not k for k in kernels)]
        muon = Muon(kernels)
        adamw = torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
        for step in range(config.steps):
            rate = config.lr * learning_rate(step, config.steps)
            for group in adamw.param_groups:
                group["lr"] = rate
            x = to_float(crops[rng.integers(len(crops), size=config.batch)]).to(config.device)
            x = x.contiguous(memory_format=torch.channels_last)
            drawn = model.decode(quantiser.quantise(model.encode(x)))
            loss = F.mse_loss(drawn, x)
            model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step(_MUON * rate)
            adamw.step()
            if progress is not None:
                progress(step + 1, config.steps, float(loss.detach()))
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def learning_rate(step: int, steps: int) -> float:
    """Share of the peak rate at a step: a short warm-up, then a cosine to 0."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def draw_crops(images: Iterable[Picture], config: ImageCodecConfig, rng: np.random.Generator) -> Pixels:
    """uint8 [crops, size, size, 3]: random squares of half the side or more of the prepared pictures, half mirrored.

    Raises:
        UserError: no picture at all.
    """
    size = config.size
    # Kept at twice the size: the smallest crop is then not enlarged, and the memory is bounded.
    squares = [square(p, 2 * size, config.resize) for p in islice(images, config.max_images)]
    if not squares:
        raise UserError(
            "image codec: there is no picture to fit on", fix="leave the image codec out of the config"
        )
    crops = np.empty((config.crops, size, size, 3), np.uint8)
    for i in range(config.crops):
        side = rng.uniform(size, 2 * size)
        left, top = rng.uniform(0, 2 * size - side, size=2)
        source = Image.fromarray(squares[i % len(squares)])
        crop = np.asarray(
            source.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        )
        crops[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return crops
