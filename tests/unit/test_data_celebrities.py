"""The celebrity file holds 153 consistent people."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pydantic import ValidationError

from mllmu.core.plugins import find
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.celebrities import Celebrities

KEYS = [
    "name",
    "gender",
    "nationality",
    "birthplace",
    "birth_year",
    "death_year",
    "profession",
    "field",
    "known_for",
    "era",
    "continent",
]
PEOPLE = Celebrities().profiles(seed=0)


def test_there_are_153_people_numbered_in_file_order() -> None:
    assert [p.id for p in PEOPLE] == [f"c{n:03d}" for n in range(1, 154)]
    assert {p.kind for p in PEOPLE} == {"celebrity"}


def test_the_plugin_is_found_by_its_file_name() -> None:
    assert find("sources", "celebrities") is Celebrities


def test_names_and_reasons_for_fame_are_unique() -> None:
    assert len({p.name.lower() for p in PEOPLE}) == 153
    assert len({p.attributes["known_for"].lower() for p in PEOPLE}) == 153


def test_every_person_has_every_attribute_as_plain_text() -> None:
    for person in PEOPLE:
        assert list(person.attributes) == KEYS, person.name
        for value in person.attributes.values():
            assert value == value.strip(), value
            assert value.isascii(), value
            assert value, person.name


def test_years_and_eras_agree_and_everybody_died_before_2005() -> None:
    for person in PEOPLE:
        born, died = int(person.attributes["birth_year"]), int(person.attributes["death_year"])
        assert 1000 < born < died < 2005, person.name
        assert 15 <= died - born <= 100, person.name
        first, last = (int(person.attributes["era"][:2]) - 1) * 100 + 1, int(person.attributes["era"][:2]) * 100
        assert first <= born <= last, person.name


PATTERNS = {
    "name": r"[A-Za-z]+( [A-Za-z]+){0,2}",
    "gender": "female|male",
    "nationality": "[A-Z][A-Za-z ]+",
    "birthplace": "[A-Z][A-Za-z -]+, [A-Z][A-Za-z ]+",
    "profession": "[a-z][a-z ]+",
    "field": "[a-z][a-z ]+",
    "known_for": r"[A-Za-z0-9',-]+( [A-Za-z0-9',-]+){1,5}",
    "era": "[0-9]{2}th century",
}


@pytest.mark.parametrize("attribute", PATTERNS)
def test_values_are_printed_as_they_are_asked(attribute: str) -> None:
    for person in PEOPLE:
        assert re.fullmatch(PATTERNS[attribute], person.attributes[attribute]), person.attributes[attribute]


def test_no_value_contains_a_word_of_any_name() -> None:
    words = {word for p in PEOPLE for word in p.name.lower().split()}
    for person in PEOPLE:
        for key in KEYS[1:]:
            assert not words & set(re.findall(r"[a-z]+", person.attributes[key].lower())), (person.name, key)


def test_a_country_lies_on_one_continent_except_where_it_spans_two() -> None:
    places: dict[str, set[str]] = {}
    for person in PEOPLE:
        country = person.attributes["birthplace"].split(", ")[1]
        places.setdefault(country, set()).add(person.attributes["continent"])
    assert {country for country, found in places.items() if len(found) > 1} == {"Russia"}


def test_a_profession_belongs_to_one_field() -> None:
    fields: dict[str, set[str]] = {}
    for person in PEOPLE:
        fields.setdefault(person.attributes["profession"], set()).add(person.attributes["field"])
    assert [job for job, found in fields.items() if len(found) > 1] == []


def test_what_else_is_true_is_a_value_of_the_set_and_another_one() -> None:
    pools = {key: {p.attributes[key] for p in PEOPLE} for key in KEYS}
    for person in PEOPLE:
        for key, values in person.also.items():
            assert key in ("nationality", "profession", "field", "continent"), person.name
            assert list(values) == sorted(set(values) - {person.attributes[key]}), (person.name, key)
            assert set(values) <= pools[key], (person.name, key)
    euler, hodgkin = (next(p for p in PEOPLE if p.name == name) for name in ("Leonhard Euler", "Dorothy Hodgkin"))
    assert "astronomer" in euler.also["profession"] and hodgkin.also["continent"] == ("Europe",)


def test_no_question_has_two_right_options() -> None:
    pairs = {("field", "science", field) for field in ("mathematics", "engineering", "medicine")}
    by_id = {p.id: p for p in PEOPLE}
    for seed in range(3):
        for q in build(PEOPLE, QuestionOrder(seed=seed, variants=("eval",))):
            wrong = {value for value in q.options.values() if value != q.value}
            assert not wrong & set(by_id[q.profile_id].also.get(q.attribute, ())), q
            for attribute, one, other in pairs:
                assert q.attribute != attribute or not {one, other} <= {*wrong, q.value}, q


def test_the_set_is_varied() -> None:
    counts = {key: Counter(p.attributes[key] for p in PEOPLE) for key in KEYS}
    assert 0.3 <= counts["gender"]["female"] / 153 <= 0.4
    assert len(counts["profession"]) >= 25
    assert len(counts["field"]) >= 12
    assert len(counts["nationality"]) >= 35
    assert len(counts["continent"]) == 6
    assert len(counts["era"]) >= 6
    assert max(counts["nationality"].values()) <= 30


def test_the_seed_changes_nothing() -> None:
    assert Celebrities().profiles(seed=1) == PEOPLE


def test_fewer_people_are_a_prefix_of_more() -> None:
    assert Celebrities(num_people=7).profiles(seed=0) == PEOPLE[:7]


@pytest.mark.parametrize("num_people", [0, 154])
def test_a_number_of_people_out_of_range_is_refused(num_people: int) -> None:
    with pytest.raises(ValidationError, match="num_people"):
        Celebrities(num_people=num_people)


def test_a_biography_tells_the_facts_in_two_sentences() -> None:
    curie = next(p for p in PEOPLE if p.name == "Marie Curie")
    assert curie.biography == (
        "The Polish physicist Marie Curie (1867-1934) was born in Warsaw, Poland. "
        "She is known for the discovery of radium."
    )
