"""Recovery, excess and the worst case, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_models import sample

from mllmu.core.attacked import AttackPoint
from mllmu.evaluation.metrics import Estimate
from mllmu.evaluation.recovery import (
    NOTHING_FORGOTTEN,
    Attacked,
    Tries,
    attack_row,
    band,
    drawn_means,
    ratio,
    worst_case,
)
from mllmu.evaluation.stats import units_of

UNITS = {f"q{n}": f"u{n}" for n in range(8)}
ABOUT = {"attack": "a", "label": "A", "family": "extraction", "access": "black box"}


def scores(text: str) -> dict[str, float]:
    """Scores of q0, q1 ... from digits."""
    return {f"q{n}": float(digit) for n, digit in enumerate(text)}


def attacked(plain: str, after: str = "", *, reason: str = "") -> Attacked:
    points = [AttackPoint(values=scores(after))] if after else []
    return Attacked(scores(plain), points, reason)


def test_recovery_and_excess_are_those_of_the_formulas() -> None:
    own, target, retain = (
        attacked("00000001", "11110001"),
        attacked("11111111", "11111111"),
        attacked("0" * 8, "10000000"),
    )
    row = attack_row("npo", ABOUT, own, target, retain, UNITS)
    assert (row.before, row.after, row.target) == (0.125, 0.625, 1.0)
    assert row.recovery == pytest.approx((5 - 1) / (8 - 1))
    assert row.excess == pytest.approx((5 - 1) / 8)
    assert row.recovery_low is not None and row.recovery_high is not None
    assert row.recovery_low < row.recovery < row.recovery_high
    assert (row.num, row.num_units) == (8, 8)


def test_a_copy_of_the_retain_model_has_no_excess_whatever_comes_back() -> None:
    retain = attacked("00000000", "11111110")
    row = attack_row("copy", ABOUT, retain, attacked("1" * 8, "1" * 8), retain, UNITS)
    assert row.excess == 0.0
    assert row.recovery == pytest.approx(7 / 8)
    worst = worst_case("copy", "black box", [Tries("a", retain.after, retain.after, asks=True)], UNITS, seed=0)
    assert (worst.excess, worst.any_excess, worst.any_hit) == (0.0, 0.0, pytest.approx(7 / 8))


def test_where_nothing_was_forgotten_recovery_is_none_and_says_why() -> None:
    row = attack_row(
        "idle", ABOUT, attacked("11110111", "11111111"), attacked("1" * 8, "1" * 8), attacked("0" * 8, "0" * 8), UNITS
    )
    assert (row.recovery, row.recovery_low, row.no_recovery) == (None, None, NOTHING_FORGOTTEN)
    assert row.excess == 1.0


def test_an_attack_that_does_not_apply_has_a_reason_and_no_numbers() -> None:
    row = attack_row(
        "prompting", ABOUT, attacked("0" * 8, reason="no weights"), attacked("1" * 8), attacked("0" * 8), UNITS
    )
    assert row.reason == "no weights"
    assert (row.after, row.recovery, row.excess, row.num) == (None, None, None, 0)


def test_an_attack_with_a_number_of_its_own_compares_that() -> None:
    """A probe: before is its control, and the target's number is what the probe reads from the target."""

    def probed(after: str, before: str) -> Attacked:
        return Attacked(scores("0" * 8), [AttackPoint(values=scores(after), before=scores(before))])

    row = attack_row(
        "npo",
        ABOUT,
        probed("11110000", "1" + "0" * 7),
        probed("1" * 7 + "0", "0" * 8),
        probed("0" * 8, "0" * 8),
        UNITS,
    )
    assert (row.before, row.target) == (0.125, 0.875)
    assert row.recovery == pytest.approx((4 - 1) / (7 - 1))


def test_the_curve_starts_without_the_attack_and_says_when_half_is_back() -> None:
    points = [
        AttackPoint(step=step, values=scores(text))
        for step, text in ((1, "10000000"), (2, "11110000"), (4, "11111111"))
    ]
    own = Attacked(scores("0" * 8), points)
    row = attack_row("npo", ABOUT, own, attacked("1" * 8, "1" * 8), attacked("0" * 8, "0" * 8), UNITS)
    assert [(point.step, point.value) for point in row.curve] == [(0, 0.0), (1, 0.125), (2, 0.5), (4, 1.0)]
    assert row.half == 2


