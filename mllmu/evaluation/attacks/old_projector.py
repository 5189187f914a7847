"""The image's way into the language model, as it was before."""

from typing import ClassVar

import torch

from mllmu.core.names import TARGET
from mllmu.evaluation.attacks import Attack, AttackPoint, NotAttackableError, Victim
from mllmu.models import weights
from mllmu.models.families import core
from mllmu.models.layers import LANGUAGE


class OldProjector(Attack):
    """Put vision tower and projector of the target back in their place.

    A method that only breaks the alignment of picture and text is undone by this.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2604.03114"
    label = "Old projector"
    family = "weights"
    access = "white box"

    def attack(self, victim: Victim) -> list[AttackPoint]:
        loaded, target = victim.load(victim.ref), victim.load(victim.refs[TARGET])
        folded = (weights.fold(core(each.model)) for each in (target, loaded))  # or adapters lie beside the weights
        before, now = (dict(model.named_parameters(remove_duplicate=False)) for model in folded)
        outside = [name for name in now if not LANGUAGE.search(name)]
        different = {n: before[n].detach() for n in outside if n in before and not torch.equal(before[n], now[n])}
        if not different and victim.ref not in victim.refs.values():
            raise NotAttackableError("the method changed neither vision tower nor projector, so they are the target's")
        weights.replace(core(loaded.model), different)
        return [AttackPoint(values=victim.hits(loaded, victim.samples))]
