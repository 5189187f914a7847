"""Taking away an adapter that was not merged."""

from typing import ClassVar

from mllmu.evaluation.attacks import Attack, AttackPoint, NotAttackableError, Victim
from mllmu.evaluation.attacks._removing import added, has_change, without_change
from mllmu.models.modifiers import MODIFIER_FILE
from mllmu.models.weights import WEIGHTS_FILE


class RemoveAdapter(Attack):
    """Load the model without the adapter that the method trained.

    Undoes everything by construction if the adapter is delivered beside the target, and is impossible once it is merged
    into the weights; so it is no part of the worst case. It is a reminder: merge before you publish.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2604.03114"
    label = "Adapter removed"
    family = "weights"
    access = "white box"
    counts = False

    def attack(self, victim: Victim) -> list[AttackPoint]:
        adapters = added(victim)
        if any((victim.root / adapter / MODIFIER_FILE).is_file() for adapter in adapters):
            raise NotAttackableError("the method made a modifier and no adapter, see remove_prompt")
        if any((victim.root / adapter / WEIGHTS_FILE).is_file() for adapter in adapters):
            raise NotAttackableError("the weights themselves were changed, so there is nothing to leave out")
        if has_change(victim) and not adapters:
            raise NotAttackableError("the method added no adapter")
        return without_change(victim)
