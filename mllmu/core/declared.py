"""What plug-ins say about their own numbers. It travels in ``metrics.json``, so a report knows no plug-in by name."""

import math
from typing import Literal

from pydantic import Field

from mllmu.core.records import Modality, Record, Split, TaskName

Direction = Literal["higher", "lower"]
Format = Literal["decimal", "percent", "signed", "p_value"]
"""How a number is printed: with decimals, as a share in percent, as a difference in points, or as a p-value."""
MODALITY_LABELS: dict[str, str] = {"image_text": "image + text", "text": "text only", "both": "both"}
"""How a modality is called in tables and plots."""
THESE_PEOPLE = 2
"""A number from so many people or fewer is about these people: the unit is the question, not the person."""
SMALLEST_GAP = 0.02
"""Where target and retain_model differ by a smaller share, a number cannot tell forgetting from knowing."""

Good = Literal["retain_model", "kept", "near", "none"]
"""Where a number is good: at the retain_model's; as high as the target's or higher; at 1; or it is not judged."""


class MetricInfo(Record):
    """How a metric's values are read and printed.

    Attributes:
        label: title of a column or chart.
        unit: what one unit of the value is, e.g. ``share``, ``nats`` or ``points``.
        percent: a share that is printed in percent; otherwise with ``decimals``.
        range: lowest and highest possible value, None where there is no bound; printed intervals are cut there.
        better: the good direction where knowledge is wanted (retain, celebrity, general benchmarks).
        outcome: the metric counts one kind of response (right, wrong, ...); the kinds add up to 1.
        collapse: a high share of this kind is how a collapsed model looks.
        table: the metric has a table of its own beside the headline metrics (the points of a judge).
        about: what the metric measures, in one sentence without a full stop, for a glossary or below its table.
    """

    label: str
    unit: str = "share"
    percent: bool = True
    decimals: int = 3
    range: tuple[float | None, float | None] = (0.0, 1.0)
    better: Direction = "higher"
    outcome: bool = False
    collapse: bool = False
    table: bool = False
    about: str = ""


class TaskInfo(Record):
    """A task's title, the metric that tables and plots show of it, and whether means over the tasks hold it."""

    label: str
    metric: str
    in_mean: bool = True


class SplitInfo(Record):
    """A set's title, and whether it is a set of people or a general benchmark.

    ``metric``: the metric whose mean over all questions is the score of a benchmark; empty: the mean over its tasks.
    """

    label: str
    metric: str = ""
    kind: Literal["people", "benchmark"] = "people"


class ColumnSpec(Record):
    """One column of summary numbers.

    Attributes:
        summary, detail, split, modality: which rows of the summaries stand in the column.
        head: the heading; ``under``: small print below it; ``reads``: how to read the number, in one sentence.
        show: how a value is printed, after multiplication by ``scale``; ``decimals``: of a ``decimal``.
        good: where the value is good. At the retain_model's, ``scale`` must make it a share: 0.02 is then a small gap.
        more: (word, detail) of further numbers of the same summary, printed below each value.
        median: the column shows the median over all details of the summary, and below it their number.
        metric: the metric that the numbers are made from, if it is one; ``task``: the task, if it is only one.
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
    decimals: int = 2
    scale: float = 1.0
    more: tuple[tuple[str, str], ...] = ()
    median: bool = False
    metric: str = ""
    task: TaskName = ""


class TableSpec(Record):
    """A table of summary numbers, one row per model. Tables of one title are one table; its columns follow each other.

    Attributes:
        order: position among the tables, lowest first.
        by_modality: the columns name no modality; there is one table per modality, which its title names.
        bar: columns of shares that add up to 1, drawn as a bar at the head of each row, under the heading ``bar_head``.
        folded: too large to be open when the page is.
    """

    title: str
    intro: str = ""
    columns: tuple[ColumnSpec, ...]
    bar: tuple[ColumnSpec, ...] = ()
    bar_head: str = ""
    order: int = 0
    by_modality: bool = False
    folded: bool = False


class Declared(Record):
    """Everything a report needs to know about the plug-ins behind its numbers, by name."""

    metrics: dict[str, MetricInfo] = Field(default_factory=dict)
    tasks: dict[TaskName, TaskInfo] = Field(default_factory=dict)
    splits: dict[Split, SplitInfo] = Field(default_factory=dict)
    tables: tuple[TableSpec, ...] = ()


def closeness(
    value: float | None,
    target: float | None,
    retain_model: float | None,
    limits: tuple[float | None, float | None] = (0.0, 1.0),
) -> tuple[float | None, str]:
    """How far a number has moved from the target's to the retain_model's, and a note.

    1 - |value - retain_model| / |target - retain_model|, clipped to [0, 1]: 1 at the retain_model's number, 0 at the
    target's or as far away on the other side. The note is ``beyond`` where the number lies past the retain_model's.

    Args:
        limits: lowest and highest value that the numbers can have; None or infinite where there is no such end.

    Returns:
        None with the reason where a number is missing, or where target and retain_model are alike: they differ by less
        than 0.02 of the width between the limits; without two limits, by less than 0.02 of the larger one's size.

    >>> closeness(0.5, 0.9, 0.3), closeness(0.2, 0.9, 0.3), closeness(0.5, 0.3, 0.3)
    ((0.6666666666666667, ''), (0.8333333333333334, 'beyond'), (None, 'target and retain_model are alike'))
    >>> closeness(-0.010, -0.004, -0.020, (None, 0.0))
    (0.375, '')
    """
    if value is None or target is None or retain_model is None:
        return None, "not judged"
    span = target - retain_model
    low, high = (math.inf if end is None else end for end in limits)
    scale = abs(high - low) if math.isfinite(low) and math.isfinite(high) else max(abs(target), abs(retain_model))
    if not span or abs(span) < SMALLEST_GAP * scale:
        return None, "target and retain_model are alike"
    beyond = (value - retain_model) * span < 0
    return max(0.0, 1 - abs(value - retain_model) / abs(span)), "beyond" if beyond else ""
