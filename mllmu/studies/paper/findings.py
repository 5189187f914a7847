"""What the paper found, each as differences whose interval above 0 supports it, and what a run says about it.

Every interval draws people with replacement, the same people for all models, see :mod:`mllmu.studies.pool`. A finding
is *reproduced* if the 95 % intervals of all its differences lie above 0; *not reproduced* if one lies below 0, or if
the 90 % interval of one lies within the bound of 0 (two one-sided tests: smaller than what was named beforehand as no
difference); otherwise one *cannot tell*.

Source: arXiv:2410.22108, section 5 (unimodal against multimodal unlearning, unlearning against utility).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, TASKS, Modality, Split, TaskName
from mllmu.evaluation.bootstrap import Table
from mllmu.studies.person_scores import PersonScore, person_scores
from mllmu.studies.pool import PersonDraws, PooledValue, by_person, pooled
from mllmu.studies.setups import EvaluatedRun, evaluated_runs, unjudged

Verdict = Literal["reproduced", "not reproduced", "cannot tell"]
LABELS: Mapping[Split, str] = {
    "retain": "Retain",
    "celebrity": "Celebrity",
    "mmmu": "MMMU",
    "llava_bench": "LLaVA-Bench",
}
"""The paper's four utilities."""
SETS: tuple[Split, ...] = tuple(LABELS)
FLAT = 1e-9
"""Below, methods do not differ in how much they forget."""


class Measure(NamedTuple):
    """One difference, or slope, that supports a finding where it is above 0.

    Attributes:
        what: it is, in words.
        value: with its intervals; 0.1 is 10 points of 100, or of a slope 0.1 points per point.
        people: that it rests on.
        moved: the most that a model of the comparison forgot, 0 to 1; of a slope, how far apart its models are in what
            they forgot; None where nothing had to be forgotten.
        slope: it is a slope.
    """

    what: str
    value: PooledValue
    people: int
    moved: float | None = None
    slope: bool = False

    def verdict(self, bound: float) -> Verdict:
        """What it says about the finding; differences below ``bound`` count as none."""
        if self.value.low is None or self.value.high is None or self.value.margin is None:
            return "cannot tell"
        if self.moved is not None and self.moved < bound:
            return "cannot tell"
        equal = not self.slope and self.value.margin < bound
        if self.value.high < 0 or equal:
            return "not reproduced"
        return "reproduced" if self.value.low > 0 else "cannot tell"

    def text(self, bound: float) -> str:
        """The difference in words, with its interval.

        >>> Measure("a minus b", PooledValue(0.12, 0.031, 0.2, 0.19), 6, 0.5).text(0.05)
        'a minus b: 12.0 points (3.1 to 20.0; 6 people)'
        """
        scale, unit, digits = (1, "points per point", 2) if self.slope else (100, "points", 1)
        low, high = self.value.low, self.value.high
        span = "" if low is None or high is None else f"{scale * low:z.{digits}f} to {scale * high:z.{digits}f}; "
        people = f"{self.people} people" if self.people > 1 else "1 person, so no interval"
        text = f"{self.what}: {scale * self.value.value:z.{digits}f} {unit} ({span}{people})"
        if self.moved is None or self.moved >= bound:
            return text
        limit = f"{100 * bound:g} points"
        alike = f"the models differ by less than {limit} in what they forgot"
        return f"{text}, and {alike if self.slope else f'no model of them forgot {limit}'}"


class PaperFinding(NamedTuple):
    """One finding of the paper with the measures of a run; none if the run does not ask for it."""

    claim: str
    measures: tuple[Measure, ...]

    def verdict(self, bound: float) -> Verdict:
        """What all its measures say together."""
        said = [measure.verdict(bound) for measure in self.measures]
        if "not reproduced" in said:
            return "not reproduced"
        return "reproduced" if said and set(said) == {"reproduced"} else "cannot tell"

    def sentence(self, bound: float) -> str:
        """The claim, the verdict and the numbers."""
        numbers = "; ".join(measure.text(bound) for measure in self.measures) or "this run does not compare them"
        return f"{self.claim}: {self.verdict(bound)}. {numbers[0].upper()}{numbers[1:]}."


