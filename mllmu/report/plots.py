"""All plots of a report, in reading order; drawn without a display and the same bytes for the same input."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.lines import Line2D

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.records import UTILITY, Cell, Modality, Split, TaskName
from mllmu.report.attacked import attack_plots
from mllmu.report.figures import PALETTE, Plot, finish, new_figure, style
from mllmu.report.inputs import ReportInput
from mllmu.report.numbers import ALL_TASKS, Interval, Numbers, TradeoffRow, mark_front
from mllmu.report.requested import request_plots
from mllmu.report.scatter import scatter

CURVE_POINTS = 80
"""Points of a line: a panel has no room for more."""
_MODALITY_COLOURS: dict[Modality, str] = {"image_text": "blue", "text": "sand"}
_OUTCOME_COLOURS = ("blue", "sand", "lilac", "teal", "grey")
_SIDES = {"": ("teal", "fine-tuning loss"), "forget": ("orange", "forget terms"), "retain": ("blue", "retain terms")}
_DASHES = ("-", "--", ":", "-.")


def draw(report: ReportInput, numbers: Numbers, rows: Sequence[TradeoffRow]) -> dict[str, list[Plot]]:
    """The plots by the section of the page they belong to; a section without plots is empty."""
    scatters = tradeoff_plots(numbers, rows)
    return {
        "main": [plot for plot in scatters if plot.name.startswith(f"tradeoff_{ALL_TASKS}_")],
        "task": [plot for plot in scatters if not plot.name.startswith(f"tradeoff_{ALL_TASKS}_")],
        "modalities": _modality_plot(numbers),
        "outcomes": [plot for modality in numbers.modalities for plot in _outcome_plot(numbers, modality)],
        "curves": _curve_plot(report, numbers),
        "attacks": attack_plots(report.attacks, numbers.models),
        "requests": request_plots(report.requests, numbers.models),
    }


def tradeoff_plots(numbers: Numbers, rows: Sequence[TradeoffRow]) -> list[Plot]:
    """One scatter per modality and task; those of the mean over tasks come first."""
    groups: dict[tuple[str, Modality], list[TradeoffRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.modality), []).append(row)
    plots = []
    for (task, modality), group in sorted(groups.items(), key=lambda item: item[0][0] != ALL_TASKS):
        # Guessing is drawn where it is defined for every task of the score.
        chance = numbers.score("chance", modality, UTILITY, None if task == ALL_TASKS else (task,))
        about = "mean of all tasks" if task == ALL_TASKS else numbers.tasks[task].label
        title, against = f"{MODALITY_LABELS[modality]}, {about}", f"{numbers.sets(*UTILITY)}, mean score"
        plots.append(scatter(group, f"tradeoff_{task}_{modality}", title, chance, against=against))
    return [plot for plot in [*plots, *_single_utility_plots(numbers, rows)] if plot]


def _single_utility_plots(numbers: Numbers, rows: Sequence[TradeoffRow]) -> list[Plot | None]:
    """Forgetting against each kind of utility alone, if general benchmarks were asked (the paper's figure 4)."""
    general = [name for name, split in numbers.declared.splits.items() if split.kind == "benchmark"]
    modality = next((m for m in numbers.modalities if numbers.cells(m, general)), None)
    if modality is None:
        return []
    plots = []
    for split in (*UTILITY, *general):
        group = [row for row in rows if row.task == ALL_TASKS and row.modality == modality]
        scores = [split_score(numbers, row.model.name, split, modality) for row in group]
        changed = [r._replace(utility=s) for r, s in zip(group, scores, strict=True)]
        label = numbers.split_label(split)
        title = f"{MODALITY_LABELS[modality]}, against {label} alone"
        plots.append(scatter(mark_front(changed), f"tradeoff_against_{split}", title, None, against=f"{label}, score"))
    return plots


def split_score(numbers: Numbers, model: str, split: Split, modality: Modality) -> Interval | None:
    """Score of one set: the mean over its tasks, or over all its questions if it declares a metric of its own."""
    declared = numbers.declared.splits.get(split)
    if not declared or not declared.metric:
        return numbers.score(model, modality, (split,))
    share = numbers.share(model, declared.metric, numbers.cells(modality, (split,)))
    return None if share is None else Interval(share)


def _bars(
    name: str, alt: str, names: Sequence[str], panels: Mapping[str, Callable[[Any], None]], inches: float
) -> Plot:
    """Panels of horizontal bars by title, one line per model, ``inches`` high."""
    with style(name):
        figure = new_figure(10.4, 1.25 + inches * len(names))
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, bars) in zip(every, panels.items(), strict=True):
            axes.set_title(title)
            axes.grid(visible=False, axis="y")
            bars(axes)
        every[0].set_yticks(range(len(names)), [_cut(name, 34) for name in names])
        every[0].tick_params(axis="y", labelcolor=PALETTE["ink"])
        every[0].set_ylim(len(names) - 0.4, -0.6)
        figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
        return finish(figure, name, alt)


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _modality_plot(numbers: Numbers) -> list[Plot]:
    """Forget scores of the modalities side by side; none unless there are two."""
    asked = [{cell.task for cell in numbers.cells(modality, ("forget",))} for modality in numbers.modalities]
    tasks = [task for task in numbers.tasks if all(task in of_modality for of_modality in asked)]
    if len(asked) < 2 or not tasks:
        return []
    names = [row.name for row in numbers.models]
    titles = (f"{numbers.tasks[task].label}: {numbers.metric(numbers.tasks[task].metric).label}" for task in tasks)
    panels = {title: partial(_pairs, numbers, names, task) for title, task in zip(titles, tasks, strict=True)}
    alt = f"Bars: forget scores per model, {' and '.join(MODALITY_LABELS[m] for m in numbers.modalities)}"
    return [_bars("modalities", alt, names, panels, 0.34)]


