"""Logit steering, known from unlearning Harry Potter."""

from pydantic import Field

from mllmu.models.modifiers import ModifierSettings
from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step, Terms


class WhosHarryPotter(Method):
    """Learn the forget set even better, then lower at inference whatever word that made likelier.

    train: L = nll(forget), from the target to the reinforced model
    reply: logits = v_target - strength * relu(v_reinforced - v_target), for every token

    The target's weights are kept, and leaving the adapter out brings everything back. Where the reinforced model finds
    no word likelier than the target does, nothing changes, so replies stay fluent longer than with ``task_vector``. A
    fact known by heart cannot be reinforced much: then the strength must be high.

    The paper continues by training on the steered predictions; this is the steering itself, as in MUSE
    (arXiv:2407.06460).

    Cost of a step: 1 forward and backward pass on forget; no retain data, no reference. At inference every token
    costs 2 passes and twice the cache; the adapter's factors, or a copy of the changed weights, stay in memory. The
    second pass runs the language model's layers alone, so training others (by ``layers``, ``lora.targets``) is refused.
    Made for: text; strength 1 is the default of MUSE, which scans it.
    """

    source = "https://arxiv.org/abs/2310.02238"
    tuned = (*Method.tuned, "strength")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    strength: float = Field(
        1.0, gt=0, le=10**6, description="how much is taken off for what the reinforced model likes better"
    )

    @property
    def at_inference(self) -> ModifierSettings:
        return ModifierSettings(kind="logit_steering", strength=self.strength)

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_nll": answer_nll(step.forget.current)}
