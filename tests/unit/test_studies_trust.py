"""The arithmetic of trust, by hand."""

from __future__ import annotations

import pytest
import torch

from mllmu.models.weights import rounded
from mllmu.studies.trust import kept_after_quantisation, kept_after_relearning


def test_what_comes_back_costs_trust_and_what_sinks_does_not() -> None:
    assert kept_after_quantisation(0.2, 0.8) == 0.25
    assert kept_after_quantisation(0.0, 0.5) == 0.0
    assert kept_after_quantisation(0.5, 0.2) == 1.0
    assert kept_after_relearning(0.5, 0.1) == pytest.approx(0.2)
    assert kept_after_relearning(0.5, -0.1) == 0.0
    assert kept_after_relearning(-0.2, 0.3) == 1.0


def test_rounding_keeps_the_largest_entry_and_gives_so_many_levels() -> None:
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    for bits in (2, 4, 8):
        coarse = rounded(weight, bits)
        assert torch.allclose(coarse.abs().amax(1), weight.abs().amax(1))
        assert max(len(row.unique()) for row in coarse) <= 2**bits - 1
        step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((coarse - weight).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(rounded(weight, 4)[2], weight[2])
    assert torch.equal(rounded(torch.tensor([[0.9, 2.2, -3.0]]), 3), torch.tensor([[1.0, 2.0, -3.0]]))
