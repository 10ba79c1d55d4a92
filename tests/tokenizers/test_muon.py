import torch
from torch import nn

from mixloom.tokenizers.muon import Muon, orthogonal


def test_singular_values_become_about_one_and_their_vectors_stay():
    torch.manual_seed(0)
    for shape in ((24, 60), (60, 24), (8, 8)):
        matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
        made = orthogonal(matrix)
        assert made.shape == matrix.shape
        values = torch.linalg.svdvals(made)
        assert values.max() < 1.3
        assert values[: min(shape) // 2].min() > 0.6
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        off = u.T @ made @ v.T
        assert (off - torch.diag(torch.diag(off))).abs().max() < 1e-3


def test_a_kernel_is_learnt_and_a_step_goes_against_the_gradient():
    torch.manual_seed(0)
    target, x = nn.Conv2d(4, 8, 3), torch.randn(16, 4, 8, 8)
    conv = nn.Conv2d(4, 8, 3, bias=False)
    conv.weight.data.zero_()
    with torch.no_grad():
        wanted = target(x) - target.bias[:, None, None]
    muon = Muon([conv.weight])
    losses = []
    for step in range(200):
        loss = (conv(x) - wanted).square().mean()
        conv.zero_grad()
        loss.backward()
        muon.step(0.02 * (1 - step / 200))
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
