"""Intervals of differences and of bootstraps, how well a score tells members from others, distances of distributions.

The questions about one person are not independent, so every interval here treats the person as the unit.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mllmu.core.errors import DataError
from mllmu.core.records import Sample, fact_of
from mllmu.evaluation.metrics import clustered_mean

JS_BINS = 20
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""


class Difference(NamedTuple):
    """Mean of a - b over the same items, its interval, and the one-sided p-value of 'a is no better'.

    ``num_clusters`` counts the units that are independent, ``unit`` says what they are, ``against`` what b is.
    """

    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    num: int
    num_clusters: int
    unit: str = "people"
    against: str = "the retain_model, which never saw them"


Unit = Literal["people", "facts", "questions"]
FEW_PEOPLE = 5
"""Up to so many people, questions about these people are compared; with more, people."""
FEWEST_FACTS = 5
"""0.5^5 is below 0.05: so many facts must be known better before it can be no accident."""


def unit_of(sample: Sample, *, few: bool) -> str:
    """What is independent among questions: the person, or of few people the fact (an attribute of a person)."""
    return " ".join(fact_of(sample)) if few else sample.profile_id


def units_of(samples: Sequence[Sample]) -> tuple[dict[str, str], Unit]:
    """What is independent among questions: the unit of each by sample id, and what the units are.

    The person, so that a number is about people like these. Five people or fewer could not be told from luck that way:
    then the fact (all questions about one attribute of a person, which are right or wrong together), and with fewer
    than five facts the question; both are about these people alone.
    """
    if len({sample.profile_id for sample in samples}) > FEW_PEOPLE:
        return {sample.id: unit_of(sample, few=False) for sample in samples}, "people"
    facts = {sample.id: unit_of(sample, few=True) for sample in samples}
    if len({*facts.values()}) >= FEWEST_FACTS:
        return facts, "facts"
    return {sample.id: sample.id for sample in samples}, "questions"


def bootstrap_interval(draws: Sequence[float], num_clusters: int) -> tuple[float, float]:
    """95 % interval of a number from its values on clusters drawn with replacement: percentiles, wider if they are few.

    low, high = quantiles a and 1 - a of the draws;  a = Phi(-t(G-1) * sqrt(G/(G-1)))

    Draws with replacement spread by sqrt((G-1)/G) too little, and a normal tail ignores that the spread is itself
    estimated. With these two corrections the interval of a plain mean is about that of a mean of so many numbers.
    a is 0.025 for very many clusters, 0.018 for 25, 0.0057 for 8 and 0.00012 for 4: all draws but the ends.

    Args:
        draws: at least one number, none missing.
        num_clusters: people the number rests on, at least 2; of the smallest set if there are several.

    Source: Hesterberg 2015, arXiv:1411.5279, section 4 ("expanded percentile interval").
    """
    from scipy.special import ndtr, stdtrit  # scipy is slow to import and only needed here

    reach = stdtrit(num_clusters - 1, 0.975) * math.sqrt(num_clusters / (num_clusters - 1))
    return percentile_interval(draws, float(ndtr(-reach)))


def percentile_interval(draws: Sequence[float], outside: float = 0.025) -> tuple[float, float]:
    """The draws without the lowest and the highest share ``outside``; by default the middle 95 %."""
    import numpy as np

    low, high = np.quantile(draws, [outside, 1 - outside])
    return float(low), float(high)


def paired_difference(scores_a: Sequence[float], scores_b: Sequence[float], clusters: Sequence[str]) -> Difference:
    """Compare two models on the same right or wrong answers: mean of a - b, clustered 95 % interval, and p-value.

    The interval is that of :func:`clustered_mean` between -1 and 1. p is exact: if a is no better than b, the sum d_g
    of the differences in each cluster could as well have the other sign, so
        p = P( sum_g +-d_g >= sum_g d_g ), all signs equally likely.
    Pairing removes what the items have in common.

    Args:
        scores_a: 1 or 0 per item for the first model.
        scores_b: the same items in the same order for the second model.
        clusters: the cluster (person, fact) of each item.

    Returns:
        p_value None for no items; 1 if all differences are 0; never below 0.5^G with G clusters.

    Raises:
        DataError: the lengths differ.

    Source: Fisher 1935, The Design of Experiments, section 21 (randomisation test); Miller 2024, section 4.2.
    """
    if len(scores_a) != len(scores_b):
        raise DataError(f"paired difference: got {len(scores_a)} and {len(scores_b)} scores, expected the same items.")
    differences = [a - b for a, b in zip(scores_a, scores_b, strict=True)]
    value, low, high, num, num_clusters = clustered_mean(differences, clusters, (-1.0, 1.0))
    sums: Counter[str] = Counter()
    for cluster, difference in zip(clusters, differences, strict=True):
        sums[cluster] += round(difference)
    return Difference(value, low, high, sign_flip_p([*sums.values()]) if num else None, num, num_clusters)


def sign_flip_p(sums: Sequence[int]) -> float:
    """Share of all choices of signs that give at least the total of these whole numbers.

    >>> sign_flip_p([3, 1, -1]), sign_flip_p([2, 2, 2, 2, 2]), sign_flip_p([0, 0])
    (0.375, 0.03125, 1.0)
    """
    import numpy as np

    most = sum(map(abs, sums))
    chance_T = np.zeros(2 * most + 1)  # of the totals from -most to most
    chance_T[most] = 1.0
    for number in sums:
        chance_T = (np.roll(chance_T, number) + np.roll(chance_T, -number)) / 2  # never past an end
    return float(chance_T[most + sum(sums) :].sum())


def lowest_mean(values: Sequence[float], share: float = 0.2) -> float:
    """Mean of the lowest share of the values, at least one of them, rounded down.

    >>> lowest_mean([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -11.0])
    -10.0
    """
    number = max(1, int(len(values) * share))
    return math.fsum(sorted(values)[:number]) / number


def auc(members: Sequence[float], others: Sequence[float]) -> float | None:
    """P(a member's score is above another's), ties half; 0.5 = no information. None if a side is empty.

    >>> auc([2.0, 3.0], [1.0, 2.0])
    0.875
    """
    return matched_auc({"": members}, {"": others})


def matched_auc(members: Mapping[Any, Sequence[float]], others: Mapping[Any, Sequence[float]]) -> float | None:
    """AUC over pairs of one stratum only, e.g. answers of one length: what length alone gives away is gone.

    None if no stratum has both.
    """
    shared = [key for key in members if members[key] and others.get(key)]
    pairs = sum(len(members[key]) * len(others[key]) for key in shared)
    return math.fsum(_wins(members[key], others[key]) for key in shared) / pairs if pairs else None


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


def auc_interval(area: float, num_members: int, num_others: int) -> tuple[float, float]:
    """95 % interval of an area under the ROC curve: all areas x from which the one found is not too far.

    |area - x| <= 1.96 * sqrt( x (1 - x) (1 + N (1 - x) / (2 - x) + N x / (1 + x)) / (n m) ),  N = (n + m) / 2 - 1

    The variance is that of the area asked about, not of the one found, so it never is [1, 1]: areas of 1 from 2, 5 and
    10 scores on each side begin at 0.39, 0.64 and 0.80.

    Args:
        area: the area found, 0 to 1.
        num_members, num_others: scores on each side (n and m), at least 1.

    Source: Newcombe 2006, doi:10.1002/sim.2324, method 5.
    """
    extra = (num_members + num_others) / 2 - 1

    def reach(x: float) -> float:
        spread = 1 + extra * ((1 - x) / (2 - x) + x / (1 + x))
        return NORMAL * math.sqrt(x * (1 - x) * spread / (num_members * num_others))

    def lowest(found: float) -> float:
        low, high = 0.0, found
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if found - middle > reach(middle) else (low, middle)
        return low

    return lowest(area), 1 - lowest(1 - area)


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of at least one value; 0 if a value is 0 or below.

    >>> harmonic_mean([1.0, 0.5]), harmonic_mean([1.0, 0.0])
    (0.6666666666666666, 0.0)
    """
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


