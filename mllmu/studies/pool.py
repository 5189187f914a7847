"""Several runs of one recipe with other seeds as one result: where every method stands, with intervals.

A run with another seed has other people, other questions and another target. A two-level bootstrap draws runs, and
people within every run, with replacement, for all models together; so the intervals hold what varies from run to run
and from person to person. From two or three runs of a few people they are still too narrow.

Shapes: D draws (row 0 is the data as they are), R runs, M models, P people of a set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, UTILITY, Modality, Sample, Score
from mllmu.core.runfolder import RunFolder, read_lines
from mllmu.data.tasks import task_of
from mllmu.evaluation.bootstrap import Table, draw
from mllmu.evaluation.stats import percentile_interval

DRAWS = 2000

SplitTask = tuple[str, str]


class PooledValue(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class PooledRow(NamedTuple):
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
    forget: PooledValue
    surplus: PooledValue
    utility: PooledValue
    cost: PooledValue
    front: float | None
    runs: int


class RunScores(NamedTuple):
    """One run in one modality: people by set, and per set and task how many questions each person has, with scores.

    Attributes:
        people: names of the people of each set [P].
        counts: questions per person [P].
        sums: main scores per model, summed over the questions of each person [M, P].
    """

    people: dict[str, list[str]]
    counts: dict[SplitTask, Table]
    sums: dict[SplitTask, Table]


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
    runs = [_main_scores(RunFolder(root), key) for root in roots]
    models = [name for name in runs[0][1] if all(name in scores for _, scores in runs)]
    if not {TARGET, RETAIN_MODEL} < set(models):
        raise DataError(f"{', '.join(map(str, roots))}: no unlearned model is in all of them. Give runs of one recipe.")
    rows: list[PooledRow] = []
    for modality in MODALITIES:
        by_person = [_by_person(samples, scores, models, modality) for samples, scores in runs]
        if all(run.counts for run in by_person):
            rows += _rows(by_person, models, modality, seed)
    return rows


def _main_scores(folder: RunFolder, key: str) -> tuple[list[Sample], dict[str, dict[str, float]]]:
    """Samples of a run, and by model the main score of every sample; a reply that could not be read counts 0."""
    evaluation = folder.path(folder.evaluation(key))
    paths = sorted(evaluation.glob(f"*/{folder.SCORES}/{folder.SCORES_FILE}"))
    if not paths:
        raise DataError(f"{evaluation}: no scores. Expected a finished run with the forget ratio {key} %.")
    samples = [s for s in read_lines(evaluation / folder.SAMPLES_FILE, Sample) if s.part == "report"]
    headlines = {sample.id: task_of(sample.task).headline() for sample in samples}
    by_model: dict[str, dict[str, float]] = {}
    for path in paths:
        scores = (score for score in read_lines(path, Score) if headlines.get(score.sample_id) == score.metric)
        by_model[path.parent.parent.name] = {score.sample_id: score.value or 0.0 for score in scores}
    return samples, by_model


def _by_person(
    samples: Sequence[Sample], scores: Mapping[str, Mapping[str, float]], models: Sequence[str], modality: Modality
) -> RunScores:
    samples = [s for s in samples if s.modality == modality and s.split in {"forget", *UTILITY}]
    splits = {sample.split for sample in samples}
    people = {split: sorted({s.profile_id for s in samples if s.split == split}) for split in splits}
    counts: dict[SplitTask, Table] = {}
    sums: dict[SplitTask, Table] = {}
    for sample in samples:
        cell, size = (sample.split, sample.task), len(people[sample.split])
        person = people[sample.split].index(sample.profile_id)
        counts.setdefault(cell, np.zeros(size))[person] += 1
        sums.setdefault(cell, np.zeros((len(models), size)))[:, person] += [scores[m][sample.id] for m in models]
    return RunScores(people, counts, sums)


def _rows(runs: Sequence[RunScores], models: Sequence[str], modality: Modality, seed: int) -> list[PooledRow]:
    weights_RD = _draws([str(number) for number in range(len(runs))], seed, "runs").T / len(runs)
    drawn_DP = [
        {split: _draws(names, seed, f"run {number} {split}") for split, names in run.people.items()}
        for number, run in enumerate(runs)
    ]

    def means(sets: Sequence[str]) -> Table:
        mean_RMD = [_mean(run, people_DP, sets) for run, people_DP in zip(runs, drawn_DP, strict=True)]
        mean_MD: Table = np.einsum("rd,rmd->md", weights_RD, np.array(mean_RMD))
        return mean_MD

    forget_MD, utility_MD = means(("forget",)), means(UTILITY)
    surplus_MD = forget_MD - forget_MD[models.index(RETAIN_MODEL)]
    cost_MD = utility_MD[models.index(TARGET)] - utility_MD
    rivals = [index for index, model in enumerate(models) if model != RETAIN_MODEL]
    fronts = dict(zip(rivals, _fronts(np.abs(surplus_MD[rivals]), utility_MD[rivals]), strict=True))
    figures = {"forget": forget_MD, "surplus": surplus_MD, "utility": utility_MD, "cost": cost_MD}
    rows = [
        PooledRow(
            model=model,
            modality=modality,
            **{name: _pooled(values_MD[index]) for name, values_MD in figures.items()},
            front=None if model == TARGET else fronts.get(index),
            runs=len(runs),
        )
        for index, model in enumerate(models)
    ]
    return sorted(rows, key=lambda row: (row.front is not None, abs(row.surplus.value) + row.cost.value))


def _draws(names: Sequence[str], seed: int, group: str) -> Table:
    """How often each name is in each draw [D, len(names)]; the first row has every name once."""
    drawn = [draw(names, seed=seed, group=f"pool: {group}", number=number) for number in range(DRAWS)]
    return np.array([[1] * len(names), *drawn], dtype=float)


def _mean(run: RunScores, people_DP: Mapping[str, Table], sets: Sequence[str]) -> Table:
    """Mean over the sets of the mean over their tasks, of every model in every draw [M, D]."""
    by_set = []
    for split in sets:
        cells = sorted(cell for cell in run.counts if cell[0] == split)
        drawn_PD = people_DP[split].T
        with np.errstate(invalid="ignore"):  # a draw may hold no person who has a question of one of the tasks
            tasks = [(run.sums[cell] @ drawn_PD) / (run.counts[cell] @ drawn_PD) for cell in cells]
        by_set.append(np.nanmean(tasks, axis=0))
    mean_MD: Table = np.mean(by_set, axis=0)
    return mean_MD


def _fronts(distance_MD: Table, utility_MD: Table) -> list[float]:
    """Share of the draws in which a model is beaten by none of the others."""
    shares = []
    for distance_D, utility_D in zip(distance_MD, utility_MD, strict=True):
        as_good = (distance_MD <= distance_D) & (utility_MD >= utility_D)
        better = (distance_MD < distance_D) | (utility_MD > utility_D)
        beaten_D = (as_good & better).any(axis=0)
        shares.append(float(1 - beaten_D[1:].mean()))
    return shares


def _pooled(values_D: Table) -> PooledValue:
    return PooledValue(float(values_D[0]), *percentile_interval(values_D[1:].tolist()))
