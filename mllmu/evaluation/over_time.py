"""Requests over time: forgetting of every request after every later one, rebound, and what happens to the rest.

    forgotten(j, k) = (target - s_jk) / (target - retain_model)      rebound(j, k) = s_jk - s_jj,  k > j
    drift(k) = s_k - target                                          of sets that no request takes

s_jk: mean headline score of the questions about request j after request k, 0 to 1. The retain_model was taught what no
request takes, so it stands for a model that has met none of their facts. All numbers compare the same questions.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mllmu.core.records import MODALITIES, Modality, Sample, Split
from mllmu.core.requested import SO_FAR, RequestScore
from mllmu.evaluation.metrics import clustered_mean
from mllmu.evaluation.recovery import SHARE, SIGNED, ratio

Values = Mapping[str, float]
"""Headline scores of one model by sample."""


class Course(NamedTuple):
    """One method over time: ``steps[k - 1]`` are its scores after request k."""

    model: str
    steps: Sequence[Values]


class OverTime:
    """Scores over time of the samples of one run.

    Args:
        samples: those that every model was asked; of the set ``forget`` only such that a request takes.
        request_of: number of the request that a sample of ``forget`` belongs to, from 1.
        target, retain_model: their scores.
    """

    def __init__(
        self, samples: Sequence[Sample], request_of: Mapping[str, int], target: Values, retain_model: Values
    ) -> None:
        self.request_of = request_of
        self.target, self.retain_model = target, retain_model
        self.people = {sample.id: sample.profile_id for sample in samples}
        self.cells: dict[tuple[Modality, Split], list[str]] = {}
        for modality in MODALITIES:
            for sample in samples:
                if sample.modality == modality:
                    self.cells.setdefault((modality, sample.split), []).append(sample.id)

    def yardsticks(self, count: int) -> Iterator[RequestScore]:
        """The scores of the target and the retain_model, which no request changes."""
        for model, values in (("target", self.target), ("retain_model", self.retain_model)):
            for (modality, split), names in self.cells.items():
                yield self._score(model, modality, split, SO_FAR, 0, values, names)
                for number in range(1, count + 1) if split == "forget" else ():
                    own = self._of(names, number)
                    if own:
                        yield self._score(model, modality, split, number, 0, values, own)

    def scores(self, course: Course) -> Iterator[RequestScore]:
        """The scores of one method: every request after every request, all so far, and the other sets."""
        for after, values in enumerate(course.steps, start=1):
            for (modality, split), names in self.cells.items():
                if split != "forget":
                    yield self._score(course.model, modality, split, SO_FAR, after, values, names, self.target)
                    continue
                so_far = [name for name in names if self.request_of[name] <= after]
                if so_far:
                    yield self._score(course.model, modality, split, SO_FAR, after, values, so_far)
                for number in range(1, len(course.steps) + 1):
                    if own := self._of(names, number):
                        first = course.steps[number - 1] if number < after else None
                        yield self._score(course.model, modality, split, number, after, values, own, first)

    def _of(self, names: Sequence[str], number: int) -> list[str]:
        return [name for name in names if self.request_of[name] == number]

    def _score(
        self,
        model: str,
        modality: Modality,
        split: Split,
        request: int,
        after: int,
        values: Values,
        names: Sequence[str],
        against: Values | None = None,
    ) -> RequestScore:
        who = [self.people[name] for name in names]
        own = clustered_mean([values[name] for name in names], who, SHARE)
        score = RequestScore(model=model, modality=modality, split=split, request=request, after=after,
                             value=own.value or 0.0, low=own.low, high=own.high, num=own.num)  # fmt: skip
        if against is not None:
            change = clustered_mean([values[name] - against[name] for name in names], who, SIGNED)
            update = {"change": change.value, "change_low": change.low, "change_high": change.high}
            score = score.model_copy(update=update)
        if split == "forget" and after:
            lost = [self.target[name] - values[name] for name in names]
            share = ratio(lost, [self.target[name] - self.retain_model[name] for name in names], who)
            update = {"forgotten": share.value, "forgotten_low": share.low, "forgotten_high": share.high}
            score = score.model_copy(update=update)
        return score
