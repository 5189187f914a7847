"""Holdout match: bring every fact to the level of facts about holdout people, in both modalities at once."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.unlearning.base import AnchoredMethod, Method, Step, Terms
from mllmu.unlearning.holdout import level_B


class HoldoutMatch(AnchoredMethod):
    """Bring each forget reply to the level of replies the model was never trained on, in both modalities; ours.

    L = sum over the modalities in the step of w * mean over their replies of h(logp / length - level)
        + retain_weight * nll(retain) + kl_weight * mean over retain tokens of KL(reference || current)

    h is Huber's: squared within a nat, then linear. w = forget_weight / number of modalities in the step, so image
    questions do not outweigh text-only ones. A reply below its level is pulled up again: facts share so much that
    stopping them one by one (a hinge) ended far below the level and in gibberish. The level is what the target gives
    true replies about people whom it was never trained on (``data.splits.calibration``, whom no metric asks about),
    measured once per modality and task as the mean normalised probability: a letter is guessed more easily than a word.
    ``floor`` sets one level for all instead. With ``reference: retain_model`` the level of a reply is what that model
    gives it; a real deletion request has no such model, so this bounds what the method can do and is no result to
    compare.

    Cost: 1 forward pass on the calibration people's questions. Of a step: 1 forward and backward pass on forget and 1
    on retain, and 1 extra forward (reference) on retain (and on forget with ``reference: retain_model``).
    Made for: both modalities. Defaults are not tuned; where it stands: benchmarks/methods_tiny_202611.md.
    """

    source = "ours"
    tuned = (*Method.tuned, "retain_weight", "kl_weight")

    modality: Literal["image_text", "text", "both"] = Field("both", description="what is unlearned")
    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    floor: float | None = Field(None, lt=0, ge=-1000)
    """one level for all, mean log p of a reply's token in nats; null: that of the calibration people"""
    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")

    @property
    def uses_holdout(self) -> bool:
        return self.floor is None and self.reference == "target"

    def forget_terms(self, step: Step) -> Terms:
        """One term per modality in the step."""
        distance_B = distances_B(step.forget.current, self._level_B(step))
        image_B = torch.tensor([turn.image is not None for turn in step.forget.turns], device=distance_B.device)
        modalities = {"forget_image_text": image_B, "forget_text": ~image_B}
        present = {name: rows_B for name, rows_B in modalities.items() if rows_B.any()}
        return {name: self.forget_weight / len(present) * distance_B[rows_B].mean() for name, rows_B in present.items()}

    def _level_B(self, step: Step) -> Tensor:
        if self.reference == "retain_model":
            return step.forget.reference.mean_logp_B
        if self.floor is None:
            return level_B(step.forget)
        return torch.tensor([self.floor], device=step.forget.current.logits_NV.device)


def distances_B(forward: Forward, level_B: Tensor) -> Tensor:
    """[B] how far the likelihood of each reply is from a level, per token, above or below; smooth around 0.

    distance_b = h(logp_b / length_b - level_b),  h(d) = d^2 / 2 where |d| < 1, |d| - 1/2 elsewhere (Huber)

    Args:
        forward: one pass over the forget replies.
        level_B: [B] (or [1]) mean log p of a token, in nats, <= 0; no gradient flows into it.

    Returns:
        [B] in nats per token, >= 0. Tokens with p = 1/2 and 1/8 (mean -2 ln 2): level -3 ln 2 is ln 2 away, 0.240;
        level -5 ln 2 is 3 ln 2 away, 1.579.

    Source: ours.
    """
    mean_logp_B = forward.mean_logp_B
    return F.huber_loss(mean_logp_B, level_B.detach().expand_as(mean_logp_B), reduction="none", delta=1.0)
