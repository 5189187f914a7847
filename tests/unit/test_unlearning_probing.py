"""Choosing weights by their gradient, and looking for flat minima."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mllmu.unlearning.methods.salun import largest
from mllmu.unlearning.methods.sam_npo import sharpness_aware
from mllmu.unlearning.probing import Saliency, restrict


def measured() -> Saliency:
    weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]

    def losses(side: str) -> Iterator[Tensor]:
        for factor in (1.0, -3.0) if side == "forget" else (2.0,):
            yield factor * (weights[0][0] + 2 * weights[0][1]) + 0 * weights[1].sum()

    return Saliency(weights, losses)


def test_the_gradient_is_the_mean_over_batches() -> None:
    first, second = measured().gradient("forget")
    assert first.tolist() == [-1.0, -2.0]  # (1 - 3) / 2 times (1, 2)
    assert second.tolist() == [0.0]
    assert measured().gradient("retain")[0].tolist() == [2.0, 4.0]


def test_fisher_information_is_the_mean_of_squares_not_the_square_of_the_mean() -> None:
    first, second = measured().fisher("forget")
    assert first.tolist() == [5.0, 20.0]  # (1 + 9) / 2 times (1, 4)
    assert second.tolist() == [0.0]


def test_the_largest_scores_are_chosen_over_all_weights_together() -> None:
    scores = [torch.tensor([[4.0, 1.0], [0.0, 0.0]]), torch.tensor([3.0, 2.0])]
    half = largest(scores, 0.5)
    assert [mask.tolist() for mask in half] == [[[True, False], [False, False]], [True, False]]
    assert sum(int(mask.sum()) for mask in largest(scores, 1.0)) == 4, "zero scores are never chosen"
    assert sum(int(mask.sum()) for mask in largest(scores, 0.01)) == 1, "something is always chosen"


def test_without_any_score_nothing_is_chosen() -> None:
    assert not largest([torch.zeros(3)], 0.5)[0].any()


def test_masked_weights_stay_exactly_as_they_are_under_adam() -> None:
    weight = torch.tensor([1.0, 1.0], requires_grad=True)
    restrict([weight], [torch.tensor([True, False])])
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight[0] < 0.8
    assert weight[1] == 1.0


def test_the_sharpness_aware_term_has_the_loss_and_gradient_of_the_worst_point_nearby() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    term = sharpness_aware(lambda: (w**2).sum(), [w], rho=0.5)
    term.backward()
    assert w.item() == 1.0, "the weights are back"
    assert term.item() == pytest.approx(2.25)
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(3.0)


def test_the_radius_is_shared_by_all_weights() -> None:
    a, b, unused = (torch.tensor([value], requires_grad=True) for value in (3.0, 4.0, 5.0))
    term = sharpness_aware(lambda: (a**2 + b**2).sum() / 2, [a, b, unused], rho=1.0)
    # g = (3, 4), norm 5: the worst point is (3.6, 4.8)
    assert term.item() == pytest.approx((3.6**2 + 4.8**2) / 2, rel=1e-5)
    assert [g.item() for g in torch.autograd.grad(term, [a, b])] == pytest.approx([3.6, 4.8], rel=1e-5)
    assert unused.item() == 5.0


def test_a_flat_place_is_its_own_worst_neighbour() -> None:
    w = torch.tensor([0.0], requires_grad=True)
    assert sharpness_aware(lambda: (w**2).sum(), [w], rho=0.5).item() == 0.0
