"""Which weights matter for what is to be forgotten or kept, measured before training; and training only those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from mllmu.training.distributed import gradients

SideName = Literal["forget", "retain"]


class Saliency:
    """Gradients at the start of training, averaged over all batches of a side.

    With adapters one of the two factors starts at zero, so only the other has a gradient; where there is none,
    everything measured here is 0.

    Args:
        weights: the trainable weights.
        losses: a side -> its nll, batch by batch, with gradient (mean over the tokens of a batch).
    """

    def __init__(self, weights: Sequence[Tensor], losses: Callable[[SideName], Iterator[Tensor]]) -> None:
        self._weights = weights
        self._losses = losses

    def gradient(self, side: SideName) -> list[Tensor]:
        """Mean gradient of the nll, like the weights, in nats a token and unit of weight."""
        return self._mean(side, lambda gradient: gradient)

    def fisher(self, side: SideName) -> list[Tensor]:
        """Diagonal of the empirical Fisher information: the mean over batches of the squared gradient, >= 0."""
        return self._mean(side, torch.square)

    def _mean(self, side: SideName, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in self._weights]
        count = 0
        for loss in self._losses(side):
            count += 1
            for total, gradient in zip(sums, gradients(loss, self._weights), strict=True):
                if gradient is not None:
                    total += of(gradient.float())
        return [total / count for total in sums]


def largest(scores: Sequence[Tensor], share: float) -> list[Tensor]:
    """Boolean masks of the largest of all positive scores; zero scores are never among them.

    The k largest are taken over all tensors together, k = share * number of positive scores, rounded, at least 1;
    ties with the k-th are all in.
    """
    positive = torch.cat([score[score > 0].flatten() for score in scores])
    if not len(positive):
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    number = max(1, round(share * len(positive)))
    threshold = positive.kthvalue(len(positive) - number + 1).values
    return [score >= threshold for score in scores]


def restrict(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """From now on drop the gradient where a mask is False; Adam without weight decay then leaves those entries be."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)


def sharpness_aware(loss: Callable[[], Tensor], weights: Sequence[Tensor], *, rho: float) -> Tensor:
    """A term with the loss and gradient of the worst point nearby, so that training looks for flat minima.

    w' = w + rho * g / ||g||, g = dL/dw at w, its norm over all weights together; the term has the value and the
    gradient of L at w'.

    Two passes and two backward passes; the weights are back where they were when this returns, so the term does not
    carry the graph of the second pass but a linear function of the weights with the same value and gradient.

    Args:
        loss: recomputed at each call.
        weights: trainable; those without influence on the loss are left alone.
        rho: radius, > 0, in units of weight.

    Returns:
        Scalar. With L(w) = w^2, w = 1, rho = 0.5: value 2.25, gradient 3.

    Source: Foret et al. 2021, arXiv:2010.01412.
    """
    first = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients(loss(), weights), strict=True)]
    norm = torch.stack([gradient.float().norm() for gradient in first]).norm()
    scale = rho / norm.clamp(min=torch.finfo(torch.float32).tiny)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, gradient in zip(weights, first, strict=True):
            weight.add_(gradient * scale.to(gradient.dtype))
    value = loss()
    there = torch.autograd.grad(value, list(weights), allow_unused=True)
    with torch.no_grad():
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    linear = torch.stack(
        [
            (weight * gradient).float().sum()
            for weight, gradient in zip(weights, there, strict=True)
            if gradient is not None
        ]
    ).sum()
    return value.detach() + linear - linear.detach()
