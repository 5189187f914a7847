"""Multiple choice: pick one of four values by its letter."""

from typing import ClassVar

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Question, Sample
from mllmu.core.replies import parse_choice
from mllmu.data.tasks import ENDINGS, OUTCOMES, Task, TaskSize, opening

_INSTRUCTION = "Just give ONE letter representing the answer directly."


class Classification(Task):
    """Multiple choice between values of the same attribute; the reply is one letter.

    Source: MLLMU-Bench, arXiv:2410.22108. We ask without few-shot examples: the published ones are drawn from the
    people under evaluation, which puts forgotten answers into the context.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_logp", "accuracy_first_char", *OUTCOMES, *ENDINGS)
    size: ClassVar[TaskSize] = TaskSize(questions=5, candidates=4, question_tokens=45, reply_tokens=2)
    by_letter: ClassVar[bool] = True
    published_people: ClassVar[int | None] = 1

    max_new_tokens: int = Field(default=8, gt=0, le=100_000, description="most tokens a reply may have")

    @classmethod
    def headline(cls, parser: str = "strict") -> str:
        return "accuracy_first_char" if parser == "first_char" else cls.metrics[0]

    def prompt(self, question: Question) -> str:
        choices = "\n".join(f"{letter}: {value}" for letter, value in sorted(question.options.items()))
        return f"{question.text}\n{choices}\n{_INSTRUCTION}"

    def candidates(self, question: Question) -> dict[str, str]:
        return {letter: letter for letter in sorted(question.options)}

    def right(self, text: str, sample: Sample) -> bool | None:
        """Whether the letter that the reply names is the right one; None if it names no option."""
        letter = parse_choice(text, sample.options).letter
        return None if letter is None else letter == sample.target

    def published_prompt(self, question: Question) -> str:
        choices = "\n".join(f"{letter}: {value}" for letter, value in question.options.items())
        return f"{opening(question)}{question.text}\n{choices}\n{_INSTRUCTION}\nASSISTANT:"

    def published_example(self, question: Question) -> str:
        choices = "\n".join(f"{letter}: {question.options[letter]}" for letter in "ABCD")
        return f"{opening(question)}Question: {question.text}\n{choices}\nCorrect Answer: {question.answer}\n"

    def check(self, question: Question) -> None:
        super().check(question)
        if len(question.options) < 2 or question.answer not in question.options:
            raise DataError(
                f"question {question.id}: expected at least two options and a letter of them as answer, "
                f"got options {sorted(question.options)} and answer '{question.answer}'."
            )
