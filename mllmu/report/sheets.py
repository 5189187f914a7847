"""Tables of numbers about whole models: columns say how they are read, cells how near they are to what is good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mllmu.core.declared import closeness
from mllmu.core.records import Summary
from mllmu.report.inputs import ReportInput
from mllmu.report.numbers import Numbers, usable

Good = Literal["oracle", "kept", "near", "none"]
"""Where a number is good: at the retain_model; as high as the target's or higher; at 1; or it is not judged."""
Place = tuple[str, str, str, str]
"""Summary, detail, split and modality."""
PERCENT = ("privleak",)
"""Summaries in percent; the others are shares."""


@dataclass(frozen=True)
class Column:
    """A heading, small print below it, how to read it in one sentence, and an arrow to where it is good."""

    head: str
    under: str
    reads: str
    arrow: str = ""


@dataclass(frozen=True)
class Cell:
    """``shade`` is 0 (bad) to 5 (good) or None; ``beyond``: past the retain_model; ``span``: the 95 % interval."""

    text: str
    under: str = ""
    title: str = ""
    shade: int | None = None
    beyond: bool = False
    span: str = ""


@dataclass(frozen=True)
class Row:
    """One model; ``bar`` holds widths in percent that add up to 100, where there is something to draw."""

    number: int
    name: str
    role: str
    cells: tuple[Cell, ...]
    bar: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """One table. ``notes``: why cells are empty, each reason once; ``folded``: too large to be open."""

    title: str
    intro: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


def decimal(value: float) -> str:
    """Two decimals.

    >>> decimal(0.456)
    '0.46'
    """
    return f"{value:.2f}"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A column to be: where its numbers are, how they are read, judged and printed.

    ``more``: places printed below each number, with a word each. ``trust``: the metric it is made from.
    """

    place: Place
    head: str
    reads: str = ""
    good: Good = "oracle"
    show: Callable[[float], str] = decimal
    more: tuple[tuple[str, Place], ...] = ()
    under: str = ""
    trust: str = ""


class Summaries:
    """Summaries by place and model."""

    def __init__(self, report: ReportInput, numbers: Numbers) -> None:
        self.models = numbers.models
        self.trust = report.trust
        self._found: dict[Place, dict[str, Summary]] = {}
        for row in report.summaries:
            self._found.setdefault((row.summary, row.detail, row.split, row.modality), {})[row.model] = row
        target, oracle = numbers.first("target"), numbers.first("retain_model")
        self.target, self.oracle = (row.name if row else "" for row in (target, oracle))

    def places(self, summary: str, modality: str, split: str) -> list[Place]:
        """Places of a summary where anything could be computed, in the order they were written."""
        return [p for p in self._found if (p[0], p[2], p[3]) == (summary, split, modality) and self.known(p)]

    def known(self, place: Place) -> bool:
        """Whether any model has a number there."""
        return any(usable(row.value) is not None for row in self.at(place).values())

    def at(self, place: Place) -> dict[str, Summary]:
        """The rows of a place by model; empty if there are none."""
        return self._found.get(place, {})

    def value(self, place: Place, model: str) -> float | None:
        """A number, None if it is missing or not finite."""
        row = self.at(place).get(model)
        return usable(row.value) if row else None


def percent_of(value: float) -> str:
    """A share as percent without its sign.

    >>> percent_of(0.125)
    '12.5'
    """
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in points.

    >>> signed(-0.05), signed(0.0)
    ('-5.0', '0.0')
    """
    return f"{100 * value:+.1f}" if round(1000 * value) else "0.0"


def p_value(value: float) -> str:
    """A p-value as papers print it.

    >>> p_value(0.0301), p_value(0.0004)
    ('0.030', '<0.001')
    """
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def sheet(
    found: Summaries, title: str, intro: str, specs: Sequence[Spec], *, bar: Sequence[Place] = (), folded: bool = False
) -> Sheet | None:
    """One row per model that has a row in one of the columns; columns that nobody measured are left out.

    ``bar``: places of shares that add up to one, drawn at the head of each row. None if nothing is left.
    """
    specs = [spec for spec in specs if found.known(spec.place)]
    rows = [
        Row(number, row.name, row.role, tuple(_cell(found, spec, row.name, row.role) for spec in specs),
            tuple(round(100 * (found.value(place, row.name) or 0.0), 1) for place in bar))
        for number, row in enumerate(found.models, start=1)
        if any(row.name in found.at(spec.place) for spec in specs)
    ]  # fmt: skip
    if not rows:
        return None
    columns = tuple(
        Column(spec.head, ", ".join(filter(None, (spec.under, _asked(found, spec), _trust(found, spec)))), spec.reads,
               _arrow(found, spec))
        for spec in specs
    )  # fmt: skip
    return Sheet(title, intro, columns, tuple(rows), tuple(_reasons(found, specs)), folded)


