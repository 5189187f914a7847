"""Tasks, one file each: a task turns a raw question into the exact prompt of a model, and reads the reply."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import ClassVar, Literal, get_args

from pydantic import Field

from mllmu.core import plugins
from mllmu.core.declared import TaskInfo
from mllmu.core.equal_values import tells
from mllmu.core.errors import DataError, RecipeError
from mllmu.core.parsing import in_other_words
from mllmu.core.plugins import Plugin
from mllmu.core.records import Question, Record, Sample, Split, TaskName

Part = Literal["report", "selection"]
Outcome = Literal["right", "wrong", "refused", "unread", "garbled"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""The metrics that sort replies, one of which is 1: they judge every published task."""
ENDINGS = ("cut_short", "ran_on")
"""The metrics that count replies which did not end where they should; likewise."""


class TaskSize(Record):
    """What a person's questions of a task amount to, for plans: how many per modality, and their typical tokens."""

    questions: int = 2
    candidates: int = 5
    question_tokens: int = 12
    reply_tokens: int = 13


class Task(Plugin):
    """Base of every task: renders a question as a sample, with the replies whose likelihood is wanted.

    A subclass defines ``prompt``. A task with questions of its own defines ``derive``; those of MLLMU-Bench are in the
    data.

    Class attributes:
        label: its title in tables and plots.
        metrics: what the task is judged by, the headline metric first; a metric judges every task that names it.
        size: what its questions amount to.
        judged: a judge may grade its replies, which are free text.
        by_letter: its replies choose an option by letter, so that a readable one which chooses none is unread.
        bare_in_training: fine-tuning puts its questions without instruction, as published.
        published_people: of how many people the published evaluator shows the questions as examples, if a family has
            no other number; None if the task has no published prompt.
    """

    label: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ()
    size: ClassVar[TaskSize] = TaskSize()
    judged: ClassVar[bool] = False
    by_letter: ClassVar[bool] = False
    bare_in_training: ClassVar[bool] = False
    published_people: ClassVar[int | None] = None

    max_new_tokens: int = Field(default=50, gt=0, le=100_000, description="most tokens a reply may have")

    @classmethod
    def headline(cls, parser: str = "strict") -> str:
        """The metric that tables and plots show of the task; ``parser`` is the protocol's reading of replies."""
        del parser
        return cls.metrics[0]

    @classmethod
    def info(cls, parser: str) -> TaskInfo:
        """What a report needs to know about the task."""
        return TaskInfo(label=cls.label, metric=cls.headline(parser))

    @abstractmethod
    def prompt(self, question: Question) -> str:
        """The text of the user turn, without chat template and without the image."""

    def candidates(self, question: Question) -> dict[str, str]:
        """The replies whose log-probability is wanted, by key; see :class:`mllmu.core.records.Sample`.

        By default the right answer as ``target``, its rewording if there is one, and the wrong ones as ``wrong_0`` ...
        With a rewording, the wrong answers are there in its words too, as ``reworded_wrong_0`` ...: a ratio of
        likelihoods must not compare a wording of the training data with one that is not.
        """
        wrong = question.alternatives
        replies = {"target": question.answer, **{f"wrong_{index}": text for index, text in enumerate(wrong)}}
        if question.rewording:
            other = in_other_words(question.answer, question.rewording, question.value, wrong)
            replies["rewording"] = question.rewording
            replies |= {f"reworded_wrong_{index}": text for index, text in enumerate(other)}
        return replies

    def derive(self, questions: Sequence[Question]) -> Iterable[Question]:
        """The questions of this task, made of those of other tasks; none if the data hold them.

        Args:
            questions: of all people, variants and tasks that the data hold.

        Returns:
            Changed copies (``question.model_copy(update=...)``). Whatever task and id they have, they become questions
            of this task and are numbered by person, variant and modality.
        """
        return ()

    def right(self, text: str, sample: Sample) -> bool | None:
        """Whether a reply is right; False only if it clearly gives another answer, None if it gives none of a choice.

        By default a reply is right if it states the value, in whole words and in any usual way of writing it, see
        :func:`mllmu.core.equal_values.tells`, however badly the rest is written.
        """
        return tells(text, sample.value) or None

    def published_prompt(self, question: Question) -> str:
        """The whole published text of a question, turns included, after its examples."""
        raise RecipeError(f"question {question.id}: no published prompt. Expected 'prompts: chat' for this task.")

    def published_example(self, question: Question) -> str:
        """The published text of a question that is an example, with its answer."""
        raise RecipeError(f"question {question.id}: no published examples. Expected no shots for this task.")

    def check(self, question: Question) -> None:
        """Raise DataError if the question cannot be put as this task; subclasses add their own conditions."""
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
            DataError: the question is incomplete, or an image_text question has no image.
        """
        self.check(question)
        if question.modality == "image_text" and not image:
            raise DataError(f"question {question.id}: modality is image_text but no image was given.")
        return Sample(
            **question.model_dump(
                include={"profile_id", "task", "modality", "attribute", "value", "options", "coarse"}
            ),
            id=f"{split}/{question.id}",
            question_id=question.id,
            split=split,
            part=part,
            prompt=self.prompt(question),
            image=image if question.modality == "image_text" else "",
            target=question.answer,
            candidates=self.candidates(question),
            max_new_tokens=self.max_new_tokens,
        )


@cache
def task_of(name: TaskName) -> Task:
    """The task of a name with its default settings; built once."""
    task: Task = plugins.build("tasks", name, {})
    return task


def derived(name: TaskName, questions: Sequence[Question]) -> Iterator[Question]:
    """The questions that a task makes of others, as its own; see :meth:`Task.derive`."""
    numbers: Counter[str] = Counter()
    for question in task_of(name).derive(questions):
        key = f"{question.profile_id}.{question.variant}.{name}.{question.modality}"
        yield question.model_copy(update={"id": f"{key}.{numbers[key]}", "task": name})
        numbers[key] += 1


def opening(question: Question) -> str:
    """How a published prompt begins that may have examples."""
    return "USER: <image>\n" if question.modality == "image_text" else "USER:\n"
