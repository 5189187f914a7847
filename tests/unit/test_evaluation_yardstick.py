"""Holdout people as the yardstick: differences of two sides, by hand, and their gate."""

from __future__ import annotations

import pytest
from helpers_models import sample

from mllmu.core.attacked import AttackRow
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
