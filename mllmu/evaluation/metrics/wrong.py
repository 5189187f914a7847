"""How many replies tell something untrue."""

from __future__ import annotations

from typing import ClassVar, Literal

from mllmu.evaluation.metrics import OutcomeShare
from mllmu.evaluation.outcome import Outcome


class Wrong(OutcomeShare):
    """Share of replies that can be read but do not tell the true value."""

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Wrong"
    best: ClassVar[Literal["higher", "lower"]] = "lower"
    counted: ClassVar[Outcome] = "wrong"


PLUGIN = Wrong