def _pairs(numbers: Numbers, names: Sequence[str], task: TaskName, axes: Any) -> None:
    if None not in (bounds := numbers.metric(numbers.tasks[task].metric).range):
        axes.set_xlim(*bounds)
    for offset, modality in zip((-0.19, 0.19), numbers.modalities, strict=True):
        scores = [numbers.main(name, Cell("forget", task, modality)) for name in names]
        heights, colour = [index + offset for index in range(len(names))], PALETTE[_MODALITY_COLOURS[modality]]
        widths = [score.value if score else 0.0 for score in scores]
        axes.barh(heights, widths, 0.36, color=colour, label=MODALITY_LABELS[modality])
        for y, score in zip(heights, scores, strict=True):
            if score is None:
                axes.text(0.01, y, "no judged reply", fontsize=6.5, va="center", color=PALETTE["red"])
            elif score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [y, y], color=PALETTE["ink"], linewidth=0.8, alpha=0.55)


def _outcome_plot(numbers: Numbers, modality: Modality) -> list[Plot]:
    """Stacked shares of the kinds of replies on forget and retain; none without results."""
    cells = {split: numbers.cells(modality, (split,)) for split in ("forget", "retain")}
    every = [cell for of_split in cells.values() for cell in of_split]
    names = [
        row.name
        for row in numbers.models
        if any(numbers.share(row.name, o, every) is not None for o in numbers.outcomes)
    ]
    if not names:
        return []
    panels = {f"{s}, {MODALITY_LABELS[modality]}": partial(_stack, numbers, names, c) for s, c in cells.items()}
    labels = ", ".join(numbers.metric(name).label.lower() for name in numbers.outcomes)
    alt = f"Stacked bars: shares of {labels} replies, {MODALITY_LABELS[modality]}"
    return [_bars(f"outcomes_{modality}", alt, names, panels, 0.27)]


def _stack(numbers: Numbers, names: Sequence[str], cells: Sequence[Cell], axes: Any) -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of replies")
    axes.grid(visible=False)
    usual, left = iter(_OUTCOME_COLOURS), [0.0] * len(names)
    for outcome in numbers.outcomes:
        colour, label = "red" if outcome == numbers.noise else next(usual), numbers.metric(outcome).label.lower()
        widths = [100 * (numbers.share(name, outcome, cells) or 0.0) for name in names]
        axes.barh(range(len(names)), widths, 0.74, left=left, color=PALETTE[colour], label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]


def _curve_plot(report: ReportInput, numbers: Numbers) -> list[Plot]:
    """Small panels of the loss terms over steps, one per model; values that are not finite are counted, not drawn.

    A colour says which side a term belongs to, so it means the same in every panel; its name stands in the panel.
    """
    curves = {row.name: report.curves[row.name] for row in numbers.models if report.curves.get(row.name)}
    if not curves:
        return []
    columns = min(4, len(curves))
    lines = math.ceil(len(curves) / columns)
    sides = {_side(term) for terms in curves.values() for term in terms}
    with style("curves"):
        figure = new_figure(max(5.0, 2.6 * columns), 0.6 + 1.75 * lines)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        for axes, (name, terms) in zip(panels, curves.items(), strict=False):
            _curve(axes, name, terms)
        entries = [entry for side, entry in _SIDES.items() if side in sides]
        handles = [Line2D([], [], color=PALETTE[colour], label=label) for colour, label in entries]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return [finish(figure, "curves", "Loss terms over training steps, one panel per model")]


def _side(term: str) -> str:
    side = term.partition("_")[0]
    return side if side in _SIDES else ""


def _curve(axes: Any, name: str, terms: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    lost = sum(not math.isfinite(value) for points in terms.values() for _, value in points)
    axes.set_title(_cut(name, 26) + (f"  ({lost} not finite)" if lost else ""), fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=4)
    drawn: Counter[str] = Counter()
    for term, points in terms.items():
        line = [point for point in points if math.isfinite(point[1])]
        every = max(1, math.ceil(len(line) / CURVE_POINTS))
        line = [*line[::every], *(line[-1:] if every > 1 else ())]
        if line:
            side, marker = _side(term), "o" if len(line) == 1 else None
            axes.plot(*zip(*line, strict=True), _DASHES[drawn[side] % 4], color=PALETTE[_SIDES[side][0]], linewidth=1.2,
                      marker=marker, markersize=3, label=term.removeprefix(f"{side}_"))  # fmt: skip
            drawn[side] += 1
    if drawn:
        axes.legend(loc="upper right", fontsize=6.5, handlelength=1.3, labelspacing=0.15, borderaxespad=0.1)
