"""Ordinary fine-tuning goes on: new people are taught after the others were forgotten."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from mllmu.core import plugins
from mllmu.core.process import derive
from mllmu.core.records import Profile
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources import Source
from mllmu.evaluation.attacks import Turn, Victim
from mllmu.evaluation.attacks._images import kept
from mllmu.evaluation.attacks._relearning import Relearning
from mllmu.training.batches import training_turns

PREFIX = "n"
"""Begins the ids of new people."""


class RelearnNewPeople(Relearning):
    """Go on with the fine-tuning of the recipe, on newly invented people, and ask for the forgotten facts on the way.

    Longitudinal: not an attack by intent, but what happens to every model that is trained on. Nothing that is taught is
    about the people to forget, so whatever returns was still in the model. The people get portraits by ``dicebear``.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2406.13356"
    label = "Fine-tune: new people"

    new_people: int = Field(8, ge=4, le=10_000, description="people who are invented for it")

    def taught(self, victim: Victim) -> list[Turn]:
        people = invented_people(victim, self.new_people)
        order = QuestionOrder.of(victim.recipe.data, derive(victim.seed, "new people"))._replace(variants=("train",))
        modality = victim.recipe.finetune.modality
        turns = training_turns(build(people, order), victim.images, modality=modality)
        images = {person.id: partial(portrait, victim, person) for person in people}
        return [replace(turn, image=images[turn.person]()) if turn.image else turn for turn in turns]


def invented_people(victim: Victim, count: int) -> Sequence[Profile]:
    """Invented people who continue the series of the synthetic source, behind holdout and calibration people."""
    section = victim.recipe.data
    settings: dict[str, Any] = section.source.settings if section.source.name == "synthetic" else {}
    taken = sum(profile.kind == "fictitious" for profile in victim.data.profiles)
    changed = {"num_people": count, "first_id": int(settings.get("first_id", 1)) + taken, "id_prefix": PREFIX}
    source: Source = plugins.build("sources", "synthetic", {**settings, **changed}, where="evaluate.attacks")
    return source.profiles(victim.recipe.seed)


def portrait(victim: Victim, person: Profile) -> Any:
    """The file of a new person's portrait, which is drawn unless it is there."""
    section = victim.recipe.data.portraits
    drawer = plugins.build("portraits", "dicebear", section.settings if section.name == "dicebear" else {})
    return kept(victim, person.id, partial(drawer.render, person, 0, victim.recipe.seed))
