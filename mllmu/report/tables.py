"""The tables of a report as plain rows: four sets, KS distances, all metrics, cost, and one for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from mllmu.evaluation.trust import TrustRow
from mllmu.records import MODALITIES, SPLITS, MetricResult, Modality, Split, TaskName
from mllmu.report.inputs import BASELINES, ModelRow, ReportInput
from mllmu.report.numbers import (
    MAIN_METRIC,
    METRIC_LABELS,
    MODALITY_LABELS,
    Cell,
    Interval,
    Numbers,
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
    """One cell of a four-set table. ``shade`` is 0 (bad) to 5 (good), None where it has no meaning."""

    value: str
    half: str
    count: str
    title: str
    shade: int | None
    alarm: bool


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
    splits: tuple[str, ...]
    rows: tuple[SetRow, ...]


def four_set_tables(numbers: Numbers) -> list[SetTable]:
    """One table per modality and task that any model was asked."""
    return [_set_table(numbers, m, task) for m in numbers.modalities for task in numbers.tasks(m)]


def _set_table(numbers: Numbers, modality: Modality, task: TaskName) -> SetTable:
    splits = [split for split in numbers.splits(modality) if numbers.cells(modality, [split], task)]
    metric = MAIN_METRIC[task]
    lucky = [name for name in BASELINES if any(numbers.result(name, metric, (s, task), modality) for s in splits)]
    rows = [SetRow(0, name, "baseline", _set_cells(numbers, name, None, splits, task, modality)) for name in lucky]
    for number, row in enumerate(numbers.models, start=1):
        rows.append(SetRow(number, row.name, row.role, _set_cells(numbers, row.name, row, splits, task, modality)))
    unit = "%" if is_percent(metric) else "0 to 1"
    return SetTable(task, MODALITY_LABELS[modality], METRIC_LABELS[metric], unit, tuple(splits), tuple(rows))


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
    half = f"±{show(result.metric, score.half)}" if score and score.half is not None else ""
    asked = result.num + result.num_unparsed
    count = f"n {result.num}" + (f", {result.num_unparsed} unparsed" if result.num_unparsed else "")
    title = f"{result.num} replies judged, {result.num_unparsed} not, {result.num_profiles} people"
    if score and score.half is not None:
        title += f"; 95 % interval {show(result.metric, score.low)} to {show(result.metric, score.high)}"
    alarm = asked > 0 and result.num_unparsed / asked >= UNPARSED_ALARM
    value = show(result.metric, score.value if score else None)
    step = None if shade is None or alarm else min(5, int(shade * 6))
    return SetCell(value, half, count, title, step, alarm=alarm)


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


def metric_rows(report: ReportInput, numbers: Numbers) -> list[tuple[str, ...]]:
    """Every result as text: model, metric, split, task, modality, value, interval, AUC, judged, unparsed, people.

    AUC: how well the metric tells models that know from models that do not; only where it was measured.
    """
    known = {(row.metric, row.task, row.modality): row for row in report.trust}
    order = {name: i for i, name in enumerate([*BASELINES, *(row.name for row in numbers.models)])}
    results = sorted(
        report.results, key=lambda r: (order[r.model], r.modality, r.task, SPLITS.index(r.split), r.metric)
    )
    return [
        (
            *(r.model, r.metric, r.split, r.task, r.modality, show(r.metric, r.value), _interval(r)),
            *((_figure(known, r),) if known else ()),
            *_counts(r),
        )
        for r in results
    ]


def _figure(known: Mapping[tuple[str, TaskName, Modality], TrustRow], result: MetricResult) -> str:
    row = known.get((result.metric, result.task, result.modality))
    return "–" if row is None or row.auc is None or result.split not in ("forget", "test") else f"{row.auc:.2f}"


def trust_table(report: ReportInput) -> Grid | None:
    """What is known about every metric, the most trustworthy first; None if nothing was measured."""
    if not report.trust:
        return None
    head = ("metric", "task", "asked with", "AUC", "95 % interval", "rounded weights", "taught again", "trust")
    return Grid(head, tuple(_trust_cells(row) for row in report.trust))


def _trust_cells(row: TrustRow) -> tuple[str, ...]:
    def two(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    interval = "–" if row.auc_low is None else f"{two(row.auc_low)} to {two(row.auc_high)}"
    figures = (two(row.quantisation), two(row.relearning), two(row.trust))
    return (row.metric, row.task, MODALITY_LABELS[row.modality], two(row.auc), interval, *figures)


def _counts(result: MetricResult) -> tuple[str, str, str]:
    return str(result.num), str(result.num_unparsed), str(result.num_profiles)


def _interval(result: MetricResult) -> str:
    if result.ci_low is None or result.ci_high is None:
        return "–"
    return f"{show(result.metric, result.ci_low)} to {show(result.metric, result.ci_high)}"


@dataclass(frozen=True)
class CostRow:
    """What a model cost and how it was made."""

    name: str
    role: str
    method: str
    modality: str
    forget_ratio: str
    seconds: str
    peak: str
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
            peak=f"{row.peak_mib:,.0f}" if row.peak_mib is not None else "–",
            settings=", ".join(
                f"{k}={json.dumps(v, default=str, ensure_ascii=False)}" for k, v in row.settings.items()
            ),
            warnings=row.warnings,
        )
        for row in numbers.models
    ]


def terminal(report: ReportInput, numbers: Numbers, rows: list[TradeoffRow]) -> Table:
    """The compact table for the end of a run; names are printed as they are, never as markup."""
    asked = " / ".join(MODALITY_LABELS[m] for m in numbers.modalities) or "no results"
    table = Table(title=Text(report.title), caption=f"mean main score in % by modality ({asked}); * Pareto front")
    table.add_column("model", overflow="fold")
    splits: tuple[Split, ...] = ("forget", "test", "retain", "celebrity")
    for column in (*splits, "garbled"):
        table.add_column(column, justify="right", no_wrap=True)
    front = {row.model.name for row in rows if row.on_front and row.task == "all"}
    for row in numbers.models:
        cells = [_terminal_score(numbers, row.name, split) for split in splits]
        name = Text(row.name + (" *" if row.name in front else ""))
        table.add_row(name, *cells, _terminal_garbled(numbers, row.name), style="bold" if row.name in front else "")
    return table


def _terminal_score(numbers: Numbers, model: str, split: Split) -> str:
    scores = [numbers.score(model, modality, [split]) for modality in numbers.modalities]
    return " / ".join(f"{100 * s.value:.1f}" if s else "–" for s in scores)


def _terminal_garbled(numbers: Numbers, model: str) -> str:
    splits: tuple[Split, ...] = ("forget", "retain")
    shares = [numbers.share(model, "garbled", numbers.cells(m, splits), m) for m in numbers.modalities]
    return " / ".join("–" if share is None else f"{100 * share:.0f}" for share in shares)
