"""Multiple choice without letters: which option does the model find the likeliest answer?"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import ClassVar

from pydantic import Field

from mllmu.core.parsing import render_answer
from mllmu.core.records import Question
from mllmu.data.questions import wordings
from mllmu.data.tasks import ENDINGS, OUTCOMES, Task, TaskSize


class OptionText(Task):
    """The classification questions, put without options; each option, in the sentence of an answer, is a candidate.

    For models that do not bind letters to options, whatever they know: small models answer letters at chance even with
    the answer in the prompt. Judged by likelihood (metric accuracy_option_text); the reply itself is read as that of an
    open question. Options of an attribute without a sentence of its own are candidates as they are.
    """

    source: ClassVar[str] = "https://github.com/EleutherAI/lm-evaluation-harness"
    label: ClassVar[str] = "Classification by option text"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy_option_text", *OUTCOMES, *ENDINGS)
    size: ClassVar[TaskSize] = TaskSize(questions=5, candidates=4, question_tokens=12, reply_tokens=12)

    max_new_tokens: int = Field(default=24, gt=0, le=100_000, description="most tokens a reply may have")

    def derive(self, questions: Sequence[Question]) -> Iterable[Question]:
        return (question for question in questions if question.task == "classification")

    def prompt(self, question: Question) -> str:
        return question.text

    def candidates(self, question: Question) -> dict[str, str]:
        return {letter: sentence(question.attribute, value) for letter, value in sorted(question.options.items())}


def sentence(attribute: str, value: str) -> str:
    """A value in the sentence of an answer, in the words of training; as it is if the attribute has no sentence."""
    return render_answer(_answers().get(attribute, "{v}"), value)


@cache
def _answers() -> dict[str, str]:
    """The answer sentence of every attribute, in the words of training."""
    return {
        attribute: entry.answers.train
        for kind in ("celebrity", "fictitious")
        for attribute, entry in wordings(kind).items()
    }
