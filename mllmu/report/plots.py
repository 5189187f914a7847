"""All plots of a report, in reading order; drawn without a display and the same bytes for the same input."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

from matplotlib.lines import Line2D

from mllmu.core.records import GENERAL_SPLITS, Modality, Split, TaskName
from mllmu.report.figures import PALETTE, Plot, finish, new_figure, style
from mllmu.report.inputs import CurvePoint, ReportInput
from mllmu.report.numbers import (
    MAIN_METRIC,
    METRIC_LABELS,
    MODALITY_LABELS,
    OUTCOMES,
    UTILITY_SPLITS,
    Interval,
    Numbers,
)
from mllmu.report.scatter import MANY, scatter
from mllmu.report.tradeoff import ALL_TASKS, TradeoffRow, mark_front

_MODALITY_COLOURS: dict[Modality, str] = {"image_text": "blue", "text": "sand"}
_OUTCOME_COLOURS = {"right": "blue", "wrong": "sand", "refused": "lilac", "garbled": "red"}
_OUTCOME_SPLITS: tuple[Split, ...] = ("forget", "retain")
_ROW_INCHES = 0.27
CURVE_POINTS = 80
_SIDES = {
    "": ("teal", "loss of teaching"),
    "forget": ("orange", "terms of the forget side"),
    "retain": ("blue", "of the retain side"),
}
_DASHES = ("-", "--", ":", "-.")


def tradeoff_plots(numbers: Numbers, rows: list[TradeoffRow]) -> list[Plot]:
    """One scatter per modality and task; those of the mean over tasks come first."""
    groups: dict[tuple[str, Modality], list[TradeoffRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.modality), []).append(row)
    plots = []
    for (task, modality), group in sorted(groups.items(), key=lambda item: item[0][0] != ALL_TASKS):
        chance = _chance(numbers, task, modality)
        what = "mean of all tasks" if task == ALL_TASKS else task
        plots.append(scatter(group, f"tradeoff_{task}_{modality}", f"{MODALITY_LABELS[modality]}, {what}", chance))
    return [plot for plot in [*plots, *_single_utility_plots(numbers, rows)] if plot]


def _single_utility_plots(numbers: Numbers, rows: list[TradeoffRow]) -> list[Plot | None]:
    """Forgetting against each kind of utility alone, if general benchmarks were asked (the paper's figure 4)."""
    if not any(numbers.cells("image_text", (split,)) for split in GENERAL_SPLITS):
        return []
    group = [row for row in rows if row.task == ALL_TASKS and row.modality == "image_text"]
    plots = []
    for split in (*UTILITY_SPLITS, *GENERAL_SPLITS):
        against = mark_front([replace(row, utility=_utility(numbers, row.model.name, split)) for row in group])
        title = f"{MODALITY_LABELS['image_text']}, against {split} alone"
        plots.append(scatter(against, f"tradeoff_against_{split}", title, None, against=f"{split}, score"))
    return plots


def _utility(numbers: Numbers, model: str, split: Split) -> Interval | None:
    """Mean main score in a set; on MMMU the share of all its questions, as it is usually given."""
    if split != "mmmu":
        return numbers.score(model, "image_text", (split,))
    share = numbers.share(model, "mmmu_accuracy", numbers.cells("image_text", (split,)), "image_text")
    return None if share is None else Interval(share)


def _chance(numbers: Numbers, task: str, modality: Modality) -> Any:
    """Utility by luck, where luck is defined for all of it: the options of a classification."""
    only: TaskName | None = "classification" if task == "classification" else None
    return numbers.score("chance", modality, UTILITY_SPLITS, only)


def modality_plot(numbers: Numbers) -> Plot | None:
    """Forget scores asked with the portrait and asked by name, side by side; None unless both were asked."""
    if len(numbers.modalities) < 2 or not numbers.models:
        return None
    tasks = [task for task in MAIN_METRIC if all(task in numbers.tasks(m) for m in numbers.modalities)]
    names = [row.name for row in numbers.models]
    with style("modalities"):
        figure = new_figure(10.4, 1.3 + 0.34 * len(names))
        panels = figure.subplots(1, max(1, len(tasks)), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=False):
            _paired_bars(axes, numbers, task, names)
        _name_rows(panels[0], names)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        return finish(figure, "modalities", "Bars: forget scores asked with portrait and asked by name, per model")


def _paired_bars(axes: Any, numbers: Numbers, task: TaskName, names: list[str]) -> None:
    axes.set_title(f"{task}: {METRIC_LABELS[MAIN_METRIC[task]]}")
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    for offset, modality in zip((-0.19, 0.19), numbers.modalities, strict=True):
        colour = PALETTE[_MODALITY_COLOURS[modality]]
        scores = [numbers.main(name, ("forget", task), modality) for name in names]
        where = [i + offset for i in range(len(names))]
        axes.barh(where, [s.value if s else 0 for s in scores], 0.36, color=colour, label=MODALITY_LABELS[modality])
        for y, score in zip(where, scores, strict=True):
            if score and score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [y, y], color=PALETTE["ink"], linewidth=0.8, alpha=0.55)
            elif score is None:
                axes.text(0.01, y, "no judged reply", fontsize=6.5, va="center", color=PALETTE["red"])


