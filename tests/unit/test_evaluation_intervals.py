"""Intervals of few people: inside their range, never empty, and how often they hold the truth, with their widths."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import median

import numpy as np
import pytest

from mllmu.core import plugins
from mllmu.evaluation.metrics import Estimate, clustered_mean, interval_around

DRAWS = 100
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
CORRELATIONS = (0.0, 0.1, 0.3)
"""Of two questions about one person: 0, all people are alike; 0.3, they differ as 0.2 and 0.8 do around 0.5."""


def names(people: int, questions: int) -> list[str]:
    return [f"p{index // questions}" for index in range(people * questions)]


def shares(people: int, *, graded: bool) -> tuple[float, float, float]:
    """Coverage on average, at worst, and the median width, over shares, correlations, and 6 or 18 questions each."""
    held: list[bool] = []
    widths: list[float] = []
    for questions in (6, 18):
        clusters = names(people, questions)
        for share in SHARES:
            for correlation in CORRELATIONS:
                dice = np.random.default_rng([people, questions, round(100 * share), round(100 * correlation)])
                found = [_world(dice, people, questions, share, correlation, graded=graded) for _ in range(DRAWS)]
                for values, truth in found:
                    got = clustered_mean(values, clusters, (0.0, 1.0))
                    assert got.low is not None and got.high is not None and 0 <= got.low < got.high <= 1
                    held.append(got.low <= truth <= got.high)
                    widths.append(got.high - got.low)
    return float(np.mean(held)), float(np.mean(np.reshape(held, (-1, DRAWS)), axis=1).min()), median(widths)


def _world(
    dice: np.random.Generator, people: int, questions: int, share: float, correlation: float, *, graded: bool
) -> tuple[Sequence[float], float]:
    """Answers, and what the interval is to hold: of one or two people their own share, else that of all people."""
    levels = np.full(people, share)
    if correlation:
        spread = (1 - correlation) / correlation
        levels = dice.beta(share * spread, (1 - share) * spread, people)
    each = np.repeat(np.clip(levels, 1e-3, 1 - 1e-3), questions)
    values = dice.beta(3 * each, 3 * (1 - each)) if graded else (dice.random(len(each)) < each).astype(float)
    return values.tolist(), float(levels.mean()) if people <= 2 else share


@pytest.mark.parametrize(("people", "width"), [(1, 0.454), (2, 0.312), (3, 0.461), (5, 0.332), (25, 0.144)])
def test_intervals_of_right_and_wrong_hold_the_truth_as_often_as_they_say(people: int, width: float) -> None:
    coverage, worst, middle = shares(people, graded=False)
    assert 0.93 <= coverage <= 0.98
    assert worst >= 0.85, "some settings are harder: many people or few questions, and nearly all are right"
    assert middle == pytest.approx(width, abs=0.005)


@pytest.mark.parametrize(("people", "width"), [(1, 0.237), (2, 0.174), (3, 0.349), (5, 0.254), (25, 0.105)])
def test_so_do_those_of_graded_scores(people: int, width: float) -> None:
    coverage, _, middle = shares(people, graded=True)
    assert 0.93 <= coverage <= 0.98
    assert middle == pytest.approx(width, abs=0.005)


@pytest.mark.parametrize(
    ("values", "people"),
    [
        ([1.0] * 20, ["a"] * 10 + ["b"] * 10),
        ([0.0] * 20, ["a"] * 10 + ["b"] * 10),
        ([1.0, 0.0] * 4, names(4, 2)),
        ([1.0] * 12 + [0.0] * 8, ["a"] * 10 + ["b"] * 10),
        ([1.0] * 10 + [0.0] * 10, ["a"] * 10 + ["b"] * 10),
        ([1.0], ["a"]),
        ([0.37] * 30, names(10, 3)),
        ([1.0] * 75, names(25, 3)),
        ([1.0] * 74 + [0.0], names(25, 3)),
    ],
)
def test_an_interval_has_a_width_and_stays_in_its_range(values: list[float], people: list[str]) -> None:
    got = clustered_mean(values, people, (0.0, 1.0))
    assert got.value is not None and got.low is not None and got.high is not None
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.high - got.low > 0.03


def test_ten_alike_people_are_no_certainty_and_two_are_asked_by_question() -> None:
    # Wilson with q = 1: from 1 / (1 + t^2/N); ten people: t(13) = 2.1604 and N = 10
    assert clustered_mean([1.0] * 30, names(10, 3), (0.0, 1.0)).low == pytest.approx(1 / (1 + 2.1604**2 / 10), abs=1e-4)
    # two people with ten questions each: t(23) = 2.0687 and N = 20 questions
    assert clustered_mean([1.0] * 20, names(2, 10), (0.0, 1.0)).low == pytest.approx(1 / (1 + 2.0687**2 / 20), abs=1e-4)


def test_a_third_person_changes_what_the_mean_is_about() -> None:
    two = clustered_mean([1, 1, 1, 0, 0, 0] * 2, ["a"] * 6 + ["b"] * 6, (0.0, 1.0))
    three = clustered_mean([1, 1, 1, 0, 0, 0] * 2, ["a"] * 4 + ["b"] * 4 + ["c"] * 4, (0.0, 1.0))
    renamed = clustered_mean([1, 1, 1, 0, 0, 0] * 2, ["a"] * 12, (0.0, 1.0))
    assert two[:3] == renamed[:3], "questions are the unit, whoever they are about"
    assert three.num_clusters == 3 and three != two


def test_people_who_differ_widen_the_interval() -> None:
    alike = clustered_mean([1, 1, 0, 0] * 6, names(6, 4), (0.0, 1.0))
    apart = clustered_mean([1] * 12 + [0] * 12, names(6, 4), (0.0, 1.0))
    assert alike.value == apart.value == 0.5
    assert alike.high is not None and apart.high is not None and apart.high > alike.high + 0.1


def test_other_ranges_are_scaled_and_open_ones_are_cut() -> None:
    of_share = clustered_mean([0, 0.5, 1, 1], ["a", "a", "b", "c"], (0.0, 1.0))
    of_points = clustered_mean([1, 5.5, 10, 10], ["a", "a", "b", "c"], (1.0, 10.0))
    assert of_points[:3] == pytest.approx([1 + 9 * x for x in of_share[:3] if x is not None])
    loss = plugins.build("metrics", "member_loss", {})
    assert loss.aggregate([-0.1, -5.0, -0.1], ["a", "b", "c"], split="forget").high == 0.0
    perplexity = plugins.build("metrics", "reply_perplexity", {})
    assert perplexity.aggregate([0.0, 4.0, 0.0], ["a", "b", "c"], split="forget").low == 1.0
    beyond = clustered_mean([7.0, 3.0, 2.0], ["a", "b", "c"], (0.0, 1.0))
    assert beyond.value == 4.0 and beyond.high is not None and beyond.high > 4, "a wrong range is no reason to lie"


def test_without_a_range_and_without_a_spread_there_is_no_interval() -> None:
    assert clustered_mean([-2.0, -2.0], ["a", "b"]) == Estimate(-2.0, None, None, 2, 2)
    assert interval_around(0.5, 0.0, 9, (-inf, inf), 10) == (None, None)


def test_differences_that_are_all_zero_are_as_sure_as_shares_that_are_all_zero() -> None:
    """24 people, none of whom differs: at most a share t^2/(24+t^2) of all does, by 1 at most, with t(27) = 2.0518."""
    share = 2.0518**2 / (24 + 2.0518**2)
    none = clustered_mean([0.0] * 24, names(24, 1), (0.0, 1.0))
    same = clustered_mean([0.0] * 24, names(24, 1), (-1.0, 1.0))
    above = clustered_mean([0.5] * 24, names(24, 1), (-1.0, 1.0))
    assert (none.low, none.high) == pytest.approx((0.0, share), abs=1e-4)
    assert (same.low, same.high) == pytest.approx((-share, share), abs=1e-4)
    assert (above.low, above.high) == pytest.approx((0.5 - 1.5 * share, 0.5 + 0.5 * share), abs=1e-4)
    one = clustered_mean([1.0] + [0.0] * 23, names(24, 1), (-1.0, 1.0))
    assert one.high is not None and same.high is not None and one.high > same.high
