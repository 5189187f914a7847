"""Sharpness-aware negative preference optimisation."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from mllmu.training.distributed import gradients
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms
from mllmu.unlearning.methods.npo import npo_loss


class SharpnessAwareNPO(RetainingMethod):
    """NPO that must also hold at the worst point nearby, so that relearning takes longer.

    L = npo(w + radius * g / ||g||) + retain_weight * nll(retain),  g = gradient of npo(w); npo as in ``npo``:
    (2 / beta) * mean over replies of softplus(beta * (log p - log p_ref)), log p summed over a reply

    Only the forget term is sharpness-aware, as in the paper.

    Cost of a step: 2 forward and backward passes and 1 extra forward (reference) on forget, 1 forward and backward
    pass on retain. Memory: two copies of the trained weights.
    Made for: text, against relearning attacks. The radius is to be tuned.
    """

    source = "https://arxiv.org/abs/2502.05374"
    uses_reference = True
    tuned = (*Method.tuned, "beta", "radius", "retain_weight")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    beta: float = Field(
        0.1, gt=0, le=10**6, description="inverse temperature, 1/nat; towards 0 it becomes gradient ascent"
    )
    radius: float = Field(0.01, gt=0, le=10**6, description="how far away the forgetting must hold, in units of weight")

    def forget_terms(self, step: Step) -> Terms:
        reference_B = step.forget.reference.row_logp_B

        def npo() -> Tensor:
            return npo_loss(step.forget.again().row_logp_B, reference_B, beta=self.beta)

        return {"forget_npo": sharpness_aware(npo, step.weights, rho=self.radius)}


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
    try:
        with torch.no_grad():
            for weight, gradient in zip(weights, first, strict=True):
                weight.add_(gradient * scale.to(gradient.dtype))
        value = loss()
        there = torch.autograd.grad(value, list(weights), allow_unused=True)
    finally:  # a pass that does not fit into memory is repeated, from where the weights were
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
    products = [(w * g).float().sum() for w, g in zip(weights, there, strict=True) if g is not None]
    linear = torch.stack(products).sum()
    return value.detach() + linear - linear.detach()
