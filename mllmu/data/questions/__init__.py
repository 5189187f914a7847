"""Question writers: who puts the questions about people into words. One file per writer; see :class:`QuestionWriter`.

Beside the writers stand the sentences (``wordings.yaml``), wrong answers, and the rules that all questions keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from mllmu.core.plugins import Plugin
from mllmu.core.process import Progress
from mllmu.core.records import QUESTION_FORMAT, Profile, Question, Record
from mllmu.data.questions._rules import SLOTS, Rule, check, check_published, first_broken, mentions, name_words
from mllmu.data.questions._wordings import BLANK, FACT, SUBJECT, Variant, Wordings, render_subject, wording, wordings

if TYPE_CHECKING:
    from mllmu.config.recipe import DataSection
    from mllmu.llm import Preview

__all__ = [
    "BLANK", "FACT", "SLOTS", "SUBJECT", "QuestionOrder", "QuestionWriter", "Rejected", "Rule", "Variant", "Wordings",
    "Written", "check", "check_published", "first_broken", "mentions", "name_words", "render_subject", "wording",
    "wordings",
]  # fmt: skip


class QuestionOrder(NamedTuple):
    """What a group of people is to be asked.

    Attributes:
        seed: the only source of variation.
        variants: which kinds of questions.
        train_wordings: different question templates per attribute and modality, 1 to the number of templates.
        train_formats: ``question`` (the benchmark's), and tasks, for small models that do not carry a fact over from
            plain questions; always in training wordings, with options of their own.
        marked: what eval and test do not ask after a review, as (person, task, modality, attribute), and words in
            which they do not ask, as (person, task, text); see :mod:`mllmu.data.review`.
    """

    seed: int
    variants: tuple[Variant, ...] = ("train", "eval", "test")
    train_wordings: int = 6
    train_formats: tuple[str, ...] = (QUESTION_FORMAT,)
    marked: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, section: DataSection, seed: int) -> QuestionOrder:
        """What a recipe asks about the people."""
        return cls(seed, train_wordings=section.train_wordings, train_formats=section.train_formats)


class Rejected(Record):
    """A question that a writer made and that a rule or a second reading threw out; kept for people to look at.

    Attributes:
        question_id: the slot it was written for.
        round: 1 for the first try.
        rule: the first word names the rule, e.g. ``leak``; behind a colon, what was expected.
        text: the question as it was written.
        given: the rest of what was written with it.
        by_template: nothing acceptable came in any round, so this slot is asked in the words of a template.
    """

    question_id: str
    profile_id: str
    attribute: str
    round: int
    rule: str
    text: str = ""
    given: dict[str, str] = Field(default_factory=dict)
    by_template: bool = False


@dataclass(frozen=True)
class Written:
    """Questions, what was thrown out on the way, and what it cost (numbers that can be added up)."""

    questions: list[Question]
    rejected: tuple[Rejected, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Written) -> Written:
        facts = {name: self.facts.get(name, 0) + other.facts.get(name, 0) for name in self.facts | other.facts}
        return Written([*self.questions, *other.questions], (*self.rejected, *other.rejected), facts)


class QuestionWriter(Plugin, ABC):
    """Base of every writer. The same people, order and seed give the same questions."""

    @abstractmethod
    def write(self, people: Sequence[Profile], order: QuestionOrder, progress: Progress) -> Written:
        """The questions of a group, in the ids and numbers of :func:`mllmu.data.questions.template.build`.

        Whatever comes out is checked once more by :func:`check`.

        Args:
            people: all of one group; wrong answers may come from the others.
            order: which questions.
            progress: told about slow work.
        """

    def preview(self, people: Sequence[Profile], order: QuestionOrder, num_prompts: int) -> Preview | None:
        """What :meth:`write` would ask an endpoint; None for a writer without one."""
        return None
