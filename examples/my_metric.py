"""A metric in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.extra_metrics=["my_metric:LengthError"]'
"""

import math

from mllmu import Metric, Response, Sample


class LengthError(Metric):
    """How far a free reply is from the length of the true one: |words of the reply / words of the true one - 1|.

    0 is the best, as 'A nurse in Riga.' for 'She is a nurse.', 4 words for 4. A model that falls silent has 1, one that
    says twice as much too, and one that rambles on has more.
    """

    source = "ours"
    tasks = ("generation",)
    label = "Length error"
    unit = "ratio"
    range = (0.0, math.inf)
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        words = len(sample.target.split())
        return abs(len(response.text.split()) / words - 1) if words else "the true reply has no word"
