"""HoldoutMatch: bring every fact down to the level of one never taught, in both modalities at once."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mllmu.training.losses import kl_to_reference
from mllmu.training.losses_bounded import distance_B
from mllmu.unlearning.base import Method, RetainingMethod, Step


class HoldoutMatch(RetainingMethod):
    """Bring each forget reply to the level of one never taught, with images and by name; ours.

    L = sum over the modalities in the step of w * mean over their replies of h(logp / length - level)
        + retain_weight * nll(retain) + kl_weight * mean over retain tokens of KL(reference || current)

    h is Huber's: squared within a nat, then linear. w = forget_weight / number of modalities in the step, so images
    do not drown names. A reply below its level is pulled up again: facts share so much that stopping one by one (a
    hinge) ended far below and in gibberish. The level is what the target gives true replies about people it was never
    taught (the holdout people), measured once for each modality and task as the mean normalised probability: a letter
    is guessed more easily than a word. ``floor`` sets one level for all instead; with ``reference: retain_model`` it
    is what that model gives the same reply, which nobody has who needs unlearning: a bound on what the method can do,
    not a result to compare.

    Cost: 1 forward pass on the holdout people's questions. Of a step: 1 forward and backward pass on forget and 1 on
    retain, and 1 extra forward (reference) on retain (and on forget with ``reference: retain_model``).
    Made for: both modalities. Defaults are not tuned; where it stands: benchmarks/methods_tiny_202611.md.
    """

    source: ClassVar[str] = "ours"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "retain_weight", "kl_weight")

    modality: Literal["image_text", "text", "both"] = Field("both", description="what is unlearned")
    epochs: float = Field(5, gt=0, description="passes over the forget set")
    floor: float | None = Field(
        None, lt=0, description="one level for all, mean log p of a reply's token in nats; null: that of holdout people"
    )
    forget_weight: float = Field(1.0, gt=0)
    kl_weight: float = Field(1.0, ge=0, description="weight of KL(reference || current) on retain")

    @property
    def uses_retain(self) -> bool:
        return self.retain_weight > 0 or self.kl_weight > 0

    @property
    def uses_holdout(self) -> bool:
        return self.floor is None and self.reference == "target"

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = self._forget(step) if step.on_forget else {}
        if step.on_retain and self.kl_weight:
            kl = kl_to_reference(step.retain.current.logits_NV, step.retain.reference.logits_NV)
            terms["retain_kl"] = self.kl_weight * kl
        return terms | self.retain_terms(step)

    def _forget(self, step: Step) -> dict[str, Tensor]:
        """One term per modality in the step."""
        current = step.forget.current
        distance = distance_B(current, self._level_B(step))
        shown_B = torch.tensor([turn.image is not None for turn in step.forget.turns], device=distance.device)
        modalities = {"forget_image_text": shown_B, "forget_text": ~shown_B}
        present = {name: rows_B for name, rows_B in modalities.items() if rows_B.any()}
        return {name: self.forget_weight / len(present) * distance[rows_B].mean() for name, rows_B in present.items()}

    def _level_B(self, step: Step) -> Tensor:
        if self.reference == "retain_model":
            known = step.forget.reference
            return known.row_logp_B / known.row_length_B
        if self.floor is None:
            return step.forget.holdout_level_B
        return torch.tensor([self.floor], device=step.forget.current.logits_NV.device)


PLUGIN = HoldoutMatch
