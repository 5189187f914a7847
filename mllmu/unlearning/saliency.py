"""Which weights matter for what is to be forgotten or kept, measured before training; and training only those."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mllmu.training.distributed import gradients

SideName = Literal["forget", "retain"]


@dataclass(frozen=True)
class Saliency:
    """Gradients at the start of training, averaged over all batches of a side.

    With adapters one of the two factors starts at zero, so only the other has a gradient; where there is none,
    everything measured here is 0.

    Attributes:
        weights: the trainable weights.
        losses: a side -> its nll, batch by batch, with gradient (mean over the tokens of a batch).
    """

    weights: Sequence[Tensor]
    losses: Callable[[SideName], Iterator[Tensor]]

    def gradient(self, side: SideName) -> list[Tensor]:
        """Mean gradient of the nll, like the weights, in nats per token and unit of weight."""
        return self._mean(side, lambda gradient: gradient)

    def fisher(self, side: SideName) -> list[Tensor]:
        """Diagonal of the empirical Fisher information: the mean over batches of the squared gradient, >= 0."""
        return self._mean(side, torch.square)

    def _mean(self, side: SideName, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in self.weights]
        count = 0
        for loss in self.losses(side):
            count += 1
            for total, gradient in zip(sums, gradients(loss, self.weights), strict=True):
                if gradient is not None:
                    total += of(gradient.float())
        return [total / count for total in sums]


def restrict(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """From now on drop the gradient where a mask is False; Adam without weight decay then leaves those entries be."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
