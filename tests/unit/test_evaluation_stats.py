"""Means, intervals and distances by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest

from mllmu.core.errors import DataError
from mllmu.core.process import rng
from mllmu.evaluation.metrics import clustered_mean
from mllmu.evaluation.stats import (
    auc,
    auc_interval,
    harmonic_mean,
    js_distance,
    ks_distance,
    paired_difference,
    percentile_interval,
    sign_flip_p,
)


def test_clustered_mean_by_hand() -> None:
    # mean 4/6; squares 4 * 1/9 + 2 * 4/9 = 4/3; without a range v = (4/3 + 2/9) / 7 = 2/9, per item 2/54
    # cluster sums 2/3, 2/3, -4/3: squares 24/9; (G-1) between = 24/9 / 36 * 3 = 2/9
    # expected = 2/54 + 0.1 * 2/9 * 3 * 2 * 1 / 36; se^2 = (2/9 + 4 expected) / 6, t(6) = 2.446912
    got = clustered_mean([1, 1, 1, 1, 0, 0], ["a", "a", "b", "b", "c", "c"])
    assert (got.value, got.num, got.num_clusters) == (pytest.approx(2 / 3), 6, 3)
    error = math.sqrt((2 / 9 + 4 * (2 / 54 + 0.1 * 2 / 9 * 6 / 36)) / 6)
    assert got.low == pytest.approx(2 / 3 - 2.446912 * error)
    assert got.high == pytest.approx(2 / 3 + 2.446912 * error)
    # within 0 to 1 the same, as Wilson has it: N = 2/9 / se^2
    num = 2 / 9 / error**2
    middle, half = 2 / 3 + 2.446912**2 / 2 / num, 2.446912 * math.sqrt(2 / 9 / num + (2.446912 / 2 / num) ** 2)
    got = clustered_mean([1, 1, 1, 1, 0, 0], ["a", "a", "b", "b", "c", "c"], (0.0, 1.0))
    assert got.low == pytest.approx((middle - half) / (1 + 2.446912**2 / num))
    assert got.high == pytest.approx((middle + half) / (1 + 2.446912**2 / num))


def test_repeating_every_question_hardly_narrows_the_interval_of_many_people() -> None:
    people = [f"p{index}" for index in range(60)]
    once = clustered_mean([1, 0, 1] * 20, people, (0.0, 1.0))
    ten_times = clustered_mean([1, 0, 1] * 200, people * 10, (0.0, 1.0))
    assert once.low is not None and ten_times.low == pytest.approx(once.low, abs=0.01)


def test_order_of_items_does_not_matter() -> None:
    items = [(rng(i).random(), f"p{i % 7}") for i in range(40)]
    shuffled = rng(5).sample(items, len(items))
    assert clustered_mean(*zip(*items, strict=True)) == pytest.approx(clustered_mean(*zip(*shuffled, strict=True)))


def test_no_items_have_no_mean() -> None:
    assert clustered_mean([], []) == (None, None, None, 0, 0)


def test_values_without_cluster_ids_are_refused() -> None:
    with pytest.raises(DataError, match="2 values and 1 cluster ids"):
        clustered_mean([1, 0], ["a"])


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = rng(3)
    covered = 0
    for _ in range(300):
        levels = [draw.gauss(0, 1) for _ in range(12)]
        values = [level + draw.gauss(0, 1) for level in levels for _ in range(5)]
        got = clustered_mean(values, [f"p{i // 5}" for i in range(60)])
        covered += got.low is not None and got.high is not None and got.low <= 0 <= got.high
    assert 0.91 <= covered / 300 <= 0.985


def test_paired_difference_by_hand() -> None:
    # differences by cluster 1, 2, 2, -1, together 4; of the 16 choices of signs one gives 6 and two give 4
    got = paired_difference([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1], ["a", "b", "b", "c", "c", "d"])
    assert got.value == pytest.approx(4 / 6)
    assert got.p_value == pytest.approx(3 / 16)
    assert (got.num, got.num_clusters) == (6, 4)
    assert got.low is not None and got.high is not None and -1 < got.low < 4 / 6 < got.high < 1


def test_identical_models_do_not_differ() -> None:
    assert paired_difference([1, 0], [1, 0], ["a", "b"]).p_value == 1.0
    assert paired_difference([], [], [])[:7] == (None, None, None, None, 0, 0, "people")


def test_the_same_lead_everywhere_is_as_certain_as_there_are_clusters() -> None:
    assert paired_difference([1, 1], [0, 0], ["a", "a"]).p_value == 0.5
    assert paired_difference([1, 1], [0, 0], ["a", "b"]).p_value == 0.25
    six = paired_difference([1] * 12, [0] * 12, list("abcdef") * 2)
    assert six.p_value == 2**-6 and six.low is not None and six.low < 0.9


def test_a_sign_flip_is_what_all_choices_of_signs_give() -> None:
    dice = rng(8)
    for _ in range(20):
        sums = [dice.randint(-4, 6) for _ in range(dice.randint(1, 8))]
        totals = [sum(s * d for s, d in zip(signs, sums, strict=True)) for signs in product((1, -1), repeat=len(sums))]
        assert sign_flip_p(sums) == pytest.approx(sum(total >= sum(sums) for total in totals) / len(totals))


def test_models_scored_on_different_items_are_not_compared() -> None:
    with pytest.raises(DataError, match="expected the same items"):
        paired_difference([1], [1, 0], ["a"])


def test_ks_distance_by_hand() -> None:
    assert ks_distance([1, 2], [2, 3]) == 0.5
    assert ks_distance([1, 2, 3], [3, 1, 2]) == 0.0
    assert ks_distance([1, 2], [5, 6, 7]) == 1.0


def test_ks_distance_equals_scipy() -> None:
    from scipy.stats import ks_2samp

    draw = rng(2)
    a, b = [draw.randint(0, 9) for _ in range(30)], [draw.randint(2, 12) for _ in range(41)]
    assert ks_distance(a, b) == pytest.approx(ks_2samp(a, b).statistic)


def test_js_distance_by_hand() -> None:
    assert js_distance([0, 0], [1, 1], bins=2) == pytest.approx(1.0)
    assert js_distance([0, 1], [1, 0], bins=2) == 0.0
    assert js_distance([0.4, 0.4], [0.4], bins=5) == 0.0
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): (log2(4/3) + 1/2 log2(2/3) + 1/2 log2(2)) / 2
    expected = math.sqrt((math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2)
    assert js_distance([0, 0], [0, 1], bins=2) == pytest.approx(expected)


def test_js_distances_of_several_models_are_on_one_scale() -> None:
    # 0.41 and 0.44 share a bin of width 0.05 for whatever else is in the samples, and 0.41 and 0.46 do not
    assert js_distance([0.41], [0.44]) == 0.0
    assert js_distance([0.41, 0.9], [0.44, 0.9]) == 0.0
    assert js_distance([0.41], [0.46]) == pytest.approx(1.0)
    with pytest.raises(DataError, match=r"JS distance: got 1\.5, expected values from 0 to 1"):
        js_distance([0.2, 1.5], [0.1])
    with pytest.raises(DataError, match=r"got -0\.1, expected"):
        js_distance([0.2], [-0.1])


@pytest.mark.parametrize("distance", [ks_distance, js_distance])
def test_distance_to_nothing_is_refused(distance: object) -> None:
    with pytest.raises(DataError, match="got 1 and 0 values"):
        distance([1.0], [])  # type: ignore[operator]


def test_histogram_needs_a_bin() -> None:
    with pytest.raises(DataError, match="got 0 bins"):
        js_distance([1], [0], bins=0)


def test_an_area_by_hand() -> None:
    # 0.9 and 0.8 beat all three; 0.4 beats 0.1, ties with 0.4 and loses to 0.5: 3 + 3 + 1.5 of 9
    assert auc([0.9, 0.8, 0.4], [0.1, 0.5, 0.4]) == pytest.approx(7.5 / 9)
    assert auc([0.0, 1.0], [2.0, 3.0]) == 0.0
    assert auc([], [1.0]) is None


@pytest.mark.parametrize(("num", "low"), [(2, 0.39), (5, 0.64), (10, 0.80)])
def test_the_interval_of_a_perfect_area_has_a_width(num: int, low: float) -> None:
    assert auc_interval(1.0, num, num) == (pytest.approx(low, abs=0.005), 1.0)
    assert auc_interval(0.0, num, num) == (0.0, pytest.approx(1 - low, abs=0.005))


@pytest.mark.parametrize(("area", "members", "others"), [(7.5 / 9, 3, 3), (0.5, 4, 7), (0.9, 20, 10)])
def test_the_bounds_of_an_area_are_as_far_as_their_own_spread_allows(area: float, members: int, others: int) -> None:
    bounds = auc_interval(area, members, others)
    assert 0 < bounds[0] < area < bounds[1] < 1
    for x in bounds:
        variance = x * (1 - x) * (1 + ((members + others) / 2 - 1) * ((1 - x) / (2 - x) + x / (1 + x)))
        assert abs(area - x) == pytest.approx(1.959964 * math.sqrt(variance / (members * others)))


@pytest.mark.parametrize("shift", [0.0, 1.2, 2.4])
@pytest.mark.parametrize("num", [2, 5, 10])
def test_the_interval_of_an_area_holds_the_truth_in_a_pool_of_any_size(num: int, shift: float) -> None:
    truth = (1 + math.erf(shift / 2)) / 2
    draw, held = rng(3), 0
    for _ in range(400):
        has, lacks = ([draw.gauss(mean, 1) for _ in range(num)] for mean in (shift, 0.0))
        low, high = auc_interval(auc(has, lacks) or 0.0, num, num)
        held += low <= truth <= high
    assert held / 400 >= 0.92


def test_the_harmonic_mean_is_zero_if_one_part_is() -> None:
    assert harmonic_mean([1.0, 1.0, 0.5]) == pytest.approx(0.75)
    assert harmonic_mean([1.0, 0.0]) == 0.0


def test_the_middle_of_the_draws_leaves_out_the_same_share_on_both_sides() -> None:
    assert percentile_interval([float(n) for n in range(41)]) == (1.0, 39.0)
    assert percentile_interval([0.0, 10.0], 0.1) == pytest.approx((1.0, 9.0))
