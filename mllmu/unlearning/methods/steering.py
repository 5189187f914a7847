"""Refusal steering at inference."""

from pydantic import Field

from mllmu.models.modifiers import Modifier, ModifierSettings, Steering
from mllmu.unlearning.alternatives import RefusalMethod
from mllmu.unlearning.probing import Probe, measured_facts, seeded_normal


class RefusalSteering(RefusalMethod):
    """Add one vector behind one layer wherever the forgotten people are spoken of, so that the model declines.

    h_t = h_t + v  where  max over people p and s <= t of h_s . w_p - threshold_p > 0: once open, a gate stays open
    w_p: linear discriminant of a person's questions from the retained ones, at the last prompt token
    threshold_p: all together are passed at any token by the share ``false_alarms`` of the retained questions
    L(v) = nll(refusal | forget) + retain_weight * nll(retain), the model's weights frozen

    The vector is trained, since a model that has never declined has no direction of refusal to be found in it. Weights
    stay untouched: without the modifier's folder the target is back. The weights still hold the facts. How often the
    gate opens is in the folder's ``modifier.json``, measured on questions about facts that it was not fitted to.

    Cost: before training 1 forward pass over forget (at most 256 turns a person) and retain (at most 256), whose
    hidden states stay in memory meanwhile; a step: 1 forward and backward pass on forget and 1 on retain; one trained
    vector. At inference one product of a vector per token.
    Made for: both modalities, at inference (layer 17 of 32 in the paper).
    """

    source = "https://arxiv.org/abs/2605.15687"
    modifies = True
    tuned = (*RefusalMethod.tuned, "false_alarms")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-2, gt=0, le=100, description="of the vector; much higher than for weights")
    depth: float = Field(0.5, gt=0, le=1, description="which layer, as a share of the language model's layers")
    strength: float = Field(1.0, gt=0, le=10**6, description="factor of the vector")
    false_alarms: float = Field(0.01, gt=0, lt=1, description="share of retained questions at which the gate fires")

    def modifier(self, probe: Probe) -> Modifier:
        layer = probe.layer(self.depth)
        gate, confusion = probe.gate(probe.people(), layer, false_alarms=self.false_alarms)
        facts = measured_facts(
            fires_on_forget=1 - float(confusion[:-1, -1].mean()), fires_on_retain=1 - float(confusion[-1, -1])
        )
        settings = ModifierSettings(kind="steering", layer=layer, strength=self.strength, facts=facts)
        start_D = seeded_normal(probe.seed, "vector", (gate.gate_RD.shape[1],), scale=1e-3)
        return Steering(settings, gate, start_D)
