"""How far is every number from the retain_model's?"""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import MetricResult, Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser

SMALLEST = 0.02
"""Where target and retain_model differ by less, the metric cannot tell forgetting from knowing."""


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


def closeness(value: float | None, target: float | None, oracle: float | None) -> tuple[float | None, str]:
    """The number in [0, 1] and a note.

    >>> closeness(0.5, 0.9, 0.3), closeness(0.2, 0.9, 0.3), closeness(0.5, 0.3, 0.3)
    ((0.6666666666666667, ''), (0.8333333333333334, 'beyond'), (None, 'target and retain_model are alike'))
    """
    if value is None or target is None or oracle is None:
        return None, "not judged"
    span = target - oracle
    if abs(span) < SMALLEST:
        return None, "target and retain_model are alike"
    beyond = (value - oracle) * span < 0
    return max(0.0, 1 - abs(value - oracle) / abs(span)), "beyond" if beyond else ""


PLUGIN = OracleDistance
