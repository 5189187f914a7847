"""Several runs of one recipe, other seeds, as one result: where every method stands, with honest intervals.

A run with another seed has other people, other questions and another target. Runs are drawn with replacement, and
people within every run, all models together (a paired, two-level cluster bootstrap), so the intervals hold what varies
from run to run and from person to person. From two or three runs of a few people they are still too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.jsonl import read_lines
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import Modality, Sample, Score
from mllmu.evaluation.bootstrap import Table, draw
from mllmu.evaluation.stats import percentile_interval

UTILITY = ("retain", "celebrity")
DRAWS = 2000

Cell = tuple[str, str]
"""Set and task."""


class Range(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PooledRow:
    """Where one model stands in one modality over all runs; scores are means of the main scores of the tasks, 0 to 1.

    Attributes:
        forget: score on forget people.
        surplus: that, minus the retain_model's: 0 is the aim, positive knows more, negative less than a model that
            never saw them.
        utility: mean score over retain and celebrity people.
        cost: utility of the target minus this; positive is lost.
        front: share of the draws in which no other unlearned model, nor the target, is at least as near to the
            retain_model on forget and as useful, and better in one; None for the target and the retain_model.
        runs: number of runs.
    """

    model: str
    modality: Modality
    forget: Range
    surplus: Range
    utility: Range
    cost: Range
    front: float | None
    runs: int


class Answered(NamedTuple):
    """One run: sums of main scores and numbers of questions by person, for each cell and model."""

    people: dict[str, list[str]]
    sums: dict[tuple[str, Cell], Table]
    counts: dict[Cell, Table]


def pool(roots: Sequence[Path], key: str, *, seed: int = 0) -> list[PooledRow]:
    """Compare the models that all runs have, in both modalities.

    Args:
        roots: run folders that were scored, at least one.
        key: the forget ratio in percent.
        seed: of the draws.

    Returns:
        Rows by modality; the smallest |surplus| + cost first.

    Raises:
        DataError: a run has no scores of that ratio, or two runs have no model in common.
    """
    runs = {root: _scored(root, key) for root in roots}
    shared = [name for name in next(iter(runs.values()))[1] if all(name in scores for _, scores in runs.values())]
    if not {TARGET, RETAIN_MODEL} < set(shared):
        raise DataError(f"{', '.join(map(str, roots))}: no unlearned model is in all of them. Give runs of one recipe.")
    rows: list[PooledRow] = []
    for modality in ("image_text", "text"):
        answered = [_answered(samples, scores, shared, modality) for samples, scores in runs.values()]
        if all(run.counts for run in answered):
            rows += _rows(answered, shared, modality, seed)
    return rows


def _scored(root: Path, key: str) -> tuple[list[Sample], dict[str, dict[str, float]]]:
    """Samples of a run, and by model the main score of every sample; a reply that could not be read counts 0."""
    folder = root / f"eval/forget_{key}"
    paths = sorted(folder.glob("*/scores/scores.jsonl"))
    if not paths:
        raise DataError(f"{folder}: no scores. Expected a finished run with the forget ratio {key} %.")
    samples = [sample for sample in read_lines(folder / "samples.jsonl", Sample) if sample.part == "report"]
    wanted = {sample.id: plugins.find("tasks", sample.task).headline() for sample in samples}
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        scores = (score for score in read_lines(path, Score) if wanted.get(score.sample_id) == score.metric)
        found[path.parent.parent.name] = {score.sample_id: score.value or 0.0 for score in scores}
    return samples, found


def _answered(
    samples: Sequence[Sample], scores: Mapping[str, Mapping[str, float]], models: Sequence[str], modality: Modality
) -> Answered:
    asked = [s for s in samples if s.modality == modality and s.split in {"forget", *UTILITY}]
    people = {split: sorted({s.profile_id for s in asked if s.split == split}) for split in {s.split for s in asked}}
    place = {(split, person): i for split, names in people.items() for i, person in enumerate(names)}
    counts: dict[Cell, Table] = {}
    sums: dict[tuple[str, Cell], Table] = {}
    for sample in asked:
        cell, size = (sample.split, sample.task), len(people[sample.split])
        at = place[sample.split, sample.profile_id]
        counts.setdefault(cell, np.zeros(size))[at] += 1
        for model in models:
            sums.setdefault((model, cell), np.zeros(size))[at] += scores[model][sample.id]
    return Answered({str(split): names for split, names in people.items()}, sums, counts)


def _rows(runs: Sequence[Answered], models: Sequence[str], modality: Modality, seed: int) -> list[PooledRow]:
    drawn_RD = _draws([str(number) for number in range(len(runs))], seed, "runs").T / len(runs)
    weights = [
        {split: _draws(people, seed, f"run {number} {split}") for split, people in run.people.items()}
        for number, run in enumerate(runs)
    ]

    def means(sets: Sequence[str]) -> dict[str, Table]:
        found = [{m: _mean(run, w, m, sets) for m in models} for run, w in zip(runs, weights, strict=True)]
        return {model: np.sum(drawn_RD * np.stack([one[model] for one in found]), axis=0) for model in models}

    forget, utility = means(("forget",)), means(UTILITY)
    surplus = {model: forget[model] - forget[RETAIN_MODEL] for model in models}
    cost = {model: utility[TARGET] - utility[model] for model in models}
    rivals = [model for model in models if model != RETAIN_MODEL]
    fronts = _fronts({m: np.abs(surplus[m]) for m in rivals}, {m: utility[m] for m in rivals})
    rows = [
        PooledRow(
            model=model,
            modality=modality,
            forget=_range(forget[model]),
            surplus=_range(surplus[model]),
            utility=_range(utility[model]),
            cost=_range(cost[model]),
            front=fronts[model] if model not in {TARGET, RETAIN_MODEL} else None,
            runs=len(runs),
        )
        for model in models
    ]
    return sorted(rows, key=lambda row: (row.front is not None, abs(row.surplus.value) + row.cost.value))


def _draws(names: Sequence[str], seed: int, group: str) -> Table:
    """How often each name is in each draw [D, names]; the first row is the names as they are."""
    drawn = [draw(names, seed=seed, group=f"pool: {group}", number=number) for number in range(DRAWS)]
    return np.array([[1] * len(names), *drawn], dtype=float)


def _mean(run: Answered, weights: Mapping[str, Table], model: str, sets: Sequence[str]) -> Table:
    """Mean over the sets of the mean over their tasks, in every draw [D]."""
    by_set = []
    for split in sets:
        cells = sorted(cell for cell in run.counts if cell[0] == split)
        with np.errstate(invalid="ignore"):  # a draw may hold nobody who was asked in one of the tasks
            tasks = [(weights[split] @ run.sums[model, cell]) / (weights[split] @ run.counts[cell]) for cell in cells]
        by_set.append(np.nanmean(tasks, axis=0))
    mean: Table = np.mean(by_set, axis=0)
    return mean


def _fronts(distance: Mapping[str, Table], utility: Mapping[str, Table]) -> dict[str, float]:
    """Share of the draws in which a model is beaten by none of the others."""
    found = {}
    for model, ours in distance.items():
        beaten = np.zeros(len(ours), dtype=bool)
        for other in distance:
            nearer, as_near = distance[other] < ours, distance[other] <= ours
            more, as_much = utility[other] > utility[model], utility[other] >= utility[model]
            beaten |= as_near & as_much & (nearer | more)
        found[model] = float(1 - beaten[1:].mean())
    return found


def _range(values: Table) -> Range:
    return Range(float(values[0]), *percentile_interval(values[1:].tolist()))
