"""The trade-off plot: forgetting to the right, utility upwards, every model a named dot."""

from __future__ import annotations

from typing import Any

from matplotlib.lines import Line2D

from mllmu.report import labels
from mllmu.report.figures import PALETTE, Plot, finish, new_figure, settle, style
from mllmu.report.numbers import MODALITY_LABELS, Interval
from mllmu.report.tradeoff import TradeoffRow

MANY = 12
"""With more models the plot is as wide as the page, and intervals step back."""
RETAIN_AND_CELEBRITY = "retain and celebrity, mean score"
_ROLE_MARKERS = {"target": "s", "retain_model": "D"}
_MARKERS = {"image_text": "o", "text": "^", "both": "p"}
"""By what a model was unlearned with."""


def plottable(row: TradeoffRow) -> bool:
    """Whether a row has both coordinates."""
    return row.drop is not None and row.level is not None


def scatter(
    rows: list[TradeoffRow], name: str, title: str, chance: Interval | None, *, against: str = RETAIN_AND_CELEBRITY
) -> Plot | None:
    """Draw the rows of one modality and task; None if no model has both coordinates.

    x = target's forget score - model's, y = the utility of the rows, both in points of 100; ``against`` says what that
    is. Bars are the 95 % intervals of the two scores themselves. ``chance`` draws a horizontal line where guessing
    would be. A model with a task that cannot be read is a half-filled dot, at its distance from the target.
    """
    shown = [row for row in rows if plottable(row)]
    if not shown:
        return None
    many = len(shown) > MANY
    with style(name):
        figure = new_figure(10.4, 6.2) if many else new_figure(5.3, 4.3)
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_xlabel("forgotten: points below the target on forget people  →")
        axes.set_ylabel(f"utility: {against}  →")
        _limits(axes, shown, chance)
        _backdrop(axes, shown, chance)
        for row in sorted(shown, key=_importance, reverse=True):
            _dot(axes, row, many=many)
        _legend(figure, shown)
        settle(figure)
        _label(axes, shown)
        asked = MODALITY_LABELS[shown[0].modality]
        return finish(figure, name, f"Scatter of forgetting against utility, {asked}: {_words(shown)}")


def _xy(row: TradeoffRow) -> tuple[float, float]:
    """Plot coordinates; callers pass :func:`plottable` rows, anything else would land at the origin."""
    return 100 * (row.drop or 0.0), 100 * (row.level or 0.0)


def _colour(row: TradeoffRow) -> str:
    special = {"target": "blue", "retain_model": "teal", "base": "grey", "baseline": "grey"}
    return PALETTE[special.get(row.model.role, "orange" if row.on_front else "muted")]


def _limits(axes: Any, rows: list[TradeoffRow], chance: Interval | None) -> None:
    points = [_xy(row) for row in rows]
    xs = [x for x, _ in points] + [0.0]
    ys = [y for _, y in points] + ([100 * chance.value] if chance else [])
    x_room, y_room = max(2.0, 0.1 * (max(xs) - min(xs))), max(2.0, 0.12 * (max(ys) - min(ys)))
    axes.set_xlim(min(xs) - x_room, max(xs) + x_room)
    axes.set_ylim(min(ys) - y_room, max(ys) + y_room)


def _backdrop(axes: Any, rows: list[TradeoffRow], chance: Interval | None) -> None:
    """Front line, chance line, and the shaded side where more is forgotten than the retain_model ever lacked."""
    gold = next((row for row in rows if row.model.role == "retain_model"), None)
    if gold:
        x = _xy(gold)[0]
        axes.axvspan(x, max(x, axes.get_xlim()[1]), color=PALETTE["teal"], alpha=0.08, linewidth=0)
        axes.axvline(x, color=PALETTE["teal"], linewidth=0.9, alpha=0.6)
    if chance:
        axes.axhline(100 * chance.value, color=PALETTE["grey"], linestyle=(0, (2, 2)), linewidth=1)
        left = axes.get_xlim()[0]
        axes.annotate("chance", (left, 100 * chance.value), (3, 2), textcoords="offset points", fontsize=7.5)
    front = [_xy(row) for row in sorted(rows, key=lambda row: -(row.distance or 0.0)) if row.on_front]
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=PALETTE["orange"], linewidth=2.4, alpha=0.55, zorder=1.8)


