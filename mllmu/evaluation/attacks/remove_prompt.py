"""Taking away a system prompt or a modifier."""

from typing import ClassVar

from mllmu.evaluation.attacks import Attack, AttackPoint, NotAttackableError, Victim
from mllmu.evaluation.attacks._removing import added, has_change, without_change
from mllmu.models.modifiers import MODIFIER_FILE


class RemovePrompt(Attack):
    """Load the model without the system prompt or the modifier that the method put beside the weights.

    The weights are still the target's, so whoever has them leaves the rest out. Target and retain_model stay as they
    are: there is nothing to leave out.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2604.03114"
    label = "Prompt or modifier removed"
    family = "weights"
    access = "white box"

    def attack(self, victim: Victim) -> list[AttackPoint]:
        modifiers = [adapter for adapter in added(victim) if (victim.root / adapter / MODIFIER_FILE).is_file()]
        if has_change(victim) and not modifiers and not victim.ref.system_prompt:
            raise NotAttackableError("the method changed the weights, and put nothing beside them")
        return without_change(victim)
