"""What judges said about free answers, 1 to 10 points, as tables of their own."""

from __future__ import annotations

from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from mllmu.core.records import MODALITIES, SPLITS, MetricResult
from mllmu.report.inputs import ReportInput
from mllmu.report.numbers import MODALITY_LABELS, Numbers, usable
from mllmu.report.tables import Grid

PREFIX = "factuality_"
BY_RULES = "rule"
WORST, BEST = 1.0, 10.0
"""Points; an interval is cut there."""


class Judgement(NamedTuple):
    """The points of one judge. ``note`` says what kind of judge it is."""

    judge: str
    note: str
    grid: Grid


def judgements(report: ReportInput, numbers: Numbers) -> list[Judgement]:
    """One table per judge: models down, sets and modalities across; none if nobody has judged."""
    names = sorted({r.metric.removeprefix(PREFIX) for r in report.results if r.metric.startswith(PREFIX)})
    return [Judgement(name, note(name), _grid(name, report, numbers)) for name in names]


def note(judge: str) -> str:
    """What a reader must know about a judge."""
    if judge == BY_RULES or judge.startswith(f"{BY_RULES}_"):
        return "1 to 10 points by rules that count the words of the fact; no language model has read the answers"
    return "1 to 10 points by a language model"


def _grid(judge: str, report: ReportInput, numbers: Numbers) -> Grid:
    found = {(r.model, r.split, r.modality): r for r in report.results if r.metric == PREFIX + judge}
    columns = [(s, m) for m in MODALITIES for s in SPLITS if any((s, m) == key[1:] for key in found)]
    rows = [
        (row.name, *(_cell(found.get((row.name, *column))) for column in columns))
        for row in numbers.models
        if any(key[0] == row.name for key in found)
    ]
    return Grid(("model", *(f"{split}, {MODALITY_LABELS[m]}" for split, m in columns)), tuple(rows))


def _cell(result: MetricResult | None) -> str:
    if result is None:
        return "–"
    value = usable(result.value)
    low, high = usable(result.ci_low), usable(result.ci_high)
    span = "" if low is None or high is None else f", {max(low, WORST):.1f}–{min(high, BEST):.1f}"
    lost = f", {result.num_unparsed} not judged" if result.num_unparsed else ""
    return f"{'–' if value is None else f'{value:.1f}{span}'} (n {result.num}{lost})"


def terminal_judgements(report: ReportInput) -> list[Table]:
    """The mean points per set for a terminal, one table per judge: ``image / text``."""
    numbers = Numbers(report)
    return [_terminal(judgement.judge, report, numbers) for judgement in judgements(report, numbers)]


def _terminal(judge: str, report: ReportInput, numbers: Numbers) -> Table:
    found = {(r.model, r.split, r.modality): r for r in report.results if r.metric == PREFIX + judge}
    splits = [split for split in SPLITS if any(split == key[1] for key in found)]
    asked = [m for m in MODALITIES if any(m == key[2] for key in found)]
    table = Table(title=Text(f"factuality, judge '{judge}'"), caption=Text(note(judge)))
    table.add_column("model", overflow="fold")
    for split in splits:
        table.add_column(split, justify="right", no_wrap=True)
    for row in numbers.models:
        cells = []
        for split in splits:
            values = [usable(r.value) if (r := found.get((row.name, split, m))) else None for m in asked]
            cells.append(" / ".join("–" if value is None else f"{value:.1f}" for value in values))
        table.add_row(Text(row.name), *cells)
    return table
