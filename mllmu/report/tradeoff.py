"""Forgetting against utility: one row per model, task and modality, and who is on the Pareto front."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mllmu.core.records import Modality, Split, TaskName
from mllmu.report.inputs import ModelRow, ReportInput, check
from mllmu.report.numbers import COLLAPSE_SHARE, Interval, Numbers, Standing
from mllmu.report.spreadsheet import csv_of

ALL_TASKS = "all"
_GARBLED: tuple[Split, Split] = ("forget", "retain")


@dataclass(frozen=True)
class TradeoffRow:
    """What one model gave up to forget, in one modality and task (``all``: the mean of the tasks).

    Attributes:
        number: position of the model in the report, the number printed in the plots.
        forget: main score on forget people, 0 to 1.
        drop: target's forget score minus this model's; positive means forgotten. None without a target.
        distance: absolute difference to the retain_model's forget score (without a retain_model: the forget score
            itself); lower is better. Forgetting more than a model that never learned is not better.
        utility: mean main score over retain and celebrity, 0 to 1; higher is better.
        standing: the same with what else is known, see :class:`mllmu.report.numbers.Standing`.
        collapsed: at least half of the replies about retain people are garbled, in this modality over all tasks.
        on_front: no other unlearned model, nor the target, is at least as good on both and better on one.
    """

    number: int
    model: ModelRow
    modality: Modality
    task: str
    forget: Interval | None
    drop: float | None
    distance: float | None
    utility: Interval | None
    garbled_forget: float | None
    garbled_retain: float | None
    collapsed: bool
    on_front: bool = False
    standing: Standing = field(default_factory=Standing)

    @property
    def partial(self) -> bool:
        """Some task could not be read, so the scores are means of the others and no candidate for the front."""
        return bool(self.standing.missing)

    @property
    def level(self) -> float | None:
        """The height in a plot: the utility, or where it would be if the missing tasks were as the target's."""
        if self.partial:
            return self.standing.level
        return self.utility.value if self.utility else None


def tradeoff_rows(report: ReportInput) -> list[TradeoffRow]:
    """All trade-off rows by modality, then task (``all`` first), then model in report order.

    Raises:
        DataError: the results cannot be compared, see :func:`mllmu.report.inputs.check`.
    """
    check(report)
    numbers = Numbers(report)
    rows: list[TradeoffRow] = []
    for modality in numbers.modalities:
        tasks = numbers.tasks(modality)
        choices: list[TaskName | None] = [None, *tasks] if len(tasks) > 1 else [None]
        for task in choices:
            rows += mark_front([_row(numbers, i, modality, task) for i in range(len(numbers.models))])
    return rows


def _row(numbers: Numbers, index: int, modality: Modality, task: TaskName | None) -> TradeoffRow:
    model = numbers.models[index]
    standing = numbers.standing(model.name, modality, task)
    garbled_forget, garbled_retain = (
        numbers.share(model.name, "garbled", numbers.cells(modality, (split,)), modality) for split in _GARBLED
    )
    return TradeoffRow(
        number=index + 1,
        model=model,
        modality=modality,
        task=task or ALL_TASKS,
        forget=standing.forget,
        drop=standing.drop,
        distance=standing.gap,
        utility=standing.utility,
        garbled_forget=garbled_forget,
        garbled_retain=garbled_retain,
        collapsed=garbled_retain is not None and garbled_retain >= COLLAPSE_SHARE,
        standing=standing,
    )


def mark_front(rows: list[TradeoffRow]) -> list[TradeoffRow]:
    """Mark the unlearned models that nobody beats, and no others.

    A collapsed model is no candidate, and neither is one with a task that cannot be read.
    """
    rows = [replace(row, on_front=False) for row in rows]
    rivals = [row for row in rows if row.model.role in ("unlearned", "target") and not (row.collapsed or row.partial)]
    return [
        replace(row, on_front=True)
        if row.model.role == "unlearned"
        and row in rivals
        and _complete(row)
        and not any(_beats(r, row) for r in rivals)
        else row
        for row in rows
    ]


def _complete(row: TradeoffRow) -> bool:
    return row.distance is not None and row.utility is not None


def _beats(a: TradeoffRow, b: TradeoffRow) -> bool:
    if a.distance is None or b.distance is None or a.utility is None or b.utility is None:
        return False
    as_good = a.distance <= b.distance and a.utility.value >= b.utility.value
    return as_good and (a.distance < b.distance or a.utility.value > b.utility.value)


@dataclass(frozen=True)
class Overview:
    """One model of the table under the plots: its rows by modality, and its mean distance from the retain_model."""

    number: int
    model: ModelRow
    distance: float | None
    rows: tuple[TradeoffRow, ...]


def overview(rows: list[TradeoffRow]) -> list[Overview]:
    """The rows of the mean over all tasks, one line per model, in report order."""
    by: dict[int, list[TradeoffRow]] = {}
    for row in rows:
        if row.task == ALL_TASKS:
            by.setdefault(row.number, []).append(row)
    found = []
    for number, of_model in sorted(by.items()):
        far = [row.standing.distance for row in of_model if row.standing.distance is not None]
        mean = sum(far) / len(far) if far else None
        found.append(Overview(number, of_model[0].model, mean, tuple(of_model)))
    return found


CSV_FIELDS = (
    *("number", "model", "role", "method", "unlearned_with", "forget_ratio", "modality", "task"),
    *("forget", "forget_low", "forget_high", "drop_from_target", "distance_to_retain_model"),
    *("utility", "utility_low", "utility_high", "garbled_forget", "garbled_retain"),
    *("collapsed", "on_front", "seconds", "peak_mib", "distance_with_utility", "tasks_missing"),
    *("tokens_per_s", "trainable"),
)


def csv_text(rows: list[TradeoffRow]) -> str:
    """The rows as CSV; scores are 0 to 1."""
    return csv_of(CSV_FIELDS, (_values(row) for row in rows))


def _values(row: TradeoffRow) -> list[object]:
    model, forget, utility = row.model, row.forget, row.utility
    return [
        *(row.number, model.name, model.role, model.method, model.modality, model.forget_ratio, row.modality, row.task),
        *((forget.value, forget.low, forget.high) if forget else (None, None, None)),
        *(row.drop, row.distance),
        *((utility.value, utility.low, utility.high) if utility else (None, None, None)),
        *(row.garbled_forget, row.garbled_retain, row.collapsed, row.on_front, model.seconds, model.peak_mib),
        *(row.standing.distance, " ".join(row.standing.missing)),
        *(model.tokens_per_s, model.trainable),
    ]
