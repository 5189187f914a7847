"""The plot of a board: how far every model is from the retain_model on forget, against the utility that it lost."""

from collections.abc import Sequence
from typing import Any

from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, settle, style
from mllmu.report.scatter import position
from mllmu.studies.pool import PooledRow, PooledValue

MARKERS = "os^Dvp*XPh"
"""By setup; a board of more setups repeats them."""


def board_plot(rows: Sequence[tuple[str, PooledRow]], name: str) -> Plot:
    """Draw the rows of one modality, each with the label of its setup.

    x = forget score minus the retain_model's, y = lost utility, both in points of 100 with their 95 % intervals: the
    aim is where both lines cross. A setup has a colour and a marker; dots of one method in several setups are linked.
    """
    shown = [(label, row) for label, row in rows if row.rank is not None]
    labels = list(dict.fromkeys(label for label, _ in shown))
    with style(name):
        figure = new_figure(10.4, 5.6)
        axes = figure.add_subplot()
        axes.set_xlabel("against the retain_model: points on forget people   (right: still known, left: known less)")
        axes.set_ylabel("lost utility, points")
        for line in (axes.axvline, axes.axhline):
            line(0, color=PALETTE["teal"], linewidth=0.9, alpha=0.7)
        _links(axes, shown)
        for label, row in shown:
            index = labels.index(label)
            _dot(axes, row, PALETTE[SERIES[index % len(SERIES)]], MARKERS[index % len(MARKERS)])
        if len(labels) > 1:
            for index, label in enumerate(labels):
                look: dict[str, Any] = {"color": PALETTE[SERIES[index % len(SERIES)]], "linestyle": "", "markersize": 7}
                axes.plot([], [], marker=MARKERS[index % len(MARKERS)], label=label, **look)
            figure.legend(loc="outside lower left", ncols=3)
        settle(figure)
        nearest = sorted((row for _, row in shown), key=lambda row: row.distance.value)
        name_dots(axes, [(row.model, _xy(row)) for row in nearest])
        words = "; ".join(f"{row.model} {label} {_xy(row)[0]:z.1f}, lost {_xy(row)[1]:z.1f}" for label, row in shown)
        return finish(figure, name, f"Scatter of the distance from the retain_model against lost utility: {words}")


def _xy(row: PooledRow) -> tuple[float, float]:
    return 100 * row.surplus.value, 100 * row.cost.value


def _dot(axes: Any, row: PooledRow, colour: str, marker: str) -> None:
    x, y = _xy(row)
    axes.errorbar(
        x, y, xerr=_bars(row.surplus), yerr=_bars(row.cost), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.3
    )
    axes.plot([x], [y], marker, color=colour, markersize=7, markeredgecolor=PALETTE["on-dot"], markeredgewidth=0.8)


def _bars(value: PooledValue) -> list[list[float]] | None:
    if value.low is None or value.high is None:
        return None
    return [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]


def _links(axes: Any, shown: Sequence[tuple[str, PooledRow]]) -> None:
    """A thin line through the dots of each method, in the order of the setups."""
    for model in dict.fromkeys(row.model for _, row in shown):
        dots = [_xy(row) for _, row in shown if row.model == model]
        if len(dots) > 1:
            axes.plot(*zip(*dots, strict=True), color=PALETTE["grey"], linewidth=0.7, alpha=0.6, zorder=1)


def name_dots(axes: Any, dots: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """The name of each model beside its first dot, earlier dots first, as far as there is room; the figure is settled.

    Args:
        dots: name and place of each.
    """
    names = [name for name, _ in dots]
    first = [number for number, name in enumerate(names) if names.index(name) == number]
    order = [*first, *(number for number in range(len(dots)) if number not in first)]
    points = [(float(x), float(y)) for x, y in axes.transData.transform([dots[number][1] for number in order])]
    texts = [(names[number],) for number in first] + [()] * (len(order) - len(first))
    x0, y0, x1, y1 = map(float, axes.get_window_extent().extents)
    labels = position(points, texts, (x0, y0, x1, y1))
    for number, (x, y), label in zip(order, points, labels, strict=True):
        if label:
            line = {"arrowstyle": "-", "color": PALETTE["grey"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
            offset = label.left - x, label.middle - y
            axes.annotate(label.text, dots[number][1], offset, textcoords="offset points", va="center_baseline",
                          fontsize=7.8, color=PALETTE["ink"], arrowprops=line if label.linked else None)  # fmt: skip
