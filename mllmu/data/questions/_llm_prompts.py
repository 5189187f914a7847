"""What is said to a model that writes, rewords or answers questions, and the forms of its replies.

The names of the reply classes are part of the schema that a request carries, and so of the key of a kept reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from mllmu.core.records import Modality, Profile, Question, TaskName
from mllmu.data.packaged import packaged_yaml
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


class Slot(NamedTuple):
    """A slot to fill: its number in a prompt, and the question that stands there so far."""

    number: int
    question: Question


Prompt = Callable[[Profile, Sequence[Slot], int], Call]
"""Makes the call about some slots of one person in one round."""


def profile_text(profile: Profile) -> str:
    """A profile as a model sees it, and as its supporting passages are looked up: one line per attribute."""
    lines = [f"{name}: {value}" for name, value in profile.attributes.items()]
    return "\n".join([*lines, *([f"biography: {profile.biography}"] if profile.biography else [])])


def write_call(profile: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for the questions of some slots."""
    fields = [{"form": FORMS[q.task], "subject": SUBJECTS[q.modality], "attribute": q.attribute} for _, q in slots]
    return _call("write", attempt, slots, fields, profile)


def reword_call(_: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for some questions in other words; neither profile nor answers are shown, so none can leak."""
    return _call("reword", attempt, slots, [{"text": fence("question", q.text)} for _, q in slots])


def answer_call(profile: Profile, slots: Sequence[Slot], attempt: int) -> Call:
    """Ask for answers from the profile alone."""
    fields = []
    for _, q in slots:
        options = "; ".join(f"{letter}: {value}" for letter, value in q.options.items())
        fields.append({"text": fence("question", q.text) + (f" {fence('options', options)}" if options else "")})
    return _call("answer", attempt, slots, fields, profile)


def _call(
    what: str, attempt: int, slots: Sequence[Slot], fields: Sequence[dict[str, str]], profile: Profile | None = None
) -> Call:
    """The prompt of a kind, with one line per slot, and with the profile if the model may see it."""
    words = packaged_yaml("llm_prompts.yaml")["questions"]
    lines = [
        words[f"{what}_line"].format(number=slot.number, **values) for slot, values in zip(slots, fields, strict=True)
    ]
    shown = {"profile": fence("profile", profile_text(profile))} if profile else {}
    order = words[f"{what}_order"].format(attempt=attempt, lines="\n".join(lines), **shown)
    return Call(({"role": "system", "content": words[what].format()}, {"role": "user", "content": order.rstrip()}))
