"""How much of the variance between runs comes from people and from each stage, and where one more run helps.

A run's surplus (score on forget people minus that of its retain_model) is taken as

    y = m + p(people) + a(teach) + b(teach, unlearn) + c(evaluate),   with other people a, b and c are others too

For two runs, (y1 - y2)^2 / 2 has the expectation p2 [people differ] + a2 [teach differs] + b2 [teach or unlearn
differs] + c2 [evaluate differs]; the variances are the non-negative least squares solution over all pairs, whatever the
design. Runs with other people differ in everything, so the four can be told apart only if some runs of the same people
differ in one stage alone. If all runs have the same people, p2 is unknown and left out. The mean over runs has the
variance

    p2 * sum of squared shares of the runs by people + a2 * (the same by teach) + b2 * (by teach and unlearn)
    + c2 * (by evaluate)

Source: Koch 1967, A general approach to the estimation of variance components, Technometrics 9(1), 93-118.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from math import sqrt
from typing import Literal, NamedTuple, get_args

import numpy as np

from mllmu.core.describe import markdown_table
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, Modality
from mllmu.studies.person_scores import PersonScore

Stage = Literal["people", "teach", "unlearn", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class RunSeeds(NamedTuple):
    """The seeds of a run: of its data, and of the three stages; and its forget people, if a file names them."""

    data: int
    teach: int
    unlearn: int
    evaluate: int
    prescribed: str = ""

    @property
    def levels(self) -> dict[Stage, Hashable]:
        """What each of the four effects depends on."""
        people = (self.data, self.prescribed)
        taught = (*people, self.teach)
        asked = (*people, self.evaluate)
        return {"people": people, "teach": taught, "unlearn": (*taught, self.unlearn), "evaluate": asked}


class SeedVariance(NamedTuple):
    """Variances of the surplus of one model in one modality, and standard errors of its mean.

    Attributes:
        variances: by stage, in squared scores; without people if all runs have the same.
        error: of the mean over the runs that there are; ``after``: with one more run with a new seed of a stage alone.
    """

    model: str
    modality: Modality
    variances: dict[Stage, float]
    error: float
    after: dict[Stage, float]


def surpluses(scores: Sequence[PersonScore], modality: Modality) -> dict[str, dict[str, float]]:
    """By model and run: mean over tasks of the score on forget people, minus the retain_model's."""
    means: dict[str, dict[str, list[float]]] = {}
    cells: dict[tuple[str, str], list[PersonScore]] = {}
    for score in scores:
        if (score.split, score.modality) == ("forget", modality):
            cells.setdefault((score.run, score.task), []).append(score)
    for (run, _), members in cells.items():
        asked = sum(member.questions for member in members)
        for model in members[0].sums:
            value = sum(member.sums[model] for member in members) / asked
            means.setdefault(model, {}).setdefault(run, []).append(value)
    found = {model: {run: sum(of) / len(of) for run, of in runs.items()} for model, runs in means.items()}
    retain = found.get(RETAIN_MODEL, {})
    return {
        model: {run: value - retain[run] for run, value in runs.items()}
        for model, runs in found.items()
        if model not in (TARGET, RETAIN_MODEL)
    }


def components(values: Mapping[str, float], seeds: Mapping[str, RunSeeds]) -> dict[Stage, float] | None:
    """The variances, that of people only where people differ; None where the runs cannot tell them apart."""
    from scipy.optimize import nnls  # scipy is slow to import and only needed here

    pairs = list(combinations(values, 2))
    stages = [s for s in STAGES if s != "people" or len({seeds[run].levels[s] for run in values}) > 1]
    differs = [[float(seeds[a].levels[s] != seeds[b].levels[s]) for s in stages] for a, b in pairs]
    if len(pairs) < len(stages) or np.linalg.matrix_rank(np.array(differs)) < len(stages):
        return None
    squares = [(values[a] - values[b]) ** 2 / 2 for a, b in pairs]
    solved, _ = nnls(np.array(differs), np.array(squares))
    return dict(zip(stages, map(float, solved), strict=True))


def standard_error(variances: Mapping[Stage, float], seeds: Sequence[RunSeeds]) -> float:
    """Standard error of the mean over runs with these seeds."""
    total = 0.0
    for stage, variance in variances.items():
        counts = Counter(run.levels[stage] for run in seeds)
        total += variance * sum((count / len(seeds)) ** 2 for count in counts.values())
    return sqrt(total)


def one_more(run: RunSeeds, stage: Stage, seeds: Sequence[RunSeeds]) -> RunSeeds:
    """A run like another one with a new seed in one stage."""
    field = "data" if stage == "people" else stage
    return run._replace(**{field: 1 + max(getattr(each, field) for each in seeds)})


def seed_variances(scores: Sequence[PersonScore], seeds: Mapping[str, RunSeeds]) -> list[SeedVariance]:
    """The variances of every unlearned model that all runs have; empty where the runs cannot tell them apart."""
    found = []
    listed = list(seeds.values())
    for modality in MODALITIES:
        for model, values in surpluses(scores, modality).items():
            variances = components(values, seeds) if set(values) == set(seeds) else None
            if variances is not None:
                after = {
                    stage: min(standard_error(variances, [*listed, one_more(run, stage, listed)]) for run in listed)
                    for stage in variances
                }
                found.append(SeedVariance(model, modality, variances, standard_error(variances, listed), after))
    return found


def seed_text(found: Sequence[SeedVariance], seconds: Mapping[Stage, float]) -> str:
    """A Markdown table in points of 100, and where one more run helps most, for its time too if that is known."""
    if not found:
        return (
            "Seeds: these runs cannot tell people, teaching, unlearning and evaluation apart, as runs with other "
            "people differ in all of them. Add runs that differ from another in seeds.teach alone, in seeds.unlearn "
            "alone, and in seeds.evaluate alone."
        )
    stages = list(found[0].variances)
    head = ("model", "modality", *(f"sd {stage}" for stage in stages), "error", *(f"+ {stage}" for stage in stages))
    lines = [
        (one.model, one.modality, *(f"{100 * sqrt(one.variances[s]):.1f}" for s in stages), f"{100 * one.error:.1f}",
         *(f"{100 * one.after[s]:.1f}" for s in stages))
        for one in found
    ]  # fmt: skip
    gain: dict[Stage, float] = {s: sum(one.error**2 - one.after[s] ** 2 for one in found) for s in stages}
    best = max(stages, key=gain.__getitem__)
    total = {s: sum(one.variances[s] for one in found) for s in stages}
    shares = ", ".join(f"{s} {100 * total[s] / (sum(total.values()) or 1):.0f} %" for s in stages)
    text = f"Variance between runs: {shares}. One more run helps most with another seed of: {best}."
    if all(seconds.get(stage, 0) > 0 for stage in stages):
        cheap = max(stages, key=lambda stage: gain[stage] / seconds[stage])
        text += f" For its time: {cheap} ({seconds[cheap]:.0f} s)."
    note = (
        "sd: standard deviation of the score on forget people minus the retain_model's, by seed, in points of 100; "
        "error: standard error of its mean over these runs, and with one more run. "
    ) + (
        "Another seed of people is another 'seed'."
        if "people" in stages
        else "All runs have the same people, so what other people would change is not in it."
    )
    return f"**Seeds**\n\n{markdown_table(head, lines, align_right=len(head) - 2)}\n{text} {note}"
