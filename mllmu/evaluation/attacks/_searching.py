"""Attacks that search with gradients: on what is known of half of the people to forget, for what opens the others."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from mllmu.core.process import derive
from mllmu.evaluation.attacks import Attack, Loaded, NotAttackableError, Sample, Victim
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Batch
from mllmu.training.losses import answer_nll

MOST = 6
"""Known facts that a search goes by."""


class Searching(Attack):
    """Base of the attacks that search with gradients."""

    access = "white box"

    iterations: int | None = Field(
        None, ge=1, le=1_000_000, description="null: 12 in the small budget, 250 in the full"
    )

    def number(self, victim: Victim) -> int:
        """How many iterations the search has."""
        return self.iterations or victim.budget.iterations


def halves(victim: Victim, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Some questions whose answers the attacker knows, and those about the other people, which are asked.

    Known are facts of half of the people to forget. The holdout people of a run without a retain model are all asked:
    no model was taught their facts, so a search on them would find nothing.

    Raises:
        NotAttackableError: questions are about one of the people to forget, or none.
    """
    asked_about = {s.profile_id for s in samples} & {*victim.forget}
    people = sorted(asked_about, key=lambda person: derive(victim.seed, "known", person))
    if len(people) < 2:
        raise NotAttackableError("a search needs two people to forget: one whose facts are known, one to attack")
    known = people[: max(1, len(people) // 2)]
    order = sorted(
        (s for s in samples if s.profile_id in known), key=lambda s: derive(victim.seed, "known", s.question_id)
    )
    return order[:MOST], [s for s in samples if s.profile_id not in known]


def loss_of(loaded: Loaded, batch: Batch) -> Tensor:
    """Mean nll of the answers, in nats per token."""
    return answer_nll(run_forward(loaded.model, batch))
