"""The smallest weights set to zero."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.evaluation.attacks._reweighting import Reweighting


class Pruning(Reweighting):
    """Set the smallest weights of every output channel to zero, adapters merged in."""

    source: ClassVar[str] = "https://arxiv.org/abs/2306.11695"
    label = "Pruned"

    share: float = Field(0.2, gt=0, lt=1, description="share of the weights of each channel")

    @property
    def title(self) -> str:
        return f"{self.label} by {self.share:.0%}"

    def changed(self, name: str, weight_OI: Tensor) -> Tensor:
        del name
        number = int(self.share * weight_OI.shape[1])
        if not number:
            return weight_OI
        smallest_ON = weight_OI.abs().topk(number, dim=1, largest=False).indices
        return weight_OI.scatter(1, smallest_ON, 0.0)
