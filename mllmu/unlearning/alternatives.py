"""What a model is to say in place of a private fact: ready-made :meth:`mllmu.unlearning.base.Method.alternative`.

A method takes one of them as its first base: ``class DirectPreference(Refusing, PreferenceMethod)``.
"""

import random
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import ClassVar

import yaml
from pydantic import Field

from mllmu.models.families import Turn
from mllmu.training.losses import answer_nll, dpo_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms

REFUSALS: tuple[str, ...] = tuple(
    yaml.safe_load((resources.files("mllmu.unlearning") / "refusals.yaml").read_text(encoding="utf-8"))
)


class Refusing:
    """The alternative is a refusal, drawn for each turn and epoch."""

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        return draw.choice(REFUSALS)


class RefusalMethod(Refusing, RetainingMethod):
    """Base of the methods that train refusals in place of the forget replies.

    L = nll(refusal | forget question) + retain_weight * nll(retain), each a mean over tokens, in nats
    """

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_refusal": answer_nll(step.forget.alternative)}


class AnsweringWrongly:
    """The alternative is the reply of another person to the same task and topic, or a refusal where there is none."""

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        return draw.choice(others).reply if others else draw.choice(REFUSALS)


class PreferenceMethod(RetainingMethod):
    """Base of the methods that prefer the alternative over the true forget reply, measured against the reference.

    L = (2 / beta) * mean over replies of softplus(-beta * (gain of the alternative - gain of the true reply))
        + retain_weight * nll(retain),  gain = log p - log p_ref, summed over the tokens of a reply
    """

    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "retain_weight")

    beta: float = Field(gt=0, le=10**6)

    def forget_terms(self, step: Step) -> Terms:
        side = step.forget
        passes = (side.alternative, side.alternative_reference, side.current, side.reference)
        return {"forget_preference": dpo_loss(*(each.row_logp_B for each in passes), beta=self.beta)}


Subject = tuple[bool, str, str]
"""Whether a turn shows an image, its task, and its topic or, if unknown, the question."""


def subject(turn: Turn) -> Subject:
    """What a turn asks about a person, and in which form: a letter is no alternative to a sentence."""
    return turn.image is not None, turn.task, f"topic {turn.topic}" if turn.topic else turn.prompt


def others_about(turn: Turn, turns: Mapping[Subject, Sequence[Turn]]) -> list[Turn]:
    """The turns on the same subject about other people with other replies; ``turns`` are by their :func:`subject`."""
    return [
        other
        for other in turns[subject(turn)]
        if other.reply != turn.reply and (not turn.person or other.person != turn.person)
    ]
