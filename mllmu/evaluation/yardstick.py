"""Holdout people as the yardstick, where there is no retain model: other people, so nothing can be paired.

    excess = mean over the questions about the forget people - mean over those about the holdout people

Its interval combines those of the two means (MOVER): low = d - sqrt((a - a_low)^2 + (b_high - b)^2), high likewise. It
is wider than that of a paired difference, and people differ: holdout people may be easier or harder to guess.

Source: Donner and Zou 2012, doi:10.1177/0962280210375185 (Newcombe 1998, method 10, for any two intervals).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mllmu.core.attacked import Access, AttackRow, WorstCase
from mllmu.core.process import rng
from mllmu.core.records import Response, Sample
from mllmu.evaluation.bootstrap import DRAWS, draw
from mllmu.evaluation.metrics import Estimate, clustered_mean
from mllmu.evaluation.outcome import rights
from mllmu.evaluation.stats import FEW_PEOPLE, Difference, bootstrap_interval, unit_of

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

    The interval draws units of both sides with replacement and takes the largest excess in every draw.

    Args:
        tries: score of every question, of both sides, by attack; ``asks``: those that ask for the fact itself.
    """
    few = are_few(samples)
    sides = {split: [s for s in samples if s.split == split] for split in (FORGET, HOLDOUT)}
    if not tries or not all(sides.values()):
        return WorstCase(model=model, access=access)
    sums = {name: _sums(values, sides, few=few) for name, values in tries.items()}
    units = {split: sorted({unit_of(s, few=few) for s in own}) for split, own in sides.items()}
    once = {split: dict.fromkeys(names, 1) for split, names in units.items()}
    excess = {name: _excess(of_attack, once) for name, of_attack in sums.items()}
    worst = max(excess, key=lambda name: excess[name])
    drawn = []
    for number in range(DRAWS):
        times = {
            split: dict(zip(names, draw(names, seed=seed, group=f"attacks {split}", number=number), strict=True))
            for split, names in units.items()
        }
        drawn.append(max(_excess(of_attack, times) for of_attack in sums.values()))
    low, high = bootstrap_interval(drawn, max(2, min(map(len, units.values()))))
    any_hit = {s.id: max((tries[name].get(s.id, 0.0) for name in asks & set(tries)), default=0.0) for s in samples}
    known, unknown = (mean_of(any_hit, samples, split, few=few) for split in (FORGET, HOLDOUT))
    hits = apart(known, unknown)
    return WorstCase(
        model=model, access=access, attack=worst, excess=excess[worst], excess_low=min(low, excess[worst]),
        excess_high=max(high, excess[worst]), any_hit=known.value, any_excess=hits.value, any_low=hits.low,
        any_high=hits.high, num_attacks=len(tries),
    )  # fmt: skip


def _sums(
    values: Mapping[str, float], sides: Mapping[str, Sequence[Sample]], *, few: bool
) -> dict[str, dict[str, tuple[float, int]]]:
    found: dict[str, dict[str, tuple[float, int]]] = {split: {} for split in sides}
    for split, samples in sides.items():
        for sample in samples:
            if sample.id in values:
                total, count = found[split].get(unit_of(sample, few=few), (0.0, 0))
                found[split][unit_of(sample, few=few)] = (total + values[sample.id], count + 1)
    return found


def _excess(of_attack: Mapping[str, Mapping[str, tuple[float, int]]], times: Mapping[str, Mapping[str, int]]) -> float:
    means = []
    for split in (FORGET, HOLDOUT):
        total = sum(times[split][unit] * value for unit, (value, _) in of_attack[split].items())
        count = sum(times[split][unit] * number for unit, (_, number) in of_attack[split].items())
        means.append(total / count if count else 0.0)
    return means[0] - means[1]
