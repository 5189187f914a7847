"""Membership by loss relative to how compressible the answer is."""

from __future__ import annotations

import math
import zlib

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_LIKELIHOOD, Metric


class MemberZlib(Metric):
    """Log-probability of the answer in nats divided by its length in bytes after zlib compression.

    Plain, repetitive text is likely for any model; dividing by its information makes answers comparable.
    """

    source = "https://arxiv.org/abs/2012.07805"
    tasks = ("generation", "cloze")
    unit = "nats a byte"
    range = (-math.inf, 0.0)
    label = "Membership: zlib"

    def value(self, sample: Sample, response: Response) -> float | str:
        found = response.candidates.get("target")
        return found.logp / len(zlib.compress(sample.target.encode())) if found else NO_LIKELIHOOD


PLUGIN = MemberZlib
