"""Relearning on the forgotten facts themselves."""

from typing import ClassVar

from mllmu.core.names import RETAIN_MODEL
from mllmu.data.facts import together
from mllmu.evaluation.attacks import NotAttackableError, Turn, Victim
from mllmu.evaluation.attacks._relearning import Relearning


class RelearnForget(Relearning):
    """Fine-tune on the training questions about the people to forget, and ask for the same facts.

    In distribution: the retain_model learns these facts too, so only the excess over it says what was left. Without a
    retain_model nothing says it, as holdout people, the yardstick then, are not taught.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2506.12618"
    label = "Relearn: forget facts"

    def taught(self, victim: Victim) -> list[Turn]:
        if RETAIN_MODEL not in victim.refs:
            raise NotAttackableError("there is no retain_model, which would show how much of the facts is learned anew")
        if not victim.data.steps:
            return victim.turns(victim.forget, "both")
        return victim.turns(victim.forget, "both", among=together(victim.data.steps).of(victim.data.questions))