class RatioScores(NamedTuple):
    """The scores of one forget ratio, person by person, of forget and the four utilities.

    Attributes:
        run: the evaluation; ``scores``: in all modalities and tasks.
        models: that were asked; ``unjudged``: those whose losses are the target's fault, not a method's.
    """

    run: EvaluatedRun
    scores: Sequence[PersonScore]
    models: Sequence[str]
    unjudged: tuple[str, ...] = ()

    def draws(
        self,
        modality: Modality,
        splits: Sequence[Split],
        task: TaskName | None = None,
        among: Sequence["RatioScores"] = (),
    ) -> PersonDraws | None:
        """The draws of people of some sets in a modality; None if one of the sets was not asked about.

        ``among``: ratios, this one included, in which a person is drawn equally often.
        """
        own = [s for s in self.scores if s.modality == modality and s.split in splits and task in (None, s.task)]
        if {s.split for s in own} != set(splits):
            return None
        together: dict[str, list[list[str]]] = {
            split: [names for each in among if (names := each.people(modality, split))] for split in splits
        }
        return PersonDraws([by_person(own, self.models)], together=together)

    def people(self, modality: Modality, split: Split) -> list[str]:
        """Who was asked about in a set and modality."""
        return sorted({s.who for s in self.scores if (s.modality, s.split) == (modality, split)})

    @property
    def unlearned(self) -> list[str]:
        """Models that unlearned something, and can be judged."""
        return [model for model in self.models if model not in (TARGET, RETAIN_MODEL, *self.unjudged)]

    @property
    def both_ways(self) -> list[str]:
        """Methods that forgot with the portrait, and by name alone."""
        named = [model.removesuffix("_image_text") for model in self.models if model.endswith("_image_text")]
        return [method for method in named if f"{method}_text" in self.models]


class PairedCell(NamedTuple):
    """Forget scores of a method that forgot with the portrait and of the same that forgot by name, on one task.

    ``difference``: unimodal minus multimodal; above 0 the multimodal one knows less.
    """

    ratio: str
    method: str
    task: TaskName
    modality: Modality
    target: float
    retain_model: float
    multimodal: PooledValue
    unimodal: PooledValue
    difference: PooledValue
    people: int


class UtilityPoint(NamedTuple):
    """What a model forgot against the target, and what it lost of one set; 0.1 is 10 points."""

    ratio: str
    model: str
    split: Split
    forgot: PooledValue
    lost: PooledValue


def read_scores(root: Path) -> list[RatioScores]:
    """The scores of a finished run, one entry per forget ratio."""
    found = []
    for run in evaluated_runs([root]):
        scores = person_scores(run.folder, run.key, run.name, ("forget", *SETS))
        models = list(scores[0].sums)
        found.append(RatioScores(run, scores, models, unjudged(run, models)))
    return found


def findings(ratios: Sequence[RatioScores]) -> list[PaperFinding]:
    """Every finding of the paper, with the measures that the runs allow; those on modalities at the smallest ratio."""
    cells = {(c.method, c.task, c.modality): c for c in paired_cells(ratios[:1])}

    def worse(task: TaskName, modality: Modality, sign: int) -> Iterator[Measure]:
        if cell := cells.get(("ga", task, modality)):
            names = ("ga_text", "ga_image_text")[::sign]
            shown = (
                f"score of {names[0]} minus {names[1]}, {'with the image' if modality == 'image_text' else 'text only'}"
            )
            moved = cell.target - min(cell.multimodal.value, cell.unimodal.value)
            yield Measure(shown, cell.difference if sign > 0 else _negative(cell.difference), cell.people, moved)

    either = {task: [m for modality in MODALITIES for m in worse(task, modality, -1)] for task in TASKS}
    both = {task: tuple(measures) if len(measures) == len(MODALITIES) else () for task, measures in either.items()}
    return [
        PaperFinding("The target knows the people to forget, and a model that never saw them does not", _known(ratios)),
        PaperFinding(
            "With the image, multimodal gradient ascent forgets multiple choice better than unimodal",
            tuple(worse("classification", "image_text", 1)),
        ),
        PaperFinding("In generation, unimodal gradient ascent forgets better in both modalities", both["generation"]),
        PaperFinding("In cloze, unimodal gradient ascent forgets better in both modalities", both["cloze"]),
        *(
            PaperFinding(f"The more a method forgets, the more it loses of {label}", tuple(_slope(ratios, split)))
            for split, label in LABELS.items()
        ),
    ]


def _known(ratios: Sequence[RatioScores]) -> tuple[Measure, ...]:
    """Target minus retain_model on the people to forget, at the ratio with the most of them."""
    found = []
    most = max(ratios, key=lambda each: len({s.person for s in each.scores if s.split == "forget"}))
    for modality, shown in (("image_text", "with the image"), ("text", "text only")):
        if draws := most.draws(modality, ("forget",)):  # type: ignore[arg-type]
            score_MD, people = draws.mean(("forget",)), draws.num_people("forget")
            gap_D = score_MD[most.models.index(TARGET)] - score_MD[most.models.index(RETAIN_MODEL)]
            found.append(Measure(f"score of target minus retain_model, {shown}", pooled(gap_D, people), people))
    return tuple(found)


