"""The tables of a report as plain rows: four sets, KS distances, all metrics, cost, and one for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from mllmu.core.names import BASELINES
from mllmu.core.records import MODALITIES, SPLITS, TASKS, MetricResult, Modality, Split, TaskName
from mllmu.report.inputs import ModelRow, ReportInput, TrustRow
from mllmu.report.numbers import (
    FEW_PEOPLE,
    MAIN_METRIC,
    METRIC_LABELS,
    MODALITY_LABELS,
    Cell,
    Interval,
    Numbers,
    between,
    duration,
    is_percent,
    percent,
    show,
)
from mllmu.report.tradeoff import TradeoffRow

UNPARSED_ALARM = 0.2
"""From this share of unparsed replies on, a cell is marked: its score is over a chosen few."""


@dataclass(frozen=True)
class SetCell:
    """One cell of a four-set table: value, interval, and how many replies could not be read, if any.

    ``shade`` is 0 (bad) to 5 (good), None where it has no meaning; ``alarm``: so many were unreadable that the value is
    over a chosen few.
    """

    value: str
    between: str
    count: str
    title: str
    shade: int | None
    alarm: bool


@dataclass(frozen=True)
class SetColumn:
    """A set of people in a four-set table: what was asked, and whether that is too few people for an interval."""

    split: str
    asked: str
    few: bool


@dataclass(frozen=True)
class SetRow:
    """One model (or baseline) of a four-set table; ``number`` is 0 for chance and majority."""

    number: int
    name: str
    role: str
    cells: tuple[SetCell, ...]


@dataclass(frozen=True)
class SetTable:
    """The paper's table for one task and modality: splits across, models down."""

    task: str
    modality: str
    metric: str
    unit: str
    trust: str
    columns: tuple[SetColumn, ...]
    rows: tuple[SetRow, ...]


def four_set_tables(numbers: Numbers, trust: Sequence[TrustRow] = ()) -> list[SetTable]:
    """One table per task and modality that any model was asked; ``trust``: what is known about their metrics."""
    places = [(task, m) for task in TASKS for m in numbers.modalities if task in numbers.tasks(m)]
    return [_set_table(numbers, m, task, trust) for task, m in places]


def _set_table(numbers: Numbers, modality: Modality, task: TaskName, trust: Sequence[TrustRow]) -> SetTable:
    splits = [split for split in numbers.splits(modality) if numbers.cells(modality, [split], task)]
    metric = MAIN_METRIC[task]
    lucky = [name for name in BASELINES if any(numbers.result(name, metric, (s, task), modality) for s in splits)]
    rows = [SetRow(0, name, "baseline", _set_cells(numbers, name, None, splits, task, modality)) for name in lucky]
    for number, row in enumerate(numbers.models, start=1):
        rows.append(SetRow(number, row.name, row.role, _set_cells(numbers, row.name, row, splits, task, modality)))
    unit = "%" if is_percent(metric) else "0 to 1"
    columns = tuple(_set_column(numbers, (split, task), modality) for split in splits)
    known = {(row.metric, row.task, row.modality): row.auc for row in trust}
    auc = known.get((metric, task, modality))
    return SetTable(
        task, MODALITY_LABELS[modality], METRIC_LABELS[metric], unit,
        "" if auc is None else f"{auc:.2f}", columns, tuple(rows),
    )  # fmt: skip


def _set_column(numbers: Numbers, cell: Cell, modality: Modality) -> SetColumn:
    """All models were asked the same, see :func:`mllmu.report.inputs.check`."""
    of_models = (numbers.result(row.name, MAIN_METRIC[cell[1]], cell, modality) for row in numbers.models)
    found = [result for result in of_models if result]
    asked = max((result.num + result.num_unparsed for result in found), default=0)
    people = max((result.num_profiles for result in found), default=0)  # of the judged replies
    return SetColumn(cell[0], f"n {asked}, {people} people", few=people < FEW_PEOPLE)


def _set_cells(
    numbers: Numbers, name: str, row: ModelRow | None, splits: list[Split], task: TaskName, modality: Modality
) -> tuple[SetCell, ...]:
    cells = []
    for split in splits:
        result = numbers.result(name, MAIN_METRIC[task], (split, task), modality)
        score = numbers.main(name, (split, task), modality)
        judged = row is not None and row.role == "unlearned" and score is not None
        shade = goodness(numbers, score, (split, task), modality) if judged and score else None
        cells.append(_set_cell(result, score, shade))
    return tuple(cells)


def _set_cell(result: MetricResult | None, score: Interval | None, shade: float | None) -> SetCell:
    if result is None:
        return SetCell("–", "", "", "not asked", None, alarm=False)
    asked = result.num + result.num_unparsed
    count = f"{result.num_unparsed} of {asked} unparsed" if result.num_unparsed else ""
    title = f"{result.num} replies judged, {result.num_unparsed} not, {result.num_profiles} people"
    alarm = asked > 0 and result.num_unparsed / asked >= UNPARSED_ALARM
    value = show(result.metric, score.value if score else None)
    step = None if shade is None or alarm else min(5, int(shade * 6))
    return SetCell(value, between(score, result.metric), count, title, step, alarm=alarm)


