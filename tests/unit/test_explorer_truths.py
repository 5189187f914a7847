"""What a question of the user's own asks for."""

from __future__ import annotations

import pytest

from mllmu.core.errors import DataError
from mllmu.core.records import Profile, Question
from mllmu.explorer.truths import find_person, person_in, sentence_of, telling_words, truth_of

PEOPLE = {
    "01": Profile(id="01", kind="fictitious", attributes={"name": "Ana Silva", "salary": "$58,000", "city": "Riga"}),
    "02": Profile(id="02", kind="fictitious", attributes={"name": "Bo Lind", "salary": "$90,000", "city": "Turin"}),
    "03": Profile(id="03", kind="fictitious", attributes={"name": "Bo Lind", "salary": "$10,000"}),
}


def question(text: str, attribute: str, variant: str = "train", answer: str = "x") -> Question:
    return Question(
        id=f"{text}{variant}", profile_id="01", variant=variant, task="generation", modality="text",
        attribute=attribute, text=text, answer=answer, value="x",
    )  # fmt: skip


QUESTIONS = [
    question("How much does Ana Silva earn a year?", "salary", answer="Ana earns $58,000."),
    question("What is the income of Ana Silva?", "salary", "eval", "Her income is $58,000."),
    question("In what city does Ana Silva live?", "city", "eval", "Ana lives in Riga."),
    question("What animal does Ana Silva own?", "pet"),
]


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("What does she earn?", "salary"),
        ("Tell me her INCOME.", "salary"),
        ("Where does she live?", "city"),
        ("Her salary?", "salary"),  # the name of the attribute
        ("What animal?", ""),  # asked for, but not known of her
        ("What does she do?", ""),  # every attribute is asked for so
        ("Does Silva earn enough to live?", ""),  # as much of one as of the other
        ("Ana?", ""),
    ],
)
def test_the_attribute_is_found_by_telling_words(text: str, attribute: str) -> None:
    found = truth_of(text, PEOPLE["01"], telling_words(QUESTIONS, PEOPLE))
    assert (found.attribute if found else "") == attribute
    if found:
        assert found.value == PEOPLE["01"].attributes[attribute]


def test_of_nobody_nothing_is_true() -> None:
    assert truth_of("What does she earn?", None, telling_words(QUESTIONS, PEOPLE)) is None


def test_the_sentence_is_the_trained_one_or_else_the_evaluated_one() -> None:
    assert sentence_of(QUESTIONS, "01", "salary", "text") == "Ana earns $58,000."
    assert sentence_of(QUESTIONS, "01", "city", "text") == "Ana lives in Riga."
    assert sentence_of(QUESTIONS, "01", "city", "image_text") == sentence_of(QUESTIONS, "02", "city", "text") == ""


def test_people_are_found_by_id_or_name() -> None:
    assert find_person("02", PEOPLE).id == "02" and find_person("ana silva", PEOPLE).id == "01"
    with pytest.raises(DataError, match=r"name of 2 people: 02, 03\. Name an id"):
        find_person("Bo Lind", PEOPLE)
    with pytest.raises(DataError, match=r"neither a file nor .* Did you mean 'Ana Silva'"):
        find_person("Ana Silvia", PEOPLE)
    named = person_in("Where does ANA SILVA live?", PEOPLE)
    assert named and named.id == "01" and person_in("And Bo Lind?", PEOPLE) is None
