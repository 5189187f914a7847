"""The report's section on attacks: the worst case, what each attack brought back, and the curves of relearning."""

import math
from collections.abc import Iterator, Sequence

from mllmu.core.attacked import PLAIN, AttackResults, AttackRow, WorstCase
from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, style
from mllmu.report.inputs import ModelRow
from mllmu.report.printing import DASH, show, show_span
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable, shade_of

FAMILIES = {
    "extraction": "Extraction: other words, other contexts",
    "image": "Images: another portrait, or a changed one",
    "relearning": "Relearning: a little fine-tuning",
    "weights": "Weights: rounded, pruned, moved, undone",
    "inside": "Inside: read from hidden states",
}
"""Titles of the tables, in their order."""
_YARDSTICKS = {"target": "ink", "retain_model": "muted"}


def is_over_holdout(results: AttackResults) -> bool:
    """Whether excesses are over the same attack on questions about holdout people, as there is no retain_model."""
    return any(row.against == "holdout" for row in results.rows)


def attack_tables(results: AttackResults, models: Sequence[ModelRow]) -> list[ReportTable]:
    """The worst case of every model, then one table per family with a column per attack."""
    tables = [_worst_table(results, models)]
    for family, title in FAMILIES.items():
        names = dict.fromkeys(row.attack for row in results.rows if row.family == family)
        if names:
            tables.append(_family_table(title, [*names], results, models))
    return tables


def _family_table(title: str, names: Sequence[str], results: AttackResults, models: Sequence[ModelRow]) -> ReportTable:
    by_place = {(row.model, row.attack): row for row in results.rows}
    columns, notes = [], dict[str, None]()
    for name in names:
        first = next(row for row in results.rows if row.attack == name)
        columns.append(ReportColumn(first.label, first.access))
    rows = []
    for number, model in enumerate(models, start=1):
        of_model = [by_place.get((model.name, name)) for name in names]
        rows.append(ReportRow(model.name, tuple(attack_cell(row, model) for row in of_model), model.role, number))
        notes |= dict.fromkeys(f"{row.label} of {row.model}: {row.reason}" for row in of_model if row and row.reason)
        notes |= dict.fromkeys(
            row.no_recovery for row in of_model if row and row.no_recovery and model.role == "unlearned"
        )
    return ReportTable(tuple(columns), tuple(rows), title, notes=tuple(notes), css="summary")


def attack_cell(row: AttackRow | None, model: ModelRow) -> ReportCell:
    """Recovery with its interval, and below it the score and the excess; an attack that does not apply says so."""
    if row is None:
        return ReportCell(DASH, title="not attacked")
    if row.reason:
        return ReportCell("not supported", title=row.reason)
    below = [f"score {show(row.after)}"]
    if row.excess is not None and model.role == "unlearned":
        span = show_span(row.excess_low, row.excess_high, "signed")
        below.append(f"excess {show(row.excess, 'signed')}" + (f" ({span})" if span else ""))
    if row.curve:
        below.append("half never" if row.half is None else f"half after {row.half} steps")
    shade = None if row.recovery is None or model.role != "unlearned" else shade_of(1 - row.recovery)
    recovery = None if model.role == "target" else row.recovery
    span = show_span(row.recovery_low, row.recovery_high, "signed") if recovery is not None else ""
    title = row.no_recovery or f"{row.num} questions, {row.num_units} {row.unit}"
    return ReportCell(show(recovery), span, ", ".join(below), title, shade)


def _worst_table(results: AttackResults, models: Sequence[ModelRow]) -> ReportTable:
    over, tries = "the retain model", "the retain model's, which had as many tries"
    if is_over_holdout(results):
        over, tries = "holdout people", "the share of questions about holdout people, with as many tries"
    columns = (
        ReportColumn("no attack", "score"),
        ReportColumn("any hit", "black box", reads="share of questions that any attack that only asks got right"),
        ReportColumn("excess", "black box", "↓", f"the same minus {tries}"),
        ReportColumn("largest excess", "black box", "↓", f"of the single attack that finds most over {over}"),
        ReportColumn("largest excess", "all attacks", "↓", "the same with access to weights and hidden states"),
    )
    plain = {row.model: row for row in results.rows if row.attack == PLAIN}
    worst = {(row.model, row.access): row for row in results.worst}
    labels = {row.attack: row.label for row in results.rows}
    rows = []
    for number, model in enumerate(models, start=1):
        if model.name not in plain:
            continue
        before, asked, every = (plain[model.name], worst[model.name, "black box"], worst[model.name, "white box"])
        shaded = model.role == "unlearned"
        cells = (
            ReportCell(show(before.after), show_span(before.after_low, before.after_high)),
            ReportCell(show(asked.any_hit)),
            _excess(asked.any_excess, asked.any_low, asked.any_high, "", shaded=shaded),
            *(_largest(one, labels, shaded=shaded) for one in (asked, every)),
        )
        rows.append(ReportRow(model.name, cells, model.role, number))
    title, intro = f"Worst case over the {results.budget} budget", f"Seed {results.seed}."
    return ReportTable(columns, tuple(rows), title, intro=intro, css="summary")


def _largest(one: WorstCase, labels: dict[str, str], *, shaded: bool) -> ReportCell:
    below = f"{labels.get(one.attack, DASH)}, of {one.num_attacks}"
    return _excess(one.excess, one.excess_low, one.excess_high, below, shaded=shaded)


def _excess(value: float | None, low: float | None, high: float | None, below: str, *, shaded: bool) -> ReportCell:
    shade = shade_of(1 - value) if shaded and value is not None else None
    return ReportCell(show(value, "signed"), show_span(low, high, "signed"), below, shade=shade)


def attack_plots(results: AttackResults | None, models: Sequence[ModelRow]) -> list[Plot]:
    """The score over the steps of every attack that trains: one panel per attack, one line per model."""
    curves = {(row.attack, row.model): row for row in results.rows if row.curve} if results else {}
    names = list(dict.fromkeys(attack for attack, _ in curves))
    if not names:
        return []
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    with style("attacks"):
        figure = new_figure(3.6 * columns + 1.2, 0.8 + 2.5 * lines)
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        others = [model.name for model in models if model.name not in _YARDSTICKS]
        for axes, name in zip(panels, names, strict=False):
            for row in _rows(curves, name, [model.name for model in models]):
                place = others.index(row.model) if row.model in others else 0
                colour = _YARDSTICKS.get(row.model) or SERIES[place % len(SERIES)]
                dash = "-" if row.model in _YARDSTICKS or place < len(SERIES) else "--"
                width = 2.6 if row.model in _YARDSTICKS else 1.3
                points = [(point.step, 100 * point.value) for point in row.curve]
                axes.plot(*zip(*points, strict=True), dash, marker="o", markersize=3, color=PALETTE[colour],
                          linewidth=width, label=row.model)  # fmt: skip
            axes.set_title(next(row.label for (attack, _), row in curves.items() if attack == name))
            axes.set_xlabel("steps")
            axes.set_xscale("symlog", base=2, linthresh=1)
            steps = sorted({point.step for row in _rows(curves, name, [m.name for m in models]) for point in row.curve})
            axes.set_xticks(steps, [str(step) for step in steps])
        panels[0].set_ylabel("score on forgotten facts")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return [finish(figure, "attacks", "Score on the forgotten facts over the steps of relearning")]


def _rows(curves: dict[tuple[str, str], AttackRow], attack: str, models: Sequence[str]) -> Iterator[AttackRow]:
    return (curves[attack, model] for model in models if (attack, model) in curves)
