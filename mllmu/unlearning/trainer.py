"""Run one unlearning method: give its loss the forget and retain side of every step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core.errors import DataError, ModelError
from mllmu.core.progress import Progress
from mllmu.core.ranks import leads
from mllmu.core.seeding import derive, rng
from mllmu.models.adapters import add_trainable, save_trained, without_adapter
from mllmu.models.engine.forward import Forward, label_everything, without_ends
from mllmu.models.families import Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.models.modifiers import write_settings
from mllmu.training import distributed
from mllmu.training.batching import Order
from mllmu.training.distributed import MakeBatch
from mllmu.training.loop import Schedule, train
from mllmu.training.losses import answer_nll
from mllmu.training.packing import training_batch
from mllmu.training.sharding import spread
from mllmu.unlearning.base import Method, Phase, Side, Step, layer_at
from mllmu.unlearning.holdout import Kind, holdout_levels
from mllmu.unlearning.probing import Probe
from mllmu.unlearning.reference import ReferenceMemory, pays
from mllmu.unlearning.saliency import Saliency, SideName, restrict

PROBE_BATCH = 32
"""Turns a pass when a model is only measured."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What a method works on: turns to forget and to keep; another frozen reference and holdout people if asked for."""

    forget: Sequence[Turn]
    retain: Sequence[Turn]
    reference: Loaded | None = None
    holdout: Sequence[Turn] = ()


def unlearn(
    loaded: Loaded,
    method: Method,
    sides: Sides,
    *,
    lora: Lora | None,
    folder: Path,
    seed: int,
    progress: Progress,
    label: str,
    micro_batch_size: int | None = None,
    checkpoint_every_s: float = 60.0,
    reference_mib: float = 1024,
) -> None:
    """Train the target with the method's loss; the changes are saved into ``folder``.

    The reference is the same weights with the new adapter off, so it needs no second model in memory. Without LoRA
    that is impossible and the reference must be loaded apart.

    Args:
        reference_mib: memory for what the reference gives the replies, see :mod:`mllmu.unlearning.reference`; 0 runs
            it in every step.

    Raises:
        DataError: a side that the method needs is empty.
        ModelError: the method needs a reference, and there is neither an adapter to switch off nor a second model.
    """
    if not sides.forget or (method.uses_retain and not sides.retain):
        raise DataError(f"{label}: nothing to {'retain' if sides.forget else 'forget'} in modality {method.modality}.")
    if method.uses_reference and lora is None and sides.reference is None:
        raise ModelError(
            f"{label}: compares with a frozen reference, but without adapters there is none to switch off. "
            "Set unlearn.lora, or load a second model and pass it as the reference."
        )
    loaded.encoder.check([*sides.forget, *sides.retain])
    if method.modifies:
        _modify(
            loaded, method, sides, lora=lora, folder=folder, seed=seed, progress=progress, label=label,
            micro_batch_size=micro_batch_size, checkpoint_every_s=checkpoint_every_s,
        )  # fmt: skip
        return
    targets = method.targets(num_layers(loaded.model))
    model = add_trainable(
        loaded.model, loaded.encoder.family, lora, seed=derive(seed, "adapter", label), targets=targets
    )
    spread(loaded, model)
    if sides.reference:
        spread(sides.reference, sides.reference.model)
    engine = _Engine(
        model, loaded, method, sides, seed, at_once=micro_batch_size, reference_mib=reference_mib,
        note=lambda text: progress.note(f"{label}: {text}"),
    )  # fmt: skip
    masks = method.masks(Saliency(engine.weights, engine.losses))
    if masks is not None:
        restrict(engine.weights, masks)
    start = [weight.detach().clone() for weight in engine.weights] if method.kept_change != 1 and lora is None else None
    schedule = Schedule(
        num_steps=engine.num_steps,
        learning_rate=method.learning_rate,
        decay=method.decay == "linear",
        checkpoint_every_s=checkpoint_every_s,
    )
    train(model, engine.terms, schedule, folder=folder, seed=seed, progress=progress, label=label, memory=engine.memory)
    scale_change(model, start, method.kept_change)
    if not leads():
        return
    save_trained(model, folder)
    if method.at_inference:
        write_settings(folder, method.at_inference)


