"""A step back towards the base model."""

from typing import ClassVar

from pydantic import Field

from mllmu.evaluation.attacks import Attack, AttackPoint, Victim
from mllmu.evaluation.attacks._reweighting import matrices
from mllmu.models import weights


class Interpolation(Attack):
    """Mix the weights with those of the base model: w = (1 - a) w + a w_base, for several a; any right reply counts.

    The base never saw these people, so what comes back was covered by the last change only.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2109.01903"
    label = "Towards the base"
    family = "weights"
    access = "white box"

    shares: tuple[float, ...] = Field((0.1, 0.3), min_length=1, description="shares of the base, each tried")

    def attack(self, victim: Victim) -> list[AttackPoint]:
        base, hits = matrices(victim.load(victim.refs["base"])), dict[str, float]()
        for share in self.shares:
            loaded = victim.load(victim.ref)
            mixed = {name: (1 - share) * own + share * base[name] for name, own in matrices(loaded).items()}
            weights.replace(loaded.model, mixed)
            found = victim.hits(loaded, victim.samples)
            hits = {name: max(value, hits.get(name, 0.0)) for name, value in found.items()}
        return [AttackPoint(values=hits)]
