"""Place names beside points so that nothing covers anything else: the same places for the same points, every time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
Point = tuple[float, float]
_LETTER, _LINE = 4.9, 10.0
"""Width of a letter and height of a line in pixels, a little more than the page's letters need."""
_RINGS = (9, 15, 22, 31, 42, 55, 70, 88)
_AROUND = 16
_DOT = 5.5


@dataclass(frozen=True)
class Label:
    """A text, the middle of its left edge, and the point where its line to the dot starts (None: it needs none)."""

    text: str
    at: Point
    line: Point | None


def place(points: Sequence[Point], texts: Sequence[Sequence[str]], bounds: Box) -> list[Label | None]:
    """Find room for one label per point, in the order given: the important ones first.

    Rings around the point are tried from the inside out, and on each sixteen directions, beginning to the right. A
    label must lie inside ``bounds`` and cover no dot and no label; its line must not cross them either.

    Args:
        points: in pixels, y upwards.
        texts: for each point what may be written, best first (a name, then a number).

    Returns:
        For each point its label, or None where nothing had room.
    """
    taken: list[Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in points]
    found: list[Label | None] = []
    for index, (point, choices) in enumerate(zip(points, texts, strict=True)):
        dots = [dot for place, dot in enumerate(taken[: len(points)]) if place != index]
        label = _first(point, choices, bounds, dots, taken[len(points) :], taken[index])
        found.append(label)
        if label:
            taken.append(_box(label.text, label.at))
    return found


def _first(
    point: Point, choices: Sequence[str], bounds: Box, dots: list[Box], labels: list[Box], own: Box
) -> Label | None:
    for text in choices:
        for radius, at in _spots(point, text):
            box = _box(text, at)
            if not _inside(box, bounds) or any(_overlap(box, other) for other in (*dots, *labels, own)):
                continue
            end = (min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3]))
            if radius <= _RINGS[1]:
                return Label(text, at, None)
            if not any(_crosses(point, end, other) for other in labels):
                return Label(text, at, end)
    return None


def _spots(point: Point, text: str) -> Iterator[tuple[int, Point]]:
    """Places of the left middle of a text around a point: to its right it begins there, to its left it ends there."""
    width = _LETTER * len(text)
    for radius in _RINGS:
        for turn in range(_AROUND):
            # 0, 1, -1, 2, -2 ...: the right side first, the left last
            angle = (turn + 1) // 2 * (-1) ** (turn % 2) * 2 * math.pi / _AROUND
            x, y = point[0] + radius * math.cos(angle), point[1] + radius * math.sin(angle)
            side = math.cos(angle)
            left = x if side > 0.3 else x - width if side < -0.3 else x - width / 2
            yield radius, (left, y)


def _box(text: str, at: Point) -> Box:
    return at[0] - 1, at[1] - _LINE / 2, at[0] + _LETTER * len(text) + 1, at[1] + _LINE / 2


def _inside(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _crosses(start: Point, end: Point, box: Box) -> bool:
    """Whether a straight line passes through a box (Liang and Barsky)."""
    low, high = 0.0, 1.0
    for axis in (0, 1):
        delta = end[axis] - start[axis]
        for edge, sign in ((box[axis], -1), (box[axis + 2], 1)):
            room = sign * (edge - start[axis])
            speed = sign * delta
            if speed == 0:
                if room < 0:
                    return False
            elif speed > 0:
                high = min(high, room / speed)
            else:
                low = max(low, room / speed)
    return low < high
