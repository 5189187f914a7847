"""How far is every number from the retain_model's?"""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.declared import closeness
from mllmu.core.records import MetricResult, Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser


class OracleDistance(Summariser):
    """For every metric and set: 1 - |model - retain_model| / |target - retain_model|, clipped to [0, 1].

    1 = where the retain_model is, 0 = where the target is, or as far away on the other side. ``beyond`` in the note:
    the model went past the retain_model, away from the target; on forgotten people that is no success. Undefined where
    the metric does not tell target and retain_model apart (less than 0.02 of a share).
    """

    source: ClassVar[str] = "ours"
    needs: ClassVar[tuple[str, ...]] = ()

    def summarise(self, everything: ScoredRun) -> list[Summary]:
        starts, ends = (
            {_place(r): r.value for r in everything.results if r.model == name and r.value is not None}
            for name in (everything.target, everything.retain_model)
        )
        rows = []
        for result in everything.results:
            target, oracle = starts.get(_place(result)), ends.get(_place(result))
            if result.model in (everything.target, everything.retain_model) or target is None or oracle is None:
                continue
            value, note = closeness(result.value, target, oracle)
            rows.append(
                self.row(
                    result.model,
                    value,
                    detail=f"{result.metric} {result.task}",
                    split=result.split,
                    modality=result.modality,
                    num=result.num,
                    note=note,
                )
            )
        return rows


def _place(result: MetricResult) -> tuple[str, str, str, str]:
    return (result.metric, result.split, result.task, result.modality)


PLUGIN = OracleDistance
