"""Recovery, excess and the worst case, computed by hand."""

from __future__ import annotations

import pytest
from helpers_models import sample

from mllmu.core.attacked import AttackPoint
from mllmu.evaluation.recovery import NOTHING_FORGOTTEN, Attacked, Tries, attack_row, ratio, worst_case
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
