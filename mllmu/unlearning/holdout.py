"""How likely true replies are about people that a model was never trained on: the level at which a fact is forgotten.

A model to unlearn seldom has a retain_model to compare with, but always has holdout people: made up for the purpose and
shown to no model. What the target gives *their* facts is what a model gives a fact that it does not know. They are the
data's calibration people, not those whom membership metrics take as non-members: a method must not read its own test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mllmu.core.errors import DataError
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn

if TYPE_CHECKING:
    from mllmu.unlearning.base import Side

CHUNK = 16
"""Replies per pass."""
QuestionType = tuple[bool, str]
"""With an image or not, and the task: each has its own level, as a letter is guessed more easily than a word."""


def holdout_levels(turns: Sequence[Turn], run: Callable[[Sequence[Turn]], Forward]) -> dict[QuestionType, float]:
    """The level for each modality and task.

    level = ln of the mean over replies of exp(log p(reply) / length)

    The mean normalised probability, in nats per token.

    Two replies of 1 token with p = 1/2 and 1/8: ln(5/16) = -1.16.

    Args:
        turns: questions about holdout people, with their true replies.
        run: one pass over some turns, without gradient.
    """
    logps: dict[QuestionType, list[float]] = {}
    for start in range(0, len(turns), CHUNK):
        chunk = turns[start : start + CHUNK]
        for turn, logp in zip(chunk, run(chunk).mean_logp_B.tolist(), strict=True):
            logps.setdefault((turn.image is not None, turn.task), []).append(logp)
    return {each: float(torch.tensor(logp, dtype=torch.float64).exp().mean().log()) for each, logp in logps.items()}


def level_B(side: Side) -> Tensor:
    """[B] what the reference gives true replies about calibration people, by modality and task; nats per token."""
    levels = side.levels()
    return side.current.logits_NV.new_tensor([level_of(turn, levels) for turn in side.turns], dtype=torch.float32)


def level_of(turn: Turn, levels: Mapping[QuestionType, float]) -> float:
    """The level that a turn's reply is compared with.

    Raises:
        DataError: no question about holdout people has this modality and task.
    """
    key = (turn.image is not None, turn.task)
    if key not in levels:
        modality = "image + text" if turn.image else "text only"
        raise DataError(
            f"levels of forgetting: no {turn.task or 'plain'} question about a holdout person, {modality} "
            f"(there are {len(levels)} other kinds). Set data.splits.calibration to at least 1, or give the method a "
            "floor, e.g. floor: -1.5."
        )
    return levels[key]
