"""What is said to a model that writes, rewords or answers questions, and the forms of its replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from mllmu.core.records import Modality, Profile, Question, TaskName
from mllmu.data.llm_prompts import prompts
from mllmu.llm import Call, fence

FORMS: dict[TaskName, str] = {"classification": "choice", "generation": "sentence", "cloze": "cloze"}
SUBJECTS: dict[Modality, str] = {"image_text": "image", "text": "name"}


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Item(_Reply):
    """One written question."""

    number: int
    question: str
    answer: str
    rewording: str
    wrong: list[str]
    support: str


class Sheet(_Reply):
    """The questions of one person."""

    questions: list[Item]


class Other(_Reply):
    """One question in other words."""

    number: int
    question: str


class Others(_Reply):
    """The reworded questions of one person."""

    questions: list[Other]


class Answer(_Reply):
    """One answer."""

    number: int
    answer: str


class Answers(_Reply):
    """The answers about one person."""

    answers: list[Answer]


class Place(NamedTuple):
    """A place to fill: its number among a person's questions, and the question that stands there so far."""

    number: int
    question: Question


def profile_text(profile: Profile) -> str:
    """A profile as a model sees it, and as its supporting passages are looked up: one line an attribute."""
    lines = [f"{name}: {value}" for name, value in profile.attributes.items()]
    return "\n".join([*lines, *([f"biography: {profile.biography}"] if profile.biography else [])])


def write_call(profile: Profile, places: Sequence[Place], attempt: int) -> Call:
    """Ask for the questions of some places."""
    words = prompts("questions")
    lines = [
        words["write_line"].format(
            number=place.number,
            form=FORMS[place.question.task],
            subject=SUBJECTS[place.question.modality],
            attribute=place.question.attribute,
        )
        for place in places
    ]
    return _call("write", attempt, lines, profile=fence("profile", profile_text(profile)))


def reword_call(places: Sequence[Place], attempt: int) -> Call:
    """Ask for some questions in other words; neither profile nor answers are shown, so none can leak."""
    words = prompts("questions")
    lines = [
        words["reword_line"].format(number=place.number, text=fence("question", place.question.text))
        for place in places
    ]
    return _call("reword", attempt, lines)


def answer_call(profile: Profile, places: Sequence[Place], attempt: int) -> Call:
    """Ask for answers from the profile alone."""
    words = prompts("questions")
    lines = [words["answer_line"].format(number=place.number, text=_shown(place.question)) for place in places]
    return _call("answer", attempt, lines, profile=fence("profile", profile_text(profile)))


def _shown(question: Question) -> str:
    options = "; ".join(f"{letter}: {value}" for letter, value in question.options.items())
    return fence("question", question.text) + (f" {fence('options', options)}" if options else "")


def _call(what: str, attempt: int, lines: Sequence[str], **parts: str) -> Call:
    words = prompts("questions")
    order = words[f"{what}_order"].format(attempt=attempt, lines="\n".join(lines), **parts)
    return Call(({"role": "system", "content": words[what].format()}, {"role": "user", "content": order.rstrip()}))
