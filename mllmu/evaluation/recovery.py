"""What attacks got back: recovery, excess over the retain_model, and the worst case, each with an interval over people.

    recovery = (after - before) / (target - before)          excess = after - after of the retain_model

``after`` is the score under the attack, ``before`` that without it, ``target`` that of the target without it; all are
means over the same questions. An attack that reads another number than the plain score brings a ``before`` of its own,
and ``target`` is then what it reads from the target. Relearning and many tries bring the retain_model up too, so the
excess is the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mllmu.core.attacked import Access, AttackCurvePoint, AttackPoint, AttackRow, WorstCase
from mllmu.evaluation.bootstrap import DRAWS, Table, draw
from mllmu.evaluation.metrics import Estimate, clustered_mean
from mllmu.evaluation.stats import bootstrap_interval

Scores = Mapping[str, float]
"""Scores of one model by question."""
NOTHING_FORGOTTEN = "the interval of target - before holds 0: too little was forgotten for anything to come back"
SHARE = (0.0, 1.0)
SIGNED = (-1.0, 1.0)


class Attacked(NamedTuple):
    """The points of one attack on one model, or why it does not apply; ``plain``: the model without the attack."""

    plain: Scores
    points: Sequence[AttackPoint] = ()
    reason: str = ""

    def only(self, names: Collection[str]) -> Attacked:
        """The same for some of the questions."""

        def chosen(scores: Scores) -> dict[str, float]:
            return {name: value for name, value in scores.items() if name in names}

        points = [p.model_copy(update={"values": chosen(p.values), "before": chosen(p.before)}) for p in self.points]
        return Attacked(chosen(self.plain), points, self.reason)

    @property
    def after(self) -> Scores:
        """The scores at the last point."""
        return self.points[-1].values if self.points else {}

    @property
    def before(self) -> Scores:
        """The scores without the attack: those that it read itself, or the plain ones."""
        return self.points[-1].before or self.plain if self.points else self.plain


def attack_row(
    model: str, about: Mapping[str, str], own: Attacked, target: Attacked, retain: Attacked, units: Mapping[str, str]
) -> AttackRow:
    """The row of one attack on one model.

    Args:
        about: name, label, family and access of the attack.
        own, target, retain: the attack on the model, the target and the retain_model.
        units: the unit of every question, see :func:`mllmu.evaluation.stats.units_of`.
    """
    row = AttackRow.model_validate({"model": model, **about})
    if own.reason:
        return row.model_copy(update={"reason": own.reason})
    names = [name for name in own.after if name in own.before]
    who = [units[name] for name in names]
    # an attack that reads another number than the plain score compares with what it reads from the target
    top = target.after if target.points and target.points[-1].before else target.plain
    after = clustered_mean([own.after[name] for name in names], who, SHARE)
    found: dict[str, object] = {
        "before": _mean(own.before, names),
        "after": after.value,
        "after_low": after.low,
        "after_high": after.high,
        "target": _mean(top, names),
        "num": after.num,
        "num_units": after.num_clusters,
    }
    recovery = ratio(
        [own.after[n] - own.before[n] for n in names], [top.get(n, 0.0) - own.before[n] for n in names], who
    )
    found |= {"recovery": recovery.value, "recovery_low": recovery.low, "recovery_high": recovery.high}
    found["no_recovery"] = recovery.reason
    if shared := [name for name in names if name in retain.after]:
        differences = [own.after[name] - retain.after[name] for name in shared]
        excess = clustered_mean(differences, [units[name] for name in shared], SIGNED)
        found |= {"excess": excess.value, "excess_low": excess.low, "excess_high": excess.high}
    if own.points[-1].step:
        start = AttackPoint(values={name: own.before[name] for name in names})
        curve = [curve_point(point, units) for point in (start, *own.points)]
        half = (point.step for point in curve if point.value >= _mean(top, names) / 2)
        found |= {"curve": tuple(curve), "half": next(half, None)}
    return row.model_copy(update=found)


def curve_point(point: AttackPoint, units: Mapping[str, str]) -> AttackCurvePoint:
    """The mean score at one point of an attack."""
    found = clustered_mean(list(point.values.values()), [units[name] for name in point.values], SHARE)
    return AttackCurvePoint(step=point.step, value=found.value or 0.0, low=found.low, high=found.high)


def _mean(scores: Scores, names: Sequence[str]) -> float:
    return sum(scores.get(name, 0.0) for name in names) / max(1, len(names))


class Ratio(NamedTuple):
    """A ratio of two sums with its interval; None with the reason where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def ratio(above: Sequence[float], below: Sequence[float], units: Sequence[str]) -> Ratio:
    """sum of ``above`` / sum of ``below`` over the same questions, with a 95 % interval over people.

    r = mean(a) / mean(b), and its interval that of mean(a - r b) / mean(b), clustered by unit (linearisation). None
    if the interval of mean(b) holds 0; without an interval if a - r b is the same for all questions.

    Source: Cochran 1977, Sampling Techniques, section 6.3.
    """
    size = clustered_mean(below, units, SIGNED)
    if not size.value or size.low is None or size.high is None or size.low <= 0 <= size.high:
        return Ratio(None, reason=NOTHING_FORGOTTEN)
    value = sum(above) / sum(below)
    spread = clustered_mean([a - value * b for a, b in zip(above, below, strict=True)], units)
    if spread.low is None or spread.high is None:
        return Ratio(value)
    ends = sorted((value + spread.low / size.value, value + spread.high / size.value))
    return Ratio(value, ends[0], ends[1])


