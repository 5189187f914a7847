"""Looking up and averaging results, and printing them: the one place where report numbers are computed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mllmu.core.records import MODALITIES, SPLITS, TASKS, MetricResult, Modality, Split, TaskName
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
_DECIMALS = ("rouge", "bleu", "truth_ratio", "probability", "factuality", "exposure", "member_", "reply_perplexity")

FEW_PEOPLE = 5
"""With fewer people an interval is marked: it rests on a guess about how people differ."""

Cell = tuple[Split, TaskName]
Tasks = TaskName | Collection[TaskName] | None
"""One task, some, or all."""


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


def possible(value: float, low: float | None, high: float | None, people: int) -> Interval:
    """The interval of a share that can be true: cut at 0 and 1, and not empty where everybody is alike.

    The interval in ``metrics.json`` is symmetric, so with few people it can pass the end of the range. And where every
    person has all right (or nothing), the spread between people is estimated as 0. Then at least a share 0.025^(1/G) of
    people like the G asked is all right, by Clopper and Pearson with the person as the unit, 1934,
    doi:10.1093/biomet/26.4.404.

    >>> possible(0.9, 0.7, 1.1, 25).high, round(possible(1.0, 1.0, 1.0, 4).low, 3)
    (1.0, 0.398)
    """
    if low is None or high is None or not 0 <= value <= 1:
        return Interval(value, low, high)
    low, high = max(0.0, low), min(1.0, high)
    if low < high or people < 1 or value not in (0, 1):
        return Interval(value, low, high)
    bound = 0.025 ** (1 / people)
    return Interval(value, bound, 1.0) if value else Interval(value, 0.0, 1 - bound)


def usable(value: float | None) -> float | None:
    """The value, or None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Standing:
    """Where a model stands between forgetting and utility, in one modality; all in shares of 1.

    ScoredRun is measured over the tasks whose replies could be read on forget, retain and celebrity, and compared with
    the target and the retain_model over the same tasks.

    Attributes:
        forget, utility: mean main scores; utility over retain and celebrity.
        drop: target's forget score minus this one's; positive means forgotten.
        gap: difference to the retain_model's forget score, or to 0 without a retain_model; never negative.
        loss: utility below the retain_model's (or, without one, the target's); 0 if above.
        level: the height to draw at: the utility, moved by what the missing tasks change for the target.
        missing: tasks in which not one reply could be read.
    """

    forget: Interval | None = None
    utility: Interval | None = None
    drop: float | None = None
    gap: float | None = None
    loss: float | None = None
    level: float | None = None
    missing: tuple[TaskName, ...] = ()

    @property
    def distance(self) -> float | None:
        """From the retain_model in a straight line: sqrt(gap^2 + loss^2)."""
        return None if self.gap is None or self.loss is None else math.hypot(self.gap, self.loss)


