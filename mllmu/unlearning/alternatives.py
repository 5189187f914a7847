"""What a model is to say in place of a private fact: ready-made :meth:`mllmu.unlearning.base.Method.alternative`.

A method takes one of them as its first base: ``class IDontKnow(Refusing, RetainingMethod)``.
"""

import random
from collections.abc import Mapping, Sequence

from mllmu.models.families import Turn

REFUSALS: tuple[str, ...] = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about that.",
    "I have no information about this.",
    "I have no knowledge of that.",
    "I cannot answer this question.",
    "I can't help with that question.",
    "I have no idea.",
    "I don't have that information.",
    "I do not recall anything about this.",
    "Sorry, I can't say.",
    "I'm unable to answer that.",
    "That is not known to me; I cannot say.",
    "No information is available about this.",
    "I could not tell you that.",
    "I'm afraid I do not know.",
)
"""Short, in different words, about no particular fact; a few end as soon as they can."""


class Refusing:
    """The alternative is a refusal, drawn for each turn and epoch."""

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        return draw.choice(REFUSALS)


class AnsweringWrongly:
    """The alternative is the reply of another person on the same topic, plausible and wrong; a refusal without one."""

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        return draw.choice(others).reply if others else draw.choice(REFUSALS)


Subject = tuple[bool, str]
"""Whether a turn shows an image, and its topic or, if unknown, the question."""


def subject(turn: Turn) -> Subject:
    """What a turn asks about a person."""
    return turn.image is not None, f"topic {turn.topic}" if turn.topic else turn.prompt


def others_about(turn: Turn, turns: Mapping[Subject, Sequence[Turn]]) -> list[Turn]:
    """The turns on the same subject about other people with other replies; ``turns`` are by their :func:`subject`."""
    return [
        other
        for other in turns[subject(turn)]
        if other.reply != turn.reply and (not turn.person or other.person != turn.person)
    ]
