"""People invented by a model: ordered in balance, checked by rules, ordered again if they fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_factory import DONORS, ORDER, Row, invent, person
from llm_server import LlmServer

from mllmu.core.errors import BudgetError, DataError, EndpointError
from mllmu.core.plugins import find
from mllmu.data.questions import QuestionOrder, check
from mllmu.data.questions.template import build as build_questions
from mllmu.data.sources.llm import LlmPeople, Quota, clash, draft, fault, quotas
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.values import ATTRIBUTES

pytestmark = pytest.mark.usefixtures("loopback")

SEED = 3


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer(invent) as running:
        yield running


def source(server: LlmServer, cache: Path, **more: Any) -> LlmPeople:
    return LlmPeople(
        **{"model": "m", "base_url": server.base_url, "cache": cache, "num_people": 12, "batch_size": 5, **more}
    )


def test_it_is_found_by_its_file_name() -> None:
    assert find("sources", "llm") is LlmPeople


def test_people_come_in_order_with_all_attributes_and_fair_questions(server: LlmServer, tmp_path: Path) -> None:
    people = source(server, tmp_path, id_prefix="p").profiles(SEED)
    assert [profile.id for profile in people] == [f"p{number:03d}" for number in range(1, 13)]
    assert all(tuple(profile.attributes) == ATTRIBUTES and profile.name in profile.biography for profile in people)
    assert len({profile.name for profile in people}) == 12 and len(server.bodies) == 3
    check(build_questions(people, QuestionOrder(seed=0, train_wordings=2)), people)


def test_gender_age_country_and_profession_are_ordered_in_the_balance_of_the_synthetic_people(
    server: LlmServer, tmp_path: Path
) -> None:
    people = source(server, tmp_path).profiles(SEED)
    for profile, model in zip(people, Synthetic(num_people=12).profiles(SEED), strict=True):
        for name in ("gender", "profession"):
            assert profile.attributes[name] == model.attributes[name]
        assert profile.attributes["birth_date"][-4:] == model.attributes["birth_date"][-4:]
        assert profile.attributes["birthplace"].split(", ")[1] == model.attributes["birthplace"].split(", ")[1]


def test_a_second_run_gives_the_same_people_and_costs_nothing(server: LlmServer, tmp_path: Path) -> None:
    first = source(server, tmp_path).profiles(SEED)
    assert source(server, tmp_path, max_requests=0).profiles(SEED) == first and len(server.bodies) == 3
    with pytest.raises(BudgetError):  # other people are asked for anew
        source(server, tmp_path, max_requests=0).profiles(SEED + 1)


def test_rejected_people_alone_are_ordered_again_and_told_which_names_are_taken(
    server: LlmServer, tmp_path: Path
) -> None:
    def spoil(row: Row, attempt: int) -> None:
        if attempt == 1 and row["number"] in (2, 7):
            row["salary"] = "$999,000"

    server.answer = lambda body: invent(body, spoil)
    people = source(server, tmp_path).profiles(SEED)
    again = server.bodies[3]["messages"][1]["content"]
    assert len(people) == 12 and len(server.bodies) == 4
    assert [found[0] for found in ORDER.findall(again)] == ["2", "7"] and "attempt 2" in again
    taken = re.findall(r"<names>(.*)</names>", again)[0]
    assert DONORS[1]["name"] in taken and DONORS[2]["name"] not in taken


def test_people_missing_in_a_reply_and_unusable_replies_are_ordered_again(server: LlmServer, tmp_path: Path) -> None:
    server.script = ["say:no", 'say:{"people": []}']
    people = source(server, tmp_path, repair_turns=0, concurrency=1).profiles(SEED)
    assert len(people) == 12 and len(server.bodies) == 5


def test_a_model_that_never_obeys_is_given_up_with_the_reasons(server: LlmServer, tmp_path: Path) -> None:
    def spoil(row: Row, attempt: int) -> None:
        if row["number"] == 4:
            row["height"] = "12 cm"
        if row["number"] == 5 and attempt == 1:
            row["pet"] = "a very fluffy thing"

    server.answer = lambda body: invent(body, spoil)
    with pytest.raises(
        DataError, match=r"1 of 12 people are still rejected after 2 rounds \(height 2, pet 1\).*kept in"
    ):
        source(server, tmp_path, max_rounds=2).profiles(SEED)


def test_a_taken_name_and_a_celebrity_are_rejected(server: LlmServer, tmp_path: Path) -> None:
    def spoil(row: Row, attempt: int) -> None:
        name = {1: "Albert Einstein", 3: DONORS[2]["name"].title()}.get(row["number"])
        if attempt == 1 and name:
            row["biography"] = row["biography"].replace(row["name"], name)
            row["name"] = name

    server.answer = lambda body: invent(body, spoil)
    people = source(server, tmp_path).profiles(SEED)
    names = [profile.name for profile in people]
    assert "Albert Einstein" not in names and len({name.casefold() for name in names}) == 12


def test_the_budget_and_the_key_are_the_client_s(
    server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BudgetError, match="max_requests is 2"):
        source(server, tmp_path, max_requests=2).profiles(SEED)
    assert len(source(server, tmp_path, max_requests=1).profiles(SEED)) == 12  # the two paid ones were kept
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"):
        source(server, tmp_path).profiles(SEED)


def test_a_preview_asks_nobody(server: LlmServer, tmp_path: Path) -> None:
    preview = source(server, tmp_path).preview(SEED, 1)
    assert (preview.num_calls, preview.num_cached, len(preview.prompts), server.bodies) == (3, 0, 1, [])
    assert len(ORDER.findall(preview.prompts[0])) == 5 and "Nobody may be a real person" in preview.prompts[0]
    source(server, tmp_path).profiles(SEED)
    assert source(server, tmp_path).preview(SEED, 1).num_cached == 3


QUOTA = Quota(1, "female", 1988, "Latvia", "nurse", (40000, 60000), (150, 182), "A. K.")


def good() -> Row:
    row = person("1", "female", "1988", "Latvia", "nurse", "$45,000", "", "165", "")
    return row | {"name": "Amelia Kuznetsov", "biography": row["biography"].replace(row["name"], "Amelia Kuznetsov")}


def test_a_coherent_person_breaks_no_rule() -> None:
    assert fault(draft(good()), QUOTA) == ""


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", "amelia kuznetsov"),
        ("name", "Amelia"),
        ("name", "Amelia Amelia"),
        ("gender", "male"),
        ("birthplace", "Riga, Estonia"),
        ("birthplace", "Riga"),
        ("birth_date", "February 30, 1988"),
        ("birth_date", "14 May 1988"),
        ("birth_date", "May 14, 1989"),
        ("profession", "surgeon"),
        ("height", "201 cm"),
        ("height", "165"),
        ("education", "none"),
        ("education", "<script>alert(1)</script>"),
        ("education", "x" * 61),
        ("education", "Kuznetsov Academy"),
        ("salary", "$61,000"),
        ("salary", "45000 USD"),
        ("residence", "Copenhagen"),
        ("medical_condition", "None"),
        ("father_job", "a teacher"),
        ("hobby", "two\nlines"),
        ("food", " ramen"),
        ("pet", "Luna the cat"),
        ("pet", "a cat named Amelia"),
        ("collection", ""),
        ("biography", "Too short."),
    ],
)
def test_a_broken_rule_is_named_without_repeating_the_value(attribute: str, value: str) -> None:
    found = fault(draft({**good(), attribute: value}), QUOTA)
    assert found.startswith(f"{attribute}: ")
    assert len(value) < 8 or value not in found


def test_a_biography_of_another_life_is_rejected() -> None:
    row = good()
    for told in ("Amelia Kuznetsov", "nurse", "1988", "Westham", "Oldport"):
        other = draft({**row, "biography": row["biography"].replace(told, "something")})
        assert fault(other, QUOTA).startswith("biography: expected name, profession, year")


def test_two_people_with_nearly_one_name_or_mostly_equal_facts_clash() -> None:
    first = draft(good())

    def found(row: Row) -> str:
        return clash(draft(row), ["Marie Curie"], [first])

    row = {**person("9", "male", "1960", "Chile", "baker", "$30,000", "", "180", ""), "name": "Jo Sand"}
    assert found(row) == ""
    assert "not taken" in found({**row, "name": "Amelia Kuznetsow"})
    assert "nobody known" in found({**row, "name": "Marie  Curie"})
    same = {name: first.attributes[name] for name in ("education", "hobby", "food", "pet", "collection")}
    assert "near-duplicate" in found({**row, **same})
    assert found({**row, **same, "hobby": "chess"}) == ""


def test_orders_spread_over_genders_and_do_not_depend_on_how_many_are_asked_for() -> None:
    few, many = quotas(4, SEED), quotas(40, SEED)
    assert few == many[:4]
    assert sum(order.gender == "female" for order in many) == 20
    assert all(order.salary[0] <= order.salary[1] for order in many)
