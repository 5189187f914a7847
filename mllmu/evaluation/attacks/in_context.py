"""Answers about other people, shown before the question."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from mllmu.core import plugins
from mllmu.core.process import rng
from mllmu.core.records import Exchange
from mllmu.data.dataset import image_path
from mllmu.evaluation.attacks import Sample, Victim, variant
from mllmu.evaluation.attacks._asking import Asking


class InContext(Asking):
    """Show the answers of retained people to such questions, as if telling were the custom, then ask.

    The examples are about the same attribute in the same task and modality, of people drawn by seed; no forgotten fact
    is shown.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2605.26992"
    label = "Examples of others"

    shots: int = Field(2, ge=1, le=10**6, description="examples before the question, or as many as there are")

    def samples(self, victim: Victim, sample: Sample) -> Iterator[Sample]:
        retained, task = set(victim.data.retained(victim.key)), plugins.build("tasks", sample.task, {})
        known = [
            question
            for question in victim.data.questions
            if question.profile_id in retained
            and (question.task, question.modality, question.attribute, question.variant)
            == (sample.task, sample.modality, sample.attribute, "train")
        ]
        by_person = {question.profile_id: question for question in reversed(known)}
        order = sorted(by_person, key=lambda person: rng(victim.seed, "shots", sample.id, person).random())
        for number, start in enumerate(range(0, len(order), self.shots)):
            shown = [by_person[person] for person in order[start : start + self.shots]]
            examples = tuple(
                Exchange(
                    prompt=task.prompt(question),
                    reply=question.answer,
                    image=image_path(question.profile_id) if sample.image else "",
                )
                for question in shown
            )
            yield variant(sample, number, examples=examples)
