"""How much of the variance between runs comes from teaching, unlearning and evaluation, and where one more run helps.

A run's surplus (score on forget people minus that of its retain_model) is taken as

    y = m + a(teach) + b(teach, unlearn) + c(evaluate),   seeds of other data are other seeds of all three

For two runs, (y1 - y2)^2 / 2 has the expectation a2 [teach differs] + b2 [teach or unlearn differs] + c2 [evaluate
differs]; the three variances are the non-negative least squares solution over all pairs, whatever the design. Runs that
differ in all seeds at once cannot tell the three apart. The mean over runs has the variance

    a2 * sum of squared shares of the runs by teach seed + b2 * (the same by teach and unlearn) + c2 * (by evaluate)

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

Stage = Literal["teach", "unlearn", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class RunSeeds(NamedTuple):
    """The seeds of a run: of its data, and of the three stages."""

    data: int
    teach: int
    unlearn: int
    evaluate: int

    @property
    def levels(self) -> dict[Stage, Hashable]:
        """What each of the three effects depends on."""
        taught = (self.data, self.teach)
        return {"teach": taught, "unlearn": (*taught, self.unlearn), "evaluate": (self.data, self.evaluate)}


class SeedVariance(NamedTuple):
    """Variances of the surplus of one model in one modality, and standard errors of its mean.

    Attributes:
        variances: by stage, in squared scores.
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
    """The three variances; None where the runs cannot tell them apart."""
    from scipy.optimize import nnls  # scipy is slow to import and only needed here

    pairs = list(combinations(values, 2))
    differs = [[float(seeds[a].levels[s] != seeds[b].levels[s]) for s in STAGES] for a, b in pairs]
    if len(pairs) < len(STAGES) or np.linalg.matrix_rank(np.array(differs)) < len(STAGES):
        return None
    squares = [(values[a] - values[b]) ** 2 / 2 for a, b in pairs]
    solved, _ = nnls(np.array(differs), np.array(squares))
    return dict(zip(STAGES, map(float, solved), strict=True))


def standard_error(variances: Mapping[Stage, float], seeds: Sequence[RunSeeds]) -> float:
    """Standard error of the mean over runs with these seeds."""
    total = 0.0
    for stage in STAGES:
        counts = Counter(run.levels[stage] for run in seeds)
        total += variances[stage] * sum((count / len(seeds)) ** 2 for count in counts.values())
    return sqrt(total)


def one_more(run: RunSeeds, stage: Stage, seeds: Sequence[RunSeeds]) -> RunSeeds:
    """A run like another one with a new seed in one stage."""
    return run._replace(**{stage: 1 + max(getattr(each, stage) for each in seeds)})


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
                    for stage in STAGES
                }
                found.append(SeedVariance(model, modality, variances, standard_error(variances, listed), after))
    return found


def seed_text(found: Sequence[SeedVariance], seconds: Mapping[Stage, float]) -> str:
    """A Markdown table in points of 100, and where one more run helps most, for its time too if that is known."""
    if not found:
        return (
            "Seeds: these runs cannot tell teaching, unlearning and evaluation apart. Add one run that differs from "
            "another in seeds.unlearn alone, and one that differs in seeds.evaluate alone."
        )
    head = ("model", "modality", *(f"sd {stage}" for stage in STAGES), "error", *(f"+ {stage}" for stage in STAGES))
    lines = [
        (one.model, one.modality, *(f"{100 * sqrt(one.variances[s]):.1f}" for s in STAGES), f"{100 * one.error:.1f}",
         *(f"{100 * one.after[s]:.1f}" for s in STAGES))
        for one in found
    ]  # fmt: skip
    gain: dict[Stage, float] = {s: sum(one.error**2 - one.after[s] ** 2 for one in found) for s in STAGES}
    best = max(STAGES, key=gain.__getitem__)
    total = {s: sum(one.variances[s] for one in found) for s in STAGES}
    shares = ", ".join(f"{s} {100 * total[s] / (sum(total.values()) or 1):.0f} %" for s in STAGES)
    text = f"Variance between runs: {shares}. One more run helps most with another seed of: {best}."
    if all(seconds.get(stage, 0) > 0 for stage in STAGES):
        cheap = max(STAGES, key=lambda stage: gain[stage] / seconds[stage])
        text += f" For its time: {cheap} ({seconds[cheap]:.0f} s)."
    note = (
        "sd: standard deviation of the score on forget people minus the retain_model's, by seed, in points of 100; "
        "error: standard error of its mean over these runs, and with one more run."
    )
    return f"**Seeds**\n\n{markdown_table(head, lines, align_right=len(head) - 2)}\n{text} {note}"
