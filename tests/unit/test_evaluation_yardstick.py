"""Holdout people as the yardstick: differences of two sides, by hand, and their gate."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_models import sample

from mllmu.core.attacked import AttackRow, WorstCase
from mllmu.core.errors import GateError
from mllmu.core.records import Response, Sample
from mllmu.evaluation import yardstick
from mllmu.evaluation.gate import check, memorisation, verdict
from mllmu.evaluation.metrics import Estimate
from mllmu.evaluation.yardstick import apart, control_row, worst_control


def asked(forget: int, holdout: int, facts: int = 5) -> list[Sample]:
    """One question about each fact of so many people on both sides; 'Riga' is right."""
    sides = (("forget", forget), ("holdout", holdout))
    every = ((split, person, fact) for split, people in sides for person in range(people) for fact in range(facts))
    return [
        sample(number, id=f"{split}/{person}.{fact}", split=split, profile_id=f"{split[0]}{person}", task="cloze",
               attribute=f"fact {fact}")
        for number, (split, person, fact) in enumerate(every)
    ]  # fmt: skip


def said(samples: list[Sample], right: set[str]) -> list[Response]:
    texts = ("Riga" if s.id in right else "Oslo" for s in samples)
    return [Response(sample_id=s.id, text=t, num_tokens=1, finished=True) for s, t in zip(samples, texts, strict=True)]


def test_the_interval_of_a_difference_combines_those_of_both_sides() -> None:
    found = apart(Estimate(0.9, 0.6, 1.0, 10, 5), Estimate(0.2, 0.1, 0.5, 20, 8))
    assert found.value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - (0.3**2 + 0.3**2) ** 0.5)
    assert found.high == pytest.approx(0.7 + (0.1**2 + 0.1**2) ** 0.5)
    assert (found.num, found.num_clusters) == (30, 13)
    assert apart(Estimate(None, None, None, 0, 0), Estimate(0.2, 0.1, 0.5, 20, 8))[:3] == (None, None, None)
    assert apart(Estimate(0.5, None, None, 2, 2), Estimate(0.2, 0.1, 0.5, 20, 8))[:3] == (0.3, None, None)


def test_the_gate_opens_for_a_model_that_knows_them_better_than_strangers() -> None:
    samples = asked(2, 4)
    knows = {s.id for s in samples if s.split == "forget"}
    found = memorisation(samples, said(samples, knows))
    assert found.value == 1.0 and found.unit == "facts" and found.num == 30 and found.num_clusters == 30
    assert found.p_value == pytest.approx(1 / 4001) and verdict(found) == ""


@pytest.mark.parametrize("right", ["forget/0.0 holdout/0.0 holdout/1.1", "", "holdout/0.0 holdout/0.1 holdout/2.2"])
def test_the_gate_stays_shut_where_strangers_are_known_as_well(right: str) -> None:
    samples = asked(2, 4)
    found = memorisation(samples, said(samples, set(right.split())))
    with pytest.raises(GateError, match="than on holdout people, whom it was never taught"):
        check(found)


def test_many_people_are_the_units_and_facts_of_few_are() -> None:
    assert not yardstick.are_few(asked(6, 6)) and yardstick.are_few(asked(6, 5)) and yardstick.are_few(asked(5, 9))
    every = asked(6, 7)
    knows = {s.id for s in every if s.split == "forget"}
    found = memorisation(every, said(every, knows))
    assert found.unit == "people" and found.num_clusters == 13


def test_a_permutation_counts_deals_with_as_large_a_difference() -> None:
    """Three units, one on the forget side: in a third of the deals it is the one that is told."""
    samples = asked(1, 2, facts=1)
    p = yardstick.permutation_p({samples[0].id: 1.0, samples[1].id: 0.0, samples[2].id: 0.0}, samples, few=True)
    assert p == pytest.approx(1 / 3, abs=0.03)


def test_an_attack_is_compared_with_the_same_on_strangers() -> None:
    samples = asked(2, 2)
    about = {"model": "npo", "attack": "hints", "label": "Hints", "family": "extraction", "access": "black box"}
    after = {s.id: float(s.split == "forget" or s.id.endswith(".0")) for s in samples}
    row = control_row(AttackRow.model_validate(about), after, samples)
    assert row.against == "holdout" and row.excess == pytest.approx(0.8)
    assert row.excess_low is not None and row.excess_high is not None and row.excess_low < 0.8 <= row.excess_high


def test_the_worst_attack_has_the_largest_excess_and_not_the_largest_score() -> None:
    samples = asked(3, 3)
    many = {s.id: 0.8 if s.split == "forget" else 0.7 for s in samples}
    few = {s.id: 0.4 if s.split == "forget" else 0.1 for s in samples}
    found = worst_control("npo", "black box", {"many": many, "few": few}, {"few"}, samples, seed=1)
    assert (found.attack, found.num_attacks) == ("few", 2) and found.excess == pytest.approx(0.3)
    assert found.any_hit == pytest.approx(0.4) and found.any_excess == pytest.approx(0.3)
    assert worst_control("npo", "black box", {}, set(), samples, seed=1).excess is None


def bounds(found: WorstCase) -> tuple[float, float]:
    assert found.excess is not None and found.excess_low is not None and found.excess_high is not None
    assert found.excess_low <= found.excess <= found.excess_high
    return found.excess_low, found.excess_high


@pytest.mark.parametrize(("forget", "holdout"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("sizes", [(8, 8), (3, 7)])
def test_where_all_draws_are_equal_the_worst_case_has_the_interval_of_its_attack(
    forget: float, holdout: float, sizes: tuple[int, int]
) -> None:
    samples = asked(*sizes)
    values = {s.id: forget if s.split == "forget" else holdout for s in samples}
    found = worst_control("npo", "black box", {"a": values, "b": values}, {"a"}, samples, seed=0)
    assert found.excess == forget - holdout and found.any_excess == found.excess
    assert bounds(found) == (found.any_low, found.any_high)
    assert bounds(found)[1] - bounds(found)[0] > 0.2


def test_a_side_of_one_fact_draws_nothing_and_has_the_interval_of_its_attack() -> None:
    samples = asked(1, 9, facts=1)
    values = {s.id: float(s.split == "forget" or s.id.endswith("1.0")) for s in samples}
    found = worst_control("npo", "black box", {"a": values}, {"a"}, samples, seed=0)
    assert found.excess == pytest.approx(1 - 1 / 9) and bounds(found) == (found.any_low, found.any_high)


def test_an_attack_that_asks_nothing_of_one_side_is_not_the_worst() -> None:
    samples = asked(6, 6)
    both = {s.id: 0.0 for s in samples}
    one = {s.id: 1.0 for s in samples if s.split == "forget"}
    found = worst_control("npo", "black box", {"one": one, "both": both}, {"both"}, samples, seed=0)
    assert (found.attack, found.excess, found.num_attacks) == ("both", 0.0, 2)
    assert worst_control("npo", "black box", {"one": one}, set(), samples, seed=0).excess is None


@pytest.mark.parametrize("people", [(8, 8), (3, 8)])
def test_many_attacks_find_nothing_about_people_who_are_known_as_little_as_strangers(people: tuple[int, int]) -> None:
    samples, left_out, found = asked(*people), 0, 0
    for run in range(30):
        dice = np.random.default_rng(run)
        tries = {f"a{a}": {s.id: float(dice.random() < 0.15) for s in samples} for a in range(20)}
        low, high = bounds(worst_control("m", "black box", tries, {"a0"}, samples, seed=run))
        left_out += not low <= 0 <= high
        tries["a7"] |= {s.id: float(dice.random() < 0.75) for s in samples if s.split == "forget"}
        low, high = bounds(worst_control("m", "black box", tries, {"a0"}, samples, seed=run))
        found += 0 < low <= 0.6 <= high
    assert left_out <= 1 and found >= 24
