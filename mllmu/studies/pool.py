"""Several runs of one recipe with other seeds as one result: where every method stands, and what sets two apart.

A run with another seed has other invented people, other questions and another target. A two-level bootstrap draws runs,
and people within every run, with replacement, for all models together; so the intervals hold what varies from run to
run and from person to person, and a difference between two methods is one of the same people, runs and draws. Runs that
ask about the same people (other seeds of single stages, a prescribed forget set, celebrities always) draw them
together, and people are counted once: other runs tell nothing about other people.

An interval is wider than the middle 95 % of the draws if people are few (see :func:`outside`); of several sets the one
with the fewest counts, so scores on few forgotten people get wider ones than utility does. Simulated, 1,500 worlds,
mean score of one set: with 4 people in a run it held the truth in 99, 97, 92 % with 3 runs that differ not at all, half
as much, as much as people do; in 99, 98, 95 % with 5 runs and in 100, 98, 95 % with 10. If runs differ three times as
much as people, it was 80, 87, 92 % with 3, 5, 10 runs: too narrow. With 8 people it was 99, 96, 88 and 77 % with 3
runs, 100, 97, 92 and 85 % with 5, 100, 98, 95 and 91 % with 10: people narrow an interval, other runs stay unknown. If
3 runs ask about the same people (400 worlds): 4 people 88, 91, 93, 88 %; 8 people 94, 94, 91, 80 %; so draws of four
people reach not quite far enough. An interval from one run says nothing of other runs.

Shapes: D draws (row 0 is the data as they are), R runs, M models, P people of a set.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np

from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, UTILITY, Modality
from mllmu.evaluation.bootstrap import Table, draw
from mllmu.evaluation.stats import percentile_interval
from mllmu.studies.person_scores import PersonScore

DRAWS = 2000

SplitTask = tuple[str, str]


class PooledValue(NamedTuple):
    """A value, its 95 % interval, and the smallest bound within which it can be called 0.

    Attributes:
        low, high: None if the number rests on one person.
        margin: the farther end from 0 of the 90 % interval. With an equivalence bound that was named beforehand, two
            one-sided tests at 5 % each find the value equivalent to 0 if its margin is smaller.
    """

    value: float
    low: float | None
    high: float | None
    margin: float | None

    def verdict(self, bound: float) -> str:
        """What the interval and the bound allow to say, in words.

        >>> PooledValue(0.3, 0.1, 0.5, 0.4).verdict(0.05), PooledValue(0.01, -0.03, 0.05, 0.04).verdict(0.05)
        ('more', 'equal')
        >>> PooledValue(0.1, -0.2, 0.4, 0.3).verdict(0.05), PooledValue(-0.02, -0.04, -0.01, 0.03).verdict(0.05)
        ('open', 'less, but equal within the bound')
        """
        if self.low is None or self.high is None or self.margin is None:
            return "open"
        equal, side = self.margin < bound, "more" if self.low > 0 else "less" if self.high < 0 else ""
        if equal:
            return f"{side}, but equal within the bound" if side else "equal"
        return side or "open"


class PooledRow(NamedTuple):
    """Where one model stands in one modality over all runs; scores are means of the main scores of the tasks, 0 to 1.

    Attributes:
        forget: score on forget people.
        surplus: that, minus the retain_model's: 0 is the aim, positive knows more, negative less than a model that
            never saw them.
        utility: mean score over retain and celebrity people.
        cost: utility of the target minus this; positive is lost.
        distance: |surplus| + cost, by which rows are ordered.
        front: share of the draws in which no other unlearned model, nor the target, is at least as near to the
            retain_model on forget and as useful, and better in one; None for the target and the retain_model.
        rank: 1 for the unlearned model with the smallest distance, and between which ranks it is in 95 % of the draws;
            None for the target and the retain_model. Ranks of models that are close say little.
        runs: number of runs.
    """

    model: str
    modality: Modality
    forget: PooledValue
    surplus: PooledValue
    utility: PooledValue
    cost: PooledValue
    distance: PooledValue
    front: float | None
    rank: tuple[int, int, int] | None
    runs: int


class PairedRow(NamedTuple):
    """One method minus another, on the same people, runs and draws; values as in :class:`PooledRow`.

    ``distance`` above 0: the first is farther from what forgets like the retain_model and keeps like the target.
    """

    model: str
    rival: str
    modality: Modality
    forget: PooledValue
    utility: PooledValue
    distance: PooledValue


class RunScores(NamedTuple):
    """One run in one modality: people by set, and per set and task how many questions each person has, with scores.

    Attributes:
        people: who is in each set, see :attr:`mllmu.studies.person_scores.PersonScore.who` [P].
        counts: questions per person [P].
        sums: main scores per model, summed over the questions of each person [M, P].
    """

    people: dict[str, list[str]]
    counts: dict[SplitTask, Table]
    sums: dict[SplitTask, Table]


def pool(
    scores: Sequence[PersonScore], *, against: str | None = None, seed: int = 0
) -> tuple[list[PooledRow], list[PairedRow]]:
    """Compare the models that all runs have, in both modalities.

    Args:
        scores: of at least one run.
        against: the method that all others are compared with; if not given, in each modality the nearest. That it is
            nearest on these very people is part luck, so its lead over the others then looks larger than it is.
        seed: of the draws.

    Returns:
        Rows by modality, the smallest distance first; and all other methods minus one, in the same order.

    Raises:
        DataError: two runs have no model in common, or not the one to compare with.
    """
    asked = Counter(score[:5] for score in scores)
    if twice := next((cell for cell, count in asked.items() if count > 1), None):
        run, modality, split, task, person = twice
        raise DataError(f"run {run}: the questions of {task} about {person} ({split}, {modality}) are given twice.")
    runs = list(dict.fromkeys(score.run for score in scores))
    had = {run: set.intersection(*(set(s.sums) for s in scores if s.run == run)) for run in runs}
    models = [
        name for name in dict.fromkeys(m for s in scores for m in s.sums) if all(name in had[run] for run in runs)
    ]
    if not {TARGET, RETAIN_MODEL} < set(models):
        raise DataError(f"{', '.join(runs)}: no unlearned model is in all of them. Give runs of one recipe.")
    if against is not None and against not in models:
        raise DataError(f"--against {against}: not in all runs.{did_you_mean(against, models)}")
    rows: list[PooledRow] = []
    pairs: list[PairedRow] = []
    for modality in MODALITIES:
        found = [by_person([s for s in scores if (s.run, s.modality) == (run, modality)], models) for run in runs]
        if all(run.counts for run in found):
            _check_sets(runs, found)
            study = _Draws(found, models, modality, seed)
            of_modality = study.rows()
            rows += of_modality
            methods = [row.model for row in of_modality if row.model not in (TARGET, RETAIN_MODEL)]
            rival = against or methods[0]
            pairs += [study.pair(method, rival) for method in methods if method != rival]
    return rows, pairs


def _check_sets(runs: Sequence[str], found: Sequence[RunScores]) -> None:
    """Every run has people to forget, and all have the same sets; utility is over retain and celebrity, if both."""
    for run, scores in zip(runs, found, strict=True):
        if "forget" not in scores.people or not set(UTILITY) & set(scores.people):
            raise DataError(f"run {run}: asked no questions about people to forget, or none about any to keep.")
        if set(scores.people) != set(found[0].people):
            raise DataError(f"runs {runs[0]} and {run}: asked about other sets of people, so their scores differ.")


def by_person(scores: Sequence[PersonScore], models: Sequence[str]) -> RunScores:
    """The scores of one run in one modality as tables, with the models in the order given."""
    people = {split: sorted({s.who for s in scores if s.split == split}) for split in {s.split for s in scores}}
    counts: dict[SplitTask, Table] = {}
    sums: dict[SplitTask, Table] = {}
    for score in scores:
        cell, size = (score.split, score.task), len(people[score.split])
        person = people[score.split].index(score.who)
        counts.setdefault(cell, np.zeros(size))[person] = score.questions
        sums.setdefault(cell, np.zeros((len(models), size)))[:, person] = [score.sums[model] for model in models]
    return RunScores(people, counts, sums)


class PersonDraws:
    """What every draw of runs and people gives, the same draws for all models and sets.

    Args:
        runs: of one modality.
        seed: of the draws.
        together: by set, lists of people, this run's among them, whose numbers are compared: a person is drawn equally
            often in each, and a draw in which nobody of one of them is drawn does not count. Default: this run's alone.
    """

    def __init__(
        self, runs: Sequence[RunScores], seed: int = 0, together: Mapping[str, Sequence[Sequence[str]]] | None = None
    ) -> None:
        self.runs, lists = runs, together or {}
        numbers = [str(number) for number in range(len(runs))]
        self.weights_RD = _drawn(numbers, seed, "runs").T / len(runs)
        self.drawn_DP: list[dict[str, Table]] = [{} for _ in runs]
        for split in dict.fromkeys(split for run in runs for split in run.people):
            people = {number: run.people[split] for number, run in enumerate(runs) if split in run.people}
            for members in _sharing(people):
                every = [*(people[number] for number in members), *lists.get(split, ())]
                for number in members:
                    drawn = _drawn(people[number], seed, f"run {members[0]} {split}", every)
                    self.drawn_DP[number][split] = drawn

    def num_people(self, split: str) -> int:
        """People of a set over all runs; one whom several runs ask about counts once."""
        return len({person for run in self.runs for person in run.people[split]})

    def mean(self, sets: Sequence[str]) -> Table:
        """Mean over sets of the mean over their tasks, of every model in every draw [M, D]; draw 0: as they are."""
        mean_RMD = [_mean(run, people_DP, sets) for run, people_DP in zip(self.runs, self.drawn_DP, strict=True)]
        mean_MD: Table = np.einsum("rd,rmd->md", self.weights_RD, np.array(mean_RMD))
        return mean_MD


class _Draws:
    """The numbers of all models in one modality, in every draw of runs and people [M, D].

    ``num_people``: that each number rests on, over all runs: of several sets those of the smallest.
    """

    def __init__(self, runs: Sequence[RunScores], models: Sequence[str], modality: Modality, seed: int) -> None:
        self.models, self.modality, self.num_runs = models, modality, len(runs)
        draws = PersonDraws(runs, seed)
        kept = [split for split in UTILITY if all(split in run.people for run in runs)]
        forget_MD, utility_MD = draws.mean(("forget",)), draws.mean(kept)
        surplus_MD = forget_MD - forget_MD[models.index(RETAIN_MODEL)]
        cost_MD = utility_MD[models.index(TARGET)] - utility_MD
        self.values = {"forget": forget_MD, "surplus": surplus_MD, "utility": utility_MD, "cost": cost_MD}
        self.values["distance"] = np.abs(surplus_MD) + cost_MD
        forgotten, others = draws.num_people("forget"), min(map(draws.num_people, kept))
        self.num_people = dict.fromkeys(("forget", "surplus"), forgotten) | dict.fromkeys(("utility", "cost"), others)
        self.num_people["distance"] = min(forgotten, others)

    def rows(self) -> list[PooledRow]:
        """All models, the nearest first."""
        rivals = [index for index, model in enumerate(self.models) if model != RETAIN_MODEL]
        distance_MD, utility_MD = np.abs(self.values["surplus"][rivals]), self.values["utility"][rivals]
        fronts = dict(zip(rivals, _fronts(distance_MD, utility_MD), strict=True))
        unlearned = [index for index in rivals if self.models[index] != TARGET]
        ranks = dict(zip(unlearned, _ranks(self.values["distance"][unlearned]), strict=True))
        rows = [
            PooledRow(
                model=model,
                modality=self.modality,
                **{name: pooled(of_MD[index], self.num_people[name]) for name, of_MD in self.values.items()},
                front=None if model == TARGET else fronts.get(index),
                rank=ranks.get(index),
                runs=self.num_runs,
            )
            for index, model in enumerate(self.models)
        ]
        return sorted(rows, key=lambda row: (row.front is not None, row.distance.value))

    def pair(self, model: str, rival: str) -> PairedRow:
        """One model minus another."""
        first, second = self.models.index(model), self.models.index(rival)
        differences = {
            name: pooled(self.values[name][first] - self.values[name][second], self.num_people[name])
            for name in ("forget", "utility", "distance")
        }
        return PairedRow(model, rival, self.modality, **differences)


def _sharing(people: Mapping[int, Sequence[str]]) -> list[list[int]]:
    """The runs in groups: those that share people, if only through another run, are in one.

    >>> _sharing({0: ["a", "b"], 1: ["c"], 2: ["d", "b"], 3: ["d"]})
    [[0, 2, 3], [1]]
    """
    groups: list[list[int]] = []
    for number, names in people.items():
        met = [group for group in groups if any(not set(names).isdisjoint(people[other]) for other in group)]
        joined = sorted([number, *(other for group in met for other in group)])
        groups = sorted([group for group in groups if group not in met] + [joined])
    return groups


def _drawn(names: Sequence[str], seed: int, group: str, together: Iterable[Sequence[str]] = ()) -> Table:
    """How often each name is in each draw [D, len(names)]; the first row has every name once."""
    lists = sorted({tuple(names), *map(tuple, together)})
    every = tuple(names) if len(lists) == 1 else tuple(sorted({name for one in lists for name in one}))
    place = {name: index for index, name in enumerate(every)}
    table_DP = _draws(every, seed, group, tuple(tuple(place[name] for name in one) for one in lists))
    return table_DP if len(lists) == 1 else table_DP[:, [place[name] for name in names]]


@lru_cache(maxsize=64)
def _draws(names: tuple[str, ...], seed: int, group: str, lists: tuple[tuple[int, ...], ...]) -> Table:
    """As :func:`_drawn`, of names of which some, by their places, make a list each; no list is empty in any draw.

    Kept, as modalities and tasks ask for the same draws; nobody may write into the table.
    """
    table = [[1] * len(names)]
    for number in count():
        if len(table) > DRAWS:
            break
        times = draw(names, seed=seed, group=f"pool: {group}", number=number)
        if all(any(times[place] for place in one) for one in lists):
            table.append(times)
    drawn_DP = np.array(table, dtype=float)
    drawn_DP.flags.writeable = False
    return drawn_DP


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


def _ranks(distance_MD: Table) -> list[tuple[int, int, int]]:
    """Rank of each model by its distance and the middle 95 % of its ranks in the draws; equals share the better one."""
    rank_MD = 1 + (distance_MD[None] < distance_MD[:, None]).sum(axis=1)
    spans_2M = np.percentile(rank_MD[:, 1:], [2.5, 97.5], axis=1, method="nearest")
    return [(int(rank), int(low), int(high)) for rank, low, high in zip(rank_MD[:, 0], *spans_2M, strict=True)]


def pooled(values_D: Table, people: int) -> PooledValue:
    """A value with what its draws say; the first is the value itself.

    Args:
        values_D: the value, and what each draw gives.
        people: that it rests on, over all runs; of several sets those of the smallest.
    """
    value, draws = float(values_D[0]), values_D[1:].tolist()
    if people < 2:
        return PooledValue(value, None, None, None)
    low, high = percentile_interval(draws, outside(people, 0.025))
    ends = percentile_interval(draws, outside(people, 0.05))
    return PooledValue(value, min(low, value), max(high, value), max(map(abs, (*ends, value))))


def outside(people: int, share: float) -> float:
    """The share of the draws that an interval leaves out on each side: ``share`` for very many people, less for few.

    Phi(-t(G-1) * sqrt(G/(G-1))), t the quantile of Student's distribution that leaves out ``share``; G people

    Source: Hesterberg 2015, arXiv:1411.5279, section 4 ("expanded percentile interval").
    """
    from scipy.special import ndtr, stdtrit  # scipy is slow to import and only needed here

    return float(ndtr(stdtrit(people - 1, share) * math.sqrt(people / (people - 1))))
