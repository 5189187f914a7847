"""How far a metric can be trusted: does it tell models that know from models that do not, and does that last?

Source: the meta-evaluation of OpenUnlearning, arXiv:2506.12618: faithfulness by AUC over a pool of models, robustness
to quantisation and to relearning. Values are oriented first, so that a larger one means that more is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

Z = 1.959964


class Auc(NamedTuple):
    """Area under the ROC curve with its 95 % interval (Hanley and McNeil 1982), clipped to [0, 1]."""

    value: float
    low: float
    high: float


def auc(known: Sequence[float], unknown: Sequence[float]) -> Auc | None:
    """Probability that a model that knows has the larger value, ties counted half; None without both kinds.

    >>> auc([0.9, 0.8, 0.4], [0.1, 0.5, 0.4]).value  # 7.5 of 9 pairs
    0.8333333333333334
    """
    if not known or not unknown:
        return None
    pairs = sum((k > u) + 0.5 * (k == u) for k in known for u in unknown)
    value = pairs / (len(known) * len(unknown))
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (len(known) - 1) * (first - value**2) + (len(unknown) - 1) * (second - value**2)
    error = sqrt(max(0.0, value * (1 - value) + spread) / (len(known) * len(unknown)))
    return Auc(value, max(0.0, value - Z * error), min(1.0, value + Z * error))


def kept_after_quantisation(before: float, after: float) -> float:
    """min(before / after, 1): 1 if rounding the weights of an unlearned model shows no more than was seen before.

    >>> kept_after_quantisation(0.2, 0.4), kept_after_quantisation(0.2, 0.1), kept_after_quantisation(0.0, 0.0)
    (0.5, 1.0, 1.0)
    """
    return 1.0 if after <= before else before / after


def kept_after_relearning(gained: float, gained_oracle: float) -> float:
    """min(gain of the retain_model / gain of the unlearned model, 1) from the same lessons.

    Both are taught the forgotten facts for a while; a model that gains more than one that never knew them still had
    them. 1 if it gains nothing.

    >>> kept_after_relearning(0.4, 0.1), kept_after_relearning(0.1, 0.2), kept_after_relearning(0.0, -0.1)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if gained <= 0 else min(1.0, max(0.0, gained_oracle) / gained)


def harmonic(parts: Sequence[float | None]) -> float | None:
    """Harmonic mean of the parts that are there; 0 if one of them is 0, None without any.

    >>> harmonic([1.0, 0.5, None]), harmonic([0.0, 1.0]), harmonic([None])
    (0.6666666666666666, 0.0, None)
    """
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return 0.0 if min(there) <= 0 else len(there) / sum(1 / part for part in there)
