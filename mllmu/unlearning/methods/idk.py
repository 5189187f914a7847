"""Say that one does not know."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import RetainingMethod, Step
from mllmu.unlearning.refusals import REFUSALS


class IDontKnow(RetainingMethod):
    """Train refusals in place of the forget replies, and the retain replies as before.

    L = nll(refusal | forget question) + retain_weight * nll(retain); a refusal is drawn for each question and epoch.

    The true reply is covered up rather than removed: it may come back after little training or another question.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text; used on both modalities. Defaults of learning rate and epochs are those of FIUBench (LoRA on a VLM).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2401.06121"

    epochs: float = Field(8, gt=0, description="passes over the forget set")
    learning_rate: float = Field(3e-4, gt=0)

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = {"forget_refusal": answer_nll(step.forget.alternative)} if step.on_forget else {}
        return forget | self.retain_terms(step)

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        del turn, others
        return draw.choice(REFUSALS)


PLUGIN = IDontKnow
