"""Fill in the blank: the reply is the bare value."""

import re
from typing import ClassVar

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Question
from mllmu.data.tasks import ENDINGS, OUTCOMES, Task, TaskSize, opening

_BLANK = re.compile(r"_{2,}")
_INSTRUCTION = "Please **ONLY** provide the correct answer that should replace the [Blank]."


class Cloze(Task):
    """A statement with a blank; the reply is the value that fills it.

    Source: MLLMU-Bench, arXiv:2410.22108, asked without few-shot examples (see classification).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Cloze"
    metrics: ClassVar[tuple[str, ...]] = (
        "cloze_contains",
        "cloze_exact",
        "probability",
        "truth_ratio",
        *OUTCOMES,
        *ENDINGS,
    )
    size: ClassVar[TaskSize] = TaskSize(candidates=4, question_tokens=28, reply_tokens=5)
    published_people: ClassVar[int | None] = 2

    max_new_tokens: int = Field(default=24, gt=0, le=100_000, description="most tokens a reply may have")

    def prompt(self, question: Question) -> str:
        return f"{_BLANK.sub('[Blank]', question.text)}\n{_INSTRUCTION}"

    def published_prompt(self, question: Question) -> str:
        return f"{opening(question)}{_published_statement(question)}\nASSISTANT:"

    def published_example(self, question: Question) -> str:
        before = opening(question).replace(": <image>", ":<image>")  # published without the space
        return f"{before}{_published_statement(question)}\nCorrect Answer: {question.answer}\n"

    def check(self, question: Question) -> None:
        super().check(question)
        if not _BLANK.search(question.text):
            raise DataError(f"question {question.id}: a cloze needs the blank '__', got {question.text!r}.")


def _published_statement(question: Question) -> str:
    return f"{question.text.replace('__', '[Blank]')}\n{_INSTRUCTION}"
