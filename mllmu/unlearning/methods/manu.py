"""Modality-aware pruning of neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mllmu.models.modifiers import Modifier, ModifierSettings, Pruned
from mllmu.unlearning.base import Method
from mllmu.unlearning.probing import NEURONS_LM, NEURONS_VISION

if TYPE_CHECKING:
    from mllmu.models.families import Turn
    from mllmu.unlearning.probing import Probe

TINY = 1e-8


class ModalityAwareNeurons(Method):
    """Switch off the MLP neurons that are much more active on the forget set than on the retain set; no training.

    I(D) = mean |z| + share of z > 0 + variance of z + root of mean z^2, z a neuron's output over the tokens of D
    score = I(forget) / (I(retain) + 1e-8), for each modality that is unlearned; the ``share`` of the neurons of the
    language model with the highest score goes in each modality, and with ``vision`` as many of the vision tower's
    (by the images).

    The whole turn counts, true reply included; padding does not. At most 256 turns of a side are looked at.
    Published code registers every layer under the same names; this follows the formula.

    Cost: 1 forward pass over forget and over retain; no training, no reference, nothing at inference. Saved are
    boolean masks, so the neurons come back with the next loading without them.
    Made for: both modalities. The paper prunes 2, 5 or 10 %.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2502.15910"
    trains: ClassVar[bool] = False
    modifies: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = ("share",)

    modality: Literal["image_text", "text", "both"] = Field("both", description="what is unlearned")
    share: float = Field(0.05, gt=0, lt=1, description="share of the neurons switched off, for each modality")
    vision: bool = Field(default=False, description="the vision tower's neurons too")

    @property
    def uses_retain(self) -> bool:
        return True

    def modifier(self, probe: Probe) -> Modifier:
        masks: dict[str, Tensor] = {}
        for has_image in (True, False):
            forget, retain = _asked(probe.forget, has_image=has_image), _asked(probe.retain, has_image=has_image)
            if not (forget and retain):
                continue
            for pattern in [NEURONS_LM, *([NEURONS_VISION] if self.vision and has_image else [])]:
                scores = ratio(probe.importance(forget, pattern), probe.importance(retain, pattern))
                for name, mask in most(scores, self.share).items():
                    masks[name] = masks[name] | mask if name in masks else mask
        facts = {
            "neurons": float(sum(map(len, masks.values()))),
            "off": float(sum(int(m.sum()) for m in masks.values())),
        }
        return Pruned(ModifierSettings(kind="pruned", facts=facts), masks)


def _asked(turns: Sequence[Turn], *, has_image: bool) -> list[Turn]:
    return [turn for turn in turns if (turn.image is not None) == has_image]


def ratio(forget: dict[str, Tensor], retain: dict[str, Tensor]) -> dict[str, Tensor]:
    """Score of every neuron by layer; layers that never ran have none."""
    return {name: forget[name] / (retain[name] + TINY) for name in forget if len(forget[name])}


def most(scores: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Boolean masks of the highest scores over all layers together, rounded, at least one."""
    everything = torch.cat(list(scores.values()))
    number = max(1, round(share * len(everything)))
    threshold = everything.topk(number).values[-1]
    return {name: score >= threshold for name, score in scores.items()}


PLUGIN = ModalityAwareNeurons
