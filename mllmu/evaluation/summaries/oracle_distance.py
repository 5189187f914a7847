"""How far is every number from the retain_model's?"""

from collections.abc import Iterable, Sequence

from mllmu.core.declared import MODALITY_LABELS, ColumnSpec, TableSpec, closeness
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import FORGOTTEN, MODALITIES, MetricResult, Modality, Split, Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser

_DISTANCE = (
    "1 - |model - retain_model| / |target - retain_model|, clipped at 0: 1 at the retain_model's number, 0 at the "
    "target's or as far away on the other side."
)


class OracleDistance(Summariser):
    """For every metric and set: 1 - |model - retain_model| / |target - retain_model|, clipped to [0, 1].

    1 = where the retain_model is, 0 = where the target is, or as far away on the other side. ``beyond`` in the note:
    the model went past the retain_model, away from the target; on forgotten people that is no success. Undefined where
    the metric does not tell target and retain_model apart (less than 0.02 of a share).
    """

    source = "ours"

    def summarise(self, run: ScoredRun) -> list[Summary]:
        targets, retained = (
            {_cell(r): r.value for r in run.results if r.model == name} for name in (TARGET, RETAIN_MODEL)
        )
        rows = []
        for result in run.results:
            target, retain = targets.get(_cell(result)), retained.get(_cell(result))
            if result.model in (TARGET, RETAIN_MODEL) or target is None or retain is None:
                continue
            value, note = closeness(result.value, target, retain)
            where = {"split": result.split, "modality": result.modality, "num": result.num}
            rows.append(self.row(result.model, value, detail=f"{result.metric} {result.task}", note=note, **where))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        yield TableSpec(
            title="How near to the retain_model, over all metrics",
            intro=f"{_DISTANCE} Median over all metrics that tell target and retain_model apart; below, how many these "
            "are, and in how many of them the model went past the retain_model, which on forgotten people is no "
            "success.",
            columns=tuple(self._median(split, modality) for split in FORGOTTEN for modality in MODALITIES),
            order=60,
        )
        details = {row.detail for row in rows if row.summary == self.name and row.split == "forget"}
        yield TableSpec(
            title="How near, metric by metric, on forget",
            intro=f"{_DISTANCE} › marks numbers past the retain_model. Metrics that do not tell these two apart are "
            "left out.",
            columns=tuple(self._metric(*name) for name in sorted(detail.split()[::-1] for detail in details)),
            order=70,
            by_modality=True,
            folded=True,
        )

    def _median(self, split: Split, modality: Modality) -> ColumnSpec:
        head = f"{split}, {MODALITY_LABELS[modality]}"
        return self.column(head, split=split, modality=modality, good="near", median=True)

    def _metric(self, task: str, metric: str) -> ColumnSpec:
        made_from = {"detail": f"{metric} {task}", "metric": metric, "task": task}
        return self.column(metric, under=task, split="forget", good="near", **made_from)


def _cell(result: MetricResult) -> tuple[str, str, str, str]:
    """What a result is about, whatever the model."""
    return (result.metric, result.split, result.task, result.modality)


PLUGIN = OracleDistance
