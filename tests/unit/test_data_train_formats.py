"""Facts can be taught as multiple choice and cloze too, but never in an evaluated wording."""

from __future__ import annotations

from pathlib import Path

from mllmu.data.questions import QuestionOrder, check
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.tasks.classification import Classification
from mllmu.training.batches import training_turns

PEOPLE = Synthetic(num_people=12).profiles(3)
FORMATS = ("question", "classification", "cloze")


def test_plain_questions_are_taught_unless_asked_otherwise() -> None:
    assert {q.task for q in build(PEOPLE, QuestionOrder(seed=1, variants=("train",), train_wordings=2))} == {
        "generation"
    }


def test_more_formats_add_rows_and_leave_the_others_as_they_were() -> None:
    plain = build(PEOPLE, QuestionOrder(seed=1, train_wordings=2))
    more = build(PEOPLE, QuestionOrder(seed=1, train_wordings=2, train_formats=FORMATS))
    check(more, PEOPLE)
    added = [q for q in more if q.variant == "train" and q.task != "generation"]
    assert [q for q in more if q not in added] == plain
    # 16 attributes; gender is not asked, and beside the name in a text nobody asks for the name
    assert sum(q.profile_id == PEOPLE[0].id for q in added) == 2 * 2 * (15 + 14)


def test_no_evaluated_question_is_taught() -> None:
    questions = build(PEOPLE, QuestionOrder(seed=1, train_wordings=3, train_formats=FORMATS))
    taught = {q.text for q in questions if q.variant == "train"}
    assert not taught & {q.text for q in questions if q.variant != "train"}


def test_a_taught_choice_is_put_like_an_evaluated_one() -> None:
    questions = build(
        PEOPLE, QuestionOrder(seed=1, variants=("train",), train_wordings=1, train_formats=("classification",))
    )
    turns = training_turns(questions, Path(), modality="text")
    first = next(q for q in questions if q.modality == "text")
    assert turns[0].prompt == Classification().prompt(first)
    assert turns[0].reply == first.answer in first.options
