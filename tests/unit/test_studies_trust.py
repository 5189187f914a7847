"""The arithmetic of trust, by hand."""

from __future__ import annotations

import pytest
import torch

from mllmu.models.weights import rounded
from mllmu.studies.trust import auc, harmonic, kept_after_quantisation, kept_after_relearning


def test_auc_is_the_share_of_pairs_in_the_right_order_ties_counted_half() -> None:
    found = auc([0.9, 0.8, 0.4], [0.1, 0.5, 0.4])
    assert found is not None
    # 0.9 and 0.8 beat all three; 0.4 beats 0.1, ties with 0.4 and loses to 0.5: 3 + 3 + 1.5 of 9
    assert found.value == pytest.approx(7.5 / 9)
    # Hanley and McNeil: q1 = a / (2 - a), q2 = 2 a^2 / (1 + a), three of each kind
    a = 7.5 / 9
    variance = (a * (1 - a) + 2 * (a / (2 - a) - a * a) + 2 * (2 * a * a / (1 + a) - a * a)) / 9
    assert found.low == pytest.approx(a - 1.959964 * variance**0.5)
    assert found.high == 1.0


def test_perfect_and_inverted_order() -> None:
    assert auc([2.0, 3.0], [0.0, 1.0]) == (1.0, 1.0, 1.0)
    inverted = auc([0.0, 1.0], [2.0, 3.0])
    assert inverted is not None
    assert inverted.value == 0.0
    assert auc([], [1.0]) is None


def test_what_comes_back_costs_trust_and_what_sinks_does_not() -> None:
    assert kept_after_quantisation(0.2, 0.8) == 0.25
    assert kept_after_quantisation(0.0, 0.5) == 0.0
    assert kept_after_quantisation(0.5, 0.2) == 1.0
    assert kept_after_relearning(0.5, 0.1) == pytest.approx(0.2)
    assert kept_after_relearning(0.5, -0.1) == 0.0
    assert kept_after_relearning(-0.2, 0.3) == 1.0


def test_the_harmonic_mean_is_zero_if_one_part_is() -> None:
    assert harmonic([1.0, 1.0, 0.5]) == pytest.approx(0.75)
    assert harmonic([1.0, 0.0]) == 0.0
    assert harmonic([None, 0.5]) == 0.5


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
