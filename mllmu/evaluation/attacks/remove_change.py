"""Taking away what the method put on top of the target."""

from typing import ClassVar

from mllmu.core.names import TARGET
from mllmu.evaluation.attacks import Attack, AttackPoint, NotAttackableError, Victim
from mllmu.models.weights import WEIGHTS_FILE


class RemoveChange(Attack):
    """Load the model without its last adapter, modifier or system prompt, if that is all the method added.

    What is delivered as an adapter or a prompt beside the target is undone by leaving it out. Target and retain_model
    stay as they are: there is nothing to leave out.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2604.03114"
    label = "Change removed"
    family = "weights"
    access = "white box"

    def attack(self, victim: Victim) -> list[AttackPoint]:
        target, ref = victim.refs[TARGET], victim.ref
        added = ref.adapters[len(target.adapters) :] if ref.adapters[: len(target.adapters)] == target.adapters else ()
        if any((victim.root / adapter / WEIGHTS_FILE).is_file() for adapter in added):
            raise NotAttackableError("the weights themselves were changed, so there is nothing to leave out")
        plain = target if added or (ref.system_prompt and ref.adapters == target.adapters) else ref
        return [AttackPoint(values=victim.hits(victim.load(plain), victim.samples, system_prompt=plain.system_prompt))]
