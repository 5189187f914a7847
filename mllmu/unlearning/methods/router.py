"""An adapter per deletion request, and a router."""

import re

import torch
from pydantic import Field
from torch import Tensor

from mllmu.models.families import core, num_layers
from mllmu.models.modifiers import Experts, Modifier, ModifierSettings
from mllmu.unlearning.alternatives import RefusalMethod
from mllmu.unlearning.probing import Probe, measured_facts, seeded_normal

RANK, ALPHA = 8, 16.0
"""Size of the adapters in a run without any."""


class RoutedAdapters(RefusalMethod):
    """One small adapter for each deletion request, used only where a router finds that request's people.

    router: behind one layer, the best of the people's linear scores h . w_p - threshold_p so far in the question, if
    above 0, and the request that the person belongs to (as the gate of ``steering``)
    adapters: in all linear layers behind it, B_r A_r x for the token's request r, nothing for other tokens
    L = nll(refusal | forget) + retain_weight * nll(retain), the adapters alone are trained

    The forgotten people are split into ``requests``, in the order of the data. Requests do not touch each other, and a
    later one can be another folder behind this one. How often the router is right is in the folder's ``modifier.json``,
    measured on questions about facts that it was not fitted to.
    A token is routed before any adapter has acted and by what it attends to, so a shared prefix stays shared.

    Cost: before training 1 forward pass over forget (at most 256 turns a person) and retain (at most 256), whose
    hidden states stay in memory meanwhile; a step: 1 forward and backward pass on forget and 1 on retain. Memory and
    time of R adapters in training and at inference.
    Made for: both modalities, requests one after the other.
    """

    source = "https://arxiv.org/abs/2606.12809"
    modifies = True
    tuned = (*RefusalMethod.tuned, "false_alarms")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(3e-4, gt=0, le=100)
    requests: int = Field(2, ge=1, le=1000, description="deletion requests that the forgotten people make")
    depth: float = Field(0.5, gt=0, lt=1, description="where the router is, as a share of the language model's layers")
    false_alarms: float = Field(0.01, gt=0, lt=1, description="share of retained questions given to a request")

    def modifier(self, probe: Probe) -> Modifier:
        layer = min(probe.layer(self.depth), num_layers(probe.loaded.model) - 2)
        people = probe.people()
        count = min(self.requests, len(people))
        owner_GR = torch.eye(count)[[number * count // len(people) for number in range(len(people))]]
        gate, confusion = probe.gate(people, layer, false_alarms=self.false_alarms)
        sent_GR = confusion[:-1, :-1] @ owner_GR
        facts = measured_facts(
            requests=float(count),
            routed_right=float((sent_GR * owner_GR).sum() / len(people)),
            routed_nowhere=float(confusion[:-1, -1].mean()),
            retain_routed=1 - float(confusion[-1, -1]),
        )
        rank, alpha = (probe.lora.rank, probe.lora.alpha) if probe.lora else (RANK, ALPHA)
        settings = ModifierSettings(kind="experts", layer=layer, strength=alpha / rank, facts=facts)
        return Experts(settings, gate, owner_GR, adapters(probe, layer, count, rank))


def adapters(probe: Probe, layer: int, requests: int, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors [R, r, in] and [R, out, r] for every linear layer behind a layer; the second starts at zero."""
    pattern, factors = probe.loaded.family.lora_targets, {}
    for name, module in core(probe.loaded.model).named_modules():
        index = re.search(r"\.layers\.(\d+)\.", name)
        if index and int(index[1]) > layer and re.fullmatch(pattern, name):
            down_RrI = seeded_normal(probe.seed, name, (requests, rank, module.in_features), scale=1 / rank)
            factors[name] = (down_RrI, torch.zeros(requests, module.out_features, rank))
    return factors
