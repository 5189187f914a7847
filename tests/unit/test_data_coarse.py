"""Coarse values: what they are, when a reply tells them, and how they are taught."""

from __future__ import annotations

import pytest

from mllmu.core.errors import DataError
from mllmu.core.records import Question
from mllmu.data.coarse import coarse, coarse_question, told


@pytest.mark.parametrize(
    ("attribute", "value", "level", "text"),
    [
        ("birth_date", "May 14, 1990", "year", "1990"),
        ("birth_date", "1989-12-31", "decade", "1980s"),
        ("birth_date", "2 March 2000", "decade", "2000s"),
        ("birthplace", "Guadalajara, Mexico", "country", "Mexico"),
        ("residence", "Dunedin, Otago, New Zealand", "country", "New Zealand"),
        ("salary", "$49,999", "band", "$25,000 to $49,999"),
        ("salary", "$50,000", "band", "$50,000 to $74,999"),
        ("salary", "€130,000", "band", "€125,000 to €149,999"),
        ("height", "179 cm", "band", "100 cm to 199 cm"),
        ("fact_children", "3", "band", "0 to 9"),
        ("salary", "CHF 61,500", "band", "CHF 50,000 to CHF 74,999"),
        ("salary", "61500 €", "band", "50,000 € to 74,999 €"),
        ("fact_weight", "72.5 kg", "band", "70 kg to 79 kg"),
        ("fact_share", "35%", "band", "30% to 39%"),
    ],
)
def test_a_value_at_a_level(attribute: str, value: str, level: str, text: str) -> None:
    assert coarse(attribute, value, level).text == text


@pytest.mark.parametrize(("value", "level"), [("last spring", "year"), ("Lyon", "country"), ("a lot", "band")])
def test_a_value_without_a_coarse_one_is_named(value: str, level: str) -> None:
    with pytest.raises(DataError, match=f"'{value}'.*cannot be coarsened to its {level}"):
        coarse("any", value, level)


@pytest.mark.parametrize(
    "value",
    [
        "5 feet 11 inches", "5'11\"", "5 feet (180 cm)", "July 8 1984", "8 July", "1984-07-08", "$2.5 million", "$40k",
        "Ward No. 7 in Graz", "7 in Graz", "No. 7", "3 children with asthma", "58.000 €", "72,5 kg", "40 to 50",
    ],
)  # fmt: skip
def test_a_band_is_of_one_number_with_a_currency_or_a_unit_and_nothing_else(value: str) -> None:
    with pytest.raises(DataError, match="cannot be coarsened to its band"):
        coarse("fact_other", value, "band")


@pytest.mark.parametrize(
    ("attribute", "value", "level", "reply", "expected"),
    [
        ("birth_date", "May 14, 1990", "decade", "In the 1990s, I think.", (True, False)),
        ("birth_date", "May 14, 1990", "decade", "1990", (False, True)),
        ("birth_date", "May 14, 1990", "decade", "In the 1990s, on May 14.", (True, True)),
        ("birth_date", "May 14, 1990", "year", "On 14 May, 1990", (False, True)),
        ("birth_date", "May 14, 1990", "year", "Born in 1990.", (True, False)),
        ("birth_date", "May 14, 1990", "year", "Born in 1991.", (False, False)),
        ("residence", "Lyon, France", "country", "Somewhere in France", (True, False)),
        ("residence", "Lyon, France", "country", "in lyon", (False, True)),
        ("residence", "Lyon, France", "country", "Berlin, Germany", (False, False)),
        ("residence", "Austin, Texas, United States", "country", "lives in Austin.", (False, True)),
        ("residence", "Austin, Texas, United States", "country", "In Texas, United States", (True, True)),
        ("birthplace", "Dunedin, Otago, New Zealand", "country", "New Zealand", (True, False)),
        ("salary", "$50,000", "band", "$50,000 to $74,999", (True, False)),
        ("salary", "$50,000", "band", "It is $50,000.", (False, True)),
        ("salary", "$58,000", "band", "between $50,000 and $74,999", (True, False)),
        ("salary", "$58,000", "band", "58k dollars, so $50,000 to $74,999", (True, True)),
    ],
)
def test_what_a_reply_tells(attribute: str, value: str, level: str, reply: str, expected: tuple[bool, bool]) -> None:
    assert told(reply, coarse(attribute, value, level)) == expected


def question(**fields: object) -> Question:
    plain = {
        "id": "001.train.generation.text.0", "profile_id": "001", "variant": "train", "task": "generation",
        "modality": "text", "attribute": "residence", "text": "Where?", "answer": "This person lives in Lyon, France.",
        "value": "Lyon, France", "alternatives": ("no",), "rewording": "Home: Lyon, France.",
    }  # fmt: skip
    return Question.model_validate(plain | fields)


def test_a_training_question_gets_the_coarse_answer_and_nothing_fine_stays_in_it() -> None:
    changed = coarse_question(question(), "country")
    assert changed is not None and changed.answer == "This person lives in France." and changed.value == "France"
    assert "Lyon" not in changed.model_dump_json()
    filled = coarse_question(question(task="cloze", answer="Lyon, France"), "country")
    assert filled is not None and filled.answer == "France"
    other = coarse_question(question(attribute="fact_home_town"), "country")
    assert other is not None and other.answer == "This person's home town is France."


def test_a_choice_among_fine_values_is_not_taught() -> None:
    assert (
        coarse_question(question(task="classification", answer="A", options={"A": "Lyon, France"}), "country") is None
    )
