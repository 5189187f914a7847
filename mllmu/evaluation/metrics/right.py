"""How many replies tell the truth."""

from __future__ import annotations

from typing import ClassVar, Literal

from mllmu.evaluation.metrics import OutcomeShare
from mllmu.evaluation.outcome import Outcome


class Right(OutcomeShare):
    """Share of replies that tell the true value, by the task's own criterion.

    With wrong, refused and garbled it adds up to 1, and unlike accuracy it counts every reply.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Right"
    best: ClassVar[Literal["higher", "lower"]] = "higher"
    counted: ClassVar[Outcome] = "right"


PLUGIN = Right