def paired_cells(ratios: Sequence[RatioScores]) -> list[PairedCell]:
    """Unimodal beside multimodal unlearning, by ratio, method, task and modality."""
    found = []
    for each in ratios:
        for task, modality in product(TASKS, MODALITIES):
            draws = each.draws(modality, ("forget",), task) if each.both_ways else None
            if draws is None:
                continue
            row = dict(zip(each.models, draws.mean(("forget",)), strict=True))
            people = draws.num_people("forget")
            for method in each.both_ways:
                multi_D, uni_D = row[f"{method}_image_text"], row[f"{method}_text"]
                target, retain_model = (float(row[name][0]) for name in (TARGET, RETAIN_MODEL))
                cell = PairedCell(
                    each.run.key,
                    method,
                    task,
                    modality,
                    target,
                    retain_model,
                    multimodal=pooled(multi_D, people),
                    unimodal=pooled(uni_D, people),
                    difference=pooled(uni_D - multi_D, people),
                    people=people,
                )
                found.append(cell)
    return found


def utility_points(ratios: Sequence[RatioScores]) -> list[UtilityPoint]:
    """What every unlearned model forgot, and what it lost of each utility: the mean over the modalities asked."""
    found = []
    for each, split in product(ratios, SETS):
        if each.unlearned and (moved := _moved(each, split)):
            for model, forgot_D, lost_D in zip(each.unlearned, moved.forgot_MD, moved.lost_MD, strict=True):
                values = pooled(forgot_D, moved.people), pooled(lost_D, moved.others)
                found.append(UtilityPoint(each.run.key, model, split, *values))
    return found


def _slope(ratios: Sequence[RatioScores], split: Split) -> Iterator[Measure]:
    """Points lost per point forgotten: the least-squares slope over all unlearned models of all ratios.

    slope = sum_k (x_k - mean x) (y_k - mean y) / sum_k (x_k - mean x)^2;  x forgotten, y lost, k models
    """
    judged = [each for each in ratios if each.unlearned]
    moved = [found for each in judged if (found := _moved(each, split, judged))]
    if not moved:
        return
    forgot_KD, lost_KD = (np.concatenate(parts) for parts in zip(*(found[:2] for found in moved), strict=True))
    people = min(min(found.people, found.others) for found in moved)
    if len(forgot_KD) > 2:
        what = f"points of {LABELS[split]} lost per point forgotten, over {len(forgot_KD)} models"
        spread = float(np.ptp(forgot_KD[:, 0]))
        yield Measure(what, pooled(slope(forgot_KD, lost_KD), people), people, spread, slope=True)


def slope(x_KD: Table, y_KD: Table) -> Table:
    """The least-squares slope in every draw [D]; 0 where the x do not differ."""
    x_KD, y_KD = x_KD - x_KD.mean(axis=0), y_KD - y_KD.mean(axis=0)
    square_D = (x_KD * x_KD).sum(axis=0)
    found_D: Table = np.where(square_D > FLAT, (x_KD * y_KD).sum(axis=0) / np.maximum(square_D, FLAT), 0.0)
    return found_D


class _Moved(NamedTuple):
    """What the unlearned models forgot, and lost of a set, in every draw [M, D]; the fewest people in a modality."""

    forgot_MD: Table
    lost_MD: Table
    people: int
    others: int


def _moved(each: RatioScores, split: Split, among: Sequence[RatioScores] = ()) -> _Moved | None:
    """What the unlearned models of a ratio forgot and lost; ``among`` as in :meth:`RatioScores.draws`."""
    rows = [each.models.index(model) for model in each.unlearned]
    target = each.models.index(TARGET)
    found: Mapping[str, list[Table]] = {"forget": [], split: []}
    people: Mapping[str, list[int]] = {"forget": [], split: []}
    for modality in MODALITIES:
        for one in ("forget", split):
            if draws := each.draws(modality, (one,), among=among):
                score_MD = draws.mean((one,))
                found[one].append(score_MD[target] - score_MD[rows])
                people[one].append(draws.num_people(one))
    if not found["forget"] or not found[split]:
        return None
    forgot_MD, lost_MD = (np.mean(found[one], axis=0) for one in ("forget", split))
    return _Moved(forgot_MD, lost_MD, min(people["forget"]), min(people[split]))


def _negative(value: PooledValue) -> PooledValue:
    low, high = value.low, value.high
    return PooledValue(-value.value, None if high is None else -high, None if low is None else -low, value.margin)
