"""Speech in patches: a local encoder and decoder around the model.

Lu et al., Latent Speech-Text Transformer (arXiv 2510.06195, section 3), after the Byte Latent Transformer (Pagnoni et al.,
arXiv 2412.09871). The trunk (the blocks of the model) reads one row per patch of speech units. What a row says is what comes next
after it: a token, or the first unit of the next patch. The units behind that are said one by one by the decoder, from the
state of the trunk before the patch and the units so far. Before each of them the decoder says whether the patch ends here,
so that speech can be sampled whatever its patches are.

What a token costs is then what it costs to say it and, inside speech, that the patch goes on or ends before it. Summed over
tokens this is -log p(tokens, patches), which is at least -log p(tokens): beside a model without patches nothing is
given for free. Every token is a target as before.

    P patches of up to M units   D width of the model   d width here   N heads   G rows of the trunk   T tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixloom.tokenizers.vocab import SPEECH_MODALITY
from mixloom.trainers.attention import rotary_table, rotate
from mixloom.trainers.loss import Losses
from mixloom.trainers.model_config import ModelConfig, SpeechPatchesConfig
from mixloom.trainers.speech_batch import Entering, Leaving, cut_speech, fixed_edges, units_of


class LocalBlock(nn.Module):
    """A plain transformer block, pre-norm, over the places of a patch [P, S, d]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.Parameter(torch.empty(dim))
        self.qkv = nn.Parameter(torch.empty(3 * dim, dim))
        self.out = nn.Parameter(torch.empty(dim, dim))
        self.ffn_norm = nn.Parameter(torch.empty(dim))
        self.up = nn.Parameter(torch.empty(8 * dim, dim))
        self.down = nn.Parameter(torch.empty(dim, 4 * dim))

    def forward(self, x_PSd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Every place sees those up to itself, so what stands behind the end of a patch changes nothing before it."""
        h_PSd = _norm(x_PSd, self.attention_norm)
        qkv = _linear(h_PSd, self.qkv).unflatten(2, (3, self.heads, -1))
        q, k = rotate(qkv[:, :, :2], cos, sin).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, qkv[:, :, 2]))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_PSd = x_PSd + _linear(o.transpose(1, 2).flatten(2), self.out)
        gate, value = _linear(_norm(x_PSd, self.ffn_norm), self.up).chunk(2, dim=-1)
        return x_PSd + _linear(F.silu(gate) * value, self.down)


class LatentSpeech(nn.Module):
    """In and out of the model for patches of speech; the embedding of the units and the head are the model's own."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.speech_patches is not None
        self.config, heads = config.speech_patches, config.local_heads
        width = heads * config.head_dim
        self.read = nn.Parameter(torch.empty(width, config.dim))
        self.encoder = nn.ModuleList([LocalBlock(width, heads) for _ in range(self.config.encoder_layers)])
        self.encoder_norm = nn.Parameter(torch.empty(width))
        self.enter = nn.Parameter(torch.empty(config.dim, width))
        self.state = nn.Parameter(torch.empty(width, config.dim))
        self.said = nn.Parameter(torch.empty(width, config.dim))
        self.decoder = nn.ModuleList([LocalBlock(width, heads) for _ in range(self.config.decoder_layers)])
        self.decoder_norm = nn.Parameter(torch.empty(width))
        self.leave = nn.Parameter(torch.empty(config.dim, width))
        self.end = nn.Parameter(torch.empty(1, width))
        cos, sin = rotary_table(self.config.longest + 1, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos[:, None, None], persistent=False)
        self.register_buffer("sin", sin[:, None, None], persistent=False)

    def entered(self, x_GD: Tensor, patches: Entering, embedding_VD: Tensor) -> Tensor:
        """The rows of the trunk with every patch in its place, [G, D].

        A patch is the mean of its units' embeddings and what the encoder adds: its state at the last unit, which has read all.
        """
        emb_PMD = F.embedding(patches.units, embedding_VD).to(x_GD.dtype)
        places_M = torch.arange(patches.units.shape[1], device=x_GD.device)
        real_PM = places_M < patches.lengths[:, None]
        mean_PD = (emb_PMD * real_PM[..., None]).sum(1) / patches.lengths[:, None].to(x_GD.dtype)
        x_PMd = self._through(self.encoder, _linear(_unit_size(emb_PMD), self.read))
        last_P1d = (patches.lengths - 1)[:, None, None].expand(-1, 1, x_PMd.shape[2])
        x_Pd = x_PMd.gather(1, last_P1d).squeeze(1)
        vector_PD = mean_PD + _linear(_norm(x_Pd, self.encoder_norm), self.enter)
        return x_GD.index_copy(0, patches.rows, vector_PD)

    def left(
        self, h_GD: Tensor, patches: Entering, leaving: Leaving, embedding_VD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States of all tokens, [T, D], what follows each is said from; and log-odds that a patch ends, [N]."""
        before_PD = h_GD.index_select(0, leaving.before.clamp(min=0))
        before_PD = torch.where(leaving.before[:, None] >= 0, before_PD, 0.0)
        said_PSD, end_PS = self.decoded(before_PD, patches.units, embedding_VD)
        every = torch.cat([h_GD, said_PSD.flatten(0, 1)])
        return every.index_select(0, leaving.source), end_PS.flatten().index_select(0, leaving.slots)

    def decoded(self, before_PD: Tensor, units_PM: Tensor, embedding_VD: Tensor) -> tuple[Tensor, Tensor]:
        """States [P, M + 1, D] that the next unit is said from, after 0 to M units, and log-odds [P, M + 1] that there is none.

        Those after 0 units say nothing: the first unit of a patch is the trunk's. before_PD: states of the trunk before the patches.
        """
        units_PMD = F.embedding(units_PM, embedding_VD).to(before_PD.dtype)
        said_PMd = _linear(_unit_size(units_PMD), self.said)
        x_PSd = torch.cat([_linear(before_PD, self.state)[:, None], said_PMd], dim=1)
        x_PSd = _norm(self._through(self.decoder, x_PSd), self.decoder_norm)
        # The state of the trunk is not added here: it says the first unit, and would have to be taken back for the others.
        return _linear(x_PSd, self.leave), _linear(x_PSd, self.end).squeeze(2)

    def _through(self, blocks: nn.ModuleList, x_PSd: Tensor) -> Tensor:
        cos, sin = (table[: x_PSd.shape[1]].to(x_PSd.dtype) for table in (self.cos, self.sin))
        for block in blocks:
            x_PSd = block(x_PSd, cos, sin)
        return x_PSd


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps=1e-6)


def _unit_size(x: Tensor) -> Tensor:
    """Embeddings begin small; beside the state of the trunk the units would hardly be heard."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def with_ends(losses: Losses, ends: Tensor, leaving: Leaving, target_modality: Tensor) -> Losses:
    """Losses with what it costs to say whether patches end, put on the tokens that come after.

    Args:
        losses: in sequence order. ends: log-odds [N]. target_modality: int64 [T].
    """
    nats_N = F.binary_cross_entropy_with_logits(
        ends.to(losses.per_token.dtype), leaving.last.to(losses.per_token.dtype), reduction="none"
    )
    told = torch.zeros_like(losses.per_token).index_copy(0, leaving.tokens, nats_N.detach())
    sums = torch.stack([torch.where(target_modality == m, told, 0.0).sum() for m in range(len(losses.sums))])
    return Losses(losses.total + nats_N.sum(), losses.sums + sums, losses.counts, losses.per_token + told)


def prompt_rows(
    ids: Sequence[int],
    modality: np.ndarray,
    setting: SpeechPatchesConfig,
    lengths: Sequence[int] | None = None,
) -> tuple[np.ndarray, Entering]:
    """The rows of the trunk for tokens of one document: ids int64 [G], and patches with their rows in sequence order.

    Args:
        modality: uint8 [V]. lengths: tokens of each patch, together all of `ids`; None: `size` units each.
    """
    tokens = np.asarray(ids, dtype=np.int64)
    unit = modality[tokens] == SPEECH_MODALITY
    fresh = np.arange(len(tokens)) == 0
    edges = fixed_edges(unit, fresh, setting.size)
    if lengths is not None:
        edges[:] = False
        edges[np.cumsum(lengths)[:-1]] = True
    begin, place = cut_speech(unit, fresh, edges, setting)
    units, own, _ = units_of(tokens, unit, begin, place)
    keep = begin | ~unit
    rows = (np.cumsum(keep) - 1)[begin]
    return tokens[keep], Entering(*map(torch.from_numpy, (units, own, rows)))


@torch.no_grad()
def next_in_patch(
    speech: LatentSpeech, state: Tensor, units: Sequence[int], embedding_VD: Tensor
) -> tuple[Tensor, float]:
    """The state [D] that the unit after `units` of a patch is said from, and the probability that there is none.

    state: [D], of the trunk before the patch.
    """
    ids = torch.tensor([list(units)], device=state.device)
    said_PSD, end_PS = speech.decoded(state[None], ids, embedding_VD)
    over = len(units) >= speech.config.longest
    return said_PSD[0, -1], 1.0 if over else float(torch.sigmoid(end_PS[0, -1].float()))
