"""Does the model still write sentences?"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class ReplyPerplexity(Metric):
    """Perplexity of a model's own replies under the base model: exp(mean over replies of their nll per token).

    1 = the base would have said the same. Names and places that only the target was taught surprise the base too, so
    compare with the target and the retain_model, not with 1; noise is many times higher. A reply's value is its nll per
    token in nats, end-of-sequence included, behind question and image; averaging before the exponential keeps one
    wild reply from deciding. Costs one pass of the base over all free replies.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2405.12523"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation",)
    unit: ClassVar[str] = "perplexity"
    range: ClassVar[tuple[float, float]] = (1.0, math.inf)
    label: ClassVar[str] = "Perplexity"
    best: ClassVar[Literal["higher", "lower"]] = "lower"
    needs_base_logp: ClassVar[bool] = True

    def score(self, sample: Sample, response: Response) -> Score:
        if not response.text.strip():
            return self.judged(sample, None, "empty reply")
        if response.base_logp is None:
            return self.judged(sample, None, "not scored under the base model")
        return self.judged(sample, -response.base_logp.logp / response.base_logp.num_tokens)

    def of_mean(self, mean: float) -> float:
        """exp of a mean nll in nats; capped, as an infinite number is no JSON."""
        return math.exp(min(mean, 700.0))


PLUGIN = ReplyPerplexity
