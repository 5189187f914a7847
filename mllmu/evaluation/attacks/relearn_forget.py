"""Relearning on the forgotten facts themselves."""

from typing import ClassVar

from mllmu.data.facts import together
from mllmu.evaluation.attacks import Turn, Victim
from mllmu.evaluation.attacks._relearning import Relearning


class RelearnForget(Relearning):
    """Fine-tune on the training questions about the people to forget, and ask for the same facts.

    In distribution: the retain_model learns these facts too, so only the excess over it says what was left.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2506.12618"
    label = "Relearn: forget facts"

    def taught(self, victim: Victim) -> list[Turn]:
        if not victim.data.steps:
            return victim.turns(victim.forget, "both")
        return victim.turns(victim.forget, "both", among=together(victim.data.steps).of(victim.data.questions))
