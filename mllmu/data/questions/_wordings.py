"""Loads and checks ``wordings.yaml``, the sentence templates of every question, and fills in their subject.

Markers: ``{s}`` the subject, ``{s's}`` its possessive, ``{v}`` the value, ``{a}`` the article before the value,
``__`` the blank of a cloze. Sentences about a fact that only a recipe names have ``{l}`` for its label.
Templates are filled by plain replacement, so braces in names and values are harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.records import Record
from mllmu.data.packaged import packaged_yaml

Kind = Literal["fictitious", "celebrity"]
Variant = Literal["train", "eval", "test"]

FILE = "questions/wordings.yaml"
SUBJECT = "this person"
FACT = "fact_"
"""Begins the name of an attribute that a recipe defines: ``fact_home_town`` is asked as 'home town'."""
BLANK = "__"


class Sentences(Record):
    """Three disjoint sets of templates: for training, for evaluation, and for the reworded test."""

    train: tuple[str, ...] = Field(min_length=8)
    eval: tuple[str, ...] = Field(min_length=2)
    test: tuple[str, ...] = Field(min_length=2)

    def of(self, variant: Variant) -> tuple[str, ...]:
        """The templates of one variant."""
        return {"train": self.train, "eval": self.eval, "test": self.test}[variant]


class AnswerSentences(Record):
    """The canonical answer sentence as trained, and one rewording with the same meaning."""

    train: str
    test: str


class Wordings(Record):
    """Every template about one attribute."""

    questions: Sentences
    answers: AnswerSentences
    cloze: Sentences


def render_subject(template: str, name: str | None) -> str:
    """Fill ``{s}`` and ``{s's}`` with a name, or with 'this person' (capitalised first in a sentence) if None.

    >>> render_subject("{s's} height is __.", None)
    "This person's height is __."
    >>> render_subject("How tall is {s}?", "Ana Silva")
    'How tall is Ana Silva?'
    """
    subject = name if name is not None else SUBJECT
    if name is None and template.startswith("{s"):
        subject = SUBJECT.capitalize()
    return template.replace("{s's}", subject + "'s").replace("{s}", subject)


@cache
def wordings(kind: Kind) -> Mapping[str, Wordings]:
    """The templates of all attributes of a kind of person, in schema order; read once and checked.

    Raises:
        DataError: the file breaks a rule (a marker missing, a blank not at the end, one sentence in two sets).
    """
    return parse(packaged_yaml(FILE), kind)


@cache
def fact_wordings(attribute: str) -> Wordings:
    """The templates of a fact, its label filled in.

    >>> fact_wordings("fact_home_town").answers.train
    "This person's home town is {v}."
    """
    label = attribute.removeprefix(FACT).replace("_", " ")
    raw = yaml.safe_load(yaml.safe_dump(packaged_yaml(FILE)["fact"]).replace("{l}", label))
    return parse({"fact": raw}, "fact")["any"]


def parse(raw: Any, kind: Kind | Literal["fact"]) -> dict[str, Wordings]:
    """Check the raw content of a wordings file and return one kind's templates by attribute."""
    where = f"wordings.yaml: {kind}"
    if not isinstance(raw, dict) or not isinstance(raw.get(kind), dict):
        raise DataError(f"{where}: missing. Expected a mapping of attributes to questions, answers and cloze.")
    found = {}
    for attribute, entry in raw[kind].items():
        try:
            found[attribute] = Wordings.model_validate(entry)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join([attribute, *map(str, fault["loc"])])
            raise DataError(f"{where}.{place}: {fault['msg']} (got {fault.get('input')!r}).") from None
        _check(found[attribute], f"{where}.{attribute}")
    return found


def wording(kind: Kind, attribute: str) -> Wordings:
    """The templates of one attribute; an attribute without wordings raises DataError with the nearest match."""
    if attribute.startswith(FACT):
        return fact_wordings(attribute)
    known = wordings(kind)
    if attribute not in known:
        raise DataError(
            f"attribute '{attribute}': no wordings for a {kind} profile.{did_you_mean(attribute, known)}"
            f" Known: {', '.join(known)}. Add it to wordings.yaml or drop it from the profile."
        )
    return known[attribute]


def _check(entry: Wordings, where: str) -> None:
    """Markers are where they must be and no sentence is in two sets."""
    for part, sentences in (("questions", entry.questions), ("cloze", entry.cloze)):
        every = [*sentences.train, *sentences.eval, *sentences.test]
        folded = [t.casefold() for t in every]
        if twice := next((t for t in every if folded.count(t.casefold()) > 1), None):
            raise DataError(f"{where}.{part}: {twice!r} occurs twice. Expected train, eval and test to be disjoint.")
        for template in every:
            if "{s}" not in template and "{s's}" not in template:
                raise DataError(f"{where}.{part}: {template!r} names no subject. Expected {{s}} or {{s's}}.")
            if template.count(BLANK) != (part == "cloze") or (part == "cloze" and not template.endswith(f"{BLANK}.")):
                raise DataError(
                    f"{where}.{part}: {template!r}: expected one {BLANK} before the final stop, cloze only."
                )
    for template in (entry.answers.train, entry.answers.test):
        if template.count("{v}") != 1 or "{s" in template:
            raise DataError(f"{where}.answers: {template!r}: expected exactly one {{v}} and no {{s}}.")
