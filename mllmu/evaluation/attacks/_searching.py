"""Attacks that search with gradients: on what is known of half of the people, for what opens the other half."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mllmu.core.process import derive
from mllmu.evaluation.attacks import Loaded, NotAttackableError, Sample, Turn, Victim
from mllmu.models.encoding import as_turn
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Batch
from mllmu.training.losses import answer_nll

MOST = 6
"""Known facts that a search goes by."""


def halves(victim: Victim, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Some questions whose answers the attacker knows, and those about the other people, which are asked.

    Raises:
        NotAttackableError: there is one person, or none.
    """
    people = sorted({s.profile_id for s in samples}, key=lambda person: derive(victim.seed, "known", person))
    if len(people) < 2:
        raise NotAttackableError("a search needs two people: one whose facts are known, one to attack")
    known = people[: max(1, len(people) // 2)]
    order = sorted(
        (s for s in samples if s.profile_id in known), key=lambda s: derive(victim.seed, "known", s.question_id)
    )
    return order[:MOST], [s for s in samples if s.profile_id not in known]


def with_answers(victim: Victim, samples: Sequence[Sample]) -> list[Turn]:
    """Questions with their answers, as the model is asked."""
    return [
        replace(as_turn(sample, victim.data.folder, victim.ref.system_prompt), reply=sample.target)
        for sample in samples
    ]


def loss_of(loaded: Loaded, batch: Batch) -> Tensor:
    """Mean nll of the answers, in nats per token."""
    return answer_nll(run_forward(loaded.model, batch))
