"""A mixloom model for the transformers library, in one file that needs neither mixloom nor anything but torch.

This file lies beside the weights it reads: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).

A decoder-only transformer whose modalities (text, image, speech) have weights of their own where `untie` says so
(Mixture-of-Transformers, arXiv 2411.04996); a token's modality is a function of its id, `modality_ranges` of the
configuration. Contexts hold one document each; `attention_mask` may leave padding out, on the left or on the right.

    B sequences of L tokens   D width   N heads   H = D / N   M modalities   V vocabulary
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class MixloomConfig(PretrainedConfig):  # type: ignore[misc]
    """Settings of a model; `modality_ranges` lists [first id, last id + 1, modality] of all that is not text."""

    model_type = "mixloom"

    def __init__(
        self,
        vocab_size: int = 512,
        hidden_size: int = 64,
        intermediate_size: int = 192,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        max_position_embeddings: int = 512,
        modalities: int = 3,
        modality_ranges: list[list[int]] | None = None,
        untie: list[str] | None = None,
        norm_placement: str = "pre",
        qk_norm: bool = False,
        rope_theta: float = 10000.0,
        tie_word_embeddings: bool = False,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.num_attention_heads, self.max_position_embeddings = num_attention_heads, max_position_embeddings
        self.modalities, self.modality_ranges = modalities, modality_ranges or []
        self.untie, self.norm_placement = list(untie or []), norm_placement
        self.qk_norm, self.rope_theta = qk_norm, rope_theta
        self.num_key_value_heads, self.head_dim = num_attention_heads, hidden_size // num_attention_heads
        rest["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**rest)


def by_modality(x: Tensor, kinds: Tensor, weights: nn.ParameterList, use: Any) -> Tensor:
    """use(rows of one modality, its weight) for every modality, rows back in their places; x [T, ...], kinds [T]."""
    if len(weights) == 1:
        return use(x, weights[0])
    out = x.new_empty(0)
    for m, weight in enumerate(weights):
        rows = (kinds == m).nonzero(as_tuple=True)[0]
        made = use(x[rows], weight)
        if m == 0:
            out = made.new_empty(x.shape[0], *made.shape[1:])
        out[rows] = made
    return out


def towers(copies: int, *shape: int) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.empty(*shape)) for _ in range(copies)])


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps=1e-6)


def swiglu(x: Tensor, weight: Tensor) -> Tensor:
    gate, value = F.linear(x, weight).chunk(2, dim=-1)
    return F.silu(gate) * value


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [B, N, L, H], cos and sin [B, 1, L, H / 2]; the halves of a head are turned as pairs."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


class Attention(nn.Module):
    def __init__(self, config: MixloomConfig, layer: int) -> None:
        super().__init__()
        copies = config.modalities if "attention" in config.untie else 1
        norms = config.modalities if "norm" in config.untie else 1
        self.layer, self.heads = layer, config.num_attention_heads
        self.qkv = towers(copies, 3 * config.hidden_size, config.hidden_size)
        self.out = towers(copies, config.hidden_size, config.hidden_size)
        self.qk_norm = towers(norms, 2, 1, config.head_dim) if config.qk_norm else None

    def forward(
        self, x_TD: Tensor, shape: tuple[int, int], kinds: Tensor, rope: Any, mask: Tensor, cache: Any
    ) -> Tensor:
        x_T3NH = by_modality(x_TD, kinds, self.qkv, F.linear).unflatten(1, (3, self.heads, -1))
        if self.qk_norm is not None:
            qk = by_modality(
                x_T3NH[:, :2], kinds, self.qk_norm, lambda x, w: F.rms_norm(x, x.shape[-1:], eps=1e-6) * w
            )
            x_T3NH = torch.cat([qk, x_T3NH[:, 2:]], dim=1)
        q, k, v = x_T3NH.unflatten(0, shape).permute(2, 0, 3, 1, 4)  # each [B, N, L, H]
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return by_modality(o.transpose(1, 2).reshape(x_TD.shape[0], -1), kinds, self.out, F.linear)


class FeedForward(nn.Module):
    def __init__(self, config: MixloomConfig) -> None:
        super().__init__()
        copies = config.modalities if "ffn" in config.untie else 1
        self.up = towers(copies, 2 * config.intermediate_size, config.hidden_size)
        self.down = towers(copies, config.hidden_size, config.intermediate_size)

    def forward(self, x_TD: Tensor, kinds: Tensor) -> Tensor:
        return by_modality(by_modality(x_TD, kinds, self.up, swiglu), kinds, self.down, F.linear)


class Block(nn.Module):
    def __init__(self, config: MixloomConfig, layer: int) -> None:
        super().__init__()
        norms = config.modalities if "norm" in config.untie else 1
        self.pre = config.norm_placement == "pre"
        self.attention_norm, self.ffn_norm = (towers(norms, config.hidden_size) for _ in range(2))
        self.attention, self.ffn = Attention(config, layer), FeedForward(config)

    def forward(self, x: Tensor, shape: tuple[int, int], kinds: Tensor, *attention: Any) -> Tensor:
        if self.pre:
            x = x + self.attention(by_modality(x, kinds, self.attention_norm, rms), shape, kinds, *attention)
            return x + self.ffn(by_modality(x, kinds, self.ffn_norm, rms), kinds)
        x = x + by_modality(self.attention(x, shape, kinds, *attention), kinds, self.attention_norm, rms)
        return x + by_modality(self.ffn(x, kinds), kinds, self.ffn_norm, rms)


class MixloomForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The model with its head."""

    config_class = MixloomConfig
    base_model_prefix = ""
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True
    _tied_weights_keys: dict[str, str] = {}  # noqa: RUF012  # a tied head is no parameter of its own

    def __init__(self, config: MixloomConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.num_hidden_layers)])
        self.norm = towers(config.modalities if "norm" in config.untie else 1, config.hidden_size)
        self.head = None if config.tie_word_embeddings else nn.Parameter(torch.empty_like(self.embedding))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the file."""

    def _kinds(self, ids: Tensor) -> Tensor:
        kinds = torch.zeros_like(ids)
        for first, stop, modality in self.config.modality_ranges:
            kinds = torch.where((ids >= first) & (ids < stop), modality, kinds)
        return kinds

    def _mask(self, attention_mask: Tensor | None, length: int, past: int, device: Any) -> Tensor:
        """Which keys each query sees, bool [B or 1, 1, L, past + L]; a query always sees itself."""
        mask = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)[None, None]
        if attention_mask is None:
            return mask
        own = torch.eye(length, past + length, dtype=torch.bool, device=device).roll(past, 1)
        return (mask & attention_mask.bool()[:, None, None, : past + length]) | own

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **rest: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V]; with labels [B, L] the mean loss of the next token, labels of -100 left out."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        batch, length = input_ids.shape
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            if attention_mask is None:
                position_ids = torch.arange(past, past + length, device=input_ids.device)[None]
            else:
                position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, past : past + length]
        steps = torch.arange(0, self.config.head_dim, 2, dtype=torch.float64, device=input_ids.device)
        frequency = self.config.rope_theta ** (-steps / self.config.head_dim)
        angles = position_ids[:, None, :, None].double() * frequency
        rope = [f(angles).float().to(self.embedding.dtype) for f in (torch.cos, torch.sin)]
        mask = self._mask(attention_mask, length, past, input_ids.device)
        ids = input_ids.reshape(-1)
        kinds = self._kinds(ids)
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, (batch, length), kinds, rope, mask, past_key_values)
        x = by_modality(x, kinds, self.norm, rms).view(batch, length, -1)[:, -logits_to_keep:]
        logits = F.linear(x, self.embedding if self.head is None else self.head)
        loss = None
        if labels is not None:
            flat = logits[:, :-1].float().flatten(0, 1)
            loss = F.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        return None

    def get_output_embeddings(self) -> None:
        return None
