"""Loads ``wordings.yaml``, the sentence templates of every question, and fills in their subject.

Markers: ``{s}`` the subject, ``{s's}`` its possessive, ``{v}`` the value, ``{a}`` the article before the value,
``__`` the blank of a cloze. Sentences about a fact that only a recipe names have ``{l}`` for its label.
Templates are filled by plain replacement, so braces in names and values are harmless.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal

import yaml
from pydantic import Field

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.records import Record
from mllmu.data.files import packaged_yaml

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
    """The templates of all attributes of a kind of person, in schema order; read once."""
    return {name: Wordings.model_validate(entry) for name, entry in packaged_yaml(FILE)[kind].items()}


@cache
def fact_wordings(attribute: str) -> Wordings:
    """The templates of a fact, its label filled in.

    >>> fact_wordings("fact_home_town").answers.train
    "This person's home town is {v}."
    """
    label = attribute.removeprefix(FACT).replace("_", " ")
    text = yaml.safe_dump(packaged_yaml(FILE)["fact"]["any"]).replace("{l}", label)
    return Wordings.model_validate(yaml.safe_load(text))


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
