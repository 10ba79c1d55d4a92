"""The model: a decoder-only transformer that is dense or a Mixture-of-Transformers, by one setting.

In a Mixture-of-Transformers (Liang et al., arXiv 2411.04996, Algorithm 1) every modality has its own weights
for everything but the embedding, the head and the attention itself, which runs over the whole sequence. A
token is routed by its own modality, not by that of the token it predicts; special tokens are text.

MoMa (`moma.Experts`) puts several experts in the place of a feed-forward. Speech may come in patches
(`latent_speech.LatentSpeech`): then the blocks read one row for several tokens.

The residual stream is a list of K contiguous tensors, one per modality, so an untied layer is a plain matrix
product per tensor: no gather, no scatter, no question to the device. Only attention needs the sequence; it
comes and goes once per block. A dense model is the same code with a list of one. Parts left tied while
others are untied use the same weight on each of the K tensors.

    T tokens of a batch, T_m those of modality m   D width   N heads   H = D / N   F hidden width of the SwiGLU
    K modalities   V vocabulary   E = 3D merged queries, keys, values   S slots of attention
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixloom.tokenizers.vocab import SPEECH_MODALITY
from mixloom.trainers.attention import Kind, make_plan, rotary_table
from mixloom.trainers.data import Batch
from mixloom.trainers.flow import FlowHead, Noised, by_row, image_numbers
from mixloom.trainers.latent_speech import LatentSpeech
from mixloom.trainers.model_config import ModelConfig
from mixloom.trainers.moma import Experts, token_seeds
from mixloom.trainers.speech_batch import Entering, Leaving, patched


class Attend(Protocol):
    """Attention over rows in the order of the residual stream; a training plan or a decoding cache."""

    def attend(self, qkv_TE: Tensor, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class Rows:
    """Input of the model: ids int32 or int64 [T] in the order of the residual stream, rows per modality, attention.

    The rest concerns models with experts: positions in the same order; causal: let no choice of experts
    depend on other tokens, as sampling and evaluation need it; foretold: gets the loss of the networks that foretell that
    choice, a scalar from every block, with a gradient. noised: what stands for image tokens in a model with a flow loss.
    patches: what stands in rows of speech in a model that reads it in patches; tokens: how the states of all tokens come
    out of those of the rows, None: they do not; ends: gets the log-odds that patches end, with a gradient.
    """

    input_ids: Tensor
    sizes: list[int]
    attention: Attend
    positions: Tensor
    causal: bool = True
    foretold: list[Tensor] = field(default_factory=list)
    noised: Noised | None = None
    patches: Entering | None = None
    tokens: Leaving | None = None
    ends: list[Tensor] = field(default_factory=list)


def towers(copies: int, *shape: int) -> nn.ParameterList:
    """One parameter of this shape per modality, or a single one that all share."""
    return nn.ParameterList([nn.Parameter(torch.empty(*shape)) for _ in range(copies)])


def own(parameters: nn.ParameterList, modality: int) -> Tensor:
    """The parameter of this modality, or the shared one."""
    return parameters[modality if len(parameters) > 1 else 0]


def linear(x: Tensor, parameters: nn.ParameterList, modality: int) -> Tensor:
    return F.linear(x, own(parameters, modality).to(x.dtype))


def rms_norm(x: Tensor, parameters: nn.ParameterList, modality: int) -> Tensor:
    weight = own(parameters, modality)
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps=1e-6)


class Attention(nn.Module):
    """Untied projections around one shared causal attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        copies = config.modalities if "attention" in config.untie else 1
        norms = config.modalities if "norm" in config.untie else 1
        self.heads = config.heads
        self.qkv = towers(copies, 3 * config.dim, config.dim)
        self.out = towers(copies, config.dim, config.dim)
        self.qk_norm = towers(norms, 2, 1, config.head_dim) if config.qk_norm else None

    def forward(self, x_KTD: list[Tensor], layer: int, attention: Attend) -> list[Tensor]:
        qkv_KTE = [self._project(x_TD, m) for m, x_TD in enumerate(x_KTD)]
        qkv_TE = qkv_KTE[0] if len(qkv_KTE) == 1 else torch.cat(qkv_KTE)
        o_TD = attention.attend(qkv_TE, layer)
        o_KTD = torch.split(o_TD, [x_TD.shape[0] for x_TD in x_KTD])
        return [linear(o_TD, self.out, m) for m, o_TD in enumerate(o_KTD)]

    def _project(self, x_TD: Tensor, m: int) -> Tensor:
        qkv_TE = linear(x_TD, self.qkv, m)
        if self.qk_norm is None:
            return qkv_TE
        qk_TE, v_TD = qkv_TE.tensor_split([2 * x_TD.shape[1]], dim=1)
        qk_T2NH = qk_TE.reshape(x_TD.shape[0], 2, self.heads, x_TD.shape[1] // self.heads)
        weight_2NH = own(self.qk_norm, m).to(x_TD.dtype)
        qk_T2NH = F.rms_norm(qk_T2NH, qk_T2NH.shape[-1:], eps=1e-6) * weight_2NH
        return torch.cat([qk_T2NH.flatten(1), v_TD], dim=1)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202), gate and value in one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        copies = config.modalities if "ffn" in config.untie else 1
        self.up = towers(copies, 2 * config.hidden, config.dim)
        self.down = towers(copies, config.dim, config.hidden)

    def forward(
        self, x_KTD: list[Tensor], seeds_KT: list[Tensor], causal: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        return [self._one(x_TD, m) for m, x_TD in enumerate(x_KTD)], None

    def _one(self, x_TD: Tensor, m: int) -> Tensor:
        gate_TF, value_TF = linear(x_TD, self.up, m).chunk(2, dim=-1)
        return linear(F.silu(gate_TF) * value_TF, self.down, m)


class Block(nn.Module):
    """Attention and feed-forward with their residual connections, norms before (pre) or after (swin) each."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        copies = config.modalities if "norm" in config.untie else 1
        self.layer = layer
        self.pre = config.norm == "pre"
        self.attention_norm = towers(copies, config.dim)
        self.attention = Attention(config)
        self.ffn_norm = towers(copies, config.dim)
        self.ffn = FeedForward(config) if config.experts is None else Experts(config, layer)

    def forward(
        self, x_KTD: list[Tensor], attention: Attend, seeds_KT: list[Tensor], causal: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        h_KTD = self._norm(x_KTD, self.attention_norm) if self.pre else x_KTD
        h_KTD = self.attention(h_KTD, self.layer, attention)
        h_KTD = h_KTD if self.pre else self._norm(h_KTD, self.attention_norm)
        x_KTD = [x_TD + h_TD for x_TD, h_TD in zip(x_KTD, h_KTD)]
        h_KTD = self._norm(x_KTD, self.ffn_norm) if self.pre else x_KTD
        h_KTD, foretold = self.ffn(h_KTD, seeds_KT, causal)
        h_KTD = h_KTD if self.pre else self._norm(h_KTD, self.ffn_norm)
        return [x_TD + h_TD for x_TD, h_TD in zip(x_KTD, h_KTD)], foretold

    @staticmethod
    def _norm(x_KTD: list[Tensor], weights: nn.ParameterList) -> list[Tensor]:
        return [rms_norm(x_TD, weights, m) for m, x_TD in enumerate(x_KTD)]


class Model(nn.Module):
    """Embedding, blocks, last norm and head.

    Args:
        config: with `vocab_size` filled in.
        seed: of the initial weights; they depend on the seed, the name of the parameter and, unless
            `config.init` is "copy", the modality, not on the order in which they are made.
    """

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        if not config.vocab_size:
            raise ValueError("vocab_size is 0; take it from the vocabulary (ModelConfig.filled)")
        if config.flow is not None and not (config.flow.codes and config.flow.channels):
            raise ValueError("flow.codes is 0; take it from vocabulary and codec (flow.flow_setting)")
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.layers)])
        self.flow = FlowHead(config) if config.flow is not None else None
        self.speech = LatentSpeech(config) if config.speech_patches is not None else None
        self.norm = towers(config.modalities if "norm" in config.untie else 1, config.dim)
        self.head = None if config.tie_embeddings else nn.Parameter(torch.empty_like(self.embedding))
        cos, sin = rotary_table(config.seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._initialise(seed)

    @property
    def head_weight(self) -> Tensor:
        """Output head, float32 [V, D]."""
        return self.embedding if self.head is None else self.head

    def rows(
        self, batch: Batch, kind: Kind, dtype: torch.dtype, *, causal: bool = True, salt: int = 0
    ) -> Rows:
        """Inputs for a batch that is on the device of the model; ways to attend are in `attention.Kind`.

        Args:
            causal: False lets experts choose among all tokens of the batch, which only training may do.
            salt: another one gives other noise on images, where the model has a flow loss.
        """
        if batch.shape[1] > self.config.seq_len:
            raise ValueError(
                f"contexts of {batch.shape[1]} tokens, but the model has seq_len {self.config.seq_len}"
            )
        images = noised = patches = tokens = None
        if self.flow is not None:
            ids = batch.input_ids.view(batch.shape)
            images = image_numbers(self.flow.is_image(ids), batch.documents)
            noised = self.flow.noised(ids, images, salt)
        if self.speech is not None:
            own = patched(batch, self.config).speech
            assert own is not None
            own = own.to(batch.input_ids.device)
            batch, patches, tokens = own.trunk, own.entering, own.leaving
            if self.flow is not None and noised is not None:
                noised = by_row(noised, own.first)
                ids = batch.input_ids.view(batch.shape)
                images = image_numbers(self.flow.is_image(ids), batch.documents)
        order = self._row_order(batch)
        noised = by_row(noised, order)
        plan = make_plan(
            batch,
            heads=self.config.heads,
            rotary=(self.rope_cos, self.rope_sin),
            modality_major=order is not None,
            kind=kind,
            dtype=dtype,
            images=images,
        )
        if order is None:
            sizes = [batch.input_ids.shape[0]]
            given = batch.input_ids, sizes, plan, batch.positions
        else:
            given = batch.input_ids[order], batch.sizes, plan, batch.positions[order]
        return Rows(*given, causal, noised=noised, patches=patches, tokens=tokens)

    def order(self, batch: Batch) -> Tensor | None:
        """Sequence index of every row that `forward` returns, int32 [T]; None: they are in sequence order."""
        in_patches = self.speech is not None and batch.sizes[SPEECH_MODALITY] > 0
        return None if in_patches else self._row_order(batch)

    def _row_order(self, batch: Batch) -> Tensor | None:
        return batch.perm if self.config.streams > 1 else None

    def forward(self, rows: Rows, dtype: torch.dtype = torch.float32) -> Tensor:
        """Hidden states [T, D] after the last norm, ordered as `order` says; logits: `@ head_weight.T`."""
        x_TD = F.embedding(rows.input_ids, self.embedding).to(dtype)
        if self.flow is not None:
            assert rows.noised is not None
            x_TD = torch.where(rows.noised.image[:, None], self.flow.embedded(rows.noised, dtype), x_TD)
        if self.speech is not None and rows.patches is not None:
            x_TD = self.speech.entered(x_TD, rows.patches, self.embedding)
        x_KTD = list(torch.split(x_TD, rows.sizes))
        seeds_KT: list[Tensor] = []
        if self.config.experts is not None:
            seeds_KT = list(torch.split(token_seeds(rows.input_ids, rows.positions), rows.sizes))
        for block in self.blocks:
            x_KTD, foretold = block(x_KTD, rows.attention, seeds_KT, rows.causal)
            if foretold is not None:
                rows.foretold.append(foretold)
        x_KTD = [rms_norm(x_TD, self.norm, m) for m, x_TD in enumerate(x_KTD)]
        x_TD = x_KTD[0] if len(x_KTD) == 1 else torch.cat(x_KTD)
        if self.speech is not None and rows.patches is not None and rows.tokens is not None:
            x_TD, ends = self.speech.left(x_TD, rows.patches, rows.tokens, self.embedding)
            rows.ends.append(ends)
        return x_TD

    def tower(self, modality: int) -> list[nn.Parameter]:
        """Parameters that belong to one modality alone; none in a dense model, but for speech in patches."""
        in_patches = self.speech is not None and modality == SPEECH_MODALITY
        found = list(self.speech.parameters()) if in_patches and self.speech is not None else []
        inside: set[int] = set()
        for module in self.modules():
            if isinstance(module, Experts):
                found += module.owned(modality)
                inside |= {id(part) for part in module.children()}
            elif isinstance(module, nn.ParameterList) and len(module) > 1 and id(module) not in inside:
                found.append(module[modality])
        return found

    def foretelling(self) -> list[nn.Parameter]:
        """Parameters that only foretell the choice of experts; no other parameter learns through them."""
        return [p for module in self.modules() if isinstance(module, Experts) for p in module.foretelling()]

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Truncated normal matrices, norms one; what adds to the residual stream is scaled down by its depth."""
        for name, parameter in self.named_parameters():
            path = name.split(".")
            modality = int(path.pop()) if path[-1].isdigit() else 0
            if path[-1] == "vectors":  # of image codes, which the codec decides
                continue
            if path[-1].endswith("norm"):
                parameter.fill_(1.0)
                continue
            std = self.config.init_std
            if path[-1] in ("out", "down") and self.config.norm == "pre":
                std /= (2 * self.config.layers) ** 0.5
            if self.config.init == "copy":
                modality = 0
            key = zlib.crc32(f"{seed}/{'.'.join(path)}/{modality}".encode())
            nn.init.trunc_normal_(
                parameter, std=std, a=-3 * std, b=3 * std, generator=torch.Generator().manual_seed(key)
            )


def most_graphs(modalities: int) -> int:
    """Graphs that `compile_blocks` can need: for each modality no token, one or several, the first block (whose input is
    a view) or another, with and without gradients; and four for the sizes of the first batch. Layers share them."""
    return 4 + 4 * (3**modalities - 1)


def compile_blocks(model: Model) -> None:
    """Compile every block in place. Sizes are plain numbers: one graph for the first batch, one for all others,
    and one more for each set of modalities that is absent; see `most_graphs`. Beyond the limit torch would stop."""
    import torch._dynamo

    dynamo: Any = torch._dynamo
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        most = max(getattr(dynamo.config, name), most_graphs(min(model.config.modalities, 6)))
        setattr(dynamo.config, name, most)
    for block in model.blocks:
        block.compile(fullgraph=True)
