"""Weights as a coarse format would keep them, computed in place: what quantisation does to knowledge, on any device."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from mllmu.models.families import Family


@torch.no_grad()
def round_weights(model: Any, family: Family, *, bits: int) -> int:
    """Round the linear layers of the language model to ``bits`` bits, in place; returns how many layers.

    Round to nearest, symmetric, one scale per output channel: w = s * round(w / s), s = max|w| / (2^(bits-1) - 1).
    The arithmetic stays in the model's own precision, so this shows what the coarser weights do to the replies, not
    the speed or memory of a quantised model. Formats with other levels (NF4, GPTQ) round differently.
    """
    layers = [layer for name, layer in model.named_modules() if re.fullmatch(family.lora_targets, name)]
    for layer in layers:
        layer.weight.copy_(rounded(layer.weight, bits))
    return len(layers)


def rounded(weight_OI: Tensor, bits: int) -> Tensor:
    """[O, I] the nearest of 2^bits - 1 evenly spaced levels for every entry; a row of zeros stays zero.

    >>> rounded(torch.tensor([[0.9, 2.2, -3.0]]), 3)
    tensor([[ 1.,  2., -3.]])
    """
    levels = 2 ** (bits - 1) - 1
    scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / levels
    return torch.where(scale_O1 > 0, scale_O1 * torch.round(weight_OI / scale_O1.clamp(min=1e-30)), weight_OI)