def test_the_ratio_is_exact_where_every_question_agrees() -> None:
    units = list("abcdefgh")
    found = ratio([0.5] * 8, [1.0] * 8, units)
    assert (found.value, found.low, found.high) == (0.5, None, None), "nothing tells how much it could vary"
    assert ratio([1.0] * 8, [1.0, -1.0] * 4, units).value is None


def test_of_five_people_or_fewer_the_facts_are_the_units() -> None:
    asked = [sample(n, id=f"forget/{n}", profile_id=f"p{n // 2}", attribute=f"a{n % 2}") for n in range(12)]
    assert units_of(asked[:10]) == ({s.id: f"{s.profile_id} {s.attribute}" for s in asked[:10]}, "facts")
    assert units_of(asked) == ({s.id: s.profile_id for s in asked}, "people")


def test_the_worst_case_is_the_largest_excess_and_any_hit_counts_questions() -> None:
    tries = [
        Tries("first", scores("11000000"), scores("0" * 8), asks=True),
        Tries("second", scores("00111000"), scores("00100000"), asks=True),
        Tries("probe", scores("11111111"), scores("11111111"), asks=False),
    ]
    worst = worst_case("npo", "black box", tries, UNITS, seed=0)
    assert worst.attack == "first" and worst.excess == 0.25, "second: (3 - 1) / 8, equal; the first of equals"
    assert worst.any_hit == 5 / 8 and worst.any_excess == 4 / 8, "the probe asks for no fact"
    assert worst.excess_low is not None and worst.excess_high is not None
    assert worst.excess_low <= 0.25 <= worst.excess_high
    assert worst.num_attacks == 3


def test_the_band_adds_to_the_largest_excess_what_any_attack_moves_in_the_draws() -> None:
    """Attack 0 moves by 0.1, 0, -0.1 and attack 1, the largest, by -0.1, 0.3, 0; attack 2 asks about nobody drawn."""
    excess_DA = np.array([[0.2, 0.5, np.nan], [0.3, 0.4, np.nan], [0.2, 0.8, np.nan], [0.1, 0.5, np.nan]])
    excess_DA = np.vstack([excess_DA, [[np.nan] * 3]])  # a draw that tells nothing
    # the most upwards: 0.1, 0.3, 0, whose quantile 0.975 is 0.29; the most downwards: 0.1, 0, 0.1, so 0.1
    assert band(excess_DA, Estimate(0.5, 0.4, 0.55, 9, 9), 10**7) == pytest.approx((0.21, 0.6), abs=1e-5)
    assert band(excess_DA, Estimate(0.5, 0.1, 0.9, 9, 9), 10**7) == (0.1, 0.9), "no narrower than the attack's own"
    assert band(excess_DA, Estimate(0.5, None, None, 1, 1), 1) == (None, None), "nothing was drawn"
    assert band(excess_DA, Estimate(0.5, 0.3, 0.6, 1, 1), 1) == (0.3, 0.6)
    assert band(np.full((4, 2), 0.5), Estimate(0.5, None, None, 9, 9), 9) == (None, None), "all draws are equal"
    # of three units the quantiles are the largest moves; the end of all differences is 1
    assert band(np.array([[0.8], [0.1], [1.0], [0.8]]), Estimate(0.8, 0.7, 0.9, 9, 3), 3) == pytest.approx((0.6, 1.0))


def test_attacks_share_the_draws_and_one_that_asks_about_nobody_drawn_has_no_number() -> None:
    units = {"q0": "a", "q1": "a", "q2": "b"}
    both, one = {"q0": 1.0, "q1": 0.0, "q2": 1.0}, {"q2": 1.0}
    means_DA = drawn_means([both, one, {}], units, seed=0, group="attacks")
    assert means_DA[0, :2].tolist() == [pytest.approx(2 / 3), 1.0] and np.isnan(means_DA[:, 2]).all()
    # a twice: 1/2 and nothing; b twice: 1 and 1; each once as it is
    cases = {(round(float(x), 4), None if np.isnan(y) else float(y)) for x, y, _ in means_DA}
    assert cases == {(0.5, None), (0.6667, 1.0), (1.0, 1.0)}