def _modify(
    loaded: Loaded,
    method: Method,
    sides: Sides,
    *,
    lora: Lora | None,
    folder: Path,
    seed: int,
    progress: Progress,
    label: str,
    micro_batch_size: int | None,
    checkpoint_every_s: float,
) -> None:
    """Make a modifier and, if the method trains, train its parameters while the model itself stays as it is."""
    loaded.model.requires_grad_(requires_grad=False)
    loaded.model.eval()
    progress.start(f"{label}: measuring", 1)
    modifier = method.modifier(
        Probe(loaded=loaded, forget=sides.forget, retain=sides.retain, lora=lora, seed=derive(seed, "adapter", label),
              batch_size=PROBE_BATCH)
    ).to(loaded.device)  # fmt: skip
    distributed.agree(list(modifier.tensors().values()))
    progress.finish()
    if method.trains:
        modifier.attach(loaded.model)
        engine = _Engine(
            loaded.model, loaded, method, sides, seed, at_once=micro_batch_size, reference_mib=0, note=progress.note
        )
        schedule = Schedule(
            num_steps=engine.num_steps,
            learning_rate=method.learning_rate,
            decay=method.decay == "linear",
            checkpoint_every_s=checkpoint_every_s,
        )
        train(
            modifier, engine.terms, schedule, folder=folder, seed=seed, progress=progress, label=label,
            memory=engine.memory,
        )  # fmt: skip
    if leads():
        modifier.save(folder)


def num_layers(model: Any) -> int:
    """Layers of the language model."""
    return int(model.config.get_text_config().num_hidden_layers)


@torch.no_grad()
def scale_change(model: Any, start: Sequence[Tensor] | None, factor: float) -> None:
    """Multiply what training changed, in place: w = start + factor * (w - start), or factor * B for adapters A, B."""
    if factor == 1:
        return
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if start is None:
        for name, p in trained:
            if "lora_B" in name:
                p.mul_(factor)
        return
    for (_, p), before in zip(trained, start, strict=True):
        p.sub_(before).mul_(factor).add_(before)


