"""What plug-ins declare in the reports that tests make: three tasks, five sets of people, four kinds of replies."""

from __future__ import annotations

from mllmu.core.declared import ColumnSpec, Declared, MetricInfo, SplitInfo, TableSpec, TaskInfo
from mllmu.core.records import PEOPLE_SPLITS

MAIN_METRIC = {"classification": "accuracy", "generation": "rougeL", "cloze": "cloze_contains"}
OUTCOMES = ("right", "wrong", "refused", "garbled")


def metric(label: str, about: str = "", **more: object) -> MetricInfo:
    return MetricInfo.model_validate({"label": label, "about": about, **more})


DECLARED = Declared(
    metrics={
        "accuracy": metric("Accuracy", "share of multiple-choice questions answered with the right letter"),
        "rougeL": metric("ROUGE-L", "overlap with the true sentence", percent=False),
        "cloze_contains": metric("Answer contained", "share of blanks whose value is in the reply"),
        "bleu": metric("BLEU-4", percent=False),
        "probability": metric("Probability", percent=False),
        **{name: metric(name.capitalize(), f"replies that are {name}", outcome=True) for name in OUTCOMES[:3]},
        "garbled": metric("Garbled", "empty or endlessly repeating replies", outcome=True, collapse=True),
    },
    tasks={task: TaskInfo(label=task.capitalize(), metric=name) for task, name in MAIN_METRIC.items()},
    splits={name: SplitInfo(label=name.capitalize()) for name in PEOPLE_SPLITS},
)


def with_tables(*tables: TableSpec) -> Declared:
    """The same with tables of summary numbers."""
    return DECLARED.model_copy(update={"tables": tables})


def with_metric(name: str, info: MetricInfo) -> Declared:
    """The same with one more metric."""
    return DECLARED.model_copy(update={"metrics": {**DECLARED.metrics, name: info}})


def column(summary: str, head: str, **more: object) -> ColumnSpec:
    return ColumnSpec.model_validate({"summary": summary, "head": head, **more})
