"""Fictitious people: distinct, reproducible, coherent, and as common or as skewed as asked for."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from pydantic import ValidationError

from mllmu.core.errors import DataError
from mllmu.core.plugins import build, find
from mllmu.core.records import Profile
from mllmu.data import values
from mllmu.data.sources.synthetic import Synthetic, biography
from mllmu.data.values import with_article

YEAR = 2024


@pytest.fixture(scope="module")
def many() -> list[Profile]:
    return Synthetic(num_people=2000).profiles(7)


@pytest.fixture(scope="module")
def skewed() -> list[Profile]:
    return Synthetic(num_people=2000, skewed=True).profiles(7)


def counts(people: list[Profile], attribute: str) -> Counter[str]:
    return Counter(person.attributes[attribute] for person in people)


def age(person: Profile) -> int:
    return YEAR - int(person.attributes["birth_date"].split(", ")[1])


def thousands(person: Profile) -> int:
    return int(re.sub(r"\D", "", person.attributes["salary"])) // 1000


def test_it_is_found_by_its_file_name() -> None:
    assert find("sources", "synthetic") is Synthetic
    assert build("sources", "synthetic", {"num_people": 3}).num_people == 3


def test_two_thousand_people_have_distinct_ids_and_two_word_names_in_plain_letters(many: list[Profile]) -> None:
    assert len({person.id for person in many}) == len({person.name for person in many}) == 2000
    assert all(re.fullmatch(r"[A-Z][A-Za-z-]+ [A-Z][A-Za-z-]+", person.name) for person in many)
    assert all(first != last for first, last in (person.name.split() for person in many))


def test_every_person_has_exactly_the_sixteen_attributes_in_order(many: list[Profile]) -> None:
    assert len(values.ATTRIBUTES) == 16
    assert all(tuple(person.attributes) == values.ATTRIBUTES for person in many)
    assert all(all(person.attributes.values()) and person.kind == "fictitious" for person in many)
    assert not any(person.training_qa for person in many)


def test_every_value_comes_from_the_pool_of_its_attribute(many: list[Profile]) -> None:
    for attribute in set(values.ATTRIBUTES) - {"name", "birth_date"}:
        assert set(counts(many, attribute)) <= set(values.value_pool(attribute)), attribute


def test_the_same_seed_gives_the_same_people_and_another_seed_other_people() -> None:
    source = Synthetic(num_people=40)
    assert source.profiles(3) == source.profiles(3)
    assert not {p.name for p in source.profiles(3)} & {p.name for p in source.profiles(4)}


def test_person_one_of_seed_zero_is_the_same_on_every_machine() -> None:
    # The name is left out: it follows the installed Faker's tables. If this changes, every run folder's people change.
    person = Synthetic(num_people=1).profiles(0)[0].attributes
    assert " | ".join(value for key, value in person.items() if key != "name") == (
        "male | Leipzig, Germany | August 27, 1960 | civil engineer | 197 cm | Denver School of Mines | $115,000 | "
        "Auckland, New Zealand | asthma | factory foreman | fishmonger | birdwatching | jollof rice | "
        "a tortoise named Waffle | old maps"
    )


def test_asking_for_more_people_does_not_change_the_first_ones() -> None:
    assert Synthetic(num_people=60).profiles(1)[:50] == Synthetic(num_people=500).profiles(1)[:50]


def test_first_id_continues_the_series_and_the_prefix_is_only_a_label() -> None:
    whole = Synthetic(num_people=50).profiles(5)
    rest = Synthetic(num_people=10, first_id=41, id_prefix="h").profiles(5)
    assert [person.id for person in rest] == [f"h{number:03d}" for number in range(41, 51)]
    assert [person.attributes for person in rest] == [person.attributes for person in whole[40:]]
    assert (whole[0].id, whole[-1].id) == ("001", "050")


def test_profession_education_salary_and_age_fit_together(many: list[Profile]) -> None:
    table = values.pools()
    for person in many:
        rule = table.professions[person.attributes["profession"]]
        assert 22 <= age(person) <= 70
        assert age(person) >= rule.min_age
        assert rule.low <= thousands(person) <= rule.high
        assert person.attributes["education"] in values.school_options(person.attributes["profession"])


def test_salary_follows_age_within_a_profession() -> None:
    # band of the software engineer: 60 to 150, cut at 33 and 48 years
    assert values.salary_options("software engineer", 33) == (60, 65, 70, 75, 80, 85, 90, 95, 100, 105)
    assert values.salary_options("software engineer", 34) == (85, 90, 95, 100, 105, 110, 115, 120)
    assert values.salary_options("software engineer", 49) == (105, 110, 115, 120, 130, 140, 150)


def test_every_profession_has_a_choice_of_salaries_and_schools_at_every_age_it_allows() -> None:
    for name, rule in values.pools().professions.items():
        assert len(values.school_options(name)) >= 6, name
        for years in range(rule.min_age, 71):
            assert len(values.salary_options(name, years)) >= 3, (name, years)


def test_height_and_given_name_fit_gender_and_birthplace(many: list[Profile]) -> None:
    locale = {city.label: city.locale for city in values.pools().cities}
    limits = {"female": (150, 182), "male": (162, 198)}
    for person in many:
        gender = person.attributes["gender"]
        low, high = limits[gender]
        assert low <= int(person.attributes["height"].removesuffix(" cm")) <= high
        first, last = person.name.split()
        place = locale[person.attributes["birthplace"]]
        assert first in values.given_names(place, "female" if gender == "female" else "male")
        assert last in values.family_names(place, "female" if gender == "female" else "male")


def test_about_half_the_people_moved_away_and_parents_have_different_jobs(many: list[Profile]) -> None:
    moved = sum(person.attributes["residence"] != person.attributes["birthplace"] for person in many)
    assert moved / 2000 == pytest.approx(0.5, abs=0.04)
    assert all(person.attributes["father_job"] != person.attributes["mother_job"] for person in many)


@pytest.mark.parametrize("attribute", ["gender", "birthplace", "hobby", "food", "collection", "father_job"])
def test_free_attributes_are_used_equally_often_give_or_take_one(many: list[Profile], attribute: str) -> None:
    used = counts(many, attribute)
    assert set(used) == set(values.value_pool(attribute))
    assert max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize(
    ("attribute", "ratio"), [("profession", 1.2), ("residence", 1.2), ("mother_job", 1.2), ("education", 4.0)]
)
def test_constrained_attributes_stay_near_uniform(many: list[Profile], attribute: str, ratio: float) -> None:
    used = counts(many, attribute)
    assert set(used) == set(values.value_pool(attribute))
    assert max(used.values()) / min(used.values()) <= ratio


def test_no_salary_dominates_and_all_are_used(many: list[Profile]) -> None:
    used = counts(many, "salary")
    assert len(used) == len(values.value_pool("salary")) == 39
    assert max(used.values()) / 2000 < 0.05


def test_a_quarter_has_no_condition_and_the_others_are_even(many: list[Profile]) -> None:
    used = counts(many, "medical_condition")
    assert used.pop("none") / 2000 == pytest.approx(0.25, abs=0.03)
    assert len(used) == 14
    assert max(used.values()) - min(used.values()) <= 1
    assert counts(many, "pet")["none"] / 2000 == pytest.approx(0.15, abs=0.03)


def test_the_skewed_population_has_the_published_shares(skewed: list[Profile]) -> None:
    assert counts(skewed, "profession")["software engineer"] / 2000 == pytest.approx(117 / 500, abs=0.03)
    assert counts(skewed, "salary")["$85,000"] / 2000 == pytest.approx(102 / 500, abs=0.03)
    assert counts(skewed, "medical_condition")["none"] / 2000 == pytest.approx(397 / 500, abs=0.03)
    living = Counter(person.attributes["residence"].split(", ")[1] for person in skewed)
    assert living["Canada"] / 2000 == pytest.approx(137 / 500, abs=0.03)
    assert living["USA"] / 2000 == pytest.approx(124 / 500, abs=0.03)


def test_skewed_people_keep_names_and_coherent_salaries(many: list[Profile], skewed: list[Profile]) -> None:
    assert [person.name for person in skewed] == [person.name for person in many]
    for person in skewed:
        rule = values.pools().professions[person.attributes["profession"]]
        assert rule.low <= thousands(person) <= rule.high
        assert age(person) >= rule.min_age


def test_a_biography_is_seven_sentences_and_holds_every_stated_value(many: list[Profile]) -> None:
    for person in many[:200]:
        text = person.biography
        assert len(re.findall(r"\.(?: |$)", text)) == 7
        assert "{" not in text
        stated = {key: value for key, value in person.attributes.items() if key != "gender" and value != "none"}
        assert all(value in text for value in stated.values())
        wrong = {"female": r"\b(he|his)\b", "male": r"\b(she|her)\b"}[person.attributes["gender"]]
        # his father and her mother are said of the person, so no pronoun of the other gender may occur at all
        assert not re.search(wrong, text, re.IGNORECASE)


def test_every_wording_of_the_biography_occurs_and_none_repeats_a_word(many: list[Profile]) -> None:
    person = many[0].attributes
    texts = [biography(person, seed=1, number=number) for number in range(100)]
    assert len(set(texts)) > 50
    for text in texts:
        assert all(first.lower() != second.lower() for first, second in pairwise(text.split()))


def test_articles_follow_the_first_letter() -> None:
    assert with_article("architect") == "an architect"
    assert with_article("nurse") == "a nurse"


def test_a_university_of_somewhere_takes_the_article_in_a_biography(many: list[Profile]) -> None:
    person = many[0].attributes
    text = biography(person | {"education": "University of Oslo"}, seed=0, number=1)
    assert "the University of Oslo" in text
    assert "the Lyon" not in biography(person | {"education": "Lyon School of Art"}, seed=0, number=1)


def test_running_out_of_names_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllmu.data.sources.synthetic.MAX_NAME_ATTEMPTS", 0)
    with pytest.raises(DataError, match=r"person 1: no unused .* name for .* Ask for fewer people"):
        Synthetic(num_people=1).profiles(0)


@pytest.mark.parametrize("bad", [{"num_people": 0}, {"first_id": 0}, {"id_prefix": "../"}, {"skew": True}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Synthetic.model_validate(bad)
