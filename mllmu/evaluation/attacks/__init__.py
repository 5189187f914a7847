"""Attacks, one file each: an attack tries to get forgotten facts back from a model, within a budget.

Every attack runs on the target, the retain_model and each unlearned model with the same questions, budget and seed. It
sees neither run folders nor other models' results: a :class:`Victim` gives it one model, its questions, and what an
attacker of its access level may use. What comes back are scores by question; :mod:`mllmu.evaluation.recovery` turns
them into recovery and excess.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from mllmu.config.recipe import Recipe
from mllmu.core.attacked import REPLIES_FILE, Access, AttackPoint, AttackReply, Budget
from mllmu.core.errors import MllmuError
from mllmu.core.plugins import Plugin
from mllmu.core.process import Progress
from mllmu.core.records import ModelRef, Response, Sample
from mllmu.core.runfolder import dump_lines, write_atomic
from mllmu.data.dataset import Dataset
from mllmu.evaluation.outcome import told
from mllmu.models.encoding import as_turn
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.training.loop import Training

__all__ = [
    "BUDGETS", "Attack", "AttackPoint", "BudgetSize", "Loaded", "NotAttackableError", "Sample", "Turn", "Victim",
    "original", "variant",
]  # fmt: skip

Family = Literal["relearning", "extraction", "image", "weights", "inside"]
MARK = "@"
"""Between the id of a question and the number of what an attack made of it."""


class NotAttackableError(MllmuError):
    """An attack that does not apply to a model; the message says why."""


class BudgetSize(NamedTuple):
    """How much one attack may do.

    Attributes:
        questions: per person.
        tries: wordings, samples, images or turns per question.
        steps: optimiser steps of relearning.
        iterations: of a search for a suffix or a perturbation.
    """

    questions: int
    tries: int
    steps: int
    iterations: int


BUDGETS: dict[Budget, BudgetSize] = {"small": BudgetSize(8, 4, 16, 12), "full": BudgetSize(10**6, 10, 256, 250)}


@dataclass(frozen=True, kw_only=True)
class Victim:
    """One model under attack.

    Attributes:
        name, ref: of the model.
        refs: ``base``, ``target`` and ``retain_model``; an attacker of the weights may have the first.
        samples: questions about the people to forget, the same for all models.
        data, key: people and questions of the run, and the forget ratio in percent.
        recipe: settings of the run; fine-tuning is what relearning goes by.
        budget, seed: the same for all models.
        root: the run folder, where the adapters of ``refs`` lie.
        folder: of the attack on this model, for what it keeps; it survives an interruption.
        images: folder for pictures that attacks draw of these data; all models share them, so each is drawn once.
        load: loads a model.
        turns: training questions of people, see :meth:`mllmu.pipeline.run.Run.turns`.
        training: how a model is trained in ``folder``.
    """

    name: str
    ref: ModelRef
    refs: Mapping[str, ModelRef]
    samples: Sequence[Sample]
    data: Dataset
    key: str
    recipe: Recipe
    budget: BudgetSize
    seed: int
    root: Path
    folder: Path
    images: Path
    load: Callable[[ModelRef], Loaded]
    turns: Callable[..., list[Turn]]
    training: Callable[[], Training]
    progress: Progress

    @property
    def forget(self) -> Sequence[str]:
        """The people to forget."""
        return self.data.splits[self.key]

    def answered(self, samples: Sequence[Sample]) -> list[Turn]:
        """Questions as the model is asked, with their answers as replies."""
        turns = (as_turn(sample, self.data.folder, self.ref.system_prompt) for sample in samples)
        return [replace(turn, reply=sample.target) for turn, sample in zip(turns, samples, strict=True)]

    def batches(self) -> Iterator[Sequence[Sample]]:
        """All questions, those about one image together, as many at a time as the recipe asks."""
        ordered = sorted(self.samples, key=lambda sample: (sample.image, sample.id))
        size = self.recipe.evaluate.planned_batch_size
        return (ordered[start : start + size] for start in range(0, len(ordered), size))

    def respond(self, loaded: Loaded, samples: Sequence[Sample], *, system_prompt: str | None = None) -> list[Response]:
        """Greedy replies to some samples, in their order, behind the model's own system prompt or another one."""
        batches = plan_batches(samples, self.recipe.evaluate.planned_batch_size)
        prompt = self.ref.system_prompt if system_prompt is None else system_prompt
        made = respond(loaded, batches, image_folder=self.data.folder, system_prompt=prompt)
        found = {response.sample_id: response for batch in made for response in batch}
        return [found[sample.id] for sample in samples]

    def hits(self, loaded: Loaded, samples: Sequence[Sample], *, system_prompt: str | None = None) -> dict[str, float]:
        """By question, 1 if the reply to any sample made of it tells the truth, else 0; the replies are kept."""
        responses = self.respond(loaded, samples, system_prompt=system_prompt)
        self.keep(samples, responses)
        return best(samples, responses)

    def keep(self, samples: Sequence[Sample], responses: Sequence[Response]) -> None:
        """Keep replies beside the scores, in the place of earlier ones: those of the last point remain."""
        asked, found = {sample.id: sample for sample in self.samples}, []
        for sample, response in zip(samples, responses, strict=True):
            question = asked.get(original(sample), sample)
            turns = [text for turn in sample.examples for text in (turn.prompt, turn.reply)] + [sample.prompt]
            kept = AttackReply(
                sample_id=question.id,
                prompt="" if turns == [question.prompt] else "\n".join(turns),
                other_image=sample.image != question.image,
                text=response.text,
                value=told(sample, response),
            )
            found.append(kept)
        write_atomic(self.folder / REPLIES_FILE, dump_lines(found))


def best(samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, float]:
    """By question, 1 if any of the responses to its samples tells the truth (metric ``right``), else 0."""
    found = defaultdict[str, float](float)
    for sample, response in zip(samples, responses, strict=True):
        found[original(sample)] = max(found[original(sample)], told(sample, response))
    return dict(found)


def original(sample: Sample) -> str:
    """The id of the question that a sample was made of."""
    return sample.id.partition(MARK)[0]


def variant(sample: Sample, number: int, **changes: object) -> Sample:
    """A sample made of a question, put in its place; candidates are left out, as only the reply counts."""
    return sample.model_copy(update={"id": f"{original(sample)}{MARK}{number}", "candidates": {}, **changes})


class Attack(Plugin):
    """Base of the attacks: ``attack`` gets a victim and returns what came back, point by point.

    Class attributes:
        label: what it is called in tables.
        family: what is attacked.
        access: what the attacker needs: to ask (black box), or weights and hidden states (white box).
        counts: it is part of the worst case.
        asks: it asks for the fact itself, so that its hits count among those of any attack.
    """

    label: ClassVar[str]
    family: ClassVar[Family]
    access: ClassVar[Access]
    asks: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """Heading of the column: the label, with what the settings change about it."""
        return self.label

    @abstractmethod
    def attack(self, victim: Victim) -> list[AttackPoint]:
        """Scores by question, 0 to 1; several points, in the order of their steps, where an attack trains.

        Raises:
            NotAttackableError: the attack does not apply to this model; the message says why.
        """
