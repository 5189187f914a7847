"""Extraction: the attacker only asks, in other words or in another context; any right reply counts."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import ClassVar

from pydantic import Field

from mllmu.evaluation.attacks import Attack, AttackPoint, NotAttackableError, Sample, Victim, variant
from mllmu.evaluation.attacks import Family as AttackFamily

QUESTION = "{q}"


class Asking(Attack):
    """Base of the attacks that ask: a subclass makes the samples in which a question is put.

    score of a question = 1 if any of its replies tells the truth. More tries also help a model that guesses, so the
    retain_model gets as many.
    """

    family: ClassVar[AttackFamily] = "extraction"
    access = "black box"

    tries: int | None = Field(
        None, ge=1, le=10**6, description="most samples per question; null: 4 in the small budget, 10 in full"
    )

    @abstractmethod
    def samples(self, victim: Victim, sample: Sample) -> Iterable[Sample]:
        """The samples in which a question is put, the most promising first; see :func:`variant`."""

    def attack(self, victim: Victim) -> list[AttackPoint]:
        most = self.tries or victim.budget.tries
        samples = [one for sample in victim.samples for one in islice(self.samples(victim, sample), most)]
        if not samples:
            raise NotAttackableError("no question of this run can be put in this way")
        return [AttackPoint(values=victim.hits(victim.load(victim.ref), samples))]


class Framed(Asking):
    """Base of the attacks that put fixed words around the question: ``{q}`` in each of the frames."""

    frames: ClassVar[tuple[str, ...]]

    def samples(self, victim: Victim, sample: Sample) -> Iterator[Sample]:
        for number, frame in enumerate(self.frames):
            yield variant(sample, number, prompt=frame.replace(QUESTION, sample.prompt))
