"""Attacks on the weights themselves, without any training: a change of the linear layers, then the plain questions."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from peft import PeftModel
from torch import Tensor

from mllmu.evaluation.attacks import Attack, AttackPoint, Loaded, NotAttackableError, Victim
from mllmu.evaluation.attacks import Family as AttackFamily
from mllmu.models import weights


class Reweighting(Attack):
    """Base of the attacks that change the weights of the language model's linear layers, each by itself."""

    family: ClassVar[AttackFamily] = "weights"
    access = "white box"

    @abstractmethod
    def changed(self, name: str, weight_OI: Tensor) -> Tensor:
        """The new weights of a layer; those given are not written to."""

    def attack(self, victim: Victim) -> list[AttackPoint]:
        loaded = victim.load(victim.ref)
        weights.replace(loaded.model, {name: self.changed(name, w) for name, w in matrices(loaded).items()})
        return [AttackPoint(values=victim.hits(loaded, victim.samples))]


def matrices(loaded: Loaded) -> Mapping[str, Tensor]:
    """[O, I] the weights of the language model's linear layers by name, with all adapters merged into them.

    Raises:
        NotAttackableError: the weights are quantised.
    """
    if isinstance(loaded.model, PeftModel):
        raise NotAttackableError("the weights have few bits, and adapters beside them cannot be merged into them")
    layers = weights.fold(loaded.model).named_modules()
    pattern = loaded.family.lora_targets
    return {f"{name}.weight": layer.weight.detach() for name, layer in layers if re.fullmatch(pattern, name)}