def ks_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sample Kolmogorov-Smirnov distance: sup_x |F_a(x) - F_b(x)|; 0 = the same values, 1 = no overlap.

    A distance, not a p-value: it does not shrink to zero just because the samples grow.
    For a = 1,2 and b = 2,3: F_a(1) = 0.5, F_b(1) = 0, so D = 0.5.

    Raises:
        DataError: one of the samples is empty.
    """
    _need_values("KS distance", a, b)
    first, second = sorted(a), sorted(b)
    return max(abs(bisect_right(first, x) / len(first) - bisect_right(second, x) / len(second)) for x in {*a, *b})


def ks_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """P-value of the two-sample Kolmogorov-Smirnov test: the chance of a larger distance if both are one distribution.

    Exact for up to 10,000 values, asymptotic above. 1 for equal samples; for a = 1,2 and b = 3,4 (no overlap) two of
    the 6 orders are as extreme: 1/3.

    Raises:
        DataError: one of the samples is empty.
    """
    _need_values("KS test", a, b)
    from scipy.stats import ks_2samp  # scipy is slow to import and only needed here

    return float(ks_2samp(a, b).pvalue)


def js_distance(a: Sequence[float], b: Sequence[float], *, bins: int = JS_BINS) -> float:
    """Jensen-Shannon distance of two histograms, base 2: sqrt( (KL(p||m) + KL(q||m)) / 2 ), m = (p + q) / 2.

    All values are in [0, 1] and are counted in ``bins`` equal bins of that range, whatever the samples: so distances of
    several models are on one scale. 0 = the same histogram, 1 = no common bin.

    Raises:
        DataError: a sample is empty, a value is outside, or ``bins`` is below 1.
    """
    _need_values("JS distance", a, b)
    if bins < 1:
        raise DataError(f"JS distance: got {bins} bins, expected at least 1.")
    import numpy as np

    if (least := min(*a, *b)) < 0 or (most := max(*a, *b)) > 1:
        raise DataError(f"JS distance: got {least if least < 0 else most}, expected values from 0 to 1.")
    p, q = ((np.histogram(values, bins, (0, 1))[0] / len(values)).tolist() for values in (a, b))
    total = sum(_kl_to_middle(x, y) + _kl_to_middle(y, x) for x, y in zip(p, q, strict=True))
    return math.sqrt(max(total / 2, 0.0))


def _wins(members: Sequence[float], others: Sequence[float]) -> float:
    ordered = sorted(others)
    return math.fsum((bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 for score in members)


def _need_values(what: str, a: Sequence[float], b: Sequence[float]) -> None:
    if not a or not b:
        raise DataError(f"{what}: got {len(a)} and {len(b)} values, expected at least one on each side.")


def _kl_to_middle(x: float, y: float) -> float:
    return x * math.log2(2 * x / (x + y)) if x > 0 else 0.0
