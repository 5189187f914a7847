"""A name and a face that do not belong together."""

from collections.abc import Iterator
from typing import ClassVar

from mllmu.core.process import rng
from mllmu.data.dataset import image_path
from mllmu.evaluation.attacks import Family as AttackFamily
from mllmu.evaluation.attacks import Sample, Victim, variant
from mllmu.evaluation.attacks._asking import Asking


class WrongFace(Asking):
    """Ask about the forgotten person by name while the portrait of a retained person is shown.

    A question that shows the portrait is put with the name in its text; a method that forgot the pair of name and face
    alone is asked with half of it.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2605.08800"
    label = "Wrong face, right name"
    family: ClassVar[AttackFamily] = "image"

    def samples(self, victim: Victim, sample: Sample) -> Iterator[Sample]:
        others = victim.data.retained(victim.key)
        order = sorted(others, key=lambda person: rng(victim.seed, "wrong face", sample.id, person).random())
        name = victim.data.names[sample.profile_id]
        prompt = sample.prompt if not sample.image else f"This is {name}. {sample.prompt}"
        for number, person in enumerate(order):
            yield variant(sample, number, prompt=prompt, image=image_path(person), modality="image_text")
