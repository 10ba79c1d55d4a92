from __future__ import annotations

import numpy as np
import pytest
import torch

from mixloom.trainers.config import ModelConfig
from mixloom.trainers.data import make_batch, modality_table
from mixloom.trainers.flops import attended, peak, work


def test_pairs_are_those_of_the_mask_without_padding(make_contexts, vocabulary):
    ids, lengths, domains = make_contexts(contexts=4)
    lengths[1] = lengths[1][:-1]  # the rest is padding
    batch = make_batch(ids, lengths, modality_table(vocabulary), domains=domains)
    tokens, pairs = attended(batch)
    assert tokens == sum(int(d.sum()) for d in lengths)
    seen = 0
    for row in lengths:
        document = np.repeat(np.arange(len(row)), row)
        seen += int(np.tril(document[:, None] == document[None]).sum())
    assert pairs == seen


def test_both_definitions_by_hand():
    config = ModelConfig(dim=8, heads=2, layers=3, ffn_hidden=16, vocab_size=100, seq_len=10)
    weights = 3 * (4 * 8 * 8 + 3 * 8 * 16) + 100 * 8  # one tower and the head
    done = work(config, tokens=15, pairs=40, places=20)
    # Per layer and pair: a product of 8 for the score, one for the value, twice that going back.
    assert done.useful == 6 * weights * 15 + 3 * (2 * 8 + 2 * 8) * 3 * 40
    assert done.full == 6 * weights * 20 + 3 * (2 * 8 + 2 * 8) * 3 * 20 * 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some other device", None),
    ],
)
def test_peaks_are_known_by_the_name_of_the_device(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(torch.device("cuda"), torch.bfloat16) == expected
    assert peak(torch.device("cuda"), torch.float32) is None


def test_the_peak_of_a_cpu_is_not_known():
    assert peak(torch.device("cpu"), torch.bfloat16) is None
