"""Looking up and averaging results, and printing them: the one place where report numbers are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mllmu.records import MODALITIES, SPLITS, TASKS, MetricResult, Modality, Split, TaskName
from mllmu.report.inputs import ROLES, ModelRow, ReportInput, Role

MAIN_METRIC: dict[TaskName, str] = {"classification": "accuracy", "generation": "rougeL", "cloze": "cloze_contains"}
"""The paper's metric of each task; what tables, plots and the trade-off are made of."""

OUTCOMES: tuple[str, ...] = ("right", "wrong", "refused", "garbled")
UTILITY_SPLITS: tuple[Split, ...] = ("retain", "celebrity")
COLLAPSE_SHARE = 0.5
"""A model is called collapsed when at least this share of its replies about retain people is garbled."""

METRIC_LABELS: dict[str, str] = {
    "accuracy": "accuracy",
    "rougeL": "ROUGE-L",
    "cloze_contains": "answer contained",
}
MODALITY_LABELS: dict[str, str] = {"image_text": "image + text", "text": "text only", "both": "both"}
_DECIMALS = ("rouge", "bleu", "truth_ratio", "probability", "factuality", "exposure", "member_")

Cell = tuple[Split, TaskName]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; a bound is None where it is unknown."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(parts: list[Interval]) -> Interval | None:
    """Mean of values; its bounds are the means of the bounds.

    That interval is the true one if the parts move together fully and too wide otherwise, never too narrow:
    the tasks ask about the same people, so their errors are correlated by an unknown amount.
    """
    if not parts:
        return None
    lows = [p.low for p in parts if p.low is not None]
    highs = [p.high for p in parts if p.high is not None]
    known = len(lows) == len(highs) == len(parts)
    value = sum(p.value for p in parts) / len(parts)
    return Interval(value, sum(lows) / len(parts), sum(highs) / len(parts)) if known else Interval(value)


def usable(value: float | None) -> float | None:
    """The value, or None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


class Numbers:
    """Results of a report by (model, metric, split, task, modality); models in reading order."""

    def __init__(self, report: ReportInput) -> None:
        self.models: list[ModelRow] = sorted(report.models, key=lambda row: ROLES.index(row.role))
        self._results = {(r.model, r.metric, r.split, r.task, r.modality): r for r in report.results}
        rows = {row.name for row in report.models}
        self._asked = {
            (r.split, r.task, r.modality) for r in report.results if r.model in rows and r.metric == MAIN_METRIC[r.task]
        }
        self.modalities: list[Modality] = [m for m in MODALITIES if any(m == asked[2] for asked in self._asked)]

    def first(self, role: Role) -> ModelRow | None:
        """The first model of a role."""
        return next((row for row in self.models if row.role == role), None)

    def unlearned(self) -> list[ModelRow]:
        """All models made by an unlearning method."""
        return [row for row in self.models if row.role == "unlearned"]

    def tasks(self, modality: Modality) -> list[TaskName]:
        """Tasks that any model was asked in a modality."""
        return [t for t in TASKS if any((t, modality) == asked[1:] for asked in self._asked)]

    def splits(self, modality: Modality) -> list[Split]:
        """Splits that any model was asked in a modality."""
        return [s for s in SPLITS if any(s == asked[0] and modality == asked[2] for asked in self._asked)]

    def cells(self, modality: Modality, splits: Iterable[Split], task: TaskName | None = None) -> list[Cell]:
        """The (split, task) pairs asked in a modality; all tasks unless one is named."""
        tasks = TASKS if task is None else (task,)
        return [(s, t) for s in splits for t in tasks if (s, t, modality) in self._asked]

    def result(self, model: str, metric: str, cell: Cell, modality: Modality) -> MetricResult | None:
        """One result, or None if there is none."""
        return self._results.get((model, metric, *cell, modality))

    def main(self, model: str, cell: Cell, modality: Modality) -> Interval | None:
        """The main score of a cell, or None if the model was not asked or nothing could be judged."""
        result = self.result(model, MAIN_METRIC[cell[1]], cell, modality)
        value = usable(result.value) if result else None
        return Interval(value, usable(result.ci_low), usable(result.ci_high)) if result and value is not None else None

    def mean(self, model: str, cells: list[Cell], modality: Modality) -> Interval | None:
        """Mean main score over cells; None if one of them is missing (a mean over fewer would not compare)."""
        parts = [self.main(model, cell, modality) for cell in cells]
        whole = [part for part in parts if part is not None]
        return mean_interval(whole) if len(whole) == len(parts) else None

    def score(
        self, model: str, modality: Modality, splits: Iterable[Split], task: TaskName | None = None
    ) -> Interval | None:
        """Mean main score over splits and tasks; a split counts as much as another, a task likewise."""
        return self.mean(model, self.cells(modality, splits, task), modality)

    def share(self, model: str, outcome: str, cells: list[Cell], modality: Modality) -> float | None:
        """Share of replies with an outcome over cells, each cell weighted by its number of replies."""
        found = [self.result(model, outcome, cell, modality) for cell in cells]
        parts = [(r.value, r.num) for r in found if r and r.num and usable(r.value) is not None and r.value is not None]
        total = sum(num for _, num in parts)
        return sum(value * num for value, num in parts) / total if total else None


def is_percent(metric: str) -> bool:
    """Whether a metric is printed in percent (a share of replies) or as a decimal (ROUGE and the like)."""
    return not metric.startswith(_DECIMALS)


def show(metric: str, value: float | None) -> str:
    """Print a metric value as the paper does: shares in percent, ROUGE and the like as decimals; none is a dash.

    >>> show("accuracy", 0.517), show("rougeL", 0.6451), show("accuracy", None)
    ('51.7', '0.645', '–')
    """
    if usable(value) is None or value is None:
        return "–"
    return f"{100 * value:.1f}" if is_percent(metric) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share in percent with its sign, or a dash.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '–')
    """
    return "–" if usable(value) is None or value is None else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds as a reader says them.

    >>> duration(7.25), duration(605), duration(7320), duration(None)
    ('7.2 s', '10 min 05 s', '2 h 02 min', '–')
    """
    if usable(seconds) is None or seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listing(names: Iterable[str]) -> str:
    """Names as English prose; of more than six, the first five and how many others.

    >>> listing(["ga"]), listing(["ga", "npo", "kl"])
    ('ga', 'ga, npo and kl')
    """
    *head, last = names
    if len(head) > 5:
        head, last = head[:5], f"{len(head) - 4} others"
    return f"{', '.join(head)} and {last}" if head else last
