"""Which questions are put to every model: the five sets of one forget ratio, rendered once and shared by all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllmu.config.protocol import Protocol
from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.core.process import rng
from mllmu.core.records import FORGOTTEN, PEOPLE_SPLITS, UTILITY, Question, Sample, Split, fact_of
from mllmu.data.dataset import Dataset, image_path
from mllmu.data.tasks import Part, Task, derived
from mllmu.evaluation import published
from mllmu.evaluation.examples import Examples
from mllmu.evaluation.metrics import measured, metrics_of
from mllmu.models.families import Family


def render(
    dataset: Dataset, key: str, evaluate: Evaluate, *, selection: float, seed: int, family: type[Family] = Family
) -> list[Sample]:
    """All samples of one forget ratio, set by set, in the order of the people.

    Args:
        dataset: the data of the run.
        key: forget ratio in percent, see :func:`mllmu.config.recipe.percent`.
        evaluate: tasks, protocol, and at most how many people of a set are asked.
        selection: share of the facts whose questions are only for tuning (``part: selection``), see :func:`set_aside`.
        seed: chooses the people of a limited set, the selection questions and the example people.
        family: of the model; the published protocol has limits of its own for some.
    """
    protocol = evaluate.protocol
    settings = {} if protocol.max_new_tokens is None else {"max_new_tokens": protocol.max_new_tokens}
    tasks: dict[str, Task] = {name: plugins.build("tasks", name, settings) for name in evaluate.tasks}
    questions = asked_questions(dataset, tasks)
    members = {split: _members(dataset, key, split, evaluate, seed) for split in PEOPLE_SPLITS}
    drawn = family.published_shots
    examples = Examples(protocol.shots, dataset, questions, key, members, seed=seed, published=drawn)
    asking = _Asking(dataset, protocol, tasks, examples, selection, seed, family)
    asked: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        if question.task in tasks and question.modality in evaluate.modalities:
            asked.setdefault((question.profile_id, question.variant), []).append(question)
    samples = []
    for split in PEOPLE_SPLITS:
        for person in members[split]:
            samples += list(asking.samples(split, asked.get((person, "test" if split == "test" else "eval"), [])))
    more = measured(metrics_of(evaluate), tasks)
    return [s.model_copy(update={"measured": more[s.task]}) if more.get(s.task) else s for s in samples]


def asked_questions(dataset: Dataset, tasks: Iterable[str]) -> list[Question]:
    """The questions of an evaluation: those of the data, and those that tasks make of them."""
    questions = [question for question in dataset.questions if question.variant != "train"]
    return questions + [question for task in tasks for question in derived(task, questions)]


def _members(dataset: Dataset, key: str, split: Split, evaluate: Evaluate, seed: int) -> Sequence[str]:
    kept = {"retain": dataset.retained(key), "celebrity": dataset.celebrities, "holdout": dataset.holdout}
    everyone = dataset.splits[key] if split in FORGOTTEN else kept[split]
    most = evaluate.max_profiles.get(split, len(everyone))
    # forget and test share the label, so that a limit keeps the same people in both
    label = "forget" if split == "test" else split
    chosen = set(sorted(everyone, key=lambda person: rng(seed, "asked", label, person).random())[:most])
    return [person for person in everyone if person in chosen]


@dataclass(frozen=True)
class _Asking:
    """How the questions about one person become samples."""

    dataset: Dataset
    protocol: Protocol
    tasks: Mapping[str, Task]
    examples: Examples
    selection: float
    seed: int
    family: type[Family]

    def samples(self, split: Split, questions: Sequence[Question]) -> Iterator[Sample]:
        """The samples of one person in a set; an example person's questions are left out."""
        views = self.dataset.views(questions[0].profile_id) if questions and split == "test" else 1
        shown = 0
        for question in questions:
            view = question.view or 0
            if split == "test" and question.modality == "image_text" and question.view is None:
                if views < 2:
                    continue
                view = 1 + self._test_view(question, shown, views - 1)
                shown += 1
            if not self.examples.skips(split, question):
                yield self._sample(question, split, image_path(question.profile_id, view))

    def _test_view(self, question: Question, shown: int, count: int) -> int:
        """Which of a person's transformed portraits a question of the test set shows, from 0."""
        wanted = _given_view(self.protocol.test_image, question)
        if wanted == "each":
            return shown % count
        if wanted == "one":
            return rng(self.seed, "test image", question.profile_id, question.task).randrange(count)
        if (index := int(wanted)) >= count:
            raise RecipeError(
                f"evaluate.protocol.test_image: {index} asked for, but person {question.profile_id} has {count} "
                "transformed portraits; the first is 0. Raise data.portraits.num_views or lower the index."
            )
        return index

    def _sample(self, question: Question, split: Split, image: str) -> Sample:
        shots = self.examples.of(split, question)
        aside = split in (*FORGOTTEN, *UTILITY) and set_aside(question, self.selection, self.seed)
        where: dict[str, Any] = {"split": split, "part": "selection" if aside else "report", "image": image}
        task = self.tasks[question.task]
        if self.protocol.prompts == "chat":
            examples = tuple(published.exchange(shot, task.prompt(shot)) for shot in shots)
            return task.sample(question, **where).model_copy(update={"examples": examples})
        raw = published.sample(question, **where, shots=shots, letter_tokens=self.family.published_letter_tokens)
        limit = {} if self.protocol.max_new_tokens == published.NEW_TOKENS else {"max_new_tokens": task.max_new_tokens}
        return raw.model_copy(update=limit)


def _given_view(wanted: Any, question: Question) -> Any:
    """The setting ``test_image`` for one question, where it gives an index by person, or by task and person."""
    if not isinstance(wanted, Mapping):
        return wanted
    by_person = wanted.get(question.task, {}) if any(isinstance(each, Mapping) for each in wanted.values()) else wanted
    if question.profile_id not in by_person:
        raise RecipeError(
            f"evaluate.protocol.test_image: no image is named for person {question.profile_id} in {question.task}. "
            "Expected an index for everyone in the test set."
        )
    return by_person[question.profile_id]


def set_aside(question: Question, share: float, seed: int) -> bool:
    """Whether a question is only for tuning: drawn by fact, that is by person and attribute.

    So all questions about a fact are on one side, in every task, modality and wording; what is reported asks nothing
    that was searched on. Questions of unknown attribute go together where they ask for the same value.
    """
    return _draw(fact_of(question), seed) < share


def with_both_parts(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples with facts on both sides of :func:`set_aside`, in each set that asks about two facts or more.

    Few facts may all be drawn to one side; then nothing could be tuned, or nothing reported. There the fact that came
    nearest to the other side changes to it, in all sets about what is to be forgotten.
    """
    moved: dict[tuple[str, ...], Part] = {}
    for split in ("forget", *UTILITY):
        parts = {fact_of(sample): sample.part for sample in samples if sample.split == split}
        if len(parts) > 1 and len(set(parts.values())) == 1:
            facts = sorted(parts, key=lambda fact: _draw(fact, seed))
            moved |= {facts[0]: "selection"} if parts[facts[0]] == "report" else {facts[-1]: "report"}
    if not moved:
        return list(samples)
    return [sample.model_copy(update={"part": moved.get(fact_of(sample), sample.part)}) for sample in samples]


def _draw(fact: tuple[str, ...], seed: int) -> float:
    return rng(seed, "selection", *fact).random()
