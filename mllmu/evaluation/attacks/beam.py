"""The likeliest replies as a whole."""

from typing import ClassVar

from pydantic import Field

from mllmu.evaluation.attacks import Attack, AttackPoint, Victim
from mllmu.evaluation.attacks._generating import generated


class Beam(Attack):
    """Search for the likeliest whole replies to the plain question (beam search); one right reply is enough."""

    source: ClassVar[str] = "https://arxiv.org/abs/2309.17410"
    label = "Beam search"
    family = "extraction"
    access = "black box"

    beams: int | None = Field(
        None, ge=2, le=10**6, description="beams, all of which are read; null: 4 in the small budget, 10 in full"
    )

    def attack(self, victim: Victim) -> list[AttackPoint]:
        number = self.beams or victim.budget.tries
        return [generated(victim, number, do_sample=False, num_beams=number)]
