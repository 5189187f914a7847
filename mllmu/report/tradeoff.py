"""Forgetting against utility: one row per model, task and modality, and who is on the Pareto front."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace

from mllmu.records import Modality, TaskName
from mllmu.report.inputs import ModelRow, ReportInput, check
from mllmu.report.numbers import COLLAPSE_SHARE, UTILITY_SPLITS, Interval, Numbers

ALL_TASKS = "all"


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
    forget = numbers.score(model.name, modality, ("forget",), task)
    target, gold = numbers.first("target"), numbers.first("retain_model")
    start = numbers.score(target.name, modality, ("forget",), task) if target else None
    ideal = numbers.score(gold.name, modality, ("forget",), task) if gold else Interval(0.0)
    garbled_retain = numbers.share(model.name, "garbled", numbers.cells(modality, ("retain",)), modality)
    return TradeoffRow(
        number=index + 1,
        model=model,
        modality=modality,
        task=task or ALL_TASKS,
        forget=forget,
        drop=start.value - forget.value if start and forget else None,
        distance=abs(forget.value - ideal.value) if ideal and forget else None,
        utility=numbers.score(model.name, modality, UTILITY_SPLITS, task),
        garbled_forget=numbers.share(model.name, "garbled", numbers.cells(modality, ("forget",)), modality),
        garbled_retain=garbled_retain,
        collapsed=garbled_retain is not None and garbled_retain >= COLLAPSE_SHARE,
    )


def mark_front(rows: list[TradeoffRow]) -> list[TradeoffRow]:
    """Mark the unlearned models that nobody beats, and no others. A collapsed model is no candidate."""
    rows = [replace(row, on_front=False) for row in rows]
    rivals = [row for row in rows if row.model.role in ("unlearned", "target") and not row.collapsed]
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


CSV_FIELDS = (
    *("number", "model", "role", "method", "unlearned_with", "forget_ratio", "modality", "task"),
    *("forget", "forget_low", "forget_high", "drop_from_target", "distance_to_retain_model"),
    *("utility", "utility_low", "utility_high", "garbled_forget", "garbled_retain"),
    *("collapsed", "on_front", "seconds", "peak_mib"),
)


def csv_text(rows: list[TradeoffRow]) -> str:
    """The rows as CSV; scores are 0 to 1 with six decimals, an unknown value is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in rows:
        writer.writerow([_cell(value) for value in _values(row)])
    return out.getvalue()


def _values(row: TradeoffRow) -> list[object]:
    model, forget, utility = row.model, row.forget, row.utility
    return [
        *(row.number, model.name, model.role, model.method, model.modality, model.forget_ratio, row.modality, row.task),
        *((forget.value, forget.low, forget.high) if forget else (None, None, None)),
        *(row.drop, row.distance),
        *((utility.value, utility.low, utility.high) if utility else (None, None, None)),
        *(row.garbled_forget, row.garbled_retain, row.collapsed, row.on_front, model.seconds, model.peak_mib),
    ]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value)
    # A spreadsheet would run a cell that starts like a formula; a leading apostrophe makes it text.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
