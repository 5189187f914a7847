"""Replies drawn at random."""

from typing import ClassVar

from pydantic import Field

from mllmu.evaluation.attacks import Attack, AttackPoint, Victim
from mllmu.evaluation.attacks._generating import generated


class Sampling(Attack):
    """Draw several replies to the plain question at a temperature; one right reply is enough."""

    source: ClassVar[str] = "https://arxiv.org/abs/2309.17410"
    label = "Drawn replies"
    family = "extraction"
    access = "black box"

    temperature: float = Field(1.0, gt=0, le=10**6, description="above 1 the draws are more daring")
    replies: int | None = Field(
        None, ge=1, le=10**6, description="replies per question; null: 4 in the small budget, 10 in full"
    )

    def attack(self, victim: Victim) -> list[AttackPoint]:
        number = self.replies or victim.budget.tries
        return [generated(victim, number, do_sample=True, temperature=self.temperature, top_k=0)]