class _Engine:
    """Turns a step number into the loss terms of a method."""

    def __init__(
        self,
        model: Any,
        loaded: Loaded,
        method: Method,
        sides: Sides,
        seed: int,
        *,
        at_once: int | None,
        reference_mib: float,
        note: Callable[[str], None],
    ) -> None:
        self.at_once, self.reference_mib, self.note = at_once, reference_mib, note
        self.references: dict[tuple[SideName, bool], ReferenceMemory | None] = {}
        self.model = model
        self.loaded = loaded
        self.method = method
        self.sides = sides
        self.seed = seed
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.memory: dict[str, float] = {}
        self.about: dict[tuple[bool, str], list[Turn]] = {}
        for turn in (*sides.forget, *sides.retain):
            self.about.setdefault(subject(turn), []).append(turn)
        self.forget, self.retain = (
            Order(
                num_items=max(1, len(turns)),
                batch_size=method.batch_size,
                seed=seed,
                label=label,
                together=method.questions_together,
                sets=tuple(turn.image for turn in turns),
            )
            for label, turns in (("forget", sides.forget), ("retain", sides.retain))
        )
        self.forget_steps = self.forget.num_steps(method.epochs)

    @property
    def num_steps(self) -> int:
        """Steps over the forget set; with a retain phase, also those over the whole retain set that follow."""
        return self.forget_steps + (self.retain.num_steps(self.method.epochs) if self._two_phases else 0)

    @property
    def _two_phases(self) -> bool:
        return self.method.schedule == "two_phase" and self.method.uses_retain

    def terms(self, step: int) -> dict[str, Tensor]:
        phase: Phase = "joint"
        if self._two_phases:
            phase = "forget" if step < self.forget_steps else "retain"
        place = step % self.forget_steps if phase != "retain" else step - self.forget_steps
        return self.method.loss(
            Step(
                forget=self.side("forget", place),
                retain=self.side("retain", place),
                phase=phase,
                weights=self.weights,
                memory=self.memory,
                seed=self.seed,
            )
        )

    def losses(self, name: SideName) -> Iterator[Tensor]:
        """Nll of every batch of the first epoch of a side, without dropout."""
        if not getattr(self.sides, name):
            raise DataError(f"{type(self.method).__name__}: nothing on the {name} side to measure weights by.")
        self.model.eval()
        for step in range(self._order(name).steps_per_epoch):
            yield answer_nll(self.side(name, step).current)

    def side(self, name: SideName, step: int) -> Side:
        order, turns = self._order(name), getattr(self.sides, name)
        chosen = [turns[i] for i in order.indices(step)] if turns else []
        return Side(chosen, _Passes(self, name, chosen, epoch=step // order.steps_per_epoch), lambda: self.levels)

    @cached_property
    def levels(self) -> dict[Kind, float]:
        """What the reference gives true replies about people nobody taught it, by the kind of question."""
        return holdout_levels(self.sides.holdout, self.referred)

    def referred(self, turns: Sequence[Turn]) -> Forward:
        """A pass of the frozen reference."""
        with self.frozen() as loaded:
            return distributed.forward(loaded.model, turns, self.batches(loaded), at_once=self.at_once)

    def reference_of(self, name: SideName, *, alternative: bool) -> ReferenceMemory | None:
        """What the reference gives the replies of a side, or their alternatives; None: it is run in every step."""
        if not self.reference_mib:
            return None
        if (name, alternative) not in self.references:
            asked = self._asked(name, alternative=alternative)
            shared = self.loaded.packs and self.method.loss_on == "answer"
            self.references[name, alternative] = (
                ReferenceMemory(
                    asked,
                    frozen=self.frozen,
                    batches=self.batches,
                    at_once=self.at_once,
                    most_bytes=self.reference_mib * 2**20,
                    note=self.note,
                )
                if pays(self.loaded, asked, shared=shared)
                else None
            )
        return self.references[name, alternative]

    def _asked(self, name: SideName, *, alternative: bool) -> list[Turn]:
        """The turns of a side that the whole training meets, in the order of the side, each as often as it is met."""
        order, turns = self._order(name), getattr(self.sides, name)
        num_steps = self.num_steps - self.forget_steps if name == "retain" and self._two_phases else self.forget_steps
        met = sorted((item, step // order.steps_per_epoch) for step in range(num_steps) for item in order.indices(step))
        return [self.instead(turns[item], epoch) if alternative else turns[item] for item, epoch in met]

    def batches(self, loaded: Loaded) -> MakeBatch:
        """Encodes turns as the method trains them."""
        return partial(step_batch, loaded, self.method)

    @contextmanager
    def frozen(self) -> Iterator[Loaded]:
        """The frozen reference, without gradient and dropout: the adapter switched off, or a model of its own."""
        loaded = self.sides.reference or replace(self.loaded, model=self.model)
        model, training = loaded.model, loaded.model.training
        off: AbstractContextManager[Any] = nullcontext() if self.sides.reference else without_adapter(model)
        model.eval()
        try:
            with torch.no_grad(), off:
                yield loaded
        finally:
            model.train(training)

    def _order(self, name: SideName) -> Order:
        return self.forget if name == "forget" else self.retain

    def instead(self, turn: Turn, epoch: int) -> Turn:
        """The turn with the method's alternative reply."""
        others = [
            other
            for other in self.about[subject(turn)]
            if other.reply != turn.reply and (not turn.person or other.person != turn.person)
        ]
        draw: random.Random = rng(
            self.seed, "alternative", turn.person, turn.prompt, turn.image.name if turn.image else "", epoch
        )
        return replace(turn, reply=self.method.alternative(turn, others, draw))


def subject(turn: Turn) -> tuple[bool, str]:
    """What a turn is about, whoever it is about: with an image or not, and the topic or, if unknown, the question."""
    return turn.image is not None, f"topic {turn.topic}" if turn.topic else turn.prompt


def step_batch(loaded: Loaded, method: Method, turns: Sequence[Turn]) -> Batch:
    """The batch of one side of a step; its labels are what the method trains."""
    if method.loss_on == "answer":
        batch = training_batch(loaded, turns)
        return batch if method.train_end else without_ends(batch, loaded.ends)
    # a shared prompt token would be counted once instead of once a question, so nothing is packed here
    plain = loaded.encoder.batch(turns).to(loaded.device)
    whole = label_everything(plain, image_token_id=loaded.image_token_id)
    return whole if method.train_end else without_ends(whole, loaded.ends)


@dataclass(frozen=True)
class _Passes:
    """The passes of one side of one step."""

    engine: _Engine
    name: SideName
    turns: Sequence[Turn]
    epoch: int
    made: dict[tuple[Turn, ...], Batch] = field(default_factory=dict)

    def forward(self, *, reference: bool, alternative: bool) -> Forward:
        engine = self.engine
        turns = [engine.instead(turn, self.epoch) for turn in self.turns] if alternative else list(self.turns)
        if not reference:
            return distributed.forward(engine.model, turns, self._make, at_once=engine.at_once)
        known = engine.reference_of(self.name, alternative=alternative)
        if known and known.holds(turns):
            return known.recall(turns, *distributed.tokens(turns, self._make, at_once=engine.at_once))
        return engine.referred(turns)

    def hidden(self, depth: float, *, reference: bool) -> Tensor:
        engine = self.engine
        layer = layer_at(depth, num_layers(engine.loaded.model))
        if not reference:
            return distributed.hidden(engine.model, self.turns, self._make, layer, at_once=engine.at_once)
        with engine.frozen() as loaded:
            return distributed.hidden(loaded.model, self.turns, engine.batches(loaded), layer, at_once=engine.at_once)

    def _make(self, turns: Sequence[Turn]) -> Batch:
        """The batch of turns for the model in training; several passes of a step take the same one."""
        key = tuple(turns)
        if key not in self.made:
            self.made[key] = step_batch(self.engine.loaded, self.engine.method, turns)
        return self.made[key]
