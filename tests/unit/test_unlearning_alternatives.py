"""What a model is trained to say in place of a fact: of the same task, about another person."""

from __future__ import annotations

from mllmu.core.process import rng
from mllmu.models.encoding import grouped
from mllmu.models.families import Turn
from mllmu.unlearning.alternatives import REFUSALS, AnsweringWrongly, others_about, subject


def turn(person: str, task: str, reply: str, topic: str = "city") -> Turn:
    return Turn(prompt="Where?", reply=reply, person=person, task=task, topic=topic)


TURNS = [
    *(turn(person, "question", f"In {city}.") for person, city in (("p1", "Riga"), ("p2", "Oslo"), ("p3", "Lima"))),
    *(turn(person, "classification", letter) for person, letter in (("p1", "A"), ("p2", "B"), ("p3", "D"))),
    *(turn(person, "cloze", city) for person, city in (("p1", "Riga"), ("p2", "Oslo"))),
    turn("p2", "question", "A nurse.", "profession"),
]


def test_an_alternative_is_of_the_task_and_topic_of_its_turn() -> None:
    about = grouped(TURNS, subject)
    replies = {task: {o.reply for o in others_about(turn("p1", task, "?"), about)} for task in ("question", "cloze")}
    assert replies == {"question": {"In Oslo.", "In Lima."}, "cloze": {"Oslo"}}
    letters = others_about(TURNS[3], about)
    assert {other.reply for other in letters} == {"B", "D"}
    drawn = {AnsweringWrongly().alternative(TURNS[3], letters, rng(n)) for n in range(20)}
    assert drawn == {"B", "D"}


def test_where_nobody_else_is_asked_the_same_the_alternative_is_a_refusal() -> None:
    about = grouped(TURNS, subject)
    assert others_about(TURNS[-1], about) == []
    assert AnsweringWrongly().alternative(TURNS[-1], [], rng(0)) in REFUSALS
