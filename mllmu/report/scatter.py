"""The trade-off plot: forgetting to the right, utility upwards, every model a named dot."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from mllmu.core.declared import MODALITY_LABELS
from mllmu.report.figures import PALETTE, Plot, finish, new_figure, settle, style
from mllmu.report.numbers import Interval, TradeoffRow

MANY = 12
"""With more models the plot is as wide as the page, and intervals step back."""
_ROLE_MARKERS = {"target": "s", "retain_model": "D"}
_MARKERS = {"image_text": "o", "text": "^", "both": "p"}
"""By the modality a model was unlearned with."""
Box = tuple[float, float, float, float]
Point = tuple[float, float]
_LETTER, _LINE = 4.9, 10.0
"""Width of a letter and height of a line in pixels, a little more than the page's letters need."""
_RINGS = (9, 15, 22, 31, 42, 55, 70, 88)
_AROUND = 16
_DOT = 5.5


def scatter(rows: list[TradeoffRow], name: str, title: str, chance: Interval | None, *, against: str) -> Plot | None:
    """Draw the rows of one modality and task; None if no model has both coordinates.

    x = target's forget score - model's, y = the utility of the rows, both in points of 100; ``against`` says what that
    is. Bars are the 95 % intervals of the two scores; to the right a bar ends where the forget score is lowest.
    ``chance`` draws a horizontal line where guessing would be. A model that is broken or hardly changed is a hollow
    dot.
    """
    shown = [row for row in rows if row.plottable]
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
        for row in sorted(shown, key=_rank, reverse=True):
            _dot(axes, row, many=many)
        _legend(figure, shown)
        settle(figure)
        _label(axes, shown)
        asked = MODALITY_LABELS[shown[0].modality]
        values = {f"dot-{row.number}": _words([row]) for row in shown}
        return finish(figure, name, f"Scatter of forgetting against utility, {asked}: {_words(shown)}", values)


def _xy(row: TradeoffRow) -> tuple[float, float]:
    """Plot coordinates; callers pass plottable rows, anything else would land at the origin."""
    return 100 * (row.drop or 0.0), 100 * (row.utility.value if row.utility else 0.0)


def _colour(row: TradeoffRow) -> str:
    special = {"target": "blue", "retain_model": "teal", "base": "grey", "baseline": "grey"}
    return PALETTE[special.get(row.model.role, "orange" if row.on_front else "muted")]


def _limits(axes: Any, rows: list[TradeoffRow], chance: Interval | None) -> None:
    """Room for every dot and the ends of its bars, for the target's place and for the chance line."""
    xs, ys = [0.0], [100 * chance.value] if chance else []
    for row in rows:
        (x, y), ((left, right), (down, up)) = _xy(row), _bars(row)
        xs += [x - left, x + right]
        ys += [y - down, y + up]
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
    front = [_xy(row) for row in sorted(rows, key=lambda row: -(row.gap or 0.0)) if row.on_front]
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=PALETTE["orange"], linewidth=2.4, alpha=0.55, zorder=1.8)


def _dot(axes: Any, row: TradeoffRow, *, many: bool) -> None:
    x, y = _xy(row)
    colour, rank, hollow = _colour(row), _rank(row), bool(row.faults)
    xerr, yerr = ([[before], [after]] for before, after in _bars(row))
    alpha = 0.16 if many and rank > 1 else 0.4
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=colour, elinewidth=0.8, alpha=alpha, zorder=1.5)
    marker = _ROLE_MARKERS.get(row.model.role) or _MARKERS.get(row.model.modality or "", "o")
    fill = "none" if hollow else "full"
    edge, width = (colour, 1.3) if hollow else (PALETTE["on-dot"], 0.8)
    axes.plot([x], [y], marker, color=colour, markersize=8.5 if rank < 2 else 7.5, fillstyle=fill,
              markeredgecolor=edge, markeredgewidth=width,
              zorder=3 - 0.1 * rank, gid=f"dot-{row.number}")  # fmt: skip


def _bars(row: TradeoffRow) -> tuple[Point, Point]:
    """How far the bars of a dot reach, in points: (left, right) and (down, up)."""
    below, above = _reach(row.forget)
    return (above, below), _reach(row.utility)


def _reach(interval: Interval | None) -> Point:
    """How far an interval reaches below and above its value, in points; 0 where it is unknown."""
    if interval is None or interval.low is None or interval.high is None:
        return 0.0, 0.0
    return max(0.0, 100 * (interval.value - interval.low)), max(0.0, 100 * (interval.high - interval.value))