def drawn_worlds(
    own: list[float], retain: list[float], runs: int, *, people: int, questions: int, few: dict[int, int]
) -> list[tuple[float, float]]:
    """Intervals of the largest excess; attacks are right by luck at these rates, ``few`` of them about some people."""
    units = {f"{person}.{number}": f"p{person}" for person in range(people) for number in range(questions)}
    found = []
    for run in range(runs):
        dice, tries = np.random.default_rng(run), []
        for attack, rates in enumerate(zip(own, retain, strict=True)):
            asked = list(units)[: questions * few.get(attack, people)]
            sides = [dict(zip(asked, (dice.random(len(asked)) < rate).astype(float), strict=True)) for rate in rates]
            tries.append(Tries(f"a{attack}", own=sides[0], retain=sides[1], asks=True))
        worst = worst_case("m", "black box", tries, units, seed=run)
        assert worst.excess is not None and worst.excess_low is not None and worst.excess_high is not None
        assert worst.excess_low <= worst.excess <= worst.excess_high
        found.append((worst.excess_low, worst.excess_high))
    return found


@pytest.mark.parametrize(
    ("rate", "people", "questions", "few"),
    [(0.15, 8, 8, {}), (0.02, 8, 8, {}), (0.4, 24, 1, {1: 6, 2: 12}), (0.1, 40, 2, {0: 20})],
)
def test_many_attacks_on_a_model_that_knows_nothing_find_nothing(
    rate: float, people: int, questions: int, few: dict[int, int]
) -> None:
    found = drawn_worlds([rate] * 20, [rate] * 20, 60, people=people, questions=questions, few=few)
    assert sum(not low <= 0 <= high for low, high in found) <= 3


@pytest.mark.parametrize(("rate", "people", "questions"), [(0.15, 8, 8), (0.05, 24, 1)])
def test_one_attack_of_many_that_finds_something_is_found(rate: float, people: int, questions: int) -> None:
    own = [rate] * 19 + [rate + 0.5]
    found = drawn_worlds(own, [rate] * 20, 60, people=people, questions=questions, few={})
    assert sum(low > 0 for low, _ in found) >= 54
    assert sum(low <= 0.5 <= high for low, high in found) >= 57


@pytest.mark.parametrize(("own", "retain"), [("1" * 8, "0" * 8), ("0" * 8, "0" * 8), ("0" * 8, "1" * 8)])
def test_where_all_draws_are_equal_the_interval_is_that_of_the_attack(own: str, retain: str) -> None:
    row = attack_row("m", ABOUT, attacked("0" * 8, own), attacked("1" * 8), attacked("0" * 8, retain), UNITS)
    worst = worst_case("m", "black box", [Tries("a", scores(own), scores(retain), asks=True)], UNITS, seed=0)
    assert worst.excess_low is not None and worst.excess_high is not None and worst.excess_low < worst.excess_high
    assert (worst.excess, worst.excess_low, worst.excess_high) == (row.excess, row.excess_low, row.excess_high)


def test_an_attack_that_the_retain_model_was_not_asked_by_is_not_the_worst() -> None:
    tries = [
        Tries("apart", scores("1"), {}, asks=True),
        Tries("both", scores("00000000"), scores("10000000"), asks=True),
    ]
    worst = worst_case("m", "black box", tries, UNITS, seed=0)
    assert (worst.attack, worst.excess, worst.num_attacks) == ("both", -0.125, 2)
    assert worst_case("m", "black box", tries[:1], UNITS, seed=0).excess is None


def test_what_any_attack_got_right_counts_the_same_tries_of_both_models() -> None:
    """The second attack could not be tried on the retain_model, the third not for the last four questions."""
    tries = [
        Tries("both", scores("11000000"), scores("01000000"), asks=True),
        Tries("apart", scores("11111111"), {}, asks=True),
        Tries("half", scores("00110011"), dict(list(scores("0010").items())), asks=True),
    ]
    worst = worst_case("m", "black box", tries, UNITS, seed=0)
    # of both: 1, 2; of half: 3, 4; the retain_model: 2, 3
    assert (worst.any_hit, worst.any_excess) == (4 / 8, 2 / 8)
