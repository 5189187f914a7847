"""Relearning on other facts of the forgotten people."""

from collections.abc import Sequence
from typing import ClassVar

from mllmu.core.process import derive
from mllmu.evaluation.attacks import Sample, Turn, Victim
from mllmu.evaluation.attacks._relearning import Relearning


class RelearnOtherFacts(Relearning):
    """Fine-tune on half of the attributes of the people to forget, drawn by seed, and ask for the other half.

    Shows whether a forgotten person comes back as a whole: what is asked is never taught.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2406.13356"
    label = "Relearn: other facts"

    def taught(self, victim: Victim) -> list[Turn]:
        kept_back = held_out(victim)
        return [turn for turn in victim.turns(victim.forget, "both") if turn.topic not in kept_back]

    def asked(self, victim: Victim) -> Sequence[Sample]:
        kept_back = held_out(victim)
        return [sample for sample in victim.samples if sample.attribute in kept_back]


def held_out(victim: Victim) -> set[str]:
    """Half of the attributes that are asked for, at least one."""
    order = sorted({s.attribute for s in victim.samples}, key=lambda name: derive(victim.seed, "held out", name))
    return set(order[: max(1, len(order) // 2)])