def _legend(figure: Any, rows: list[TradeoffRow]) -> None:
    """What shapes and fillings mean; only of those that occur."""
    unlearned = [row for row in rows if row.model.role == "unlearned"]
    modalities = [m for m in _MARKERS if any(row.model.modality == m for row in unlearned)]
    entries = [(_MARKERS[m], "full", f"unlearned with {MODALITY_LABELS[m]}") for m in modalities if len(modalities) > 1]
    entries += [("o", "none", "broken or hardly changed")] * any(row.faults for row in unlearned)
    dot = {"linestyle": "", "markersize": 7, "color": PALETTE["muted"]}
    handles = [Line2D([], [], marker=m, fillstyle=fill, label=label, **dot) for m, fill, label in entries]  # type: ignore[arg-type]
    if any(row.on_front for row in unlearned):
        handles.append(Line2D([], [], color=PALETTE["orange"], linewidth=2.4, label="Pareto front"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3 if len(rows) > MANY else 2)


def _label(axes: Any, rows: list[TradeoffRow]) -> None:
    """Names beside the dots, the important ones first; where a name has no room, the number in the table."""
    order = sorted(rows, key=lambda row: (_rank(row), row.number))
    points = [(float(x), float(y)) for x, y in axes.transData.transform([_xy(row) for row in order])]
    texts = [(row.model.name, str(row.number)) for row in order]
    x0, y0, x1, y1 = map(float, axes.get_window_extent().extents)
    labels = position(points, texts, (x0, y0, x1, y1))
    for row, (x, y), label in zip(order, points, labels, strict=True):
        if label:
            colour, weight = (_colour(row), "bold") if _rank(row) < 2 else (PALETTE["ink"], "normal")
            line = {"arrowstyle": "-", "color": PALETTE["grey"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
            offset = label.left - x, label.middle - y  # a pixel is a point, see figures
            axes.annotate(label.text, _xy(row), offset, textcoords="offset points", va="center_baseline", fontsize=7.8,
                          color=colour, fontweight=weight, arrowprops=line if label.linked else None)  # fmt: skip


def _rank(row: TradeoffRow) -> int:
    return 0 if row.model.role in _ROLE_MARKERS else 1 if row.on_front else 2


def _words(rows: list[TradeoffRow]) -> str:
    return "; ".join(f"{row.model.name} {_xy(row)[0]:z.1f} forgotten, utility {_xy(row)[1]:.1f}" for row in rows)


# --- names beside the dots


class DotLabel(NamedTuple):
    """A text, the middle of its left edge, and whether a line links it to its dot, as it is not beside it."""

    text: str
    left: float
    middle: float
    linked: bool


def position(points: Sequence[Point], texts: Sequence[Sequence[str]], bounds: Box) -> list[DotLabel | None]:
    """Find room for one label per point, in the order given: the important ones first.

    Rings around the point are tried from the inside out, and on each sixteen directions, beginning to the right. A
    label must lie inside ``bounds`` and cover no dot and no label; its line must not cross a label either.

    Args:
        points: in pixels, y upwards.
        texts: for each point what may be written, best first (a name, then a number).

    Returns:
        For each point its label, or None where nothing had room.
    """
    dots = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in points]
    boxes: list[Box] = []
    labels: list[DotLabel | None] = []
    for point, choices in zip(points, texts, strict=True):
        spots = (label for text in choices for label in _spots(point, text))
        label = next((label for label in spots if _fits(point, label, bounds, dots, boxes)), None)
        labels.append(label)
        boxes += [_box(label)] if label else []
    return labels


def _fits(point: Point, label: DotLabel, bounds: Box, dots: Sequence[Box], boxes: Sequence[Box]) -> bool:
    box = _box(label)
    if box[0] < bounds[0] or box[1] < bounds[1] or box[2] > bounds[2] or box[3] > bounds[3]:
        return False
    if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in (*dots, *boxes)):
        return False
    end = (min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3]))
    line = Path([point, end])
    return not (label.linked and any(line.intersects_bbox(Bbox.from_extents(*b), filled=False) for b in boxes))


def _spots(point: Point, text: str) -> Iterator[DotLabel]:
    """Labels around a point: to its right the text begins there, to its left it ends there."""
    width = _LETTER * len(text)
    for radius in _RINGS:
        for turn in range(_AROUND):
            # 0, 1, -1, 2, -2 ...: the right side first, the left last
            angle = (turn + 1) // 2 * (-1) ** (turn % 2) * 2 * math.pi / _AROUND
            x, y = point[0] + radius * math.cos(angle), point[1] + radius * math.sin(angle)
            side = math.cos(angle)
            left = x if side > 0.3 else x - width if side < -0.3 else x - width / 2
            yield DotLabel(text, left, y, radius > _RINGS[1])


def _box(label: DotLabel) -> Box:
    right = label.left + _LETTER * len(label.text) + 1
    return label.left - 1, label.middle - _LINE / 2, right, label.middle + _LINE / 2
