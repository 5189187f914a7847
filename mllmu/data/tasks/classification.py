"""Multiple choice: pick one of four values by its letter."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Question, TaskName
from mllmu.data.tasks import Task


class Classification(Task):
    """Multiple choice between values of the same attribute; the reply is one letter.

    Source: MLLMU-Bench, arXiv:2410.22108. We ask without few-shot examples: the published ones are drawn from the
    people under evaluation, which puts forgotten answers into the context.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    task: ClassVar[TaskName] = "classification"
    label: ClassVar[str] = "Classification"
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "accuracy_logp",
        "accuracy_first_char",
        "right",
        "wrong",
        "refused",
        "garbled",
    )

    max_new_tokens: int = Field(default=8, gt=0, description="most tokens a reply may have")

    @classmethod
    def headline(cls, parser: str = "strict") -> str:
        return "accuracy_first_char" if parser == "first_char" else cls.metrics[0]

    def prompt(self, question: Question) -> str:
        choices = "\n".join(f"{letter}: {value}" for letter, value in sorted(question.options.items()))
        return f"{question.text}\n{choices}\nJust give ONE letter representing the answer directly."

    def candidates(self, question: Question) -> dict[str, str]:
        return {letter: letter for letter in sorted(question.options)}

    def check(self, question: Question) -> None:
        super().check(question)
        if len(question.options) < 2 or question.answer not in question.options:
            raise DataError(
                f"question {question.id}: expected at least two options and a letter of them as answer, "
                f"got options {sorted(question.options)} and answer '{question.answer}'."
            )


PLUGIN = Classification
