"""Run one unlearning method: give its loss the forget and retain side of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from mllmu.core import ranks
from mllmu.core.errors import DataError, ModelError
from mllmu.core.seeding import derive, rng
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Batch, Turn
from mllmu.models.labels import label_everything, without_ends
from mllmu.models.layers import run_hidden
from mllmu.models.loading import Loaded, add_trainable, save_trained
from mllmu.models.modifiers import write_settings
from mllmu.training.batches import Order, forward, run_step, step_tokens, training_batch
from mllmu.training.loop import Schedule, Training, train
from mllmu.training.losses import answer_nll
from mllmu.training.sharding import spread
from mllmu.unlearning.base import Method, Phase, Side, Step, Terms, layer_at, turn_key
from mllmu.unlearning.holdout import QuestionType, holdout_levels
from mllmu.unlearning.probing import make_modifier
from mllmu.unlearning.reference import Reference, ReferenceMemory, pays
from mllmu.unlearning.saliency import Saliency, SideName, restrict


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What a method works on: turns to forget and to retain; for some a reference of its own, and holdout people."""

    forget: Sequence[Turn]
    retain: Sequence[Turn]
    reference: Loaded | None = None
    holdout: Sequence[Turn] = ()


def unlearn(loaded: Loaded, method: Method, sides: Sides, training: Training) -> None:
    """Train the target with the method's loss, or make its modifier; the changes are saved into the folder.

    The reference is the same weights with the new adapter off, so it needs no second model in memory. Without LoRA
    that is impossible and the reference must be loaded apart.

    Raises:
        DataError: a side that the method needs is empty.
        ModelError: the method needs a reference, and there is neither an adapter to switch off nor a second model.
    """
    _check(method, sides, training)
    loaded.encoder.check([*sides.forget, *sides.retain])
    if method.modifies:
        modifier = make_modifier(loaded, method, sides.forget, sides.retain, training)
        if method.trains:
            _Engine(loaded.model, loaded, method, sides, training).train(modifier)
        if ranks.leads():
            modifier.save(training.folder)
        return
    seed, targets = derive(training.seed, "adapter", training.label), method.targets(num_layers(loaded.model))
    model = add_trainable(loaded.model, loaded.encoder.family, training.lora, seed=seed, targets=targets)
    if ranks.count() > 1:
        spread(loaded, model)
        if sides.reference:
            spread(sides.reference, sides.reference.model)
    engine = _Engine(model, loaded, method, sides, training)
    masks = method.masks(Saliency(engine.weights, engine.losses))
    if masks is not None:
        restrict(engine.weights, masks)
    copied = method.kept_change != 1 and training.lora is None
    start = [weight.detach().clone() for weight in engine.weights] if copied else None
    engine.train(model)
    scale_change(model, start, method.kept_change)
    if ranks.leads():
        save_trained(model, training.folder)
        if method.at_inference:
            write_settings(training.folder, method.at_inference)


def _check(method: Method, sides: Sides, training: Training) -> None:
    if not sides.forget or (method.uses_retain and not sides.retain):
        empty = "retain" if sides.forget else "forget"
        raise DataError(f"{training.label}: nothing to {empty} in modality {method.modality}.")
    if method.uses_reference and training.lora is None and sides.reference is None:
        raise ModelError(
            f"{training.label}: compares with a frozen reference, but without adapters there is none to switch off. "
            "Set unlearn.lora, or load a second model and pass it as the reference."
        )


def num_layers(model: Any) -> int:
    """Layers of the language model."""
    return int(model.config.get_text_config().num_hidden_layers)


@torch.no_grad()
def scale_change(model: Any, start: Sequence[Tensor] | None, factor: float) -> None:
    """Multiply what training changed, in place: w = start + factor * (w - start), or factor * B for adapters A, B."""
    if factor == 1:
        return
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for index, (name, p) in enumerate(trained):
        if start is not None:
            p.sub_(start[index]).mul_(factor).add_(start[index])
        elif "lora_B" in name:
            p.mul_(factor)


