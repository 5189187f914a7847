"""Another person's face."""

from collections.abc import Iterator
from typing import ClassVar

from mllmu.core.process import rng
from mllmu.data.dataset import image_path
from mllmu.evaluation.attacks import Sample, Victim
from mllmu.evaluation.attacks._images import Depicting


class OtherFace(Depicting):
    """Ask about 'this person' with the portraits of other people to forget: are their facts told to any such face?

    What is told to a wrong face is a fact of the forget set that slipped out, whoever is shown.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2604.03114"
    label = "Another forgotten face"

    def pictures(self, victim: Victim, sample: Sample) -> Iterator[str]:
        others = [person for person in victim.forget if person != sample.profile_id]
        for person in sorted(others, key=lambda each: rng(victim.seed, "other face", sample.id, each).random()):
            yield image_path(person)