def _name_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [name if len(name) <= 34 else name[:33] + "…" for name in names])
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    axes.set_ylim(len(names) - 0.4, -0.6)


def outcome_plots(numbers: Numbers) -> list[Plot]:
    """Stacked shares of right, wrong, refused and garbled replies on forget and retain, one plot per modality."""
    plots = []
    for modality in numbers.modalities:
        rows = [row.name for row in numbers.models if _outcomes_known(numbers, row.name, modality)]
        if not rows:
            continue
        with style(f"outcomes_{modality}"):
            figure = new_figure(10.4, 1.2 + _ROW_INCHES * len(rows))
            panels = figure.subplots(1, 2, sharey=True)
            for axes, split in zip(panels, _OUTCOME_SPLITS, strict=True):
                axes.set_title(f"{split}, {MODALITY_LABELS[modality]}")
                _stack(axes, numbers, rows, numbers.cells(modality, [split]), modality)
            _name_rows(panels[0], rows)
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(OUTCOMES))
            alt = f"Stacked bars: shares of right, wrong, refused and garbled replies, {MODALITY_LABELS[modality]}"
            plots.append(finish(figure, f"outcomes_{modality}", alt))
    return plots


def _outcomes_known(numbers: Numbers, model: str, modality: Modality) -> bool:
    cells = numbers.cells(modality, _OUTCOME_SPLITS)
    return any(numbers.share(model, outcome, cells, modality) is not None for outcome in OUTCOMES)


def _stack(axes: Any, numbers: Numbers, names: list[str], cells: list[Any], modality: Modality) -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of replies")
    axes.grid(visible=False)
    left = [0.0] * len(names)
    for outcome in OUTCOMES:
        widths = [100 * (numbers.share(name, outcome, cells, modality) or 0.0) for name in names]
        axes.barh(range(len(names)), widths, 0.74, left=left, color=PALETTE[_OUTCOME_COLOURS[outcome]], label=outcome)
        left = [a + b for a, b in zip(left, widths, strict=True)]


def curve_plot(report: ReportInput, numbers: Numbers) -> Plot | None:
    """Small panels of the loss terms over steps, one per model; values that are not finite are counted, not drawn.

    A colour says which side a term belongs to, so it means the same in every panel; its name stands in the panel.
    """
    order = [row.name for row in numbers.models if report.curves.get(row.name)]
    order += [name for name in report.curves if name not in order and report.curves[name]]
    if not order:
        return None
    columns = min(4 if len(order) <= MANY else 5, len(order))
    lines = math.ceil(len(order) / columns)
    with style("curves"):
        figure = new_figure(max(5.0, min(2.6 * columns, 10.4)), 0.6 + (1.75 if columns < 5 else 1.5) * lines)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, name in zip(panels, order, strict=False):
            _curve(axes, name, report.curves[name])
        for axes in panels[len(order) :]:
            axes.set_axis_off()
        sides = {_side(point.name) for name in order for point in report.curves[name]}
        handles = [
            Line2D([], [], color=PALETTE[colour], label=label)
            for side, (colour, label) in _SIDES.items()
            if side in sides
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return finish(figure, "curves", "Loss terms over training steps, one panel per model")


def _side(term: str) -> str:
    side = term.partition("_")[0]
    return side if side in _SIDES else ""


def _curve(axes: Any, name: str, points: tuple[CurvePoint, ...]) -> None:
    lost = sum(not math.isfinite(point.value) for point in points)
    note = f"  ({lost} not finite)" if lost else ""
    axes.set_title((name if len(name) <= 26 else name[:25] + "…") + note, fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=4)
    drawn: Counter[str] = Counter()
    for term in dict.fromkeys(point.name for point in points):
        line = _thinned(sorted((p.step, p.value) for p in points if p.name == term and math.isfinite(p.value)))
        if not line:
            continue
        side = _side(term)
        axes.plot(
            *zip(*line, strict=True),
            _DASHES[drawn[side] % len(_DASHES)],
            color=PALETTE[_SIDES[side][0]],
            linewidth=1.2,
            marker="o" if len(line) == 1 else None,
            markersize=3,
            label=term.removeprefix(f"{side}_"),
        )
        drawn[side] += 1
    if drawn:
        axes.legend(loc="upper right", fontsize=6.5, handlelength=1.3, labelspacing=0.15, borderaxespad=0.1)


def _thinned(line: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Every so many points of a line, the last one included: a panel has no room for more."""
    every = max(1, math.ceil(len(line) / CURVE_POINTS))
    return [*line[::every], *line[-1:]] if every > 1 else line
