"""Which questions are put to every model: the five sets of one forget ratio, rendered once and shared by all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mllmu import plugins
from mllmu.data.build import Dataset
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.tasks import Part, Task
from mllmu.recipe import Evaluate
from mllmu.records import SPLITS, Question, Sample, Split
from mllmu.seeding import rng


def render(dataset: Dataset, key: str, evaluate: Evaluate, *, selection: float, seed: int) -> list[Sample]:
    """All samples of one forget ratio, set by set, in the order of the people.

    Args:
        dataset: the data of the run.
        key: forget ratio in percent, see :func:`mllmu.recipe.percent`.
        evaluate: tasks, and at most how many people of a set are asked.
        selection: share of forget and retain questions that are only for tuning (``part: selection``).
        seed: chooses the people of a limited set and the selection questions.
    """
    tasks: dict[str, Task] = {name: plugins.build("tasks", name, {}) for name in evaluate.tasks}
    asked: dict[tuple[str, str], list[Question]] = {}
    for question in dataset.questions:
        if question.variant != "train" and question.task in tasks:
            asked.setdefault((question.profile_id, question.variant), []).append(question)
    samples = []
    for split in SPLITS:
        for person in _members(dataset, key, split, evaluate, seed):
            questions = asked.get((person, "test" if split == "test" else "eval"), [])
            samples += list(_of_person(dataset, tasks, split, questions, selection, seed))
    return samples


def _members(dataset: Dataset, key: str, split: Split, evaluate: Evaluate, seed: int) -> Sequence[str]:
    everyone = {
        "forget": dataset.splits[key],
        "test": dataset.splits[key],
        "retain": dataset.retained(key),
        "celebrity": dataset.celebrities,
        "holdout": dataset.holdout,
    }[split]
    most = evaluate.max_profiles.get(split, len(everyone))
    # forget and test share the label, so that a limit keeps the same people in both
    label = "forget" if split == "test" else split
    chosen = set(sorted(everyone, key=lambda person: rng(seed, "asked", label, person).random())[:most])
    return [person for person in everyone if person in chosen]


def _of_person(
    dataset: Dataset, tasks: dict[str, Task], split: Split, questions: Sequence[Question], selection: float, seed: int
) -> Iterator[Sample]:
    """Forget, retain ... show the portrait; test shows the transformed views in turn (none: no picture questions)."""
    views = dataset.views(questions[0].profile_id) if questions else 0
    shown = 0
    for question in questions:
        view = question.view or 0
        if split == "test" and question.modality == "image_text" and question.view is None:
            if views < 2:
                continue
            view = 1 + shown % (views - 1)
            shown += 1
        aside = split in ("forget", "retain") and rng(seed, "selection", question.id).random() < selection
        part: Part = "selection" if aside else "report"
        image = f"images/{question.profile_id}_{view}.png"
        yield tasks[question.task].sample(question, split=split, part=part, image=image)


def metrics_of(evaluate: Evaluate) -> list[Metric]:
    """The metrics of a recipe: those it names, or all of its tasks."""
    names = evaluate.metrics or [name for task in evaluate.tasks for name in plugins.find("tasks", task).metrics]
    return [plugins.build("metrics", name, {}) for name in dict.fromkeys(names)]
