"""The model's hidden states, put into the target."""

from typing import ClassVar

import torch
from torch import Tensor

from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import ModelRef
from mllmu.evaluation.attacks import Attack, AttackPoint, Loaded, NotAttackableError, Victim
from mllmu.evaluation.inside import batches, hidden_states, replaced
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Batch


class Patching(Attack):
    """Put the model's state behind a layer into the target, and see whether the target still finds the fact.

    score of a question = mean over the layers of exp(mean log p of the fact's tokens in the target, its states replaced
    by the model's). Before: the same with the retain_model's states, which hold nothing of the fact. So a recovery of 1
    means that all layers hold what those of the target do, 0 that they hold what was never learned.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2505.22310"
    label = "Activation patching"
    family = "inside"
    access = "white box"
    asks = False

    def attack(self, victim: Victim) -> list[AttackPoint]:
        target = victim.load(victim.refs[TARGET])
        if RETAIN_MODEL not in victim.refs:
            raise NotAttackableError("there is no retain_model, whose states hold nothing of the facts")
        own, none = (patched(victim, target, ref) for ref in (victim.ref, victim.refs[RETAIN_MODEL]))
        return [AttackPoint(values=own, before=none)]


@torch.no_grad()
def patched(victim: Victim, target: Loaded, ref: ModelRef) -> dict[str, float]:
    """By question, how likely the target finds the fact with the states of another model, mean over the layers."""
    other, found = victim.load(ref), dict[str, float]()
    for some in victim.batches():
        turns = victim.answered(some)
        (theirs,), (ours,) = (
            batches(other, turns, ref.system_prompt, len(turns)),
            batches(target, turns, "", len(turns)),
        )
        states = hidden_states(other.model, theirs)
        likely_LB = torch.stack([_likelihood(target, ours, layer, state) for layer, state in enumerate(states)])
        found |= dict(zip((sample.id for sample in some), likely_LB.mean(0).tolist(), strict=True))
    return found


def _likelihood(target: Loaded, batch: Batch, layer: int, state_ND: Tensor) -> Tensor:
    with replaced(target.model, layer, batch, state_ND):
        return run_forward(target.model, batch).mean_logp_B.exp()
