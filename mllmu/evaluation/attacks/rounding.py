"""Weights with fewer bits."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mllmu.evaluation.attacks._reweighting import Reweighting
from mllmu.models.weights import rounded

BLOCK = 64
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105003, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
"""The levels of a 4-bit normal float (Dettmers et al. 2023, arXiv:2305.14314)."""


class Rounding(Reweighting):
    """Round the weights, adapters merged in: to bfloat16 as when merging, to 8 bits per channel, or to NF4 in blocks.

    A small change of the weights that unlearning made may be rounded away. int8: w = s round(w / s), s = max|w| / 127
    of an output channel; nf4: the nearest of 16 levels times the largest |w| of each 64 weights. The products stay in
    the model's own precision.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.16454"
    label = "Rounded"

    format: Literal["bf16", "int8", "nf4"] = "nf4"
    """bf16: as merging an adapter in bfloat16 does; int8 and nf4: as quantisation does"""

    @property
    def title(self) -> str:
        return f"{self.label} to {self.format}"

    def changed(self, name: str, weight_OI: Tensor) -> Tensor:
        del name
        if self.format == "bf16":
            return weight_OI.to(torch.bfloat16).to(weight_OI.dtype)
        return rounded(weight_OI, 8) if self.format == "int8" else nf4(weight_OI)


def nf4(weight_OI: Tensor) -> Tensor:
    """[O, I] every weight at the nearest level of its block of 64 in a row; a shorter last block has its own scale.

    >>> nf4(torch.tensor([[2.0, 0.0, 0.17, -2.0]]))
    tensor([[ 2.0000,  0.0000,  0.1592, -2.0000]])
    """
    levels = torch.tensor(NF4, dtype=torch.float32, device=weight_OI.device)
    middles = (levels[1:] + levels[:-1]) / 2
    parts = []
    for block_OB in weight_OI.float().split(BLOCK, dim=1):
        scale_O1 = block_OB.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        parts.append(levels[torch.bucketize((block_OB / scale_O1).contiguous(), middles)] * scale_O1)
    return torch.cat(parts, dim=1).to(weight_OI.dtype)
