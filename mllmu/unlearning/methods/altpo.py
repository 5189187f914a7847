"""Alternate preference optimisation."""

from pydantic import Field

from mllmu.unlearning.alternatives import AnsweringWrongly, PreferenceMethod


class AlternatePreference(AnsweringWrongly, PreferenceMethod):
    """Prefer a plausible wrong reply over the true forget reply; the model keeps answering, and answers wrongly.

    L = (2 / beta) * mean over replies of softplus(-beta * (gain of the alternative - gain of the true reply))
        + retain_weight * nll(retain),  gain = log p - log p_ref, summed over the tokens of a reply

    The paper lets the model write the alternatives. Here they are the replies of *other people* to a question about
    the same attribute, drawn for each question and epoch: plausible by construction and nothing to generate. The
    price: the model learns another person's value as this one's. Where no other person has another reply, the
    alternative is a refusal.

    Cost of a step: 2 forward and backward passes and 2 extra forwards (reference) on forget, 1 forward and backward
    pass on retain.
    Made for: text. The paper scans beta 0.05 to 0.5 and retain weights 1 to 5, 10 epochs.
    """

    source = "https://arxiv.org/abs/2409.13474"

    epochs: float = Field(10, gt=0, le=10_000, description="passes over the forget set")
    beta: float = Field(
        0.1, gt=0, le=10**6, description="inverse temperature, 1/nat; smaller moves further from the reference"
    )
