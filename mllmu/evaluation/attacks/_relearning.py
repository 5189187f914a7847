"""Relearning: fine-tune the model a little and ask again, after 1, 2, 4, ... steps."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core.errors import ModelError
from mllmu.core.process import derive
from mllmu.core.runfolder import Journal
from mllmu.evaluation.attacks import Attack, AttackPoint, Loaded, NotAttackableError, Sample, Turn, Victim
from mllmu.evaluation.attacks import Family as AttackFamily
from mllmu.models.loading import add_trainable
from mllmu.training.batches import Order, forward, training_batch
from mllmu.training.loop import Schedule, train
from mllmu.training.losses import answer_nll

POINTS = "points.jsonl"


class Relearning(Attack):
    """Base of the relearning attacks: a subclass says what is taught, and which questions are asked.

    L = mean over the reply tokens of a step of -log p(token), as in fine-tuning; AdamW at a constant learning rate.
    The score is measured after 1, 2, 4, 8 ... steps and the last one. Relearning the facts
    themselves teaches the retain_model too: read the excess over it, not the recovery.
    """

    family: ClassVar[AttackFamily] = "relearning"
    access = "white box"

    adapters: Literal["lora", "full"] = "lora"
    """train low-rank adapters, or all weights of the language model's linear layers"""
    steps: int | None = Field(
        None, ge=1, le=10**6, description="optimiser steps; null: 16 in the small budget, 256 in the full"
    )
    learning_rate: float | None = Field(None, gt=0, le=100, description="null: that of finetune")
    batch_size: int = Field(16, ge=1, le=100_000, description="questions per step")
    people: int | None = Field(None, ge=1, le=10**6, description="people taught, drawn by seed; null: all there are")
    facts: int | None = Field(
        None, ge=1, le=10**6, description="facts taught per person, drawn by seed; null: all there are"
    )

    @abstractmethod
    def taught(self, victim: Victim) -> list[Turn]:
        """The exchanges that the model is taught."""

    def asked(self, victim: Victim) -> Sequence[Sample]:
        """The questions whose scores are measured."""
        return victim.samples

    def attack(self, victim: Victim) -> list[AttackPoint]:
        turns = few(self.taught(victim), self.people, self.facts, victim.seed)
        if not turns:
            raise NotAttackableError("the data have no such question to teach")
        return relearn(self, victim, turns, self.asked(victim))


def few(turns: Sequence[Turn], people: int | None, facts: int | None, seed: int) -> list[Turn]:
    """Turns about so many people and so many facts of each, drawn by seed."""

    def drawn(names: Sequence[str], most: int | None, label: str) -> set[str]:
        order = sorted(set(names), key=lambda name: derive(seed, "relearn", label, name))
        return set(order if most is None else order[:most])

    who = drawn([turn.person for turn in turns], people, "people")
    kept = [turn for turn in turns if turn.person in who]
    what = {p: drawn([turn.topic for turn in kept if turn.person == p], facts, p) for p in who}
    return [turn for turn in kept if turn.topic in what[turn.person]]


def marks(steps: int) -> list[int]:
    """The steps after which the score is measured.

    >>> marks(16), marks(20)
    ([1, 2, 4, 8, 16], [1, 2, 4, 8, 16, 20])
    """
    return [*(2**n for n in range(steps.bit_length()) if 2**n < steps), steps]


def relearn(attack: Relearning, victim: Victim, turns: Sequence[Turn], asked: Sequence[Sample]) -> list[AttackPoint]:
    """Teach a model some exchanges, step by step; measured points are kept, so that an attack can be continued.

    Raises:
        NotAttackableError: the weights cannot be trained as asked.
    """
    loaded, training = victim.load(victim.ref), victim.training()
    asks_all = not loaded.encoder.family.needs_image
    turns = [replace(turn, system=victim.ref.system_prompt) for turn in turns if turn.image or asks_all]
    if not turns:
        raise NotAttackableError("the model takes no question without an image, and the data have no other to teach")
    loaded.encoder.check(turns)
    lora = None if attack.adapters == "full" else Lora(rank=16, alpha=32, dropout=0.0)
    try:
        seed = derive(victim.seed, "attack", "adapter")
        model = add_trainable(loaded.model, loaded.encoder.family, lora, seed=seed)
    except ModelError as error:
        raise NotAttackableError(str(error)) from None
    size, section = attack.batch_size, victim.recipe.finetune
    steps = attack.steps or victim.budget.steps
    training = replace(training, lora=lora, batch_size=size)
    order = Order(tuple(turn.image for turn in turns), size, victim.seed, "relearn")
    measure = _Curve(victim, replace(loaded, model=model), asked, marks(steps))

    def terms(step: int) -> dict[str, Tensor]:
        measure(step)
        chosen = [turns[index] for index in order.indices(step)]
        make = partial(training_batch, loaded)
        return {"nll": answer_nll(forward(model, chosen, make, at_once=training.micro_batch_size))}

    rate = attack.learning_rate or section.learning_rate
    train(model, terms, Schedule(num_steps=steps, learning_rate=rate, decay=False), training)
    measure(steps)
    return measure.points()


class _Curve:
    """Measures the score at some steps, each once, and keeps it."""

    def __init__(self, victim: Victim, loaded: Loaded, asked: Sequence[Sample], wanted: Sequence[int]) -> None:
        self.victim, self.loaded, self.asked, self.wanted = victim, loaded, asked, set(wanted)
        self.journal = Journal(victim.folder / POINTS, AttackPoint)
        self.known = {point.step: point for point in self.journal.resume()}

    def __call__(self, step: int) -> None:
        if step not in self.wanted or step in self.known:
            return
        model: Any = self.loaded.model
        training = model.training
        model.eval()
        self.known[step] = AttackPoint(step=step, values=self.victim.hits(self.loaded, self.asked))
        model.train(training)
        self.journal.append([self.known[step]])

    def points(self) -> list[AttackPoint]:
        """All points, by step."""
        return [self.known[step] for step in sorted(self.known)]
