"""A metric in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.extra_metrics=["my_metric:RelativeLength"]'
"""

import math

from mllmu import Metric, Response, Sample


class RelativeLength(Metric):
    """Words of a free reply per word of the true one; a model that rambles or falls silent is far from 1.

    'A nurse in Riga.' against 'She is a nurse.': 4 words for 4, so 1.
    """

    source = "ours"
    tasks = ("generation",)
    label = "Relative length"
    unit = "ratio"
    range = (0.0, math.inf)
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        words = len(sample.target.split())
        return len(response.text.split()) / words if words else "the true reply has no word"
