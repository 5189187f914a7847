"""Fill in the blank: the reply is the bare value."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Question, TaskName
from mllmu.data.tasks import Task, answers_by_key

_BLANK = re.compile(r"_{2,}")


class Cloze(Task):
    """A statement with a blank; the reply is the value that fills it.

    Source: MLLMU-Bench, arXiv:2410.22108, asked without few-shot examples (see classification).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    task: ClassVar[TaskName] = "cloze"
    label: ClassVar[str] = "Cloze"
    metrics: ClassVar[tuple[str, ...]] = (
        "cloze_contains",
        "cloze_exact",
        "probability",
        "truth_ratio",
        "right",
        "wrong",
        "refused",
        "garbled",
    )

    max_new_tokens: int = Field(default=24, gt=0, description="most tokens a reply may have")

    def prompt(self, question: Question) -> str:
        statement = _BLANK.sub("[Blank]", question.text)
        return f"{statement}\nPlease **ONLY** provide the correct answer that should replace the [Blank]."

    def candidates(self, question: Question) -> dict[str, str]:
        return answers_by_key(question)

    def check(self, question: Question) -> None:
        super().check(question)
        if not _BLANK.search(question.text):
            raise DataError(f"question {question.id}: a cloze needs the blank '__', got {question.text!r}.")


PLUGIN = Cloze
