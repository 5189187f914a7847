"""The celebrity file holds 153 consistent people, and the source refuses a file that does not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from mllmu.core.errors import DataError
from mllmu.core.plugins import find
from mllmu.data.sources import celebrities
from mllmu.data.sources.celebrities import FACTS, Celebrities, century

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


def _damaged(tmp_path: Path, line: int, **changes: str) -> Path:
    rows = [json.loads(text) for text in FACTS.read_text(encoding="utf-8").splitlines()]
    rows[line - 1].update(changes)
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


@pytest.mark.parametrize(("year", "name"), [(1900, "19th century"), (1901, "20th century"), (1304, "14th century")])
def test_a_century_ends_with_its_round_year(year: int, name: str) -> None:
    assert century(year) == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"death_year": "1000"}, r"facts\.jsonl:3: line: .*expected born < died"),
        ({"death_year": "2005"}, r"facts\.jsonl:3: line: .*died 2005; expected born < died <= 2004"),
        ({"era": "12th century"}, r"facts\.jsonl:3: .*era '12th century' for birth year"),
        ({"birth_year": "about 1800"}, r"facts\.jsonl:3: birth_year"),
        ({"birthplace": "Paris"}, r"facts\.jsonl:3: birthplace"),
        ({"known_for": "painting"}, r"facts\.jsonl:3: .*expected 2 to 6 words"),
        ({"known_for": "the <b>bold</b> one"}, r"facts\.jsonl:3: known_for"),
        ({"known_for": "the Curie temperature"}, r"facts\.jsonl:3: known_for .* contains 'curie'.*Marie Curie"),
        ({"hobby": "chess"}, r"facts\.jsonl:3: hobby"),
        ({"name": "marie curie"}, r"name '.*' is already on line"),
    ],
)
def test_a_damaged_line_is_refused_by_number(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        celebrities.load(_damaged(tmp_path, 3, **changes))


def test_a_file_with_a_person_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(FACTS.read_text(encoding="utf-8").splitlines(keepends=True)[:152]), encoding="utf-8")
    with pytest.raises(DataError, match="152 people; expected 153"):
        celebrities.load(path)
