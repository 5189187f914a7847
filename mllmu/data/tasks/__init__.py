"""Tasks, one file each: a task turns a raw question into the exact prompt a model is given."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.parsing import in_other_words
from mllmu.core.plugins import Plugin
from mllmu.core.records import Question, Sample, Split, TaskName

Part = Literal["report", "selection"]


class Task(Plugin):
    """Base of every task: renders a question as a sample, with the replies whose likelihood is wanted.

    A subclass sets ``task`` (the questions it accepts), ``label`` (its title in tables and plots) and ``metrics`` (what
    the task is judged by, the headline metric first), and defines ``prompt`` and ``candidates``.
    """

    task: ClassVar[TaskName]
    label: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()

    max_new_tokens: int = Field(default=50, gt=0, description="most tokens a reply may have")

    @classmethod
    def headline(cls, parser: str = "strict") -> str:
        """The metric that tables and plots show of the task; ``parser`` is the protocol's reading of replies."""
        del parser
        return cls.metrics[0]

    @abstractmethod
    def prompt(self, question: Question) -> str:
        """The text of the user turn, without chat template and without the image."""

    @abstractmethod
    def candidates(self, question: Question) -> dict[str, str]:
        """The replies whose log-probability is wanted, by key; see :class:`mllmu.core.records.Sample`."""

    def check(self, question: Question) -> None:
        """Raise DataError if the question cannot be put as this task; subclasses add their own conditions."""
        if question.task != self.task:
            raise DataError(f"question {question.id}: task is '{question.task}', expected '{self.task}'.")
        if not question.answer.strip() or not question.value.strip():
            raise DataError(f"question {question.id}: answer or value is empty; every reply would count as right.")

    def sample(self, question: Question, *, split: Split, part: Part, image: str) -> Sample:
        """Render one question exactly as a model will see it.

        Args:
            question: the raw question.
            split: the set it is asked for; ``Sample.id`` is ``<split>/<question.id>``.
            part: ``report`` (counted) or ``selection`` (only for tuning).
            image: path of the person's image relative to the data folder; not used in the text modality.

        Raises:
            DataError: the question is of another task or incomplete, or an image_text question has no image.
        """
        self.check(question)
        if question.modality == "image_text" and not image:
            raise DataError(f"question {question.id}: modality is image_text but no image was given.")
        return Sample(
            id=f"{split}/{question.id}",
            question_id=question.id,
            profile_id=question.profile_id,
            split=split,
            part=part,
            task=question.task,
            modality=question.modality,
            attribute=question.attribute,
            prompt=self.prompt(question),
            image=image if question.modality == "image_text" else "",
            target=question.answer,
            value=question.value,
            options=question.options,
            candidates=self.candidates(question),
            max_new_tokens=self.max_new_tokens,
        )


def answers_by_key(question: Question) -> dict[str, str]:
    """The right answer as ``target``, its rewording if there is one, and the wrong ones as ``wrong_0`` ...

    With a rewording, the wrong answers are there in its words too, as ``reworded_wrong_0`` ...: a ratio of likelihoods
    must not compare a wording that was taught with one that was not.
    """
    right, wrong = {"target": question.answer}, question.alternatives
    found = {f"wrong_{index}": text for index, text in enumerate(wrong)}
    if question.rewording:
        right["rewording"] = question.rewording
        other = in_other_words(question.answer, question.rewording, question.value, wrong)
        found |= {f"reworded_wrong_{index}": text for index, text in enumerate(other)}
    return right | found
