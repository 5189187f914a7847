"""Looking up and averaging results: forgetting, utility and the Pareto front, and the CSV file of them."""

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

from mllmu.core.declared import MetricInfo, TaskInfo
from mllmu.core.names import BASELINES
from mllmu.core.records import MODALITIES, PEOPLE_SPLITS, UTILITY, Cell, MetricResult, Modality, Split, TaskName
from mllmu.report.inputs import ROLES, ModelRow, ReportInput, Role, check
from mllmu.report.printing import csv_of, finite, listing

COLLAPSE_SHARE = 0.5
"""A model is called collapsed when at least this share of its replies about retain people is noise."""
DESTROYED_BELOW = 0.5
"""A model is called destroyed when its utility is below this share of the target's."""
HEEDED_FROM = 0.05
"""A model that was told to decline questions follows if it declines at least this share of them."""
UNDERTRAINED_BELOW = 0.1
"""A model is called undertrained when it has come less of the way from the target to the retain_model."""
IDENTICAL_FROM = 0.9
"""A model that gives at least this share of the target's responses about the people to forget is named for it."""
OF_TARGET = "the target takes no system prompt"
"""Of a model that is the target behind a system prompt, where the gate's probe found that; the loss is the target's."""
ALL_TASKS = "all"
"""In place of a task: the mean over all tasks."""

Tasks = Collection[TaskName] | None
"""Some tasks, or None for all."""