class _Engine:
    """Turns a step number into the loss terms of a method."""

    def __init__(self, model: Any, loaded: Loaded, method: Method, sides: Sides, training: Training) -> None:
        self.model, self.loaded, self.method, self.training = model, loaded, method, training
        self.holdout = sides.holdout
        self.turns: dict[SideName, Sequence[Turn]] = {"forget": sides.forget, "retain": sides.retain}
        self.orders = {
            name: Order(
                tuple(turn.image for turn in turns), method.batch_size, training.seed, name, method.questions_together
            )
            for name, turns in self.turns.items()
        }
        self.forget_steps = self.orders["forget"].num_steps(method.epochs)
        two_phases = method.schedule == "two_phase" and method.uses_retain
        self.retain_steps = self.orders["retain"].num_steps(method.epochs) if two_phases else 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.memory: dict[str, float] = {}
        frozen = sides.reference or replace(loaded, model=model)
        make, apart = partial(step_batch, frozen, method), sides.reference is not None
        self.reference = Reference(loaded=frozen, make=make, training=training, apart=apart)
        self.memories: dict[tuple[SideName, bool], ReferenceMemory | None] = {}

    def train(self, trained: Any) -> None:
        """Train the parameters of a module: the model, or a modifier that acts on it."""
        schedule = Schedule(
            num_steps=self.forget_steps + self.retain_steps,
            learning_rate=self.method.learning_rate,
            decay=self.method.decay == "linear",
        )
        train(trained, self.terms, schedule, self.training, self.memory)

    def terms(self, step: int) -> Terms:
        phase: Phase = "joint"
        if self.retain_steps:
            phase = "forget" if step < self.forget_steps else "retain"
        index = step - self.forget_steps if phase == "retain" else step
        forget, retain = self.side("forget", index), self.side("retain", index)
        seed = self.training.seed
        return self.method.loss(
            Step(forget=forget, retain=retain, phase=phase, weights=self.weights, memory=self.memory, seed=seed)
        )

    def losses(self, name: SideName) -> Iterator[Tensor]:
        """Nll of every batch of the first epoch of a side, without dropout."""
        if not self.turns[name]:
            raise DataError(f"{type(self.method).__name__}: nothing on the {name} side to measure weights by.")
        self.model.eval()
        for step in range(self.orders[name].steps_per_epoch):
            yield answer_nll(self.side(name, step).current)

    def side(self, name: SideName, step: int) -> Side:
        order = self.orders[name]
        chosen = [self.turns[name][index] for index in order.indices(step)]
        return Side(chosen, _Passes(self, name, chosen, epoch=step // order.steps_per_epoch), lambda: self.levels)

    @cached_property
    def levels(self) -> dict[QuestionType, float]:
        """What the reference gives true replies about holdout people, by modality and task."""
        return holdout_levels(self.holdout, self.reference.forward)

    def memory_of(self, name: SideName, *, alternative: bool) -> ReferenceMemory | None:
        """What the reference gives the replies of a side, or their alternatives; None: it is run in every step."""
        key = (name, alternative)
        if key not in self.memories:
            turns = self._turns_met(name, alternative=alternative)
            shared = self.loaded.packs and self.method.loss_on == "answer"
            worth = self.training.reference_mib > 0 and pays(self.loaded, turns, shared=shared)
            self.memories[key] = ReferenceMemory(self.reference, turns) if worth else None
        return self.memories[key]

    def _turns_met(self, name: SideName, *, alternative: bool) -> list[Turn]:
        """The turns of a side that the whole training meets, in the order of the side, each as often as it is met."""
        order, turns = self.orders[name], self.turns[name]
        num_steps = self.retain_steps if name == "retain" and self.retain_steps else self.forget_steps
        met = sorted((item, step // order.steps_per_epoch) for step in range(num_steps) for item in order.indices(step))
        return [self.instead(turns[item], epoch) if alternative else turns[item] for item, epoch in met]

    def instead(self, turn: Turn, epoch: int) -> Turn:
        """The turn with the method's alternative reply."""
        others = [
            other
            for other in self._about[subject(turn)]
            if other.reply != turn.reply and (not turn.person or other.person != turn.person)
        ]
        draw = rng(self.training.seed, "alternative", *turn_key(turn), epoch)
        return replace(turn, reply=self.method.alternative(turn, others, draw))

    @cached_property
    def _about(self) -> dict[tuple[bool, str], list[Turn]]:
        """The turns of both sides by their subject."""
        about: dict[tuple[bool, str], list[Turn]] = {}
        for turn in (*self.turns["forget"], *self.turns["retain"]):
            about.setdefault(subject(turn), []).append(turn)
        return about


def subject(turn: Turn) -> tuple[bool, str]:
    """What a turn asks about a person: with an image or not, and the topic or, if unknown, the question."""
    return turn.image is not None, f"topic {turn.topic}" if turn.topic else turn.prompt


def step_batch(loaded: Loaded, method: Method, turns: Sequence[Turn]) -> Batch:
    """The batch of one side of a step; its labels are what the method trains."""
    if method.loss_on == "answer":
        batch = training_batch(loaded, turns)
    else:
        # a shared prompt token would be counted once instead of once per question, so nothing is packed here
        plain = loaded.encoder.batch(turns).to(loaded.device)
        batch = label_everything(plain, image_token_id=loaded.image_token_id)
    return batch if method.train_end else without_ends(batch, loaded.ends)


@dataclass(frozen=True)
class _Passes:
    """The passes of one side of one step."""

    engine: _Engine
    name: SideName
    turns: Sequence[Turn]
    epoch: int
    batches: dict[tuple[Turn, ...], Batch] = field(default_factory=dict)

    def forward(self, *, reference: bool, alternative: bool) -> Forward:
        engine, at_once = self.engine, self.engine.training.micro_batch_size
        turns = [engine.instead(turn, self.epoch) for turn in self.turns] if alternative else self.turns
        if not reference:
            return forward(engine.model, turns, self._make, at_once=at_once)
        memory = engine.memory_of(self.name, alternative=alternative)
        if memory is None:
            return engine.reference.forward(turns)
        return memory.recall(turns, *step_tokens(turns, self._make, at_once))

    def hidden(self, depth: float, *, reference: bool) -> Tensor:
        engine = self.engine
        run = partial(run_hidden, layer=layer_at(depth, num_layers(engine.loaded.model)))
        if reference:
            return engine.reference.run(run, self.turns)[0]
        return run_step(partial(run, engine.model), self.turns, self._make, engine.training.micro_batch_size)[0]

    def _make(self, turns: Sequence[Turn]) -> Batch:
        """The batch of turns for the model in training; several passes of a step take the same one."""
        key = tuple(turns)
        if key not in self.batches:
            self.batches[key] = step_batch(self.engine.loaded, self.engine.method, turns)
        return self.batches[key]
