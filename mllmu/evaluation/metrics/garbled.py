"""How many replies are noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from mllmu.evaluation.metrics import OutcomeShare
from mllmu.evaluation.outcome import Outcome


class Garbled(OutcomeShare):
    """Share of replies that are noise: empty, without letters, endless repetition, or no option named.

    A model that forgets by collapsing shows here; see :func:`mllmu.evaluation.outcome.outcome`.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    label: ClassVar[str] = "Garbled"
    best: ClassVar[Literal["higher", "lower"]] = "lower"
    counted: ClassVar[Outcome] = "garbled"


PLUGIN = Garbled
