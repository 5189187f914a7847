"""The paper's figures: target against retain_model, unimodal beside multimodal unlearning, four utilities."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.records import MODALITIES, TASKS
from mllmu.data.tasks import task_of
from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, settle, style
from mllmu.studies.board_plots import MARKERS, name_dots
from mllmu.studies.paper.findings import LABELS, SETS, PairedCell, UtilityPoint
from mllmu.studies.pool import PooledValue


def paired_plot(cells: Sequence[PairedCell], name: str) -> Plot:
    """Panels of modality and task; in each, two dots per method: forgotten with the portrait, and by name alone.

    x = forget score in points of 100; lines stand at target and retain_model, bars are 95 % intervals.
    """
    tasks = [task for task in TASKS if any(cell.task == task for cell in cells)]
    modalities = [modality for modality in MODALITIES if any(cell.modality == modality for cell in cells)]
    methods = list(dict.fromkeys(cell.method for cell in cells))
    with style(name):
        figure = new_figure(10.4, 0.9 + len(modalities) * (0.75 + 0.36 * len(methods)))
        panels = figure.subplots(len(modalities), len(tasks), sharey=True, sharex=True, squeeze=False)
        for (row, modality), (column, task) in product(enumerate(modalities), enumerate(tasks)):
            axes, own = panels[row][column], [c for c in cells if (c.task, c.modality) == (task, modality)]
            axes.set_title(f"{task_of(task).label}, asked {MODALITY_LABELS[modality]}")
            _pairs(axes, own, methods)
        panels[0][0].set_xlim(-3, 103)
        panels[0][0].set_ylim(len(methods) - 0.4, -0.6)
        panels[0][0].set_yticks(range(len(methods)), methods)
        for axes in panels[-1]:
            axes.set_xlabel("score on forgotten people, points")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
        words = "; ".join(
            f"{c.method} {c.task} {c.modality}: {100 * c.multimodal.value:.0f} against {100 * c.unimodal.value:.0f}"
            for c in cells
        )
        return finish(figure, name, f"Forget scores after multimodal against unimodal unlearning: {words}")


def _pairs(axes: Any, cells: Sequence[PairedCell], methods: Sequence[str]) -> None:
    axes.grid(visible=False, axis="y")
    for cell in cells[:1]:
        axes.axvline(100 * cell.target, color=PALETTE["ink"], linewidth=0.9, label="target")
        axes.axvline(100 * cell.retain_model, color=PALETTE["ink"], linewidth=0.9, linestyle=":", label="retain_model")
    for cell in cells:
        y, first = methods.index(cell.method), cell is cells[0]
        axes.plot([100 * cell.multimodal.value, 100 * cell.unimodal.value], [y, y], color=PALETTE["line"], linewidth=3,
                  zorder=1)  # fmt: skip
        for value, offset, colour, marker, label in (
            (cell.multimodal, -0.13, "blue", "o", "multimodal: forgotten with the image"),
            (cell.unimodal, 0.13, "orange", "s", "unimodal: forgotten by name alone"),
        ):
            if value.low is not None and value.high is not None:
                axes.plot([100 * value.low, 100 * value.high], [y + offset] * 2, color=PALETTE[colour], linewidth=0.9,
                          alpha=0.5)  # fmt: skip
            axes.plot([100 * value.value], [y + offset], marker, color=PALETTE[colour], markersize=6,
                      label=label if first else None)  # fmt: skip


def utility_plot(points: Sequence[UtilityPoint], name: str) -> Plot:
    """A panel per utility: x = points forgotten, y = points lost, both against the target; colour by ratio."""
    splits = [split for split in SETS if any(point.split == split for point in points)]
    ratios = list(dict.fromkeys(point.ratio for point in points))
    with style(name):
        figure = new_figure(10.4, 4.2)
        panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
        for axes, split in zip(panels, splits, strict=True):
            axes.set_title(LABELS[split])
            axes.set_xlabel("points forgotten")
            for line in (axes.axvline, axes.axhline):
                line(0, color=PALETTE["grey"], linewidth=0.8)
            for point in (point for point in points if point.split == split):
                index = ratios.index(point.ratio)
                _dot(axes, point, PALETTE[SERIES[index % len(SERIES)]], MARKERS[index % len(MARKERS)])
        panels[0].set_ylabel("points lost")
        for index, ratio in enumerate(ratios):
            look: dict[str, Any] = {"color": PALETTE[SERIES[index % len(SERIES)]], "linestyle": "", "markersize": 7}
            panels[0].plot([], [], marker=MARKERS[index % len(MARKERS)], label=f"{ratio} % forgotten", **look)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
        settle(figure)
        for axes, split in zip(panels, splits, strict=True):
            own = [(p.model, (100 * p.forgot.value, 100 * p.lost.value)) for p in points if p.split == split]
            name_dots(axes, own)
        words = "; ".join(
            f"{p.model} {p.ratio} % forgot {100 * p.forgot.value:z.0f}, lost {100 * p.lost.value:z.0f} of {p.split}"
            for p in points
        )
        return finish(figure, name, f"Points lost against points forgotten, by utility: {words}")


def _dot(axes: Any, point: UtilityPoint, colour: str, marker: str) -> None:
    x, y = 100 * point.forgot.value, 100 * point.lost.value
    look = {"fmt": "none", "ecolor": colour, "elinewidth": 0.8, "alpha": 0.3}
    axes.errorbar(x, y, xerr=_bars(point.forgot), yerr=_bars(point.lost), **look)
    axes.plot([x], [y], marker, color=colour, markersize=6, markeredgecolor=PALETTE["on-dot"], markeredgewidth=0.8)


def _bars(value: PooledValue) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]
