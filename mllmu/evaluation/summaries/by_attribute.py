"""Which kinds of facts stay known?"""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser, mean


class ByAttribute(Summariser):
    """Share of right replies for every attribute: does the salary leak more than the place of birth?

    All tasks together; on the forgotten people the retain_model's row says how much of it is guessing.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    needs: ClassVar[tuple[str, ...]] = ("right",)

    def summarise(self, everything: ScoredRun) -> list[Summary]:
        rows = []
        for model in everything.models:
            for split, modality in everything.places():
                by: dict[str, list[float]] = {}
                for sample_id, value in everything.judged(model, "right", split=split, modality=modality).items():
                    by.setdefault(everything.samples[sample_id].attribute, []).append(value)
                rows += [
                    self.row(model, mean(by[name]), detail=name, split=split, modality=modality, num=len(by[name]))
                    for name in sorted(by)
                ]
        return rows


PLUGIN = ByAttribute