class Tries(NamedTuple):
    """What one attack of an access level got from a model and from the retain_model; ``asks`` see ``Attack``."""

    attack: str
    own: Scores
    retain: Scores
    asks: bool


def worst_case(model: str, access: Access, tries: Sequence[Tries], units: Mapping[str, str], *, seed: int) -> WorstCase:
    """The attack of an access level with the largest excess, and what any of those that ask got right.

    Both compare with the retain_model, so a score counts only where the retain_model has one under the same attack.
    The interval of the largest excess is that of :func:`band`, over all attacks of the level.
    """
    found = WorstCase(model=model, access=access, num_attacks=len(tries))
    over = [{name: one.own[name] - one.retain[name] for name in one.own if name in one.retain} for one in tries]
    if not any(over):
        return found
    excess_DA = drawn_means(over, units, seed=seed, group="attacks")
    worst = int(np.nanargmax(excess_DA[0]))
    alone = clustered_mean(list(over[worst].values()), [units[name] for name in over[worst]], SIGNED)
    low, high = band(excess_DA, alone, len({units[name] for differences in over for name in differences}))
    named = {"attack": tries[worst].attack, "excess": float(excess_DA[0, worst])}
    found = found.model_copy(update={**named, "excess_low": low, "excess_high": high})
    both: dict[str, list[tuple[float, float]]] = {}
    for one in tries:
        for name in one.own.keys() & one.retain.keys() if one.asks else ():
            both.setdefault(name, []).append((one.own[name], one.retain[name]))
    if not both:
        return found
    names = sorted(both)
    own, retain = ({n: max(score[side] for score in both[n]) for n in names} for side in (0, 1))
    hits = clustered_mean([own[n] - retain[n] for n in names], [units[n] for n in names], SIGNED)
    return found.model_copy(
        update={"any_hit": _mean(own, names), "any_excess": hits.value, "any_low": hits.low, "any_high": hits.high}
    )


def drawn_means(scores: Sequence[Scores], units: Mapping[str, str], *, seed: int, group: str) -> Table:
    """The mean score of every attack [1 + D, A]: as it is, and in each draw of units with replacement.

    NaN where no unit was drawn that an attack asks about. All attacks get the same draws.

    Args:
        scores: of each attack, by question; ``units``: the unit of every question.
        seed, group: of the draws, see :func:`mllmu.evaluation.bootstrap.draw`.
    """
    every = sorted({units[name] for of_attack in scores for name in of_attack})
    place = {unit: number for number, unit in enumerate(every)}
    sums_UA, counts_UA = np.zeros((2, len(every), len(scores)))
    for attack, of_attack in enumerate(scores):
        for name, value in of_attack.items():
            sums_UA[place[units[name]], attack] += value
            counts_UA[place[units[name]], attack] += 1
    draws = [draw(every, seed=seed, group=group, number=number) for number in range(DRAWS)]
    times_DU = np.array([[1] * len(every), *draws], dtype=float)
    with np.errstate(invalid="ignore"):
        means_DA: Table = (times_DU @ sums_UA) / (times_DU @ counts_UA)
    return means_DA


def band(excess_DA: Table, alone: Estimate, num_units: int) -> tuple[float | None, float | None]:
    """95 % interval of the largest excess of several attacks: it knows that the attack was chosen among many.

    e_a: excess of attack a, e*_a the same in a draw of units with replacement, w the attack with the largest e_a
        low  = e_w - q,   q  = quantile 0.975 of max_a (e*_a - e_a)
        high = e_w + q',  q' = quantile 0.975 of max_a (e_a - e*_a)
    within -1 and 1; and no narrower than the interval of attack w alone, which is all there is of fewer than two units.
    With few units the quantiles lie further out, see :func:`mllmu.evaluation.stats.bootstrap_interval`. None where
    neither tells how much the number could vary.

    The true excesses of all attacks lie above e_a - q at once in 97.5 % of cases, so that which of them is the largest
    does not matter. Where nobody knows anything, low is above 0 in at most about 2.5 % of cases, however many attacks.

    Args:
        excess_DA: e_a in the first row, e*_a in the others; NaN where an attack has none.
        alone: attack w with its own interval, as in its row.
        num_units: what was drawn; of two sets the smaller one.

    Source: White 2000, A reality check for data snooping, doi:10.1111/1468-0262.00152 (for low; high likewise).
    """
    excess = float(np.nanmax(excess_DA[0]))
    lows, highs = ([excess, *(end for end in (own,) if end is not None)] for own in (alone.low, alone.high))
    if num_units > 1:
        moved_DA = excess_DA[1:] - excess_DA[0]
        moved_DA = moved_DA[~np.isnan(moved_DA).all(axis=1)]
        down, up = (bootstrap_interval(np.nanmax(m, axis=1).tolist(), num_units)[1] for m in (moved_DA, -moved_DA))
        lows.append(excess - down)
        highs.append(excess + up)
    low, high = max(SIGNED[0], min(lows)), min(SIGNED[1], max(highs))
    return (low, high) if low < high else (None, None)
