"""Feed-forward experts that choose their tokens: MoMa, and the mixtures over all modalities it is compared with.

Lin et al., MoMa (arXiv 2407.21770). Level one is fixed: a token belongs to the group of its modality (section 2.2), or,
as a control, all tokens to one group. Level two is learned: each of the n experts of a group takes the T / n of its T
tokens that it scores highest (expert choice, section 2.2), and what it makes of them is weighed by the score, a
sigmoid. A token may be taken by several experts or by none.

The best T / n of a batch cannot be known before the batch is complete, so sampling must not use them: whether a token
would be chosen is foretold from the token alone by a small network (auxiliary routers, section 2.4). It learns beside
the model from detached inputs, so it changes nothing the model learns, and its answers are what evaluation uses.

    T tokens of one group, n experts, k = ceil(T / n) tokens that one takes   D width   F hidden width of the SwiGLU
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixloom.trainers.hashed import mixed, uniform
from mixloom.trainers.model_config import ModelConfig


class Experts(nn.Module):
    """The feed-forward part of a block, one group of experts per modality or one for all.

    A group of one expert is a plain feed-forward: every token, weight 1.
    """

    salt: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.experts is not None
        counts, dim, hidden = config.experts.counts, config.dim, config.hidden
        self.by_modality = config.experts.groups == "modality"
        self.random = config.experts.routing == "random"
        self.counts = counts
        # A tensor, not a number: a number would be compiled into the graph, and every layer would need its own.
        self.register_buffer("salt", torch.tensor(104729 * layer), persistent=False)
        self.up = nn.ParameterList([nn.Parameter(torch.empty(n * 2 * hidden, dim)) for n in counts])
        self.down = nn.ParameterList([nn.Parameter(torch.empty(n * dim, hidden)) for n in counts])
        several = {str(g): n for g, n in enumerate(counts) if n > 1}
        self.router = nn.ParameterDict({g: nn.Parameter(torch.empty(n, dim)) for g, n in several.items()})
        foretold = {} if self.random else several
        self.foretell_in = nn.ParameterDict({g: nn.Parameter(torch.empty(dim // 2, dim)) for g in foretold})
        self.foretell_out = nn.ParameterDict(
            {g: nn.Parameter(torch.empty(n, dim // 2)) for g, n in foretold.items()}
        )

    def owned(self, modality: int) -> list[nn.Parameter]:
        """Parameters that belong to one modality alone."""
        if not self.by_modality:
            return []
        named = (self.router, self.foretell_in, self.foretell_out)
        return [
            self.up[modality],
            self.down[modality],
            *(p[str(modality)] for p in named if str(modality) in p),
        ]

    def foretelling(self) -> list[nn.Parameter]:
        """Parameters of the networks that foretell the choice."""
        return [*self.foretell_in.values(), *self.foretell_out.values()]

    def forward(
        self, x_KTD: list[Tensor], seeds_KT: list[Tensor], causal: bool
    ) -> tuple[list[Tensor], Tensor]:
        """What the experts make of each token, and how badly their choice was foretold.

        Args:
            x_KTD: by modality, [T_m, D].
            seeds_KT: by modality, `token_seeds` of each token, int64 [T_m]; read by random routing only.
            causal: let no token's experts depend on another token.

        Returns:
            By modality [T_m, D]; and a scalar: binary cross-entropy of what was foretold, mean over tokens and experts, summed
            over groups (0 where nothing is foretold).
        """
        sizes = [x.shape[0] for x in x_KTD]
        if not self.by_modality:
            x_KTD, seeds_KT = [torch.cat(x_KTD)], [torch.cat(seeds_KT)]
        made, losses = [], []
        for group, (x_TD, seed_T) in enumerate(zip(x_KTD, seeds_KT)):
            y_TD, loss = self._group(x_TD, seed_T + self.salt, group, causal)
            made.append(y_TD)
            losses.append(loss)
        out = made if self.by_modality else list(torch.split(made[0], sizes))
        return out, torch.stack(losses).sum()

    def _group(self, x_TD: Tensor, seed_T: Tensor, group: int, causal: bool) -> tuple[Tensor, Tensor]:
        n, dtype = self.counts[group], x_TD.dtype
        up_NED = self.up[group].to(dtype).view(n, -1, x_TD.shape[1])
        down_NDF = self.down[group].to(dtype).view(n, x_TD.shape[1], -1)
        nothing = torch.zeros((), dtype=torch.float32, device=x_TD.device)
        if n == 1:
            return _swiglu(x_TD[None], up_NED, down_NDF)[0], nothing
        scores_TN = torch.sigmoid(F.linear(x_TD, self.router[str(group)].to(dtype)))
        if causal:
            return self._foretold(x_TD, scores_TN, seed_T, group, up_NED, down_NDF), nothing
        chosen_by = uniform(seed_T, n) if self.random else scores_TN.detach()
        k = -(-x_TD.shape[0] // n)
        rows_NK = chosen_by.t().topk(k, dim=1).indices
        # One read and one addition per expert: inside it no row comes twice, so sums have one order on every device.
        x_NKD = torch.stack([x_TD.index_select(0, rows_NK[e]) for e in range(n)])
        weight_NK = scores_TN.t().gather(1, rows_NK)
        y_NKD = _swiglu(x_NKD, up_NED, down_NDF) * weight_NK[..., None]
        out_TD = torch.zeros_like(x_TD)
        for e in range(n):
            out_TD = out_TD.index_add(0, rows_NK[e], y_NKD[e])
        if self.random:
            return out_TD, nothing
        taken_TN = torch.zeros_like(scores_TN, dtype=torch.float32).t().scatter(1, rows_NK, 1.0).t()
        logits_TN = self._logits(x_TD.detach(), group).float()
        share = max(1, x_TD.shape[0] * n)
        return out_TD, F.binary_cross_entropy_with_logits(logits_TN, taken_TN, reduction="sum") / share

    def _logits(self, x_TD: Tensor, group: int) -> Tensor:
        """Log-odds that each expert takes each token, from the token alone, [T, n] (section 2.4)."""
        first, second = self.foretell_in[str(group)], self.foretell_out[str(group)]
        return F.linear(F.silu(F.linear(x_TD, first.to(x_TD.dtype))), second.to(x_TD.dtype))

    def _foretold(
        self, x_TD: Tensor, scores_TN: Tensor, seed_T: Tensor, group: int, up_NED: Tensor, down_NDF: Tensor
    ) -> Tensor:
        """Every expert over the tokens it would take, as far as that can be told from each token alone."""
        n = scores_TN.shape[1]
        if self.random:
            mine_TN = uniform(seed_T, n) > 1 - 1 / n
        else:
            mine_TN = self._logits(x_TD, group) > 0
        out_TD = torch.zeros_like(x_TD)
        if (
            torch.compiler.is_compiling()
        ):  # where a number of tokens that only the device knows cannot be a size
            for e in range(n):
                y_TD = _swiglu(x_TD[None], up_NED[e : e + 1], down_NDF[e : e + 1])[0]
                out_TD = out_TD + torch.where(mine_TN[:, e, None], y_TD * scores_TN[:, e, None], 0.0)
            return out_TD
        for e in range(n):
            rows = mine_TN[:, e].nonzero(as_tuple=True)[0]
            y_TD = _swiglu(x_TD[rows][None], up_NED[e : e + 1], down_NDF[e : e + 1])[0]
            out_TD = out_TD.index_add(0, rows, y_TD * scores_TN[rows, e, None])
        return out_TD


def _swiglu(x_NTD: Tensor, up_NED: Tensor, down_NDF: Tensor) -> Tensor:
    """SwiGLU of n experts, each over tokens of its own, [n, t, D]."""
    gate_NTF, value_NTF = torch.bmm(x_NTD, up_NED.transpose(1, 2)).chunk(2, dim=-1)
    return torch.bmm(F.silu(gate_NTF) * value_NTF, down_NDF.transpose(1, 2))


def token_seeds(input_ids: Tensor, positions: Tensor) -> Tensor:
    """What a token draws from, int64 [T] below 2^31: its id and its position in its document alone.

    So a token draws the same wherever and with whatever it is computed.
    """
    return mixed(mixed(input_ids.long() + 1) + positions)
