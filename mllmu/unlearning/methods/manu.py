"""Modality-aware pruning of neurons."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mllmu.core.errors import ModelError
from mllmu.models.families import Turn, core
from mllmu.models.modifiers import Modifier, ModifierSettings, Pruned
from mllmu.unlearning.base import Method
from mllmu.unlearning.probing import Probe

NEURONS_LM = r".*(language_model|text_model).*\.mlp\.(down_proj|fc2)"
NEURONS_VISION = r".*(vision|visual).*\.mlp\.(fc2|down_proj|linear_fc2)"
"""Layers that read the neurons of an MLP."""
TINY = 1e-8


class ModalityAwareNeurons(Method):
    """Switch off the MLP neurons that are much more active on the forget set than on the retain set; no training.

    I(D) = mean |z| + share of z > 0 + variance of z + root of mean z^2, z a neuron's output over the tokens of D
    score = I(forget) / (I(retain) + 1e-8), for each modality that is unlearned; the ``share`` of the neurons of the
    language model with the highest score goes in each modality, and with ``vision`` as many of the vision tower's
    (by the images).

    The whole turn counts, true reply included; padding does not. Of a side and modality at most 256 turns are looked
    at. Published code registers every layer under the same names; this follows the formula.

    Cost: 1 forward pass over forget and over retain; no training, no reference, nothing at inference. Saved are
    boolean masks, so the neurons come back with the next loading without them.
    Made for: both modalities. The paper prunes 2, 5 or 10 %.
    """

    source = "https://arxiv.org/abs/2502.15910"
    trains = False
    modifies = True
    tuned = ("share",)

    modality: Literal["image_text", "text", "both"] = Field("both", description="what is unlearned")
    share: float = Field(0.05, gt=0, lt=1, description="share of the neurons switched off, for each modality")
    vision: bool = Field(False, description="the vision tower's neurons too")

    def modifier(self, probe: Probe) -> Modifier:
        masks: dict[str, Tensor] = {}
        for has_image in (True, False):
            forget, retain = (of_modality(side, has_image=has_image) for side in (probe.forget, probe.retain))
            if not (forget and retain):
                continue
            for pattern in [NEURONS_LM, *([NEURONS_VISION] if self.vision and has_image else [])]:
                scores = ratio(importance(probe, forget, pattern), importance(probe, retain, pattern))
                for name, mask in most(scores, self.share).items():
                    masks[name] = masks[name] | mask if name in masks else mask
        facts = {
            "neurons": float(sum(map(len, masks.values()))),
            "off": float(sum(int(m.sum()) for m in masks.values())),
        }
        return Pruned(ModifierSettings(kind="pruned", facts=facts), masks)


def of_modality(turns: Sequence[Turn], *, has_image: bool) -> list[Turn]:
    """The turns with an image, or those without."""
    return [turn for turn in turns if (turn.image is not None) == has_image]


def ratio(forget: dict[str, Tensor], retain: dict[str, Tensor]) -> dict[str, Tensor]:
    """Score of every neuron by layer; layers that never ran have none."""
    return {name: forget[name] / (retain[name] + TINY) for name in forget if len(forget[name])}


def most(scores: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Boolean masks of the highest scores over all layers together, rounded, at least one."""
    together = torch.cat(list(scores.values()))
    threshold = together.topk(max(1, round(share * len(together)))).values[-1]
    return {name: score >= threshold for name, score in scores.items()}


@torch.no_grad()
def importance(probe: Probe, turns: Sequence[Turn], pattern: str) -> dict[str, Tensor]:
    """[F] importance of every neuron by the name of the layer that reads it; see :class:`Activity`."""
    modules = {name: module for name, module in core(probe.loaded.model).named_modules() if re.fullmatch(pattern, name)}
    if not modules:
        raise ModelError(f"no layer of {type(probe.loaded.model).__name__} is named like {pattern!r}.")
    activity = {name: Activity() for name in modules}
    handles = [module.register_forward_pre_hook(activity[name].watch) for name, module in modules.items()]
    try:
        for _, plain in probe.batches(probe.some(turns)):
            for each in activity.values():
                each.real_BT = plain.inputs["attention_mask"].bool()
            core(probe.loaded.model).model(**plain.inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: each.importance() for name, each in activity.items()}


class Activity:
    """Running statistics of the neurons of one layer.

    importance = mean |z| + share of z > 0 + variance of z + root of mean z^2, over all tokens seen

    For z = 1, -1: 1 + 0.5 + 1 + 1 = 3.5.

    Attributes:
        real_BT: the tokens of the pass under way that are no padding.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []
        self.real_BT = torch.zeros(0, 0, dtype=torch.bool)

    def watch(self, module: Any, args: Any) -> None:
        """Count what a layer reads: the real tokens in the language model, all patches of images elsewhere."""
        z = args[0]
        self.add(z[self.real_BT] if z.shape[:2] == self.real_BT.shape else z.flatten(0, -2))

    def add(self, z_NF: Tensor) -> None:
        """Count the activations of some tokens."""
        z_NF = z_NF.double()
        sums = [z_NF.abs().sum(0), (z_NF > 0).sum(0), z_NF.sum(0), z_NF.square().sum(0)]
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)] if self.sums else sums
        self.count += len(z_NF)

    def importance(self) -> Tensor:
        """[F] in float64; all 0 for a layer that never ran."""
        if not self.count:
            return torch.zeros(0)
        size_F, active_F, mean_F, square_F = (total / self.count for total in self.sums)
        return (size_F + active_F + (square_F - mean_F.square()).clamp(min=0) + square_F.sqrt()).cpu()