def goodness(numbers: Numbers, score: Interval, cell: Cell, modality: Modality) -> float | None:
    """How good a score is, 0 to 1; 1 is the retain_model on forget and test, and the target elsewhere.

    forget, test:  1 - |score - retain_model| / |target - retain_model|
    elsewhere:     (score - chance) / (target - chance), chance 0 where it is not defined
    Both clipped to 0..1. None if a yardstick is missing, or if the two yardsticks are no further apart than their
    half intervals together: then the shade would show noise.
    """
    target, gold = numbers.first("target"), numbers.first("retain_model")
    start = numbers.main(target.name, cell, modality) if target else None
    if cell[0] in ("forget", "test"):
        best, worst = numbers.main(gold.name, cell, modality) if gold else None, start
    else:
        best, worst = start, numbers.main("chance", cell, modality) or Interval(0.0)
    if best is None or worst is None:
        return None
    span = abs(best.value - worst.value)
    if span <= (best.half or 0.0) + (worst.half or 0.0):
        return None
    gap = abs(score.value - best.value) if cell[0] in ("forget", "test") else best.value - score.value
    return min(1.0, max(0.0, 1 - gap / span))


@dataclass(frozen=True)
class Grid:
    """A plain table: headings and printable rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def ks_table(report: ReportInput, numbers: Numbers) -> Grid | None:
    """KS distances to the retain_model, one column per split and modality; None if none were given."""
    found = {(k.model, k.split, k.modality): k.value for k in report.ks}
    columns = [(s, m) for m in MODALITIES for s in SPLITS if any((s, m) == key[1:] for key in found)]
    if not columns:
        return None
    order = [row.name for row in numbers.models]
    order += sorted({k.model for k in report.ks} - set(order))
    named = {k.model for k in report.ks}
    rows = [(n, *(show("truth_ratio", found.get((n, *c))) for c in columns)) for n in order if n in named]
    return Grid(("model", *(f"{split}, {MODALITY_LABELS[m]}" for split, m in columns)), tuple(rows))


@dataclass(frozen=True)
class CostRow:
    """What a model cost and how it was made."""

    name: str
    role: str
    method: str
    modality: str
    forget_ratio: str
    seconds: str
    relative: str
    peak: str
    speed: str
    trainable: str
    settings: str
    warnings: tuple[str, ...]


def cost_rows(numbers: Numbers) -> list[CostRow]:
    """One row per model; settings as compact JSON."""
    return [
        CostRow(
            name=row.name,
            role=row.role,
            method=row.method or "–",
            modality=MODALITY_LABELS[row.modality] if row.modality else "–",
            forget_ratio=percent(row.forget_ratio),
            seconds=duration(row.seconds),
            relative=_relative(row.seconds, numbers),
            peak=_count(row.peak_mib),
            speed=_count(row.tokens_per_s),
            trainable=_count(row.trainable),
            settings=", ".join(
                f"{k}={json.dumps(v, default=str, ensure_ascii=False)}" for k, v in row.settings.items()
            ),
            warnings=row.warnings,
        )
        for row in numbers.models
    ]


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _relative(seconds: float | None, numbers: Numbers) -> str:
    """Time as a share of what teaching the retain_model anew took: what unlearning is there to save."""
    gold = numbers.first("retain_model")
    if seconds is None or gold is None or not gold.seconds:
        return "–"
    return f"{100 * seconds / gold.seconds:.0f} %"


def terminal(report: ReportInput, numbers: Numbers, rows: list[TradeoffRow]) -> Table:
    """The compact table for the end of a run; names are printed as they are, never as markup."""
    asked = " / ".join(MODALITY_LABELS[m] for m in numbers.modalities) or "no results"
    splits: tuple[Split, ...] = ("forget", "test", "retain", "celebrity")
    front = {row.model.name for row in rows if row.on_front and row.task == "all"}
    lines = [(row.name, [_terminal_score(numbers, row.name, split) for split in splits]) for row in numbers.models]
    caption = f"mean main score in % by modality ({asked}); * Pareto front"
    if any("(" in cell for _, cells in lines for cell in cells):
        caption += "; (in brackets) without a task in which no reply could be read"
    table = Table(title=Text(report.title), caption=Text(caption))
    table.add_column("model", overflow="fold")
    for column in (*splits, "garbled"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in lines:
        shown = Text(name + (" *" if name in front else ""))
        table.add_row(shown, *cells, _terminal_garbled(numbers, name), style="bold" if name in front else "")
    return table


def _terminal_score(numbers: Numbers, model: str, split: Split) -> str:
    cells = []
    for modality in numbers.modalities:
        whole = numbers.score(model, modality, [split])
        rest = numbers.score(model, modality, [split], numbers.readable(model, modality, [split]))
        cells.append(f"{100 * whole.value:.1f}" if whole else f"({100 * rest.value:.1f})" if rest else "–")
    return " / ".join(cells)


def _terminal_garbled(numbers: Numbers, model: str) -> str:
    splits: tuple[Split, ...] = ("forget", "retain")
    shares = [numbers.share(model, "garbled", numbers.cells(m, splits), m) for m in numbers.modalities]
    return " / ".join("–" if share is None else f"{100 * share:.0f}" for share in shares)
