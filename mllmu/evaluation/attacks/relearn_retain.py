"""Relearning on people that stay."""

from typing import ClassVar

from mllmu.evaluation.attacks import Turn, Victim
from mllmu.evaluation.attacks._relearning import Relearning


class RelearnRetain(Relearning):
    """Fine-tune on the training questions about retained people only (benign): no forgotten fact is taught.

    Whatever returns was still in the model.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2406.13356"
    label = "Relearn: retained people"

    def taught(self, victim: Victim) -> list[Turn]:
        return victim.turns(victim.data.retained(victim.key), "both")
