"""What plug-ins say about their own numbers. It travels in ``metrics.json``, so a report knows no plug-in by name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mllmu.core.records import Modality, Record, Split, TaskName

Direction = Literal["higher", "lower"]
Format = Literal["decimal", "percent", "signed", "p_value"]
"""How a number is printed: with decimals, as a share in percent, as a difference in points, or as a p-value."""
Good = Literal["retain_model", "kept", "near", "none"]
"""Where a number is good: at the retain_model's; as high as the target's or higher; at 1; or it is not judged."""


class MetricInfo(Record):
    """How a metric's values are read and printed.

    Attributes:
        label: title of a column or chart.
        unit: what one unit of the value is, e.g. ``share``, ``nats`` or ``points``.
        percent: a share that is printed in percent; otherwise with ``decimals``.
        better: the good direction where knowledge is wanted (retain, celebrity, general benchmarks).
        outcome: the metric counts one kind of response (right, wrong, ...); the kinds add up to 1.
        collapse: a high share of this kind is how a collapsed model looks.
    """

    label: str
    unit: str = "share"
    percent: bool = True
    decimals: int = 3
    better: Direction = "higher"
    outcome: bool = False
    collapse: bool = False


class TaskInfo(Record):
    """A task's title, and the metric that tables and plots show of it."""

    label: str
    metric: str


class SplitInfo(Record):
    """A set's title, and whether it is a set of people or a general benchmark."""

    label: str
    kind: Literal["people", "benchmark"] = "people"


class ColumnSpec(Record):
    """One column of summary numbers.

    Attributes:
        summary, detail, split, modality: which rows of the summaries stand in the column.
        head: the heading; ``under``: small print below it; ``reads``: how to read the number, in one sentence.
        show: how a value is printed, after multiplication by ``scale``.
        more: (word, detail) of further numbers of the same summary, printed below each value.
        metric: the metric that the numbers are made from, if it is one.
    """

    summary: str
    detail: str = ""
    split: Split = ""
    modality: Modality | Literal[""] = ""
    head: str
    under: str = ""
    reads: str = ""
    good: Good = "retain_model"
    show: Format = "decimal"
    scale: float = 1.0
    more: tuple[tuple[str, str], ...] = ()
    metric: str = ""


class TableSpec(Record):
    """A table of summary numbers, one row per model. Tables of one title are one table; its columns follow each other.

    Attributes:
        order: place among the tables, lowest first.
        bar: columns of shares that add up to 1, drawn as a bar at the head of each row.
        folded: too large to be open when the page is.
    """

    title: str
    intro: str = ""
    columns: tuple[ColumnSpec, ...]
    bar: tuple[ColumnSpec, ...] = ()
    order: int = 0
    folded: bool = False


class Declared(Record):
    """Everything a report needs to know about the plug-ins behind its numbers, by name."""

    metrics: dict[str, MetricInfo] = Field(default_factory=dict)
    tasks: dict[TaskName, TaskInfo] = Field(default_factory=dict)
    splits: dict[Split, SplitInfo] = Field(default_factory=dict)
    tables: tuple[TableSpec, ...] = ()
