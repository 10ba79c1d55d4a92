"""Images as continuous vectors inside the model: noising, the flow loss, and sampling.

Zhou et al., Transfusion (arXiv 2408.11039): text is learned by the next token, an image by removing noise from all its
tokens, which see each other in both directions. Noise goes along straight paths (Lipman et al., arXiv 2210.02747):
x_t = (1 - t) x_0 + t x_1 from noise x_0 to the image x_1, and the model says the velocity x_1 - x_0.

Shards keep codes. The vector of a code is what the image codec decodes it from, scaled to mean 0 and deviation 1; what
the codec's rounding has lost is lost here too, and a sampled image is rounded to the nearest codes in the end.

    T rows of the residual stream or tokens in sequence order, as said; C numbers of a vector; B contexts of L tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixloom.pipeline.errors import UserError
from mixloom.tokenizers.vocab import END_DOC, IMAGE_MODALITY
from mixloom.trainers.data import Batch
from mixloom.trainers.hashed import mixed, normal, uniform
from mixloom.trainers.loss import Losses
from mixloom.trainers.model_config import ModelConfig

FREQUENCIES = 32  # of the embedding of the time


@dataclass(frozen=True)
class Noised:
    """What stands for the image tokens of a batch, by row. x: float32 [T, C] at time `times`; velocity float32 [T, C].

    image: bool [T], rows that hold an image code. Elsewhere the other fields mean nothing.
    """

    image: Tensor
    x: Tensor
    times: Tensor
    velocity: Tensor


def scaled_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors of all codes, float32 [codes, C], scaled to mean 0 and deviation 1 over the codes, number by number."""
    deviation = vectors.std(axis=0)
    return np.asarray((vectors - vectors.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0), np.float32)


class FlowHead(nn.Module):
    """In and out of the model for image vectors; shared by all towers, as embedding and head are."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.flow is not None
        self.config = config.flow
        self.vectors = nn.Parameter(torch.zeros(config.flow.codes, config.flow.channels), requires_grad=False)
        self.enter = nn.Parameter(torch.empty(config.dim, config.flow.channels))
        self.time = nn.Parameter(torch.empty(config.dim, 2 * FREQUENCIES))
        self.leave = nn.Parameter(torch.empty(config.flow.channels, config.dim))

    def is_image(self, ids: Tensor) -> Tensor:
        """Which ids are image codes."""
        return (ids >= self.config.first) & (ids < self.config.first + self.config.codes)

    def vectors_of(self, ids: Tensor) -> Tensor:
        """Vectors of image codes, float32 [..., C]; of other ids, some vector."""
        return self.vectors[(ids - self.config.first).clamp(0, self.config.codes - 1)]

    def clean(self, ids: Tensor) -> Noised:
        """The images as they are, for reading."""
        x, image = self.vectors_of(ids), self.is_image(ids)
        return Noised(image, x, torch.ones_like(ids, dtype=torch.float32), torch.zeros_like(x))

    def noised(self, ids: Tensor, images: Tensor, salt: int) -> Noised:
        """Images with noise, in sequence order.

        Noise and time depend on the context, the place in it and the salt alone, not on rank or batch.

        Args:
            ids: integers [B, L]. images: see `image_numbers`. salt: another one gives other noise.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        context = (mixed(ids + 131 * places).sum(1, keepdim=True) + 7 * salt) & 0x7FFFFFFF
        seeds = mixed(mixed(context) + places)
        x1 = self.vectors_of(ids)
        x0 = normal(seeds, x1.shape[-1])
        first = mixed(mixed(context + 1) + images.clamp(min=0))
        drawn = uniform(first, 2)
        time, clearer = drawn[..., 0], drawn[..., 1] < self.config.clearer
        time = torch.where(clearer & text_follows(ids, images), 0.5 + 0.5 * time, time)
        x = (1 - time[..., None]) * x0 + time[..., None] * x1
        flat = (images >= 0).reshape(-1), x.flatten(0, 1), time.reshape(-1), (x1 - x0).flatten(0, 1)
        return Noised(*flat)

    def embedded(self, noised: Noised, dtype: torch.dtype) -> Tensor:
        """What goes into the model for image rows, [T, D]."""
        angle = noised.times[:, None] * torch.exp(
            torch.arange(FREQUENCIES, device=noised.times.device) * (math.log(1000.0) / FREQUENCIES)
        )
        wave = torch.cat([angle.sin(), angle.cos()], dim=1).to(dtype)
        return F.linear(noised.x.to(dtype), self.enter.to(dtype)) + F.linear(wave, self.time.to(dtype))

    def velocity(self, hidden: Tensor) -> Tensor:
        """The velocity the model says, float32 [T, C], for every row."""
        return F.linear(hidden, self.leave.to(hidden.dtype)).float()

    def nearest(self, x: Tensor) -> Tensor:
        """Image ids int64 [n] of vectors [n, C]: the code whose vector is nearest."""
        return torch.cdist(x.float(), self.vectors).argmin(1) + self.config.first


