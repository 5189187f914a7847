"""How likely true replies are about people that a model was never taught: the level at which forgetting is done.

Nobody who needs unlearning has a retain_model to compare with, but everybody has holdout: the holdout people, made up
for the purpose and shown to no model. What the target says about *their* facts is what a model says that does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from mllmu.core.errors import DataError
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn

CHUNK = 16
"""Replies a pass."""
Kind = tuple[bool, str]
"""With image or not, and the task: guessing a letter is easier than guessing a word."""


def kind(turn: Turn) -> Kind:
    """Which level a reply is compared with."""
    return turn.image is not None, turn.task


def holdout_levels(turns: Sequence[Turn], run: Callable[[Sequence[Turn]], Forward]) -> dict[Kind, float]:
    """The level of every kind of question.

    level = ln of the mean over replies of exp(log p(reply) / length): the mean normalised probability, in nats a token

    Two replies of 1 token with p = 1/2 and 1/8: ln(5/16) = -1.16.

    Args:
        turns: questions about people never taught, with their true replies.
        run: one pass over some turns, without gradient.
    """
    found: dict[Kind, list[float]] = {}
    for start in range(0, len(turns), CHUNK):
        chunk = turns[start : start + CHUNK]
        forward = run(chunk)
        for turn, logp in zip(chunk, (forward.row_logp_B / forward.row_length_B).tolist(), strict=True):
            found.setdefault(kind(turn), []).append(logp)
    return {of: float(torch.tensor(logp, dtype=torch.float64).exp().mean().log()) for of, logp in found.items()}


def level_of(turn: Turn, levels: Mapping[Kind, float]) -> float:
    """The level of a turn's kind.

    Raises:
        DataError: no stranger was asked anything of that kind.
    """
    if kind(turn) not in levels:
        shown, task = kind(turn)
        asked = f"{task or 'plain'} question {'with an image' if shown else 'by name'}"
        raise DataError(
            f"levels of forgetting: no holdout person was asked a {asked} ({len(levels)} other kinds were). "
            "Set data.splits.holdout to at least 1, or give the method a floor, e.g. floor: -1.5."
        )
    return levels[kind(turn)]
