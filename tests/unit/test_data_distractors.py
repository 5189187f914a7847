from collections import Counter

import pytest

from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.questions._distractors import collect, draw, magnitude


def anything(_):
    return True


def test_magnitudes_by_hand():
    assert magnitude("salary", "$75,000") == 75000
    assert magnitude("height", "165 cm") == 165
    assert magnitude("height", "5 feet 5 inches") == pytest.approx(165.1)
    assert magnitude("birth_year", "1867") == 1867
    assert magnitude("birth_date", "May 14, 1988") == pytest.approx(1988 * 365.25 + 4 * 30.44 + 14)
    assert magnitude("birth_date", "unknown") is None


def test_salaries_are_near_on_both_sides():
    pool = [f"${k},000" for k in range(20, 120)]
    for n in range(50):
        wrong = draw(rng(n), "salary", "$75,000", pool, allowed=anything)
        assert all(67000 <= magnitude("salary", w) <= 83000 and w != "$75,000" for w in wrong)


def test_the_rank_of_the_right_number_is_uniform():
    pool = [f"{cm} cm" for cm in range(150, 199)]
    ranks = Counter(
        sum(magnitude("height", w) < 170 for w in draw(rng(n), "height", "170 cm", pool, allowed=anything))
        for n in range(400)
    )
    assert all(70 <= ranks[r] <= 130 for r in range(4))


def test_the_extreme_value_still_gets_three_near_ones():
    wrong = draw(rng(0), "birth_year", "1990", [str(y) for y in range(1900, 1991)], allowed=anything)
    assert len(set(wrong)) == 3
    assert all(1982 <= int(w) <= 1989 for w in wrong)


def test_numbers_are_offered_in_the_unit_of_the_right_one():
    pool = ["160 cm", "170 cm", "180 cm", "190 cm", "5 feet 5 inches", "3 feet 10 inches"]
    for n in range(20):
        assert set(draw(rng(n), "height", "170 cm", pool, allowed=anything)) == {"160 cm", "180 cm", "190 cm"}
        wrong = draw(rng(n), "height", "5 feet 5 inches", pool, allowed=anything)
        assert all(w.endswith(" inches") and w.startswith(("4 feet", "5 feet", "6 feet")) for w in wrong)


def test_salaries_are_topped_up_in_their_own_currency():
    for value in ("€58,000", "CHF 61,000", "$75,000"):
        sign = value.rstrip("0123456789,")
        wrong = draw(rng(3), "salary", value, [value, "£1,000"], allowed=anything)
        assert len(wrong) == 3 and all(w.startswith(sign) and w[len(sign)].isdigit() for w in wrong)


def test_far_numbers_are_not_offered():
    assert draw(rng(1), "birth_year", "1500", ["1500", "1510", "1520", "1900", "1910"], allowed=anything) is None
    pool = ["$100,000", "$41,000", "$250,000", "$240,000", "$39,000", "$260,000"]
    assert sorted(draw(rng(1), "salary", "$100,000", pool, allowed=anything)) == ["$240,000", "$250,000", "$41,000"]


def test_no_option_contains_another_and_case_does_not_make_a_difference():
    pool = ["Teacher", "school teacher", "nurse", "Nurse", "baker", "teacher"]
    assert draw(rng(1), "known_for", "teacher", pool, allowed=anything) is None
    wrong = draw(rng(1), "known_for", "teacher", [*pool, "pilot"], allowed=anything)
    assert sorted(w.lower() for w in wrong) == ["baker", "nurse", "pilot"]


def test_few_values_are_topped_up_for_made_up_people_only():
    assert len(draw(rng(1), "profession", "nurse", ["nurse"], allowed=anything)) == 3
    assert draw(rng(1), "continent", "Europe", ["Asia", "Africa", "Europe"], allowed=anything) is None


def test_names_are_pooled_by_gender_and_kind():
    people = [
        Profile(id=str(n), kind="fictitious", attributes={"name": name, "gender": gender})
        for n, (name, gender) in enumerate([("Ana Silva", "female"), ("Bo Ek", "male"), ("Eva Lind", "female")])
    ]
    pools = collect(people)
    assert pools["fictitious", "name", "female"] == ("Ana Silva", "Eva Lind")
    assert pools["fictitious", "gender", ""] == ("female", "male")
