"""Holdout people as the yardstick, where there is no retain model: other people, so nothing can be paired.

    excess = mean over the questions about the forget people - mean over those about the holdout people

Its interval combines those of the two means (MOVER): low = d - sqrt((a - a_low)^2 + (b_high - b)^2), high likewise. It
is wider than that of a paired difference, and people differ: holdout people may be easier or harder to guess.

Source: Donner and Zou 2012, doi:10.1177/0962280210375185 (Newcombe 1998, method 10, for any two intervals).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mllmu.core.attacked import Access, AttackRow, WorstCase
from mllmu.core.process import rng
from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Estimate, clustered_mean
from mllmu.evaluation.outcome import rights
from mllmu.evaluation.recovery import band, drawn_means
from mllmu.evaluation.stats import FEW_PEOPLE, Difference, unit_of

FORGET, HOLDOUT = "forget", "holdout"
SHARE = (0.0, 1.0)
PERMUTATIONS = 4000
AGAINST = "on holdout people, whom it was never taught"


def are_few(samples: Sequence[Sample]) -> bool:
    """Whether one of the two sides has so few people that facts are the units."""
    sides = ({s.profile_id for s in samples if s.split == split} for split in (FORGET, HOLDOUT))
    return min(map(len, sides)) <= FEW_PEOPLE


def apart(a: Estimate, b: Estimate) -> Estimate:
    """The difference of two means over different questions, with its interval; None where one has none.

    >>> one, other = Estimate(0.5, 0.2, 0.8, 10, 5), Estimate(0.25, 0.05, 0.65, 8, 4)
    >>> [round(x, 3) for x in apart(one, other)[:3]]
    [0.25, -0.25, 0.611]
    """
    value, low, high = None, None, None
    if a.value is not None and b.value is not None:
        value = a.value - b.value
        if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
            low = value - math.hypot(a.value - a.low, b.high - b.value)
            high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(value, low, high, a.num + b.num, a.num_clusters + b.num_clusters)


def mean_of(values: Mapping[str, float], samples: Sequence[Sample], split: str, *, few: bool) -> Estimate:
    """The mean score of the questions of a set, with its interval by unit."""
    own = [sample for sample in samples if sample.split == split and sample.id in values]
    return clustered_mean([values[s.id] for s in own], [unit_of(s, few=few) for s in own], SHARE)


def memorisation(samples: Sequence[Sample], target: Sequence[Response]) -> Difference:
    """How much more often the target is right about the people to forget than about people it was never taught.

    The p-value is that of a permutation: units are dealt to the two sides anew (4,000 times, by a fixed seed), and
    p = (1 + deals with a difference as large) / 4,001.
    """
    asked = [s for s in samples if s.split in (FORGET, HOLDOUT) and s.part == "report"]
    values = rights(asked, target)
    few = are_few(asked)
    known, unknown = (mean_of(values, asked, split, few=few) for split in (FORGET, HOLDOUT))
    found = apart(known, unknown)
    p_value = permutation_p(values, asked, few=few) if found.value is not None else None
    units, unit = len({unit_of(s, few=few) for s in asked}), "facts" if few else "people"
    return Difference(found.value, found.low, found.high, p_value, len(asked), units, unit, AGAINST)


def permutation_p(values: Mapping[str, float], samples: Sequence[Sample], *, few: bool) -> float:
    """One-sided p-value of 'the forget side is no higher' from units dealt to the two sides anew."""
    sums: dict[str, list[float]] = {}
    for sample in samples:
        total = sums.setdefault(unit_of(sample, few=few), [0.0, 0.0])
        total[0] += values[sample.id]
        total[1] += 1
    forget = {unit_of(s, few=few) for s in samples if s.split == FORGET}
    units = sorted(sums)

    def difference(side: set[str]) -> float:
        means = []
        for inside in (True, False):
            own = [sums[unit] for unit in units if (unit in side) == inside]
            means.append(sum(total for total, _ in own) / max(1, sum(count for _, count in own)))
        return means[0] - means[1]

    seen, dealer = difference(forget) - 1e-12, rng(0, "permutation", *units)
    as_large = sum(difference(set(dealer.sample(units, len(forget)))) >= seen for _ in range(PERMUTATIONS))
    return (1 + as_large) / (1 + PERMUTATIONS)


def control_row(row: AttackRow, after: Mapping[str, float], samples: Sequence[Sample]) -> AttackRow:
    """The row of an attack with the excess over the same attack on questions about holdout people."""
    few = are_few(samples)
    excess = apart(*(mean_of(after, samples, split, few=few) for split in (FORGET, HOLDOUT)))
    return row.model_copy(
        update={"excess": excess.value, "excess_low": excess.low, "excess_high": excess.high, "against": HOLDOUT}
    )


def worst_control(
    model: str, access: Access, tries: Mapping[str, Mapping[str, float]], asks: set[str],
    samples: Sequence[Sample], *, seed: int,
) -> WorstCase:  # fmt: skip
    """The attack with the largest excess over the holdout people, and what any attack that asks got right.

    The interval of the largest excess is that of :func:`mllmu.evaluation.recovery.band`, from draws of both sides.

    Args:
        tries: score of every question, of both sides, by attack; ``asks``: those that ask for the fact itself.
    """
    few, found = are_few(samples), WorstCase(model=model, access=access, num_attacks=len(tries))
    units = {split: {s.id: unit_of(s, few=few) for s in samples if s.split == split} for split in (FORGET, HOLDOUT)}
    asked = {
        name: [{key: score for key, score in values.items() if key in own} for own in units.values()]
        for name, values in tries.items()
    }
    if not (names := [name for name, sides in asked.items() if all(sides)]):
        return found
    forget_DA, holdout_DA = (
        drawn_means([asked[name][side] for name in names], units[split], seed=seed, group=f"attacks {split}")
        for side, split in enumerate(units)
    )
    excess_DA = forget_DA - holdout_DA
    worst = int(np.argmax(excess_DA[0]))
    alone = apart(*(mean_of(tries[names[worst]], samples, split, few=few) for split in units))
    low, high = band(excess_DA, alone, min(len({*own.values()}) for own in units.values()))
    any_hit = {s.id: max((tries[name].get(s.id, 0.0) for name in asks & set(tries)), default=0.0) for s in samples}
    known, unknown = (mean_of(any_hit, samples, split, few=few) for split in units)
    hits = apart(known, unknown)
    return found.model_copy(
        update={
            "attack": names[worst], "excess": float(excess_DA[0, worst]), "excess_low": low, "excess_high": high,
            "any_hit": known.value, "any_excess": hits.value, "any_low": hits.low, "any_high": hits.high,
        }
    )  # fmt: skip
