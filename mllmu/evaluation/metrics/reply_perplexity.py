"""Does the model still write sentences?"""

import math

from mllmu.evaluation.metrics import EMPTY, Metric, Response, Sample


class ReplyPerplexity(Metric):
    """Perplexity of a model's own replies under the base model: exp(mean over replies of their nll per token).

    1 = the base would have said the same. Names and places that only the target was finetuned on surprise the base
    too, so compare with the target and the retain_model, not with 1; noise is many times higher. A reply's value is its
    nll per token in nats, end-of-sequence included, behind question and image; averaging before the exponential keeps
    one wild reply from deciding. Costs one pass of the base over all free replies.
    """

    source = "https://arxiv.org/abs/2405.12523"
    tasks = ("generation",)
    unit = "perplexity"
    range = (1.0, math.inf)
    label = "Perplexity"
    better = "lower"
    needs_base_logp = True

    def value(self, sample: Sample, response: Response) -> float | str:
        if not response.text.strip():
            return EMPTY
        found = response.base_logp
        return -found.logp / found.num_tokens if found else "not scored under the base model"

    def of_mean(self, mean: float) -> float:
        """exp of a mean nll in nats; capped, as an infinite number is no JSON."""
        return math.exp(min(mean, 700.0))
