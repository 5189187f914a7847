"""How many questions a recipe trains on and asks, how long they are, and the memory that asking takes.

Nothing is made for this: the counts are those of the benchmark, which the built-in sources and question writer keep
to (15.4 training questions per person, modality and wording, 18 evaluation questions per person and variant). The
formulas of memory are those of :mod:`mllmu.models.engine.memory`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mllmu.config.recipe import Evaluate, Recipe
from mllmu.core import plugins
from mllmu.core.records import MODALITIES, Split, TaskName
from mllmu.data.tasks import task_of
from mllmu.evaluation.examples import wanted_people
from mllmu.models.encoding import DEVICE_BYTES
from mllmu.models.engine.memory import (
    MOST_ON_GPU,
    PROBE,
    Moment,
    QuestionBatch,
    most_questions,
    passing_bytes,
    read_bytes,
)
from mllmu.pipeline import batch_plan
from mllmu.preflight.plan.facts import ModelFacts

PUBLISHED_PEOPLE = 500
CELEBRITIES = 153
TRAINED_PER_PERSON = 15.4
TRAINED_QUESTION_TOKENS = 10
TRAINED_REPLY_TOKENS = 12
TEMPLATE_TOKENS = 12
TURN = TEMPLATE_TOKENS // 2
"""Tokens of the template on either side of where an image ends."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Counts of one recipe.

    Attributes:
        people: people whom the target learns.
        forgotten: people to forget, one number per forget ratio.
        trained: training questions per person and modality.
        asked: people asked, all sets and forget ratios together.
        requests: how many requests the people to forget are divided into.
    """

    people: int
    forgotten: tuple[int, ...]
    trained: float
    asked: int
    requests: int = 1

    def training_questions(self, people: float, modality: str) -> int:
        """Questions about so many people in one modality or both."""
        return round(people * self.trained * (2 if modality == "both" else 1))


def of_recipe(recipe: Recipe) -> Workload:
    """The counts that the settings imply."""
    section = recipe.data
    people = _size(section.source, PUBLISHED_PEOPLE)
    celebrities = _size(section.celebrities, CELEBRITIES) if section.celebrities else 0
    forgotten = tuple(max(1, round(ratio * people)) for ratio in section.splits.forget_ratios)
    requests = recipe.unlearn.requests
    named = [recipe.unlearn.forget] if recipe.unlearn.forget else [] if isinstance(requests, int) else requests
    if named and all(each.people for each in named):
        forgotten = (len({person for each in named for person in each.people}),)
    # published text is taught as it is, in one wording
    wordings = 1 if plugins.find("sources", section.source.name).published else section.train_wordings
    asked = 0
    for count in forgotten:
        sets: dict[Split, int] = {"forget": count, "test": count, "retain": people - count, "celebrity": celebrities}
        sets["holdout"] = section.splits.holdout
        asked += sum(min(size, recipe.evaluate.max_profiles.get(split, size)) for split, size in sets.items())
    trained = TRAINED_PER_PERSON * wordings * len(section.train_formats)
    count = requests if isinstance(requests, int) else max(1, len(requests))
    return Workload(people=people, forgotten=forgotten, trained=trained, asked=asked, requests=count)


def _size(spec: Any, published: int) -> int:
    """People of a source, as far as it knows before anything is made; or the published number."""
    return spec.build("sources", "data").expected_people() or published


class EvaluationMemory(NamedTuple):
    """Bytes beside the weights at the worst moment: keys and values, a layer's or the head's, and image features."""

    cache: int
    passing: int
    features: int


@dataclass(frozen=True)
class Questions:
    """The questions of a recipe's evaluation to one model.

    Attributes:
        image_tokens: of one portrait.
    """

    evaluate: Evaluate
    facts: ModelFacts
    image_tokens: int

    @property
    def shared(self) -> bool:
        """Common tokens are read once; for published prompts only where features of images are known."""
        chat = self.evaluate.protocol.prompts == "chat"
        return self.facts.shares and (chat or bool(self.facts.family.image_parts))

    def batches(self, questions: int) -> list[QuestionBatch]:
        """The batches with images: one of all tasks, or one of each task that has examples."""
        if not self.shared and self.evaluate.protocol.prompts == "published":
            questions = 1  # asked one after the other
        examples = {task: self.examples(task) for task in self.evaluate.tasks}
        groups = [[task] for task in examples if examples[task]]
        groups += [group] if (group := [task for task in examples if not examples[task]]) else []
        return [self._batch(group, examples[group[0]], questions) for group in groups]

    def examples(self, task: TaskName) -> int:
        """Exchanges before a question of a task."""
        shots = self.evaluate.protocol.shots
        wanted = wanted_people(shots, self.facts.family.published_shots).get(task, 0)
        if isinstance(wanted, Mapping):
            wanted = max(wanted.values(), key=len, default=())
        people = wanted if isinstance(wanted, int) else len(wanted)
        return people * (1 if shots.questions == "one" else task_of(task).size.questions)

    def _batch(self, tasks: list[TaskName], examples: int, questions: int) -> QuestionBatch:
        sizes = [task_of(task).size for task in tasks]
        of_person = sum(size.questions for size in sizes)
        alike: defaultdict[int, float] = defaultdict(float)
        for size in sizes:
            together = questions * size.questions / of_person * size.candidates * size.reply_tokens
            alike[size.reply_tokens.bit_length()] += together
        return QuestionBatch(
            questions=questions,
            images=-(-questions // of_person),
            opening=examples * example_tokens(tasks[0], self.image_tokens),
            image=self.image_tokens + TURN,
            question=TURN + max(size.question_tokens for size in sizes),
            longest=max(size.reply_tokens for size in sizes),
            alike=round(max(alike.values())),
            written=most_written(),
        )

    def moments(self, batch: QuestionBatch, *, fused: bool) -> list[Moment]:
        """The moments of a batch; ``fused``: attention holds no scores (on a CPU, mostly)."""
        facts = self.facts
        heads = int(facts.text.num_attention_heads)
        if self.shared:
            return batch.shared(heads, looks_ahead=facts.family.looks_ahead, fused=fused)
        return batch.apart(heads if facts.config._attn_implementation == "eager" else 0)

    def memory(self, batch: QuestionBatch, *, fused: bool, people: int = 0) -> EvaluationMemory:
        """What a batch needs beside the weights; ``people``: whose images have been seen."""
        facts = self.facts
        seen = min(DEVICE_BYTES, feature_bytes(facts, people, batch.image - TURN))
        needs = (
            EvaluationMemory(m.held * facts.kv_token, passing_bytes(facts.text, facts.width, m, batch.questions), seen)
            for m in self.moments(batch, fused=fused)
        )
        return max(needs, key=sum)

    def most_at_once(self, free: float) -> int:
        """What ``evaluate.batch_size: auto`` starts with; see :func:`mllmu.models.engine.memory.starting_size`.

        In less than float32, where replies depend on it, no more than the planned size.
        """
        needed = 0.0
        for batch in self.batches(PROBE):
            moments = self.moments(batch, fused=False)
            held = max(moment.held for moment in moments) * self.facts.kv_token
            read = max(moment.read for moment in moments) * read_bytes(self.facts.text, self.facts.width)
            needed = max(needed, (held + read) / batch.questions)
        if self.facts.width == torch.float32.itemsize:
            return most_questions(free, needed)
        return min(most_questions(free, needed, MOST_ON_GPU), batch_plan.size(self.evaluate.batch_size))

    def tokens_read(self, people: int, questions: int) -> float:
        """Tokens that are read to ask some people everything, in batches of so many questions."""
        alone = self.facts.family.looks_ahead == "prompt"  # no two questions share an image
        once = self.shared and not alone
        read = 0.0
        for task in self.evaluate.tasks:
            size, examples = task_of(task).size, self.examples(task)
            asked = people * len(MODALITIES) * size.questions
            own = TEMPLATE_TOKENS + size.question_tokens + (0 if once else self.image_tokens / 2)
            opening = examples * (example_tokens(task, self.image_tokens) + example_tokens(task, 0)) / 2
            if self.shared:
                read += asked * own + opening * asked / questions
            else:
                read += asked * (1 + size.candidates) * (own + opening)
            read += asked * size.candidates * size.reply_tokens
        beginnings = {(task if self.examples(task) else "") for task in self.evaluate.tasks}
        return read + (people * self.image_tokens * len(beginnings) if once else 0)


def example_tokens(task: TaskName, image_tokens: int) -> int:
    """Of one exchange before a question, with its image."""
    size = task_of(task).size
    return image_tokens + TEMPLATE_TOKENS + size.question_tokens + size.reply_tokens


def feature_bytes(facts: ModelFacts, images: int, image_tokens: int) -> int:
    """Bytes of the features of images, if they are remembered."""
    return images * image_tokens * int(facts.text.hidden_size) * facts.width if facts.family.image_parts else 0


def most_written() -> int:
    """Tokens of the longest reply that any task asks for."""
    return max(task_of(task).max_new_tokens for task in plugins.names("tasks"))


def not_counted(recipe: Recipe) -> list[str]:
    """The settings of a recipe whose questions are in no plan."""
    names = ("controls", "compare", "benchmarks", "attacks")
    return [f"evaluate.{name}" for name in names if getattr(recipe.evaluate, name)]
