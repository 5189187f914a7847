"""How far is every number from the retain_model's?"""

from collections.abc import Iterable, Sequence

from mllmu.core import plugins
from mllmu.core.declared import MODALITY_LABELS, ColumnSpec, TableSpec, closeness
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import FORGOTTEN, MODALITIES, MetricResult, Modality, Split, Summary
from mllmu.evaluation.summaries import ScoredRun, Summariser

_DISTANCE = (
    "1 - |model - retain_model| / |target - retain_model|, clipped at 0: 1 is the retain_model's number, 0 the "
    "target's or one equally far on the other side."
)


class OracleDistance(Summariser):
    """Closeness to the retain_model per metric and set: 1 - |model - retain_model| / |target - retain_model|, >= 0.

    1: the retain_model's number; 0: the target's, or one equally far on the other side. The note ``beyond`` marks
    numbers on the far side of the retain_model, away from the target; on forgotten people that is no success. Undefined
    where target and retain_model are alike: they differ by less than 2 % of the metric's range, or, where it has no two
    ends (likelihoods in nats, perplexity), of the larger number's size.
    """

    source = "ours"
    range = (0.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        targets, retained = (
            {_cell(r): r.value for r in run.results if r.model == name} for name in (TARGET, RETAIN_MODEL)
        )
        rows = []
        for result in run.results:
            target, retain = targets.get(_cell(result)), retained.get(_cell(result))
            if result.model in (TARGET, RETAIN_MODEL) or target is None or retain is None:
                continue
            limits = plugins.find("metrics", result.metric).range
            value, note = closeness(result.value, target, retain, limits)
            where = {"split": result.split, "modality": result.modality, "num": result.num}
            rows.append(self.row(result.model, value, detail=f"{result.metric} {result.task}", note=note, **where))
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        yield TableSpec(
            title="How near to the retain_model, over all metrics",
            intro=f"{_DISTANCE} Median over all metrics for which target and retain_model differ; below, the number of "
            "these metrics, and for how many of them the model lies past the retain_model, which on forgotten people "
            "is no success.",
            columns=tuple(self._median(split, modality) for split in FORGOTTEN for modality in MODALITIES),
            order=60,
        )
        details = {row.detail for row in rows if row.summary == self.name and row.split == "forget"}
        yield TableSpec(
            title="How near, metric by metric, on forget",
            intro=f"{_DISTANCE} › marks numbers past the retain_model. Metrics for which target and retain_model do "
            "not differ are left out.",
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