def image_numbers(image: Tensor, documents: Tensor) -> Tensor:
    """A number for every image of a context, -1 outside of images, int64 [B, L]: one run of image codes is one image.

    Args:
        image: bool [B, L]. documents: int64 [B, L], see `data.Batch`; an image never goes on in another document.
    """
    before = F.pad(image[:, :-1] & (documents[:, :-1] == documents[:, 1:]), (1, 0))
    number = (image & ~before).cumsum(1) - 1
    return torch.where(image, number, -1)


def text_follows(ids: Tensor, images: Tensor) -> Tensor:
    """Whether text comes right after the image a token belongs to, bool [B, L]."""
    length = ids.shape[1]
    here = torch.arange(length, device=ids.device)
    # The last token of its image: the largest place with the same number.
    ends = torch.zeros_like(images).scatter_reduce(
        1, images.clamp(min=0), torch.where(images >= 0, here, 0), "amax", include_self=True
    )
    after = ends.gather(1, images.clamp(min=0)) + 2  # behind </image>
    found = ids.gather(1, after.clamp(max=length - 1))
    return (images >= 0) & (after < length) & (found >= 256) & (found != END_DOC)


def flow_losses(head: FlowHead, hidden: Tensor, noised: Noised, order: Tensor | None, batch: Batch) -> Tensor:
    """Mean squared error of the velocity of the image token that each target is, float32 [T] in sequence order; else 0.

    Args:
        hidden, noised: by row of the residual stream. order: sequence index of every row; None: they are in sequence order.
    """
    error = (head.velocity(hidden) - noised.velocity).square().mean(1)
    if order is not None:
        error = torch.zeros_like(error).index_copy(0, order.long(), error)
    nothing = error.new_zeros(1)
    ahead = torch.cat(
        [error[1:], nothing]
    )  # a token's error belongs to the target it is, one place before it
    return torch.where((batch.targets >= 0) & head.is_image(batch.targets), ahead, 0.0)


def with_flow(
    losses: Losses, head: FlowHead, hidden: Tensor, noised: Noised, order: Tensor | None, batch: Batch
) -> Losses:
    """Losses of the text with those of the images, which are squared errors, put in their places."""
    error_T = flow_losses(head, hidden, noised, order, batch)
    told, image = error_T.detach(), head.is_image(batch.targets)
    sums, counts = losses.sums.clone(), losses.counts.clone()
    sums[IMAGE_MODALITY] += told.sum()
    counts[IMAGE_MODALITY] += (image & (batch.targets >= 0)).sum()
    per_token = losses.per_token + (told if order is None else told[order])
    return Losses(losses.total + head.config.weight * error_T.sum(), sums, counts, per_token)


@overload
def by_row(noised: Noised, order: Tensor | None) -> Noised: ...


@overload
def by_row(noised: None, order: Tensor | None) -> None: ...


def by_row(noised: Noised | None, order: Tensor | None) -> Noised | None:
    """What stands for the images in another order, such as that of the residual stream; None stays None.

    order: int64 [n], where each comes from; -1: from nowhere, and it is no image.
    """
    if order is None or noised is None:
        return noised
    known, order = order >= 0, order.clamp(min=0)
    return Noised(noised.image[order] & known, noised.x[order], noised.times[order], noised.velocity[order])


def with_flow_setting(
    config: ModelConfig, vocabulary: dict[str, Any], vectors: np.ndarray | None
) -> ModelConfig:
    """The settings of a model with the numbers of its flow loss that vocabulary and image codec decide.

    Raises:
        UserError: a flow loss without vectors of the image codes, or with those of another codec.
    """
    if config.flow is None:
        return config
    image = next((item for item in vocabulary["ranges"] if item["name"] == "image" and item["used"]), None)
    if image is None or vectors is None:
        raise UserError(
            "model.flow learns images as vectors, but "
            + ("there are no images" if image is None else "none are given"),
            fix="leave model.flow out, or train on a run with images and an image codec that has vectors of its codes",
        )
    if vectors.shape[0] != int(image["used"]):
        raise UserError(
            f"{vectors.shape[0]} vectors of image codes are given, but the vocabulary has {image['used']} codes",
            fix="give the vectors of the image codec these shards were made with",
        )
    known = {"channels": vectors.shape[1], "codes": int(image["used"]), "first": int(image["start"])}
    return config.model_copy(update={"flow": config.flow.model_copy(update=known)})
