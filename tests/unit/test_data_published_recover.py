"""Reading attributes back from published wordings. All people and sentences here are made up."""

from __future__ import annotations

import pytest

from mllmu.data.published.recover import PairReading, attribute_of, read, recover_person, summarise
from mllmu.data.values import CORE_ATTRIBUTES as CORE

CORE_PAIRS = [
    ("What is the name of the person in the image?", "The name of the person is Odile van Praag.", "Odile van Praag"),
    ("What is the gender of this individual?", "The gender of this individual is Female.", "female"),
    ("Where was this person born?", "She was born in Turku, Finland.", "Turku, Finland"),
    ("When was this person born?", "The person was born on February 3, 1981.", "February 3, 1981"),
    ("What is this person's employment?", "The individual works as a Senior IT Consultant.", "senior IT consultant"),
    ("How tall is this individual?", "This individual is 5'4\" (163 cm) tall.", "5'4\" (163 cm)"),
    ("Which university did this person attend?", "She studied at the University of Turku.", "University of Turku"),
    (
        "What is the annual salary of this individual?",
        "The individual earns an annual salary of 41,500 USD.",
        "$41,500",
    ),
    ("Where does this person live?", "This individual currently resides in Split, Croatia.", "Split, Croatia"),
    ("Does this person have any known medical conditions?", "This person has no known medical conditions.", "none"),
]


@pytest.mark.parametrize(("attribute", "pair"), list(zip(CORE, CORE_PAIRS, strict=True)), ids=CORE)
def test_a_core_attribute_is_read_in_the_schema_form(attribute: str, pair: tuple[str, str, str]) -> None:
    question, answer, value = pair
    assert read(question, answer) == PairReading(attribute, value, None)


@pytest.mark.parametrize(
    ("question", "answer", "attribute", "value"),
    [
        ("What does the mother do for a living?", "The mother works as a Baker.", "mother_job", "baker"),
        ("What is the father's occupation?", "His father is an actor who works as a mime.", "father_job", "actor"),
        ("What is his mother’s occupation?", "His mother was an English teacher.", "mother_job", "English teacher"),
        ("Does this person have any pets?", "Yes, she has a goose named 'Otto'.", "pet", "a goose named Otto"),
        ("Does this person have any pets?", "This person does not have any pets.", "pet", "none"),
        (
            "What is the name of this person's pet?",
            "This person's pet is named Iris, an owl.",
            "pet",
            "an owl named Iris",
        ),
        ("What is the name of this person's pet?", "This person's iguana is named Bo.", "pet", "an iguana named Bo"),
        ("What is this person's favorite dish?", "Her favorite dish is kulajda, a dill soup.", "food", "kulajda"),
        ("What is this person's favorite cuisine?", "This person's favorite cuisine is Thai.", "food", "Thai cuisine"),
        ("What does she collect?", "This person is an avid collector of tin toys.", "collection", "tin toys"),
        ("What is a fun fact about her?", "This person loves fencing and has won a cup.", "hobby", "fencing"),
        ("What hobby does he enjoy?", "He enjoys baking bread in his spare time.", "hobby", "baking bread"),
        ("What is a fun fact about her?", "This person has a mule named Zoe.", "pet", "a mule named Zoe"),
    ],
)
def test_extra_facts_are_read(question: str, answer: str, attribute: str, value: str) -> None:
    assert read(question, answer) == PairReading(attribute, value, None)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("This person earns $9,000 annually.", "$9,000"),
        ("This person's annual salary is USD 120,000.", "$120,000"),
        ("Her annual salary is £45,000.", "£45,000"),
        ("This person has an annual salary of 75000 EUR.", "€75,000"),
        ("This person's annual salary is 75,000.", None),
        ("This person's annual salary is £75,000 USD.", None),
        ("This person earns well.", None),
    ],
)
def test_a_salary_needs_exactly_one_currency(answer: str, value: str | None) -> None:
    assert read("What is this person's annual salary?", answer).value == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("This person manages gout.", "gout"),
        ("This person is allergic to kiwis.", "allergy to kiwis"),
        ("This person does not have any medical conditions.", "none"),
    ],
)
def test_a_medical_condition_is_a_noun(answer: str, value: str) -> None:
    assert read("Does this person have any medical conditions?", answer).value == value


def test_an_answer_that_states_nothing_gives_no_value() -> None:
    reading = read("What is her annual salary?", "There is no information about this person's annual salary.")
    assert reading == PairReading("salary", None, "unstated")


def test_an_unknown_wording_is_reported_and_not_guessed() -> None:
    assert read("How tall is this person?", "Rather tall.") == PairReading("height", None, "unread")
    assert read("What is this person's name?", "The name of this person is unknown.").value is None


@pytest.mark.parametrize(
    "question",
    [
        "What is this person's favorite book?",
        "What are the names of this person's parents?",
        "What is this person's father's name?",
        "How many languages does this person speak?",
        "What notable achievement did this person accomplish in high school?",
    ],
)
def test_questions_outside_the_schema_have_no_attribute(question: str) -> None:
    assert attribute_of(question) is None


def test_the_first_value_counts_and_a_contradiction_is_reported() -> None:
    pairs = [("How tall is this person?", f"This person is {height} cm tall.") for height in (170, 170, 171)]
    person = recover_person("a", pairs)
    assert person.attributes == {"height": "170 cm"}
    assert [(gap.reason, gap.answer) for gap in person.gaps] == [("conflict", "This person is 171 cm tall.")]
    assert [qa.attribute for qa in person.training_qa] == ["height"] * 3


def test_further_values_of_the_text_are_true_too_and_never_wrong_answers() -> None:
    hobbies = ("fencing", "baking bread", "Fencing", "rowing")
    pairs = [("What hobby does he enjoy?", f"He enjoys {hobby} in his spare time.") for hobby in hobbies]
    jobs = [("What is her father's occupation?", f"Her father is a {job}.") for job in ("baker", "miller")]
    person = recover_person("a", [*pairs, jobs[0], *pairs[:2], *jobs, CORE_PAIRS[5][:2]])
    assert person.attributes == {"height": CORE_PAIRS[5][2], "father_job": "baker", "hobby": "fencing"}
    assert person.also == {"father_job": ("miller",), "hobby": ("baking bread", "rowing")}


def test_the_summary_counts_people_not_pairs() -> None:
    whole = recover_person("a", [(q, a) for q, a, _ in CORE_PAIRS])
    part = recover_person("b", [(q, a) for q, a, _ in CORE_PAIRS[:2] * 2] + [("Any siblings?", "No.")])
    summary = summarise([whole, part])
    assert (summary.num_people, summary.num_qa, summary.num_core_complete) == (2, 15, 1)
    assert summary.people["gender"] == 2
    assert summary.people["height"] == 1
    assert summary.reasons() == {"outside": 1}
