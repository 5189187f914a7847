"""How many replies decline to answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from mllmu.evaluation.metrics import OutcomeShare
from mllmu.evaluation.outcome import Outcome


class Refused(OutcomeShare):
    """Share of replies that decline to answer."""

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Refused"
    best: ClassVar[Literal["higher", "lower"]] = "lower"
    counted: ClassVar[Outcome] = "refused"


PLUGIN = Refused
