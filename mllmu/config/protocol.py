"""Settings of ``evaluate.protocol``: how prompts are built and replies parsed; see docs/explanation/protocols.md."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from mllmu.core import plugins
from mllmu.core.errors import RecipeError, did_you_mean
from mllmu.core.records import TASKS, Split, TaskName

ExamplePeople = NonNegativeInt | tuple[str, ...] | dict[Split, tuple[str, ...]] | Literal["published"]
ImageByPerson = dict[str, NonNegativeInt]


class Shots(BaseModel):
    """Whose questions are few-shot examples, by task: ``cloze: 2``, ``cloze: ['003']``, ``cloze: published``.

    Any task may be named beside the two settings below: with a number of people, their ids, their ids by set
    (``cloze: {forget: ['003'], retain: ['017']}``), or as many as the published evaluator shows. A task, or a set, that
    is not named has no examples.
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
    __pydantic_extra__: dict[TaskName, ExamplePeople]

    drawn_from: Literal["pool", "asked"] = Field(
        "pool",
        description="'pool': retain people, who are then not evaluated; 'asked': people of the evaluated set, so "
        "the prompt then shows answers to forget, as published",
    )
    questions: Literal["one", "all"] = "one"
    """questions per example person: one, or all of the task and modality, as published"""

    @model_validator(mode="before")
    @classmethod
    def _names_of_tasks(cls, value: Any) -> Any:
        """What is no setting must be a task, or a misspelt setting would pass for one."""
        for name in value if isinstance(value, Mapping) else ():
            known = [*cls.model_fields, *plugins.names("tasks")]
            if ":" not in str(name) and name not in known:
                raise ValueError(
                    f"'{name}' is no setting and no task.{did_you_mean(str(name), known)} Expected: {', '.join(known)}"
                )
            if plugins.holds_booleans(value[name]):
                raise ValueError(f"'{name}': expected a number of people, their ids, or 'published', not true or false")
        return value

    @model_validator(mode="after")
    def _sets_have_no_pool(self) -> Self:
        if self.drawn_from == "pool" and any(isinstance(people, dict) for people in self.by_task.values()):
            raise ValueError("examples by set belong to drawn_from: asked; those of the pool are the same in all sets")
        return self

    @property
    def by_task(self) -> dict[TaskName, ExamplePeople]:
        """How many example people, or who, by task."""
        return {**dict.fromkeys(TASKS, 0), **self.__pydantic_extra__}


OFFICIAL: dict[str, Any] = {
    "prompts": "published",
    "shots": {"classification": "published", "cloze": "published", "drawn_from": "asked", "questions": "all"},
    "parser": "first_char",
    "max_new_tokens": 50,
    "test_image": "one",
}
"""What ``name: official`` sets, as long as the recipe does not; see docs/explanation/protocols.md."""


class Protocol(plugins.Settings):
    """How questions are put and replies are read: a preset by name, of which every setting can be changed alone."""

    name: Literal["corrected", "official"] = "corrected"
    """a preset for the settings below; 'official' follows the published evaluator"""
    prompts: Literal["chat", "published"] = "chat"
    """the model's own chat template, or the published prompt texts to the letter"""
    shots: Shots = Field(
        Shots(),
        description="few-shot examples: per task how many people, or their ids, or 'published'; a number alone is for "
        "every task of the benchmark; e.g. {cloze: 2, generation: ['003']}",
    )
    parser: Literal["strict", "first_char"] = Field(
        "strict",
        description="'strict' counts unreadable replies apart, with both bounds; 'first_char' takes the first "
        "character and counts unreadable replies as wrong, as published",
    )
    max_new_tokens: int | None = Field(None, gt=0, le=100_000)
    """most tokens of a reply, for all tasks; null: each task's own; with chat prompts at least the right reply's"""
    test_image: Literal["each", "one"] | NonNegativeInt | dict[str, NonNegativeInt | ImageByPerson] = "each"
    """portrait in the test set: each view in turn, one drawn per person and task, an index, or an index by person
    ({'003': 1}) or by task and person ({cloze: {'003': 1}})"""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:
        """A bare name is a preset; ``shots: 2`` are two people in every task that has examples."""
        raw = {"name": value} if isinstance(value, str) else value
        if not isinstance(raw, Mapping):
            return raw
        preset = OFFICIAL if raw.get("name") == "official" else {"shots": {}}
        filled = {**preset, **raw}
        if isinstance(shots := filled["shots"], (int, tuple, list)):
            tasks = ("classification", "cloze") if raw.get("name") == "official" else TASKS
            shots = dict.fromkeys(tasks, shots)
        filled["shots"] = {**preset["shots"], **shots} if isinstance(shots, Mapping) else shots
        return filled


def check_tasks(protocols: Mapping[str, Protocol], tasks: Iterable[TaskName], where: str) -> None:
    """A task whose questions are put in the published words, or shown as examples, must have a text for that."""
    for label, protocol in protocols.items():
        for name, people in protocol.shots.by_task.items():
            setting = f"{where}.{label}.shots.{name}"
            plugins.known("tasks", name, setting)
            if people and protocol.prompts == "published" and not _published_people(name):
                raise RecipeError(f"{setting}: the published prompt of this task has no examples; leave it out.")
        for name in tasks:
            if protocol.prompts == "published" and _published_people(name) is None:
                raise RecipeError(f"{where}.tasks: '{name}' has no published prompt; use prompts: chat.")


def _published_people(task: TaskName) -> int | None:
    people: int | None = plugins.find("tasks", task).published_people
    return people
