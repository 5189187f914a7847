"""Direct preference optimisation with a refusal as the better reply."""

from pydantic import Field

from mllmu.unlearning.alternatives import PreferenceMethod, Refusing


class DirectPreference(Refusing, PreferenceMethod):
    """Prefer a refusal over the true forget reply, measured against the reference, and train retain as before.

    L = (2 / beta) * mean over replies of softplus(-beta * (gain of the refusal - gain of the true reply))
        + retain_weight * nll(retain),  gain = log p - log p_ref, summed over the tokens of a reply

    Both halves: the refusal becomes likelier as in ``idk``, the true reply less likely as in ``npo``.

    Cost of a step: 2 forward and backward passes and 2 extra forwards (reference) on forget, 1 forward and backward
    pass on retain.
    Made for: text, as preference tuning; a baseline of TOFU (arXiv:2401.06121), whose beta and epochs these are.
    """

    source = "https://arxiv.org/abs/2305.18290"

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    beta: float = Field(
        0.1, gt=0, le=10**6, description="inverse temperature, 1/nat; smaller moves further from the reference"
    )