class Numbers:
    """Results of a report by (model, metric, split, task, modality).

    ``models`` are in reading order: by role, and the unlearned by their distance from the retain_model, nearest first
    (mean over modalities; without one, as in the input).
    """

    def __init__(self, report: ReportInput) -> None:
        self.models: list[ModelRow] = sorted(report.models, key=lambda row: ROLES.index(row.role))
        self._results = {(r.model, r.metric, r.split, r.task, r.modality): r for r in report.results}
        rows = {row.name for row in report.models}
        self._asked = {
            (r.split, r.task, r.modality) for r in report.results if r.model in rows and r.metric == MAIN_METRIC[r.task]
        }
        self.modalities: list[Modality] = [m for m in MODALITIES if any(m == asked[2] for asked in self._asked)]
        far = {row.name: self._distance(row.name) for row in self.models if row.role == "unlearned"}
        self.models.sort(key=lambda row: (ROLES.index(row.role), far.get(row.name, 0.0)))

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

    def cells(self, modality: Modality, splits: Iterable[Split], task: Tasks = None) -> list[Cell]:
        """The (split, task) pairs asked in a modality; all tasks unless some are named."""
        tasks = TASKS if task is None else (task,) if isinstance(task, str) else [t for t in TASKS if t in task]
        return [(s, t) for s in splits for t in tasks if (s, t, modality) in self._asked]

    def result(self, model: str, metric: str, cell: Cell, modality: Modality) -> MetricResult | None:
        """One result, or None if there is none."""
        return self._results.get((model, metric, *cell, modality))

    def main(self, model: str, cell: Cell, modality: Modality) -> Interval | None:
        """The main score of a cell, or None if the model was not asked or nothing could be judged."""
        result = self.result(model, MAIN_METRIC[cell[1]], cell, modality)
        value = usable(result.value) if result else None
        if result is None or value is None:
            return None
        return possible(value, usable(result.ci_low), usable(result.ci_high), result.num_profiles)

    def mean(self, model: str, cells: list[Cell], modality: Modality) -> Interval | None:
        """Mean main score over cells; None if one of them is missing (a mean over fewer would not compare)."""
        parts = [self.main(model, cell, modality) for cell in cells]
        whole = [part for part in parts if part is not None]
        return mean_interval(whole) if len(whole) == len(parts) else None

    def score(self, model: str, modality: Modality, splits: Iterable[Split], task: Tasks = None) -> Interval | None:
        """Mean main score over splits and tasks; a split counts as much as another, a task likewise."""
        return self.mean(model, self.cells(modality, splits, task), modality)

    def readable(self, model: str, modality: Modality, splits: Collection[Split], task: Tasks = None) -> list[TaskName]:
        """The tasks that were asked and have a judged reply in every set."""
        asked = dict.fromkeys(cell[1] for cell in self.cells(modality, splits, task))
        return [t for t in asked if all(self.main(model, c, modality) for c in self.cells(modality, splits, t))]

    def standing(self, model: str, modality: Modality, task: Tasks = None) -> Standing:
        """Forgetting and utility of a model, over the tasks that can be read of it."""
        splits: tuple[Split, ...] = ("forget", *UTILITY_SPLITS)
        asked = list(dict.fromkeys(cell[1] for cell in self.cells(modality, splits, task)))
        read = self.readable(model, modality, splits, task)
        used = read or asked
        forget, utility = (self.score(model, modality, s, used) for s in (("forget",), UTILITY_SPLITS))
        start, best = self._yardstick("target", modality, used), self._yardstick("retain_model", modality, used)
        whole, kept = self._yardstick("target", modality, asked)[1], best[1] or start[1]
        ideal = best[0] if self.first("retain_model") else Interval(0.0)
        shift = whole.value - start[1].value if whole and start[1] else 0.0
        return Standing(
            forget=forget,
            utility=utility,
            drop=start[0].value - forget.value if start[0] and forget else None,
            gap=abs(forget.value - ideal.value) if ideal and forget else None,
            loss=max(0.0, kept.value - utility.value) if kept and utility else None,
            level=utility.value + shift if utility else None,
            missing=tuple(t for t in asked if t not in used),
        )

    def _yardstick(self, role: Role, modality: Modality, tasks: Tasks) -> tuple[Interval | None, Interval | None]:
        """Forget score and utility of the first model of a role."""
        row = self.first(role)
        splits: tuple[tuple[Split, ...], ...] = (("forget",), UTILITY_SPLITS)
        forget, utility = (self.score(row.name, modality, s, tasks) if row else None for s in splits)
        return forget, utility

    def _distance(self, model: str) -> float:
        """Mean distance over the modalities in which there is one; infinite if there is none."""
        found = [d for m in self.modalities if (d := self.standing(model, m).distance) is not None]
        return sum(found) / len(found) if found else math.inf

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


def between(interval: Interval | None, metric: str = "accuracy") -> str:
    """The bounds of an interval, printed like the metric; empty if they are unknown.

    >>> between(Interval(0.5, 0.25, 0.75)), between(Interval(0.5, 0.25, 0.75), "rougeL"), between(Interval(0.5))
    ('25–75', '0.25–0.75', '')
    """
    if interval is None or interval.low is None or interval.high is None:
        return ""
    if interval.low == interval.high:
        return "all alike"
    if is_percent(metric):
        return f"{100 * interval.low:.0f}–{100 * interval.high:.0f}"
    return f"{interval.low:.2f}–{interval.high:.2f}"


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