def _dot(axes: Any, row: TradeoffRow, *, many: bool) -> None:
    x, y = _xy(row)
    colour, pale = _colour(row), many and _importance(row) > 1
    if not row.partial:
        bars = {"xerr": _bars(row.forget), "yerr": _bars(row.utility)}
        axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.16 if pale else 0.4, zorder=1.5)
    axes.plot(
        [x],
        [y],
        _ROLE_MARKERS.get(row.model.role) or _MARKERS.get(row.model.modality or "", "o"),
        markersize=8.5 if _importance(row) < 2 else 7.5,
        fillstyle="left" if row.partial else "none" if row.collapsed else "full",
        markerfacecolor=colour,
        markerfacecoloralt=PALETTE["on-dot"],
        markeredgecolor=colour if row.partial or row.collapsed else PALETTE["on-dot"],
        markeredgewidth=1.3 if row.partial or row.collapsed else 0.8,
        color=colour,
        zorder=3 - 0.1 * _importance(row),
    )


def _bars(interval: Interval | None) -> list[list[float]] | None:
    if interval is None or interval.low is None or interval.high is None:
        return None
    return [[max(0.0, 100 * (interval.value - interval.low))], [max(0.0, 100 * (interval.high - interval.value))]]


def _legend(figure: Any, rows: list[TradeoffRow]) -> None:
    """What shapes and fillings mean; only of those that occur."""
    made = [row for row in rows if row.model.role == "unlearned"]
    kinds = [m for m in _MARKERS if any(row.model.modality == m for row in made)]
    entries = [(_MARKERS[m], "full", f"unlearned with {MODALITY_LABELS[m]}") for m in kinds if len(kinds) > 1]
    entries += [("o", "none", "collapsed")] * any(row.collapsed for row in made)
    entries += [("o", "left", "not all of it can be read")] * any(row.partial for row in made)
    handles = [
        Line2D([], [], linestyle="", marker=marker, fillstyle=fill, markersize=7, color=PALETTE["muted"],  # type: ignore[arg-type]
               markerfacecoloralt=PALETTE["on-dot"], label=label)
        for marker, fill, label in entries
    ]  # fmt: skip
    if any(row.on_front for row in made):
        handles.append(Line2D([], [], color=PALETTE["orange"], linewidth=2.4, label="Pareto front"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3 if len(rows) > MANY else 2)


def _label(axes: Any, rows: list[TradeoffRow]) -> None:
    """Names beside the dots, the important ones first; where a name has no room, the number in the table."""
    order = sorted(rows, key=lambda row: (_importance(row), row.number))
    points = [(float(x), float(y)) for x, y in axes.transData.transform([_xy(row) for row in order])]
    frame = axes.get_window_extent()
    bounds = (float(frame.x0), float(frame.y0), float(frame.x1), float(frame.y1))
    texts = [(row.model.name, str(row.number)) for row in order]
    back = axes.transData.inverted()
    for row, point, label in zip(order, points, labels.place(points, texts, bounds), strict=True):
        if label is None:
            continue
        axes.annotate(
            label.text,
            _xy(row),
            (label.at[0] - point[0], label.at[1] - point[1]),
            textcoords="offset points",  # a pixel is a point, see figures
            fontsize=7.8,
            va="center_baseline",
            color=_colour(row) if _importance(row) < 2 else PALETTE["ink"],
            fontweight="bold" if _importance(row) < 2 else "normal",
        )
        if label.line:
            ends = zip(_xy(row), map(float, back.transform(label.line)), strict=True)
            axes.plot(*ends, color=PALETTE["grey"], linewidth=0.6, zorder=1.6)


def _importance(row: TradeoffRow) -> int:
    return 0 if row.model.role in _ROLE_MARKERS else 1 if row.on_front else 2


def _words(rows: list[TradeoffRow]) -> str:
    return "; ".join(f"{row.model.name} {_xy(row)[0]:.1f} forgotten, utility {_xy(row)[1]:.1f}" for row in rows)
