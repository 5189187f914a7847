"""Representation misdirection."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.core.process import derive
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms, layer_at

NUM_TRAINED = 3
"""Layers whose weights change: the chosen one and those right before it."""


class RepresentationMisdirection(RetainingMethod):
    """Push the hidden states of one layer towards a random direction on forget, and hold them on retain.

    L = mean over tokens and dimensions of (h - steering * u)^2 on forget
        + retain_weight * mean over tokens and dimensions of (h - h_ref)^2 on retain

    h: hidden states that leave the layer, at the positions from which reply tokens are predicted; u: one random unit
    vector with entries >= 0 for the whole training. Only the down projections of that layer and the two before it
    are trained. What ``steering`` means depends on the size of the model's hidden states: it should exceed them.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain, and 1 extra forward on retain (reference);
    few trained weights.
    Made for: text. depth 0.25 is the paper's layer 7 of 32; 6.5 and 1200 are its values for Zephyr-7B.
    """

    source = "https://arxiv.org/abs/2403.03218"
    uses_reference = True
    tuned = (*Method.tuned, "steering", "retain_weight")

    learning_rate: float = Field(5e-5, gt=0, le=100)
    depth: float = Field(0.25, gt=0, le=1, description="which layer, as a share of the language model's layers")
    steering: float = Field(6.5, gt=0, le=10**6, description="length of the hidden state to go to")
    retain_weight: float = Field(1200.0, gt=0, le=10**6, description="weight of the term on retain")

    def targets(self, num_layers: int) -> str:
        last = layer_at(self.depth, num_layers)
        layers = "|".join(str(layer) for layer in range(max(0, last - NUM_TRAINED + 1), last + 1))
        return rf".*(language_model|text_model).*\.layers\.({layers})\.mlp\.down_proj"

    def forget_terms(self, step: Step) -> Terms:
        hidden_ND = step.forget.hidden(self.depth)
        goal_D = self.steering * direction(hidden_ND.shape[1], step.seed).to(hidden_ND.device)
        return {"forget_steering": (hidden_ND - goal_D).square().mean()}

    def retain_terms(self, step: Step) -> Terms:
        moved_ND = step.retain.hidden(self.depth) - step.retain.hidden(self.depth, reference=True).detach()
        return {"retain_hidden": self.retain_weight * moved_ND.square().mean()}


def direction(size: int, seed: int) -> Tensor:
    """[D] random unit vector, uniform entries >= 0 before it is normed; the same for the same seed."""
    random_D = torch.rand(size, generator=torch.Generator().manual_seed(derive(seed, "rmu")))
    return F.normalize(random_D, dim=0)
