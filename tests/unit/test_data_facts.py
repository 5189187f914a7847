"""Requests as sets of facts: which questions they take, what they leave, and how they are shared out and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.config.recipe import Recipe
from mllmu.core.errors import DataError, RecipeError
from mllmu.core.records import OTHER_ATTRIBUTE, Profile, Question
from mllmu.data.dataset import Dataset
from mllmu.data.facts import FactSet, as_requested, together
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic

PEOPLE = Synthetic(num_people=10).profiles(3)
IDS = [profile.id for profile in PEOPLE]
DATA = Dataset(
    Path("data"), PEOPLE, build(PEOPLE, QuestionOrder(seed=3, train_wordings=1)), {"40": IDS[:4], "holdout": IDS[8:]}
)


def recipe(**unlearn: Any) -> Recipe:
    return parse({"name": "x", "data": {"train_wordings": 1}, "unlearn": unlearn})


def test_a_request_for_some_facts_brings_the_summary_of_them() -> None:
    some = {"attributes": ["salary"]}
    assert recipe(forget=some).evaluate.summaries == ("parts",)
    assert recipe(requests=[{"people": ["001"]}, {"coarsen": {"birth_date": "year"}}]).evaluate.summaries == ("parts",)
    whole: tuple[dict[str, Any], ...] = ({}, {"forget": {"people": ["001"]}}, {"requests": 2})
    assert all(recipe(**request).evaluate.summaries == () for request in whole)
    for named in (("all",), ("parts",)):
        raw = {"name": "x", "unlearn": {"forget": some}, "evaluate": {"summaries": named}}
        assert parse(raw).evaluate.summaries == named


def test_a_method_that_cannot_follow_itself_is_refused_before_any_work() -> None:
    with pytest.raises(RecipeError, match="whp lowers logits by a second pass, and that can be put on a model once"):
        recipe(requests=2, methods=["ga", "whp"])
    one = [{"people": ["001"]}]
    assert recipe(requests=one, methods=["whp"]) and recipe(forget={"attributes": ["salary"]}, methods=["whp"])


def question(person: str, attribute: str, answer: str = "This person earns $58,000.", **more: Any) -> Question:
    fields = {
        "id": f"{person}.train.generation.text.0", "profile_id": person, "variant": "train", "task": "generation",
        "modality": "text", "attribute": attribute, "text": "?", "answer": answer, "value": "v",
    }  # fmt: skip
    return Question.model_validate(fields | more)


def test_a_set_takes_the_facts_it_names_and_what_tells_them_under_no_name() -> None:
    facts = FactSet({"a": {"salary": "", "residence": "country"}, "b": None}, {"a": ("$58,000", "Lyon, France")})
    assert facts.partial
    assert facts.holds(question("a", "salary")) and facts.holds(question("a", "residence"))
    assert not facts.holds(question("a", "hobby")) and not facts.holds(question("c", "salary"))
    assert facts.holds(question("b", "hobby")), "all about b"
    assert facts.holds(question("a", OTHER_ATTRIBUTE, "They make 58,000 dollars in Oslo."))
    assert not facts.holds(question("a", OTHER_ATTRIBUTE, "They keep bees."))
    assert facts.level(question("a", "residence")) == "country" and facts.level(question("a", "salary")) == ""


def test_sets_add_up_and_the_stronger_request_wins() -> None:
    first = FactSet({"a": {"salary": "band", "hobby": ""}, "b": {"pet": ""}}, {"a": ("1",), "b": ("x",)})
    second = FactSet({"a": {"salary": "", "hobby": "band", "birth_date": "year"}, "b": None}, {"a": ("1", "2")})
    both = together([first, second])
    assert both.facts == {"a": {"salary": "", "hobby": "", "birth_date": "year"}, "b": None}
    assert both.values == {"a": ("1", "2"), "b": ("x",)}
    finer = FactSet({"a": {"birth_date": "decade"}}, {}) | FactSet({"a": {"birth_date": "year"}}, {})
    assert finer.facts == {"a": {"birth_date": "year"}}


def test_a_request_for_attributes_asks_each_forgotten_fact_and_keeps_the_rest_apart() -> None:
    data = as_requested(DATA, recipe(forget={"attributes": ["salary", "hobby"], "coarsen": {"birth_date": "decade"}}))
    assert data.splits == DATA.splits and len(data.steps) == 1
    gone = {"salary", "hobby", "birth_date"}
    own = [q for q in data.questions if q.profile_id in IDS[:4] and q.variant != "train"]
    assert {q.attribute for q in own} == gone
    every = {(person, attribute) for person in IDS[:4] for attribute in gone}
    for variant in ("eval", "test"):
        for task in ("classification", "generation", "cloze"):
            asked = {
                (q.profile_id, q.attribute) for q in own if (q.variant, q.task, q.modality) == (variant, task, "text")
            }
            assert asked == every, f"{variant} {task}"
    assert {q.coarse for q in own if q.attribute == "birth_date"} == {"decade"}
    assert {q.coarse for q in own if q.attribute != "birth_date"} == {""}
    assert len({q.id for q in data.questions}) == len(data.questions)
    assert {q.attribute for q in data.further["kept"]} & gone == set()
    assert {q.profile_id for q in data.further["kept"]} == set(IDS[:4])
    others = [q for q in data.questions if q.profile_id not in IDS[:4]]
    assert others == [q for q in DATA.questions if q.profile_id not in IDS[:4]], "nothing changes for others"


def test_a_forgotten_fact_is_asked_behind_a_kept_one_that_does_not_tell_it() -> None:
    data = as_requested(DATA, recipe(forget={"attributes": ["salary", "residence"]}))
    profiles = {profile.id: profile for profile in PEOPLE}
    assert data.further["through"]
    for asked in data.further["through"]:
        profile = profiles[asked.profile_id]
        assert asked.attribute in ("salary", "residence") and not asked.options
        assert any(value in asked.text for name, value in profile.attributes.items() if name != asked.attribute)
        assert profile.attributes[asked.attribute] not in asked.text
        assert asked.modality == "image_text" or "his person" not in asked.text, "by name"


def test_what_is_left_lacks_the_facts_and_holds_the_coarse_ones() -> None:
    data = as_requested(DATA, recipe(forget={"attributes": ["salary"], "coarsen": {"birth_date": "year"}}))
    trained = [q for q in data.questions if q.variant == "train"]
    left = data.steps[0].left(trained)
    profile = PEOPLE[0]
    about = [q for q in left if q.profile_id == profile.id]
    assert "salary" not in {q.attribute for q in about} and len(about) < len(
        [q for q in trained if q.profile_id == profile.id]
    )
    year = profile.attributes["birth_date"][-4:]
    assert {q.answer for q in about if q.attribute == "birth_date"} == {f"This person was born in {year}."}
    text = " ".join(q.model_dump_json() for q in about)
    assert profile.attributes["salary"] not in text and profile.attributes["birth_date"] not in text
    assert [q for q in left if q.profile_id == IDS[5]] == [q for q in trained if q.profile_id == IDS[5]]


def test_people_by_name_take_the_place_of_the_drawn_ones() -> None:
    data = as_requested(DATA, recipe(forget={"people": [IDS[7], IDS[5]]}))
    assert data.splits == {"25": [IDS[5], IDS[7]], "holdout": IDS[8:]} and data.keys == ["25"]
    assert data.retained("25") == [*IDS[:5], IDS[6]]
    assert not data.further and data.questions == DATA.questions


def test_what_earlier_requests_took_is_on_no_side_and_in_no_set() -> None:
    earlier = {"people": [IDS[0]], "facts": {IDS[5]: ["hobby"], IDS[7]: ["pet"]}}
    data = as_requested(DATA, recipe(forget={"people": [IDS[7]], "earlier": earlier}))
    assert data.people == IDS[1:8] and data.splits["12.5"] == [IDS[7]] and data.retained("12.5") == IDS[1:7]
    own = {person: {q.attribute for q in data.questions if q.profile_id == person} for person in IDS}
    every = {q.attribute for q in DATA.questions if q.profile_id == IDS[7]}
    assert not own[IDS[0]] and own[IDS[5]] == every - {"hobby"} and own[IDS[7]] == every, "now the whole person"


def test_a_request_for_facts_neither_keeps_nor_tells_what_earlier_ones_took_of_the_same_people() -> None:
    both = recipe(forget={"facts": {IDS[1]: ["salary"], IDS[2]: ["salary"]},
                          "earlier": {"people": [IDS[2]], "facts": {IDS[1]: ["hobby", "residence"]}}})  # fmt: skip
    data = as_requested(DATA, both)
    kept = {(q.profile_id, q.attribute) for q in data.further["kept"]}
    assert {person for person, _ in kept} == {IDS[1]} and not {"hobby", "residence", "salary"} & {a for _, a in kept}
    of_1 = next(profile for profile in PEOPLE if profile.id == IDS[1])
    led = [q.text for q in data.further["through"]]
    assert led and not any(of_1.attributes[name] in text for text in led for name in ("hobby", "residence"))
    assert {q.attribute for q in data.questions if q.profile_id == IDS[2]} == {"salary"}, "nothing else of the other"


def test_a_request_behind_which_nobody_is_left_is_refused() -> None:
    with pytest.raises(RecipeError, match="nobody would be retained"):
        as_requested(DATA, recipe(forget={"people": IDS[:3], "earlier": {"people": IDS[3:8]}}))
    with pytest.raises(DataError, match="'nobody'"):
        as_requested(DATA, recipe(forget={"people": IDS[:3], "earlier": {"people": ["nobody"]}}))


def test_requests_by_number_share_the_people_out_in_their_order() -> None:
    data = as_requested(DATA, recipe(requests=3))
    assert [list(step.facts) for step in data.steps] == [[IDS[0]], IDS[1:3], [IDS[3]]]
    assert data.splits == DATA.splits


def test_requests_by_name_are_one_after_the_other() -> None:
    wanted = [{"people": [IDS[6]]}, {"people": [IDS[2]], "attributes": ["hobby"]}]
    data = as_requested(DATA, recipe(requests=wanted))
    assert [step.facts for step in data.steps] == [{IDS[6]: None}, {IDS[2]: {"hobby": ""}}]
    assert data.splits["25"] == [IDS[2], IDS[6]]
    assert {q.profile_id for q in data.further["kept"]} == {IDS[2]}, "nothing is kept of the other"


@pytest.mark.parametrize(
    ("unlearn", "error", "match"),
    [
        ({"forget": {"people": ["001x"]}}, DataError, "names '001x', who is nobody"),
        ({"forget": {"attributes": ["salry"]}}, DataError, "attribute 'salry'.*Did you mean 'salary'"),
        ({"forget": {"coarsen": {"hobby": "year"}}}, DataError, r"\(hobby\) cannot be coarsened to its year"),
        ({"requests": 5}, RecipeError, "only 4 people"),
        ({"forget": {"people": IDS[:8]}}, RecipeError, "nobody would be retained"),
    ],
)
def test_what_cannot_be_requested_is_told(unlearn: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        as_requested(DATA, recipe(**unlearn))


def test_a_recipe_refuses_contradictions() -> None:
    with pytest.raises(RecipeError, match="'salary' is named under 'attributes' and under 'coarsen'"):
        recipe(forget={"attributes": ["salary"], "coarsen": {"salary": "band"}})
    with pytest.raises(RecipeError, match="named twice in 'people'"):
        recipe(forget={"people": ["a", "a"]})
    with pytest.raises(RecipeError, match=r"request 2: .*a request names nothing"):
        recipe(requests=[{"people": ["a"]}, {}])
    with pytest.raises(RecipeError, match=r"unlearn\.requests"):
        recipe(requests=1)


def test_another_evaluation_seed_asks_other_questions_and_teaches_the_same() -> None:
    other = parse({"name": "x", "data": {"train_wordings": 1}, "seeds": {"evaluate": 5}})
    data = as_requested(DATA, other)
    first, second = ([q for q in d.questions if q.variant == "train"] for d in (DATA, data))
    assert first == second
    asked = [[q for q in d.questions if q.variant != "train"] for d in (DATA, data)]
    assert {q.profile_id for q in asked[1]} == set(IDS) and asked[0] != asked[1]
    same: Profile = PEOPLE[0]
    assert sum(q.profile_id == same.id and q.variant == "eval" for q in asked[1]) == 18