def step(goodness: float) -> int:
    """Shade of a goodness between 0 and 1.

    >>> step(0.0), step(0.5), step(1.0)
    (0, 3, 5)
    """
    return min(5, int(goodness * 6))


def _cell(found: Summaries, spec: Spec, model: str, role: str) -> Cell:
    row = found.at(spec.place).get(model)
    value = usable(row.value) if row else None
    if row is None or value is None:
        return Cell("–", title=row.note if row else "not measured")
    bounds = [usable(bound) for bound in (row.low, row.high)]
    span = " to ".join(spec.show(bound).removeprefix("+").removesuffix(".0") for bound in bounds if bound is not None)
    below = [f"{word} {more:.2f}" for word, place in spec.more if (more := found.value(place, model)) is not None]
    shade, beyond = _judge(found, spec, value) if role == "unlearned" else (None, False)
    none = row.note if row.note.startswith("no interval") else ""
    title = "; ".join(filter(None, (f"n {row.num}" if row.num else "", none)))
    return Cell(spec.show(value), ", ".join(below), title, shade, beyond or row.note == "beyond", span)


def _judge(found: Summaries, spec: Spec, value: float) -> tuple[int | None, bool]:
    """Shade, and whether the value lies past the retain_model."""
    start, end = (found.value(spec.place, name) for name in (found.target, found.oracle))
    if spec.good == "near":
        return step(value), False
    if spec.good == "kept":
        return (step(min(1.0, max(0.0, value / start))), False) if start and start > 0 else (None, False)
    if spec.good == "none" or start is None or end is None:
        return None, False
    scale = 100.0 if spec.place[0] in PERCENT else 1.0
    near, note = closeness(value / scale, start / scale, end / scale)
    return (None if near is None else step(near)), note == "beyond"


def _arrow(found: Summaries, spec: Spec) -> str:
    """Towards the good: up, or from the target to the retain_model; nothing where these are printed alike."""
    start, end = (found.value(spec.place, name) for name in (found.target, found.oracle))
    if spec.good in ("kept", "near"):
        return "↑"
    if spec.good == "none" or start is None or end is None or spec.show(start) == spec.show(end):
        return ""
    return "↓" if end < start else "↑"


def _asked(found: Summaries, spec: Spec) -> str:
    counts = sorted({row.num for row in found.at(spec.place).values() if row.num})
    if not counts:
        return ""
    return f"n {counts[0]}" if len(counts) == 1 else f"n {counts[0]} to {counts[-1]}"


def _trust(found: Summaries, spec: Spec) -> str:
    """AUC of the metric behind a column over models that know and models that do not; the range over its tasks."""
    task = spec.place[1].rpartition(" ")[2] if spec.place[0] == "oracle_distance" else ""
    areas = [
        row.auc
        for row in found.trust
        if (row.metric, row.modality) == (spec.trust, spec.place[3]) and task in ("", row.task) and row.auc is not None
    ]
    both = list(dict.fromkeys(f"{area:.2f}" for area in (min(areas), max(areas)))) if areas else []
    return f"trust {' to '.join(both)}" if both else ""


def _reasons(found: Summaries, specs: Sequence[Spec]) -> Iterator[str]:
    """Why numbers are missing, each reason once: 'PrivLeak of ga and 3 others: reason'."""
    by: dict[tuple[str, str], list[str]] = {}
    for spec in specs:
        for row in found.models:
            summary = found.at(spec.place).get(row.name)
            if summary and usable(summary.value) is None and summary.note:
                by.setdefault((spec.head, summary.note), []).append(row.name)
    for (head, note), models in by.items():
        yield f"{head} of {models[0]}{f' and {len(models) - 1} others' if len(models) > 1 else ''}: {note}"
