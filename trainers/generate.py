"""Sampling of interleaved text, images and speech from a trained model, one sequence at a time.

What may follow is decided by a small machine over the tokens so far: an image is exactly as many image codes
as the codec makes, then its end; speech is units until its end; everything else is text. So whatever the
model believes, the result can be decoded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mixloom.pipeline.errors import UserError, nearest
from mixloom.tokenizers.vocab import (
    BREAK,
    DOC,
    END_DOC,
    END_IMAGE,
    END_SPEECH,
    IMAGE,
    IMAGE_MODALITY,
    MODALITIES,
    SPEECH,
    SPEECH_MODALITY,
    TEXT_MODALITY,
)
from mixloom.trainers.attention import rotate
from mixloom.trainers.data import modality_table
from mixloom.trainers.flow import Noised, by_row, image_numbers
from mixloom.trainers.latent_speech import next_in_patch, prompt_rows
from mixloom.trainers.model import Model, Rows


class Cache:
    """Keys and values of all layers for one sequence, and attention of new tokens over them.

    An `Attend` for the model: rows come in modality-major order, `order` [n] is the place of each row among
    the new tokens.
    """

    def __init__(self, model: Model, capacity: int, dtype: torch.dtype) -> None:
        config, device = model.config, model.embedding.device
        shape = (config.layers, config.heads, capacity, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.cos, self.sin = model.rope_cos.to(dtype), model.rope_sin.to(dtype)
        self.length = 0
        self.order = torch.zeros(0, dtype=torch.int64, device=device)
        self.images: Tensor | None = (
            None  # number of the image of each new token or -1, int64 [n], in sequence order
        )
        self.state: Tensor | None = None  # [D], of the last token read

    def attend(self, qkv_TE: Tensor, layer: int) -> Tensor:
        """Attention output [n, D] of the n new tokens over the cached ones and themselves."""
        rows, start, stop = qkv_TE.shape[0], self.length, self.length + qkv_TE.shape[0]
        sequence = torch.empty_like(qkv_TE)
        sequence[self.order] = qkv_TE
        qkv_T3NH = sequence.view(rows, 3, self.keys.shape[1], -1)
        cos, sin = (table[start:stop, None, None, :] for table in (self.cos, self.sin))
        qk_T2NH = rotate(qkv_T3NH[:, :2], cos, sin)
        self.keys[layer, :, start:stop] = qk_T2NH[:, 1].transpose(0, 1)
        self.values[layer, :, start:stop] = qkv_T3NH[:, 2].transpose(0, 1)
        mask = torch.ones(rows, stop, dtype=torch.bool, device=qkv_TE.device).tril(start)
        if self.images is not None:
            inside = self.images[:, None] == self.images
            mask[:, start:] |= inside & (self.images >= 0)[:, None]
        o_NTH = F.scaled_dot_product_attention(
            qk_T2NH[:, 0].transpose(0, 1)[None],
            self.keys[None, layer, :, :stop],
            self.values[None, layer, :, :stop],
            attn_mask=mask,
        )[0]
        return o_NTH.transpose(0, 1).reshape(rows, -1)[self.order]


@torch.no_grad()
def decode(
    model: Model,
    cache: Cache,
    ids: Sequence[int],
    modality: np.ndarray,
    patches: Sequence[int] | None = None,
) -> Tensor:
    """Logits float32 [V] for the token after `ids`, which are appended to the cache.

    Args:
        modality: uint8 [V].
        patches: where the model reads speech in patches: tokens of each, together all of `ids`; None: patches of the size
            in its settings. The last patch is read as one that has ended.

    Raises:
        ValueError: more tokens than the cache holds.
    """
    if cache.length + len(ids) > cache.keys.shape[2]:
        raise ValueError(f"{cache.length + len(ids)} tokens, but the cache holds {cache.keys.shape[2]}")
    hidden, last = _read(model, cache, ids, modality, patches=patches)
    cache.length += hidden.shape[0]
    cache.state = hidden[last]
    return (model.head_weight.to(hidden.dtype) @ cache.state).float()


def _read(
    model: Model,
    cache: Cache,
    ids: Sequence[int],
    modality: np.ndarray,
    noised: Noised | None = None,
    patches: Sequence[int] | None = None,
) -> tuple[Tensor, int]:
    """Hidden states [n, D] of new tokens by row, and the row of the last; keys and values lie in the cache, behind its end.

    noised: what stands for the images among them, in sequence order; the images as they are by default. patches: see `decode`.
    """
    tokens, entering = np.asarray(ids, dtype=np.int64), None
    if model.config.speech_patches is not None:
        tokens, entering = prompt_rows(ids, modality, model.config.speech_patches, patches)
    kinds = modality[tokens] if model.config.streams > 1 else np.zeros(len(tokens), dtype=np.uint8)
    order = np.argsort(kinds, kind="stable")
    device, dtype = cache.keys.device, cache.keys.dtype
    cache.order = torch.from_numpy(order).to(device)
    sizes = np.bincount(kinds, minlength=model.config.streams).tolist()
    positions = torch.from_numpy(order + cache.length).to(device)
    if model.flow is not None:
        sequence = torch.from_numpy(tokens).to(device)
        cache.images = image_numbers(model.flow.is_image(sequence)[None], torch.zeros_like(sequence)[None])[0]
        noised = by_row(noised or model.flow.clean(sequence), cache.order)
    if entering is not None:
        entering = entering.in_order(order).to(device)
    own = torch.from_numpy(tokens[order]).to(device), sizes, cache, positions
    hidden = model(Rows(*own, noised=noised, patches=entering), dtype)
    return hidden, int(np.flatnonzero(order == len(tokens) - 1)[0])


@torch.no_grad()
def sample_image(
    model: Model, cache: Cache, tokens: int, modality: np.ndarray, rng: np.random.Generator
) -> list[int]:
    """Ids of an image that begins at the end of the cache, `tokens` codes; the cache stays as it is.

    From noise to an image in `flow.steps` equal steps along the velocity that the model says (Euler's method), then to
    the codes whose vectors are nearest.
    """
    head = model.flow
    assert head is not None
    device, steps = cache.keys.device, head.config.steps
    x = torch.from_numpy(rng.standard_normal((tokens, head.config.channels), dtype=np.float32)).to(device)
    ids = [head.config.first] * tokens
    everywhere = torch.ones(tokens, dtype=torch.bool, device=device)
    for step in range(steps):
        times = torch.full((tokens,), step / steps, device=device)
        hidden, _ = _read(model, cache, ids, modality, Noised(everywhere, x, times, x))
        x = x + head.velocity(hidden) / steps
    return [int(i) for i in head.nearest(x)]


@torch.no_grad()
def sample_patch(
    model: Model,
    cache: Cache,
    first: int,
    grammar: Grammar,
    modality: np.ndarray,
    draws: tuple[float, np.random.Generator, int | None, float],
) -> list[int]:
    """The units of a patch that begins with `first` at the end of the cache; the cache stays as it is.

    Args:
        grammar: before `first`; it is used up.
        draws: temperature (with 0 a patch ends where that is likelier than not), generator, top_k and top_p.
    """
    assert model.speech is not None
    assert cache.state is not None
    temperature, rng, *_ = draws
    units = [first]
    grammar.push(first)
    while (allowed := grammar.allowed() & (modality == SPEECH_MODALITY)).any():
        state, end = next_in_patch(model.speech, cache.state, units, model.embedding)
        if end > (0.5 if temperature == 0 else rng.random()):
            break
        logits = (model.head_weight.to(state.dtype) @ state).double().cpu().numpy()
        units.append(_choose(np.where(allowed, logits, -np.inf), *draws))
        grammar.push(units[-1])
    return units


@dataclass
class Grammar:
    """Which ids may come next.

    Args:
        vocabulary: serialised, as in the manifest of the shards.
        image_tokens: codes of one image; 0 forbids images.
        limit: tokens a document may have in all, its end included; 0: no limit.
        modalities: names of what may be sampled; None: all. Sentinels may always be.
        end: the id that ends a document: </doc>, or <eom> where a gap is filled.
    """

    vocabulary: dict[str, Any]
    image_tokens: int = 0
    limit: int = 0
    modalities: Sequence[str] | None = None
    end: int = END_DOC
    _count: int = field(default=0, init=False)
    _inside: int = field(default=TEXT_MODALITY, init=False)
    _run: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        size = int(self.vocabulary["size"])
        ranges = {item["name"]: item for item in self.vocabulary["ranges"]}
        self._codes = {}
        may = tuple(MODALITIES) if self.modalities is None else tuple(self.modalities)
        for name, kind in (("text", TEXT_MODALITY), ("image", IMAGE_MODALITY), ("speech", SPEECH_MODALITY)):
            mask = np.zeros(size, dtype=bool)
            if name in ranges and name in may:
                start = int(ranges[name]["start"])
                mask[start : start + int(ranges[name]["used"])] = True
            self._codes[kind] = mask
        self._speech = bool(self._codes[SPEECH_MODALITY].any())
        self._image = self.image_tokens > 0 and bool(self._codes[IMAGE_MODALITY].any())

    def push(self, token: int) -> None:
        """Take note of the next token of the sequence."""
        self._count += 1
        self._run += 1
        if token in (IMAGE, SPEECH):
            self._inside = IMAGE_MODALITY if token == IMAGE else SPEECH_MODALITY
            self._run = 0
        elif token in (END_IMAGE, END_SPEECH, DOC, self.end):
            self._inside = TEXT_MODALITY

    def allowed(self) -> np.ndarray:
        """Ids that may come next, bool [V]; never empty."""
        left = self.limit - self._count if self.limit else 1 << 62
        if self._inside == IMAGE_MODALITY:
            done = self._run >= self.image_tokens
            return self._only(END_IMAGE) if done else self._codes[IMAGE_MODALITY]
        if self._inside == SPEECH_MODALITY:
            if left <= 2:
                return self._only(END_SPEECH)
            mask = self._codes[SPEECH_MODALITY].copy()
            mask[END_SPEECH] = self._run > 0
            return mask
        if left <= 1:
            return self._only(self.end)
        mask = self._codes[TEXT_MODALITY].copy()
        mask[self.end] = True
        mask[BREAK] = bool(self._codes[TEXT_MODALITY].any())
        # An element may only be opened where it can also be closed: start, content, end, and the </doc>.
        mask[IMAGE] = self._image and left >= self.image_tokens + 3
        mask[SPEECH] = self._speech and left >= 4
        return mask

    def check(self, *, whole_images: bool = False) -> None:
        """Raise UserError where what has been pushed cannot become a whole document.

        Args:
            whole_images: images are drawn all at once, so one that has begun cannot be gone on with.
        """
        left = self.limit - self._count if self.limit else 1 << 62
        if self._inside == IMAGE_MODALITY:
            self._check_image(left, whole_images)
        elif self._inside == SPEECH_MODALITY and self._run == 0 and not self._speech:
            raise UserError(
                f"the prompt opens speech, which may not be sampled (modalities: {self._names()})",
                fix="name speech among the modalities, or close it in the prompt",
            )
        elif self._inside == SPEECH_MODALITY and left < 2 + (self._run == 0):
            raise UserError(
                f"the prompt has {self._count} tokens and opens speech, which max_tokens ({self.limit}) leaves no room"
                " to close",
                fix=f"set max_tokens to at least {self._count + 2 + (self._run == 0)}",
            )

    def _check_image(self, left: int, whole_images: bool) -> None:
        missing = self.image_tokens - self._run
        if not self.image_tokens:
            raise UserError(
                "the prompt opens an image, but how many codes an image has is not known (image_tokens is 0)",
                fix="give image_tokens, or the tokenizers with the image codec of the training",
            )
        if missing < 0 or (whole_images and 0 < missing < self.image_tokens):
            whole = "; this model draws whole images only" if missing > 0 else ""
            raise UserError(
                f"the image that the prompt opens has {self._run} codes so far, and an image has {self.image_tokens}"
                + whole,
                fix="end the prompt with <image>, or with the whole image and </image>",
            )
        if missing > 0 and not self._image:
            raise UserError(
                f"the prompt opens an image, and images may not be sampled (modalities: {self._names()})",
                fix="name image among the modalities, or give the whole image",
            )
        if left < missing + 2:
            raise UserError(
                f"the prompt has {self._count} tokens and its image lacks {missing} codes, which max_tokens "
                f"({self.limit}) leaves no room for",
                fix=f"set max_tokens to at least {self._count + missing + 2}",
            )

    def _names(self) -> str:
        return ", ".join(MODALITIES if self.modalities is None else self.modalities) or "none"

    def _only(self, token: int) -> np.ndarray:
        mask = np.zeros(int(self.vocabulary["size"]), dtype=bool)
        mask[token] = True
        return mask


def generate(
    model: Model,
    vocabulary: dict[str, Any],
    prompt: Sequence[int] = (DOC,),
    *,
    image_tokens: int = 0,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    modalities: Sequence[str] | None = None,
    end: int = END_DOC,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[int]:
    """Continue a prompt until its end, or until the document has `max_tokens` in all; the prompt is included.

    Args:
        prompt: ids, normally beginning with <doc>.
        image_tokens: codes of one image, from the image codec; 0 forbids images.
        temperature: 0 takes the likeliest token each time.
        top_k: draw among so many of the likeliest tokens; None: all.
        top_p: draw among the likeliest tokens that together have this probability (Holtzman et al. 2020, section 3.1).
        modalities: names of what may be sampled (text, image, speech); None: all.
        end: the id that ends the document, see `Grammar`.
        seed: of the draws; the same seed gives the same tokens.

    Raises:
        UserError: settings out of range, an empty prompt, one longer than `max_tokens`, more than the model has positions, an id
            outside the vocabulary, an image or speech in the prompt that cannot be gone on with (see `Grammar.check`), or
            modalities of which nothing can be sampled.
    """
    _check_prompt(model, prompt, max_tokens)
    _check_draws(temperature, top_k, top_p, modalities)
    _check_asked(vocabulary, image_tokens, max_tokens - len(prompt), modalities)
    table = modality_table(vocabulary)
    grammar = Grammar(vocabulary, image_tokens, max_tokens, modalities, end)
    for token in prompt:
        grammar.push(token)
    grammar.check(whole_images=model.flow is not None)
    cache = Cache(model, max_tokens, dtype)
    rng = np.random.Generator(np.random.PCG64(seed))
    tokens, new = list(prompt), list(prompt)
    patches: list[int] | None = None  # of the prompt
    while len(tokens) < max_tokens and tokens[-1] != end:
        logits = decode(model, cache, new, table, patches).double().cpu().numpy()
        if model.flow is not None and tokens[-1] == IMAGE:
            new = sample_image(model, cache, image_tokens, table, rng)
        else:
            new = [_choose(np.where(grammar.allowed(), logits, -np.inf), temperature, rng, top_k, top_p)]
        if model.speech is not None and table[new[0]] == SPEECH_MODALITY:
            draws = (temperature, rng, top_k, top_p)
            new = sample_patch(model, cache, new[0], copy.copy(grammar), table, draws)
        patches = [len(new)]
        for token in new:
            grammar.push(token)
        tokens += new
    return tokens


def _check_prompt(model: Model, prompt: Sequence[int], max_tokens: int) -> None:
    if not prompt or len(prompt) > max_tokens:
        raise UserError(
            f"the prompt has {len(prompt)} tokens; allowed are 1 to max_tokens ({max_tokens})",
            fix="shorten the prompt or raise max_tokens",
        )
    if max_tokens > model.config.seq_len:
        raise UserError(
            f"max_tokens is {max_tokens}, but the model was trained on {model.config.seq_len} positions",
            fix=f"use at most {model.config.seq_len}",
        )
    if min(prompt) < 0 or max(prompt) >= model.config.vocab_size:
        raise UserError(
            f"the prompt holds ids from {min(prompt)} to {max(prompt)}, outside the vocabulary of "
            f"{model.config.vocab_size}",
            fix="encode the prompt with the tokenizer of the same run",
        )


def _check_draws(
    temperature: float, top_k: int | None, top_p: float, modalities: Sequence[str] | None
) -> None:
    if not 0 <= temperature < float("inf") or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise UserError(
            f"temperature is {temperature}, top_k {top_k} and top_p {top_p}",
            fix="temperature is at least 0, top_k at least 1, and top_p above 0 and at most 1",
        )
    for name in modalities or ():
        if name not in MODALITIES:
            raise UserError(
                f"'{name}' is no modality{nearest(name, MODALITIES)}", fix=f"use {', '.join(MODALITIES)}"
            )


def _check_asked(
    vocabulary: dict[str, Any], image_tokens: int, room: int, modalities: Sequence[str] | None
) -> None:
    """Whether what is asked for by name is in the vocabulary, and an image asked for alone has room."""
    there = [item["name"] for item in vocabulary["ranges"] if item["used"]]
    if image_tokens < 0:
        raise UserError(
            f"image_tokens is {image_tokens}", fix="give the codes of one image, or 0 for no images"
        )
    for name in modalities or ():
        if name not in there:
            raise UserError(
                f"modalities names {name}, and the vocabulary has none",
                fix=f"it has {', '.join(n for n in there if n in MODALITIES)}",
            )
    if list(modalities or ()) != ["image"] or not room:
        return
    if not image_tokens:
        raise UserError(
            "only images are asked for, but how many codes an image has is not known (image_tokens is 0)",
            fix="give image_tokens, or the tokenizers with the image codec of the training",
        )
    # With <image>, </image> and the end; a prompt may have opened it already.
    if room < image_tokens + 2:
        raise UserError(
            f"only images are asked for, and one takes {image_tokens} codes and 3 tokens around them, but max_tokens"
            f" leaves {room} after the prompt",
            fix="raise max_tokens, up to the positions of the model, or shorten the prompt",
        )


def _choose(
    logits: np.ndarray,
    temperature: float,
    rng: np.random.Generator,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> int:
    """Draw an id by its logit float64 [V]; of equal ones the lower id is the likelier."""
    if temperature == 0.0:
        return int(np.argmax(logits))
    scaled = (logits - logits.max()) / temperature
    if top_k is None and top_p >= 1.0:
        cumulative = np.cumsum(np.exp(scaled))
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    order = np.argsort(-scaled, kind="stable")[: top_k or len(scaled)]
    chances = np.exp(scaled[order])
    cumulative = np.cumsum(chances)
    kept = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1  # the last one passes the mark
    cumulative = cumulative[: min(kept, int(np.count_nonzero(chances)))]
    return int(order[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])
