"""The closed pools behind fictitious people."""

from __future__ import annotations

from datetime import date

import pytest

from mllmu.data import dates, values


@pytest.mark.parametrize(
    ("attribute", "size"),
    [
        ("gender", 2),
        ("birthplace", 60),
        ("residence", 60),
        ("profession", 60),
        ("education", 60),
        ("salary", 39),
        ("height", 49),
        ("medical_condition", 15),
        ("father_job", 40),
        ("mother_job", 40),
        ("hobby", 40),
        ("food", 50),
        ("pet", 12 * 40 + 1),
        ("collection", 40),
        ("birth_date", 49 * 24),
    ],
)
def test_pools_have_distinct_values_in_the_promised_number(attribute: str, size: int) -> None:
    pool = values.value_pool(attribute)
    assert len(pool) == len(set(pool)) == size


def test_the_name_pool_is_large_and_holds_two_word_names() -> None:
    pool = values.value_pool("name")
    assert len(pool) == len(set(pool)) > 800
    assert all(len(name.split()) == 2 for name in pool)


@pytest.mark.parametrize("attribute", sorted(set(values.ATTRIBUTES) - {"gender", "pet"}))
def test_no_value_contains_another_of_its_pool(attribute: str) -> None:
    pool = values.value_pool(attribute)
    assert [(a, b) for a in pool for b in pool if a != b and a.lower() in b.lower()] == []


def test_no_pet_name_contains_another_and_articles_are_right() -> None:
    table = values.pools()
    assert [(a, b) for a in table.pet_names for b in table.pet_names if a != b and a.lower() in b.lower()] == []
    assert all(animal.split()[0] == ("an" if animal.split()[1][0] in "aeiou" else "a") for animal in table.animals)


def test_examples_print_as_the_schema_says() -> None:
    assert values.dollars(75) == "$75,000"
    assert dates.printed(date(1988, 5, 14)) == "May 14, 1988"
    assert "Riga, Latvia" in values.value_pool("birthplace")
    assert "a cat named Luna" in values.value_pool("pet")


def test_every_locale_has_enough_names_for_both_genders() -> None:
    for city in values.pools().cities:
        for gender in values.GENDERS:
            given, family = values.given_names(city.locale, gender), values.family_names(city.locale, gender)
            assert len(given) * len(family) >= 1000, (city, gender)
            assert list(given) == sorted(set(given))


def test_accents_are_stripped_and_given_names_are_of_one_gender_only() -> None:
    assert "Jorg" in values.given_names("de_DE", "male")  # Jörg
    assert not set(values.given_names("en_US", "female")) & set(values.given_names("en_US", "male"))
    assert "Novakova" in values.family_names("cs_CZ", "female")
    assert "Novakova" not in values.family_names("cs_CZ", "male")


def test_every_profession_is_learnt_at_a_school_of_the_table() -> None:
    table = values.pools()
    assert {kind for job in table.professions.values() for kind in job.schools} <= set(table.schools)
