"""Choosing weights by their gradient, and looking for flat minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers_models import load_ref, training, turns_of
from pydantic import PrivateAttr
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.unlearning.methods.mmunlearner import MMUnlearner
from mllmu.unlearning.methods.salun import largest
from mllmu.unlearning.methods.sam_npo import sharpness_aware
from mllmu.unlearning.probing import Saliency, SideName, TurnStates, measured_facts, out_of_sample, restrict, set_gate
from mllmu.unlearning.trainer import Sides, unlearn


def measured() -> Saliency:
    """Replies whose nll is a factor times a + 2b; two of them fit into a pass."""
    weights = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]

    def run(turns: Sequence[Turn]) -> Any:
        factors_B = torch.tensor([float(turn.reply) for turn in turns])
        return SimpleNamespace(mean_logp_B=-factors_B * (weights[0][0] + 2 * weights[0][1]) + 0 * weights[1].sum())

    sides: dict[SideName, tuple[float, ...]] = {"forget": (1.0, -3.0, 5.0), "retain": (2.0,)}
    turns = {side: [Turn(prompt="?", reply=str(factor)) for factor in of] for side, of in sides.items()}
    return Saliency(weights, turns, 2, run)


def test_the_gradient_is_the_mean_over_replies() -> None:
    first, second = measured().gradient("forget")
    assert first.tolist() == [1.0, 2.0]  # (1 - 3 + 5) / 3 times (1, 2), though 5 is in a batch of its own
    assert second.tolist() == [0.0]
    assert measured().gradient("retain")[0].tolist() == [2.0, 4.0]


def test_fisher_information_is_the_mean_of_squares_not_the_square_of_the_mean() -> None:
    first, second = measured().fisher("forget")
    assert first.tolist() == pytest.approx([35 / 3, 140 / 3])  # (1 + 9 + 25) / 3 times (1, 4)
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


class Shown(MMUnlearner):
    """Keeps what was measured before training."""

    _fisher: list[Tensor] = PrivateAttr(default_factory=list)
    _gradient: list[Tensor] = PrivateAttr(default_factory=list)

    def masks(self, saliency: Saliency) -> list[Tensor]:
        self._fisher += saliency.fisher("forget")
        self._gradient += saliency.gradient("forget")
        return super().masks(saliency)


def test_what_is_measured_of_a_model_does_not_depend_on_the_batch_size(tiny_base: Path, tmp_path: Path) -> None:
    def measured_with(batch_size: int) -> Shown:
        method = Shown(batch_size=batch_size, epochs=0.1, retain_weight=1.0)
        turns = turns_of(tiny_base)
        sides = Sides(forget=turns[:5], retain=[*turns[4:], *(replace(t, image=None) for t in turns)])
        unlearn(load_ref(tiny_base), method, sides, training(tmp_path / str(batch_size)))
        return method

    alone, four = measured_with(1), measured_with(4)
    assert sum(float(weight.sum()) for weight in alone._fisher) > 0
    for name in ("_fisher", "_gradient"):
        for one, other in zip(getattr(alone, name), getattr(four, name), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-9)


def test_the_fisher_information_is_that_of_single_replies(tiny_base: Path, tmp_path: Path) -> None:
    turns = turns_of(tiny_base)[:3]
    method = Shown(batch_size=3, epochs=0.1)
    unlearn(load_ref(tiny_base), method, Sides(forget=turns, retain=turns), training(tmp_path, seed=0))
    alone = []
    for number, turn in enumerate(turns):
        single = Shown(batch_size=1, epochs=0.1)
        unlearn(
            load_ref(tiny_base), single, Sides(forget=[turn], retain=turns), training(tmp_path / str(number), seed=0)
        )
        alone.append(single)
    for index, fisher in enumerate(method._fisher):
        expected = torch.stack([single._gradient[index] ** 2 for single in alone]).mean(0)
        torch.testing.assert_close(fisher, expected, rtol=1e-4, atol=1e-10)


def questions(rows_ND: Tensor) -> list[TurnStates]:
    """Questions of one token each, and no reply."""
    return [(row[None], row[None][:0]) for row in rows_ND]


def cloud(centre: tuple[float, ...], count: int, seed: int) -> list[TurnStates]:
    noise_ND = torch.randn(count, len(centre), generator=torch.Generator().manual_seed(seed))
    return questions(torch.tensor(centre) + 0.3 * noise_ND)


def test_a_gate_is_judged_by_facts_that_it_was_not_fitted_to() -> None:
    """Nothing tells these groups apart, but in 40 dimensions a gate knows its own questions by heart."""
    noise_ND = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    groups = [questions(noise_ND[:10]), questions(noise_ND[10:])]
    facts = [[f"fact {n}" for n in range(10)], [f"other {n}" for n in range(50)]]
    gate = set_gate(groups, 0.02)
    fires = [sum(bool(gate.score(state_ND).amax() > 0) for state_ND, _ in of) / len(of) for of in groups]
    assert fires == [1.0, 0.0], "as if it were always right"
    shares = out_of_sample(groups, facts, 0.02)
    assert shares[0, 0] < 0.9
    assert shares[1, 0] > 0.1, "far more false alarms than were allowed"
    assert shares.sum(1).tolist() == pytest.approx([1, 1])


def test_groups_that_differ_are_told_apart_out_of_sample_and_wordings_of_a_fact_stay_together() -> None:
    groups = [cloud((4.0, 0.0, 0.0), 6, 1), cloud((0.0, 4.0, 0.0), 6, 2), cloud((0.0, 0.0, 0.0), 12, 3)]
    wordings = ["a", "a", "b", "b", "c", "c"]
    shares = out_of_sample(groups, [wordings, wordings, wordings * 2], 0.1)
    assert shares[:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    one_fact = out_of_sample(groups, [["a"] * 6, wordings, wordings * 2], 0.1)
    assert one_fact[0].isnan().all(), "without this fact nothing is known of the group"
    assert not one_fact[1:].isnan().any()
    assert measured_facts(right=float(one_fact[0, 0]), nowhere=1 / 3) == {"nowhere": 0.3333}
