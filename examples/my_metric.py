"""A metric in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'evaluate.extra_metrics=["my_metric:ReplyLength"]'
"""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu import Metric, Response, Sample, Score


class ReplyLength(Metric):
    """Words per free reply; a model that rambles or falls silent shows here before its accuracy moves.

    'A nurse in Riga.' has 4 words.
    """

    source: ClassVar[str] = "ours"
    tasks: ClassVar[tuple[str, ...]] = ("generation",)
    label: ClassVar[str] = "Words"
    unit: ClassVar[str] = "words"
    range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    best: ClassVar[str] = "lower"

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, float(len(response.text.split())))


PLUGIN = ReplyLength
