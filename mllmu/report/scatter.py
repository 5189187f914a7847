"""The trade-off plot: forgetting to the right, utility upwards, every model a numbered dot."""

from __future__ import annotations

from typing import Any

from mllmu.report.figures import PALETTE, Plot, finish, new_figure, settle, style
from mllmu.report.numbers import MODALITY_LABELS, Interval
from mllmu.report.tradeoff import TradeoffRow

Box = tuple[float, float, float, float]
_MARKERS = {"target": "s", "retain_model": "D"}


def plottable(row: TradeoffRow) -> bool:
    """Whether a row has both coordinates."""
    return row.drop is not None and row.utility is not None


RETAIN_AND_CELEBRITY = "retain and celebrity, mean score"


def scatter(
    rows: list[TradeoffRow], name: str, title: str, chance: Interval | None, *, against: str = RETAIN_AND_CELEBRITY
) -> Plot | None:
    """Draw the rows of one modality and task; None if no model has both coordinates.

    x = target's forget score - model's, y = the utility of the rows, both in points of 100; ``against`` says what that
    is. Bars are the 95 % intervals of the two scores themselves. ``chance`` draws a horizontal line where guessing
    would be.
    """
    shown = [row for row in rows if plottable(row)]
    if not shown:
        return None
    with style(name):
        figure = new_figure(5.3, 4.3)
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_xlabel("forgotten: points below the target on forget people  →")
        axes.set_ylabel(f"utility: {against}  →")
        _limits(axes, shown, chance)
        _backdrop(axes, shown, chance)
        for row in shown:
            _dot(axes, row)
        settle(figure)
        _label(axes, shown)
        asked = MODALITY_LABELS[shown[0].modality]
        return finish(figure, name, f"Scatter of forgetting against utility, {asked}: {_words(shown)}")


def _xy(row: TradeoffRow) -> tuple[float, float]:
    """Plot coordinates; callers pass :func:`plottable` rows, anything else would land at the origin."""
    return 100 * (row.drop or 0.0), 100 * (row.utility.value if row.utility else 0.0)


def _colour(row: TradeoffRow) -> str:
    special = {"target": "blue", "retain_model": "teal", "base": "grey", "baseline": "grey"}
    return PALETTE[special.get(row.model.role, "orange" if row.on_front else "muted")]


def _limits(axes: Any, rows: list[TradeoffRow], chance: Interval | None) -> None:
    points = [_xy(row) for row in rows]
    xs = [x for x, _ in points] + [0.0]
    ys = [y for _, y in points] + ([100 * chance.value] if chance else [])
    x_room, y_room = max(2.0, 0.14 * (max(xs) - min(xs))), max(2.0, 0.14 * (max(ys) - min(ys)))
    axes.set_xlim(min(xs) - x_room, max(xs) + x_room)
    axes.set_ylim(min(ys) - y_room, max(ys) + y_room)


def _backdrop(axes: Any, rows: list[TradeoffRow], chance: Interval | None) -> None:
    """Front line, chance line, and the shaded side where more is forgotten than the retain_model ever lacked."""
    gold = next((row for row in rows if row.model.role == "retain_model"), None)
    if gold:
        x = _xy(gold)[0]
        axes.axvspan(x, max(x, axes.get_xlim()[1]), color=PALETTE["teal"], alpha=0.08, linewidth=0)
    if chance:
        axes.axhline(100 * chance.value, color=PALETTE["grey"], linestyle=(0, (2, 2)), linewidth=1)
        left = axes.get_xlim()[0]
        axes.annotate("chance", (left, 100 * chance.value), (3, 2), textcoords="offset points", fontsize=7.5)
    front = [_xy(row) for row in sorted(rows, key=lambda row: -(row.distance or 0.0)) if row.on_front]
    axes.plot(*zip(*front, strict=True), color=PALETTE["orange"], linewidth=1.2, alpha=0.7) if len(front) > 1 else None


def _dot(axes: Any, row: TradeoffRow) -> None:
    x, y = _xy(row)
    colour = _colour(row)
    bars = {"xerr": _bars(row.forget), "yerr": _bars(row.utility)}
    axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.45)
    face = "none" if row.collapsed else colour
    marker = _MARKERS.get(row.model.role, "o")
    axes.plot([x], [y], marker, markersize=11.5, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.1)
    ink = colour if row.collapsed else PALETTE["on-dot"]
    axes.text(x, y, str(row.number), color=ink, fontsize=6.8, ha="center", va="center_baseline", fontweight="bold")


def _bars(interval: Interval | None) -> list[list[float]] | None:
    if interval is None or interval.low is None or interval.high is None:
        return None
    return [[max(0.0, 100 * (interval.value - interval.low))], [max(0.0, 100 * (interval.high - interval.value))]]


def _label(axes: Any, rows: list[TradeoffRow]) -> None:
    """Write names beside dots where there is room, the important ones first; the number in the dot always stays."""
    dots = [(row, tuple(map(float, axes.transData.transform(_xy(row))))) for row in rows]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for _, (x, y) in dots]
    frame = axes.get_window_extent()
    bounds = (float(frame.x0), float(frame.y0), float(frame.x1), float(frame.y1))
    for row, (x, y) in sorted(dots, key=lambda dot: (_importance(dot[0]), dot[0].number)):
        width = 5.0 * len(row.model.name)
        for dx, dy in ((6, 10), (6, -10), (-6 - width, 10), (-6 - width, -10), (9, 0), (-9 - width, 0)):
            box = (x + dx, y + dy - 5, x + dx + width, y + dy + 5)
            if _inside(box, bounds) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    row.model.name,
                    _xy(row),
                    (dx, dy),
                    textcoords="offset points",
                    fontsize=7.8,
                    va="center",
                    color=_colour(row) if _importance(row) < 2 else PALETTE["muted"],
                )
                break


def _importance(row: TradeoffRow) -> int:
    return 0 if row.model.role in _MARKERS else 1 if row.on_front else 2


def _inside(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _words(rows: list[TradeoffRow]) -> str:
    return "; ".join(f"{row.model.name} {_xy(row)[0]:.1f} forgotten, utility {_xy(row)[1]:.1f}" for row in rows)