class Interval(NamedTuple):
    """A value with its 95 % interval; a bound is None where it is unknown.

    ``best``: the value if replies that could not be read counted for the model, not against it; None if all were read.
    """

    value: float
    low: float | None = None
    high: float | None = None
    best: float | None = None

    @property
    def half(self) -> float:
        """Half the width of the interval; 0 where it is unknown."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2


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
    bests = [p.value if p.best is None else p.best for p in parts if any(part.best is not None for part in parts)]
    best = sum(bests) / len(bests) if bests else None
    low, high = (sum(lows) / len(parts), sum(highs) / len(parts)) if known else (None, None)
    return Interval(value, low, high, best)


class TradeoffRow(NamedTuple):
    """What one model gave up to forget, in one modality and task (``all``: the mean of the tasks); shares of 1.

    Scores are means over the tasks on forget, retain and celebrity; a reply that could not be read counts against the
    model, see :class:`mllmu.core.records.MetricResult`.

    Attributes:
        number: position of the model in the report, the number printed in the plots.
        forget: mean headline score on forget people.
        utility: mean headline score over retain and celebrity, as far as they were asked; higher is better.
        drop: target's forget score minus this model's; positive means forgotten. None without a target.
        gap: absolute difference to the retain_model's forget score (without a retain_model: the forget score
            itself); lower is better. Forgetting more than a model that never learned is not better.
        loss: utility below the retain_model's (or, without one, the target's); 0 if above.
        kept: utility as a share of the target's.
        progress: how far from the target's forget score to the retain_model's: 0 at the first, 1 at the second.
        same: share of the responses about the people to forget that are the target's, letter by letter.
        noise_forget, noise_retain: shares of replies that are noise, over all tasks.
        on_front: no other unlearned model, nor the target, is at least as good on both and better on one.
    """

    number: int
    model: ModelRow
    modality: Modality
    task: str
    forget: Interval | None = None
    utility: Interval | None = None
    drop: float | None = None
    gap: float | None = None
    loss: float | None = None
    kept: float | None = None
    progress: float | None = None
    same: float | None = None
    noise_forget: float | None = None
    noise_retain: float | None = None
    on_front: bool = False

    @property
    def distance(self) -> float | None:
        """From the retain_model (without one: from :attr:`Numbers.aim`) in a straight line: sqrt(gap^2 + loss^2)."""
        return None if self.gap is None or self.loss is None else math.hypot(self.gap, self.loss)

    @property
    def collapsed(self) -> bool:
        """At least half of the replies about retain people are noise."""
        return self.noise_retain is not None and self.noise_retain >= COLLAPSE_SHARE

    @property
    def faults(self) -> list[str]:
        """What keeps an unlearned model off the front, in words: it is broken, or has hardly been changed."""
        found = ["collapsed"] if self.collapsed else []
        if self.model.role != "unlearned":
            return found
        if self.kept is not None and self.kept < DESTROYED_BELOW:
            found.append("destroyed")
        declined = self.model.declines.get(self.modality)
        if declined is not None and declined < HEEDED_FROM:
            found.append(f"takes no instructions: declines {math.floor(100 * declined)} % of what it was told to")
        if self.model.of_target:
            found.append(f"{OF_TARGET}: {self.model.of_target}")
        if self.same is not None and self.same >= IDENTICAL_FROM:
            found.append(f"identical to the target in {math.floor(100 * self.same)} % of responses")
        elif self.progress is not None and self.progress < UNDERTRAINED_BELOW:
            found.append("undertrained")
        return found

    @property
    def plottable(self) -> bool:
        """Whether it has both coordinates."""
        return self.drop is not None and self.utility is not None


class Numbers:
    """Results of a report by model, metric, split, task and modality.

    ``models`` are in reading order: by role, and the unlearned by their distance from the :attr:`aim`, nearest first
    (mean over modalities), those without a distance last.
    """

    def __init__(self, report: ReportInput) -> None:
        self.declared = report.declared
        self.splits = list(dict.fromkeys([*report.declared.splits, *(r.split for r in report.results)]))
        undeclared = {result.task: TaskInfo(label=result.task, metric="") for result in report.results}
        self.tasks = {**report.declared.tasks, **undeclared, **report.declared.tasks}  # declared first
        self.notes = report.task_notes
        self.outcomes = [name for name, metric in report.declared.metrics.items() if metric.outcome]
        self.noise = next((name for name in self.outcomes if self.metric(name).collapse), "noise")
        self._results: dict[tuple[str, str, Cell], MetricResult] = {}
        self._cells: dict[str, set[Cell]] = {}
        for result in report.results:
            # A baseline answers a task, so it stands beside the headline metric, by whatever rule replies are read.
            metric = self.tasks[result.task].metric if result.model in BASELINES else result.metric
            cell = Cell(result.split, result.task, result.modality)
            self._results[result.model, metric, cell] = result
            if result.model not in BASELINES:
                self._cells.setdefault(metric, set()).add(cell)
        self._asked = {c for task, of in self.tasks.items() for c in self._cells.get(of.metric, ()) if c.task == task}
        self.modalities: list[Modality] = [m for m in MODALITIES if any(m == cell.modality for cell in self._asked)]
        self.models: list[ModelRow] = sorted(report.models, key=lambda row: ROLES.index(row.role))
        far = {row.name: self.distance(row) for row in self.unlearned()}
        self.models.sort(key=lambda row: (ROLES.index(row.role), math.inf if (d := far.get(row.name)) is None else d))

    def metric(self, name: str) -> MetricInfo:
        """What is declared of a metric; one that is not declared is a decimal number without bounds."""
        return self.declared.metrics.get(name) or MetricInfo(label=name, percent=False, range=(None, None))

    def split_label(self, split: Split) -> str:
        """The title of a set; its name, capitalised, if it declares none."""
        declared = self.declared.splits.get(split)
        return declared.label if declared else split.capitalize()

    def people(self, split: Split) -> int:
        """How many people a set has, of whom replies were judged."""
        return max((r.num_profiles for (_, _, cell), r in self._results.items() if cell.split == split), default=0)

    @property
    def forgotten(self) -> str:
        """What was to be forgotten, in a word: people, or facts about people of whom others are kept."""
        return "facts" if self.people("kept") else "people"

    def asked(self, *splits: Split) -> list[Split]:
        """Those of some sets of which a headline score was asked."""
        return [split for split in splits if any(cell.split == split for cell in self._asked)]

    def sets(self, *splits: Split) -> str:
        """The same as prose; all of them where none was asked."""
        return listing(self.asked(*splits) or splits)

    @property
    def aim(self) -> str:
        """What distances are measured from, in words: the retain_model, or the best that can be where there is none."""
        return "the retain model" if self.first("retain_model") else "a forget score of 0 and the target's utility"

    def first(self, role: Role) -> ModelRow | None:
        """The first model of a role."""
        return next((row for row in self.models if row.role == role), None)

    def unlearned(self) -> list[ModelRow]:
        """All models made by an unlearning method."""
        return [row for row in self.models if row.role == "unlearned"]

    def tables(self, metric: str) -> dict[tuple[TaskName, Modality], list[Cell]]:
        """Where a metric has results of any model: by task and modality, the sets in their order."""
        tables: dict[tuple[TaskName, Modality], list[Cell]] = {}
        for cell in (Cell(s, t, m) for t in self.tasks for m in MODALITIES for s in self.splits):
            if cell in self._cells.get(metric, ()):
                tables.setdefault((cell.task, cell.modality), []).append(cell)
        return tables

    def cells(self, modality: Modality, splits: Iterable[Split], tasks: Tasks = None) -> list[Cell]:
        """Where a headline score was asked in a modality; of all tasks unless some are named."""
        cells = (Cell(split, task, modality) for split in splits for task in self.tasks)
        return [cell for cell in cells if cell in self._asked and (tasks is None or cell.task in tasks)]

    def result(self, model: str, metric: str, cell: Cell) -> MetricResult | None:
        """One result, or None if there is none."""
        return self._results.get((model, metric, cell))

    def interval(self, model: str, metric: str, cell: Cell) -> Interval | None:
        """A result as an interval; None if the model was not asked or nothing could be judged.

        Of the headline metric of the task, replies that could not be read count against the model.
        """
        result = self.result(model, metric, cell)
        if result is None:
            return None
        value, low, high, best = result.value, result.ci_low, result.ci_high, None
        if metric == self.tasks[cell.task].metric and result.worst is not None:
            value, low, high = result.worst, result.worst_low, result.worst_high
            best = finite(result.best) if result.num_unparsed else None
        number = finite(value)
        return None if number is None else Interval(number, finite(low), finite(high), best)

    def main(self, model: str, cell: Cell) -> Interval | None:
        """The headline score of a cell."""
        return self.interval(model, self.tasks[cell.task].metric, cell)

    def score(self, model: str, modality: Modality, splits: Iterable[Split], tasks: Tasks = None) -> Interval | None:
        """Mean headline score over splits and tasks; None if one is missing, as a mean over fewer would not compare.

        Over all tasks, those are left out of sets of people that are declared to be in no mean.
        """
        cells = self.cells(modality, splits, tasks)
        if tasks is None and (apart := self.not_in_mean):
            cells = [cell for cell in cells if cell.task not in apart or cell.split not in PEOPLE_SPLITS]
        parts = [self.main(model, cell) for cell in cells]
        known = [part for part in parts if part is not None]
        return mean_interval(known) if len(known) == len(parts) else None

    @property
    def not_in_mean(self) -> list[TaskName]:
        """The tasks that no mean over the tasks holds."""
        return [name for name, task in self.tasks.items() if not task.in_mean]

    def share(self, model: str, metric: str, cells: Iterable[Cell]) -> float | None:
        """Mean of a metric over cells, each cell weighted by its number of replies."""
        results = [self.result(model, metric, cell) for cell in cells]
        parts = [(value, r.num) for r in results if r and r.num and (value := finite(r.value)) is not None]
        total = sum(num for _, num in parts)
        return sum(value * num for value, num in parts) / total if total else None

    def of_role(self, role: Role, modality: Modality, splits: Iterable[Split], tasks: Tasks = None) -> Interval | None:
        """Mean headline score of the first model of a role."""
        row = self.first(role)
        return self.score(row.name, modality, splits, tasks) if row else None

    def tradeoff(self, model: ModelRow, modality: Modality, task: str = ALL_TASKS) -> TradeoffRow:
        """Forgetting and utility of a model, over one task or all."""
        tasks = None if task == ALL_TASKS else (task,)
        forget, utility = (self.score(model.name, modality, splits, tasks) for splits in (("forget",), UTILITY))
        start, known = (self.of_role("target", modality, splits, tasks) for splits in (("forget",), UTILITY))
        ideal, kept = (self.of_role("retain_model", modality, splits, tasks) for splits in (("forget",), UTILITY))
        aim, kept = ideal if self.first("retain_model") else Interval(0.0), kept or known
        drop = start.value - forget.value if start and forget else None
        learned = start.value - ideal.value if start and ideal else 0.0
        return TradeoffRow(
            self.models.index(model) + 1, model, modality, task, forget, utility,
            drop=drop,
            gap=abs(forget.value - aim.value) if aim and forget else None,
            loss=max(0.0, kept.value - utility.value) if kept and utility else None,
            kept=utility.value / known.value if utility and known and known.value > 0 else None,
            progress=drop / learned if drop is not None and learned > 0 else None,
            same=model.same_as_target.get(modality),
            noise_forget=self.share(model.name, self.noise, self.cells(modality, ("forget",))),
            noise_retain=self.share(model.name, self.noise, self.cells(modality, ("retain",))),
        )  # fmt: skip

    def distance(self, model: ModelRow) -> float | None:
        """Mean distance from the :attr:`aim` over the modalities in which there is one."""
        known = [d for m in self.modalities if (d := self.tradeoff(model, m).distance) is not None]
        return sum(known) / len(known) if known else None


def tradeoff_rows(report: ReportInput) -> list[TradeoffRow]:
    """All trade-off rows by modality, then task (``all`` first), then model in report order.

    Raises:
        DataError: the results cannot be compared, see :func:`mllmu.report.inputs.check`.
    """
    check(report)
    numbers = Numbers(report)
    rows: list[TradeoffRow] = []
    for modality in numbers.modalities:
        tasks = list(dict.fromkeys(cell.task for cell in numbers.cells(modality, numbers.splits)))
        for task in (ALL_TASKS, *(tasks if len(tasks) > 1 else ())):
            rows += mark_front([numbers.tradeoff(model, modality, task) for model in numbers.models])
    return rows


def mark_front(rows: list[TradeoffRow]) -> list[TradeoffRow]:
    """Mark the unlearned models that no rival beats, and no others.

    A model that is broken or has hardly been changed (see :attr:`TradeoffRow.faults`) is no candidate.
    """
    rivals = {
        row.number: (row.gap, -row.utility.value)
        for row in rows
        if row.model.role in ("unlearned", "target") and not row.faults
        if row.gap is not None and row.utility
    }

    def beaten(gap: float, loss: float) -> bool:
        return any(g <= gap and u <= loss and (g, u) != (gap, loss) for g, u in rivals.values())

    front = {number for number, rival in rivals.items() if not beaten(*rival)}
    return [row._replace(on_front=row.model.role == "unlearned" and row.number in front) for row in rows]


def csv_text(rows: list[TradeoffRow], noise: str) -> str:
    """The rows as CSV; scores are 0 to 1. ``noise``: name of the metric that counts replies that are noise."""
    nothing = TradeoffRow(0, ModelRow(name="-", role="base"), "text", ALL_TASKS)
    return csv_of(_record(nothing, noise), (_record(row, noise) for row in rows))


def _record(row: TradeoffRow, noise: str) -> dict[str, object]:
    model, (forget, utility) = row.model, (score or Interval(math.nan) for score in (row.forget, row.utility))
    return {
        **{"number": row.number, "model": model.name, "role": model.role, "method": model.method},
        **{"unlearned_with": model.modality, "forget_ratio": model.forget_ratio},
        **{"modality": row.modality, "task": row.task},
        **{"forget": finite(forget.value), "forget_low": forget.low, "forget_high": forget.high},
        **{"forget_best": forget.best, "utility_best": utility.best},
        **{"drop_from_target": row.drop, "distance_to_retain_model": row.gap},
        **{"utility": finite(utility.value), "utility_low": utility.low, "utility_high": utility.high},
        **{f"{noise}_forget": row.noise_forget, f"{noise}_retain": row.noise_retain},
        **{"collapsed": row.collapsed, "on_front": row.on_front, "seconds": model.seconds, "peak_mib": model.peak_mib},
        **{"distance_with_utility": row.distance, "faults": "; ".join(row.faults)},
        **{"identical_to_target": row.same},
        **{"tokens_per_s": model.tokens_per_s, "trainable": model.trainable},
    }
