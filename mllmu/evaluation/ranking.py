"""How well a score tells members from non-members: area under the curve, and hits at few false alarms."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping, Sequence
from math import fsum
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
SHARE = 0.2
"""Share of the tokens that min-k looks at."""


def lowest_mean(values: Sequence[float], share: float = SHARE) -> float:
    """Mean of the lowest share of the values, at least one of them, rounded down.

    >>> lowest_mean([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -11.0])
    -10.0
    """
    number = max(1, int(len(values) * share))
    return fsum(sorted(values)[:number]) / number


def auc(members: Sequence[float], others: Sequence[float]) -> float | None:
    """P(a member's score is above another's), ties half; 0.5 = no information. None if a side is empty.

    >>> auc([2.0, 3.0], [1.0, 2.0])
    0.875
    """
    if not members or not others:
        return None
    return _wins(members, others) / (len(members) * len(others))


def matched_auc(members: Mapping[K, Sequence[float]], others: Mapping[K, Sequence[float]]) -> float | None:
    """The same over pairs of one stratum only, e.g. answers of one length: what length alone gives away is gone.

    None if no stratum has both.
    """
    shared = [key for key in members if members[key] and others.get(key)]
    pairs = sum(len(members[key]) * len(others[key]) for key in shared)
    return fsum(_wins(members[key], others[key]) for key in shared) / pairs if pairs else None


def hits_at(members: Sequence[float], others: Sequence[float], *, false_alarms: float = 0.01) -> float | None:
    """Share of members above the threshold that at most the given share of the others exceeds.

    With fewer than 1 / false_alarms others no false alarm is allowed at all, so the number is then a lower bound.

    >>> hits_at([5.0, 1.0], [2.0, 3.0])
    0.5
    """
    if not members or not others:
        return None
    ordered = sorted(others, reverse=True)
    threshold = ordered[int(false_alarms * len(ordered))]
    return sum(score > threshold for score in members) / len(members)


def _wins(members: Sequence[float], others: Sequence[float]) -> float:
    ordered = sorted(others)
    return fsum((bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 for score in members)
