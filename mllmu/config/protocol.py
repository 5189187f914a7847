"""Settings of ``evaluate.protocol``: how prompts are built and replies parsed; see docs/explanation/protocols.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from mllmu.core.records import TASKS, TaskName


class Shots(BaseModel):
    """People whose questions are shown as examples before a question (few-shot): per task how many, or their ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classification: NonNegativeInt | tuple[str, ...] | Literal["published"] = Field(
        0, description="example people for classification: number, ids, or 'published'; e.g. 2"
    )
    cloze: NonNegativeInt | tuple[str, ...] | Literal["published"] = Field(
        0, description="example people for cloze: number, ids, or 'published'; e.g. ['003', '017']"
    )
    generation: NonNegativeInt | tuple[str, ...] = Field(0, description="example people for generation: number or ids")
    drawn_from: Literal["pool", "asked"] = Field(
        "pool",
        description="'pool': retain people, who are then not evaluated; 'asked': people of the evaluated set, so "
        "the prompt then shows answers to forget, as published",
    )
    questions: Literal["one", "all"] = Field(
        "one", description="questions per example person: one, or all of the task and modality, as published"
    )

    @property
    def by_task(self) -> dict[TaskName, int | tuple[str, ...] | Literal["published"]]:
        """How many example people, or who, by task."""
        return {"classification": self.classification, "generation": self.generation, "cloze": self.cloze}


OFFICIAL: dict[str, Any] = {
    "prompts": "published",
    "shots": {"classification": "published", "cloze": "published", "drawn_from": "asked", "questions": "all"},
    "parser": "first_char",
    "max_new_tokens": 50,
    "test_image": "one",
}
"""What ``name: official`` sets, as long as the recipe does not; see docs/explanation/protocols.md."""


class Protocol(BaseModel):
    """How questions are put and replies are read: a preset by name, of which every setting can be changed alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["corrected", "official"] = Field(
        "corrected", description="a preset for the settings below; 'official' follows the published evaluator"
    )
    prompts: Literal["chat", "published"] = Field(
        "chat", description="the model's own chat template, or the published prompt texts to the letter"
    )
    shots: Shots = Field(Shots(), description="few-shot examples; a number is that many people in every task; e.g. 2")
    parser: Literal["strict", "first_char"] = Field(
        "strict",
        description="'strict' leaves unreadable replies out of the mean; 'first_char' takes the first character and "
        "counts unreadable replies as wrong, as published",
    )
    max_new_tokens: int | None = Field(
        None, gt=0, description="most tokens of a reply, for all tasks; null: each task's own limit"
    )
    test_image: Literal["each", "one"] | NonNegativeInt = Field(
        "each", description="portrait in the test set: each view in turn, one drawn per person and task, or an index"
    )

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

    @model_validator(mode="after")
    def _examples_have_a_text(self) -> Self:
        if self.prompts == "published" and self.shots.generation:
            raise ValueError("the published generation prompt has no examples; leave out shots.generation")
        return self
