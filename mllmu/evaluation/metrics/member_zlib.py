"""Membership by loss relative to how compressible the answer is."""

from __future__ import annotations

import math
import zlib
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class MemberZlib(Metric):
    """Log-probability of the answer in nats divided by its length in bytes after zlib compression.

    Plain, repetitive text is likely for any model; dividing by its information makes answers comparable.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2012.07805"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "nats a byte"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    label: ClassVar[str] = "Membership: zlib"

    def score(self, sample: Sample, response: Response) -> Score:
        found = response.candidates.get("target")
        if found is None:
            return self.judged(sample, None, "no likelihood for the target")
        return self.judged(sample, found.logp / len(zlib.compress(sample.target.encode())))


PLUGIN = MemberZlib
