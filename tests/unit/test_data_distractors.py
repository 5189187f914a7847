from collections import Counter
from itertools import permutations

import pytest

from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.questions._distractors import clash, collect, draw, magnitude


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
    assert pools["fictitious", "name", "female"].values == ("Ana Silva", "Eva Lind")
    assert pools["fictitious", "gender", ""].values == ("female", "male")


@pytest.mark.parametrize(
    ("attribute", "value", "pool"),
    [
        ("height", "170 cm", [f"{cm} cm" for cm in range(150, 199)]),
        ("birth_year", "1850", [str(year) for year in range(1800, 1900)]),
        ("hobby", "chess", ["chess", "judo", "knitting"]),
    ],
)
def test_every_order_of_the_wrong_values_is_drawn_as_often(attribute, value, pool):
    """Near ones below and above the right one, and the values of the data before those of the made-up people."""
    place = {name: number for number, name in enumerate(pool)}
    orders = Counter()
    for n in range(1200):
        wrong = draw(rng(n, attribute), attribute, value, pool, allowed=anything)
        at = [place.get(w, len(place) + rank) for rank, w in enumerate(sorted(wrong))]
        by_name = dict(zip(sorted(wrong), at, strict=True))
        ranked = sorted(wrong, key=by_name.__getitem__)
        orders[tuple(ranked.index(w) for w in wrong)] += 1
    # 1200 draws of six orders: mean 200, standard deviation 12.9
    assert set(orders) == set(permutations(range(3))) and all(148 <= count <= 252 for count in orders.values())


ONE_VALUE = [
    ("residence", "Graz, Austria", "Graz, Styria, Austria"),
    ("birthplace", "Bristol, England", "Bristol, United Kingdom"),
    ("birthplace", "Córdoba, Argentina", "CORDOBA, Argentina"),
    ("food", "crème brûlée", "Creme Brulee"),
    ("food", "farmer's cheese", "farmer’s cheese"),
    ("food", "a fish-and-chips plate", "fish and chips plate"),
    ("hobby", "birdwatching", "bird watching"),
    ("pet", "a cat named Miso", "a pet cat named Miso"),
    ("salary", "$58,000", "58k USD"),
    ("birth_date", "May 14, 1990", "14 May 1990"),
    ("profession", "athlete", "tennis player"),
    ("profession", "composer", "musician"),
    ("field", "mathematics", "science"),
    ("field", "film", "visual arts"),
    ("father_job", "junior school teacher", "junior or middle school sports teacher"),
    ("hobby", "sketching of old boats", "sketching boats"),
    ("education", "Institute of Art and Design, Oslo", "Oslo Institute of Design"),
]
TWO_VALUES = [
    ("residence", "Bergen, Norway", "Oslo, Norway"),
    ("education", "Bachelor, Lund", "Bachelor, Oslo"),
    ("education", "University of Vienna", "Universität Wien"),
    ("profession", "novelist", "poet"),
    ("field", "engineering", "medicine"),
    ("height", "5'1\"", "5'11\""),
    ("salary", "$5,000", "$75,000"),
    ("known_for", "science", "mathematics"),
    ("food", "寿司", "天ぷら"),
    ("food", "茶漬け", "漬け茶"),
    ("father_job", "school teacher", "school caretaker"),
    ("hobby", "reading", "writing"),
    ("name", "Eva Holm", "Eva Lind Holm"),
]


@pytest.mark.parametrize(("attribute", "one", "other"), ONE_VALUE)
def test_a_value_is_not_offered_beside_itself_in_another_spelling_nor_beside_what_it_includes(attribute, one, other):
    assert clash(attribute, one, other) and clash(attribute, other, one)
    pool = [one, other, "Quito, Peru", "xylophone", "zither"]
    for n in range(10):
        assert other not in (draw(rng(n), attribute, one, pool, allowed=anything) or ())


@pytest.mark.parametrize(("attribute", "one", "other"), TWO_VALUES)
def test_values_that_differ_stand_side_by_side(attribute, one, other):
    """Translations are not recognised."""
    assert not clash(attribute, one, other) and not clash(attribute, other, one)


ILLNESSES = ["asthma", "eczema", "gout", "migraine", "none", "scurvy"]


@pytest.mark.parametrize(("none", "expected"), [(0.0, 0), (0.1, 667), (0.15, 1059), (0.25, 2000), (0.8, 2000)])
def test_none_is_a_wrong_option_so_often_that_it_is_right_in_a_quarter_of_those_that_show_it(none, expected):
    """2000 questions, q = 3 s / (1 - s): 0.3 / 0.9 is 1/3, 0.45 / 0.85 is 0.529, 0.75 / 0.75 and more are 1."""
    drawn = [draw(rng(n), "medical_condition", "gout", ILLNESSES, allowed=anything, none=none) for n in range(2000)]
    shown = sum("none" in wrong for wrong in drawn)
    assert abs(shown - expected) <= (100 if 0 < none < 0.25 else 0)  # 4.5 standard deviations of at most 22.4
    right = draw(rng(1), "medical_condition", "none", ILLNESSES, allowed=anything, none=none)
    assert len(set(right) - {"none"}) == 3


def test_beside_open_questions_none_is_a_value_like_any_other():
    drawn = [draw(rng(n), "medical_condition", "gout", ILLNESSES, allowed=anything) for n in range(500)]
    assert 250 <= sum("none" in wrong for wrong in drawn) <= 350  # three of five: mean 300, standard deviation 11


def test_nobody_s_none_is_not_topped_up_either():
    for n in range(50):
        assert "none" not in draw(rng(n), "pet", "a dog named Rex", ["a dog named Rex"], allowed=anything, none=0.0)
