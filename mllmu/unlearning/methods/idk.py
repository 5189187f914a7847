"""Say that one does not know."""

from pydantic import Field

from mllmu.unlearning.alternatives import RefusalMethod


class IDontKnow(RefusalMethod):
    """Train refusals in place of the forget replies, and the retain replies as before.

    L = nll(refusal | forget question) + retain_weight * nll(retain); a refusal is drawn for each question and epoch.

    The true reply is covered up rather than removed: it may come back after little training or another question.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text; used on both modalities. Defaults of learning rate and epochs are those of FIUBench (LoRA on a VLM).
    """

    source = "https://arxiv.org/abs/2401.06121"

    epochs: float = Field(8, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(3e-4, gt=0, le=100)
