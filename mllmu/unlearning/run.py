"""Run one unlearning method: give its loss the forget and retain side of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mllmu.errors import DataError, ModelError
from mllmu.models.adapters import add_trainable, save_trained, without_adapter
from mllmu.models.families import Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.progress import Progress
from mllmu.recipe import Lora
from mllmu.seeding import derive
from mllmu.training.batching import Order
from mllmu.training.forward import Forward, label_everything, run_forward
from mllmu.training.loop import Schedule, train
from mllmu.training.packing import training_batch
from mllmu.unlearning.base import Method, Phase, Side, Step


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What a method works on: turns to forget, turns to keep, and another frozen reference if it asked for one."""

    forget: Sequence[Turn]
    retain: Sequence[Turn]
    reference: Loaded | None = None


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
    checkpoint_every_s: float = 60.0,
) -> None:
    """Train the target with the method's loss; the changes are saved into ``folder``.

    The reference is the same weights with the new adapter off, so it needs no second model in memory. Without LoRA
    that is impossible and the reference must be loaded apart.

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
    model = add_trainable(loaded.model, loaded.encoder.family, lora, seed=derive(seed, "adapter", label))
    engine = _Engine(model, loaded, method, sides, seed)
    schedule = Schedule(
        num_steps=engine.num_steps, learning_rate=method.learning_rate, checkpoint_every_s=checkpoint_every_s
    )
    train(model, engine.terms, schedule, folder=folder, seed=seed, progress=progress, label=label)
    save_trained(model, folder)


class _Engine:
    """Turns a step number into the loss terms of a method."""

    def __init__(self, model: Any, loaded: Loaded, method: Method, sides: Sides, seed: int) -> None:
        self.model = model
        self.loaded = loaded
        self.method = method
        self.sides = sides
        self.forget = Order(num_items=len(sides.forget), batch_size=method.batch_size, seed=seed, label="forget")
        self.retain = Order(
            num_items=max(1, len(sides.retain)), batch_size=method.batch_size, seed=seed, label="retain"
        )
        self.steps_a_phase = self.forget.num_steps(method.epochs)

    @property
    def num_steps(self) -> int:
        """Steps over the forget set; twice as many if the retain steps follow in a phase of their own."""
        return self.steps_a_phase * (2 if self._two_phases else 1)

    @property
    def _two_phases(self) -> bool:
        return self.method.schedule == "two_phase" and self.method.uses_retain

    def terms(self, step: int) -> dict[str, Tensor]:
        phase: Phase = "joint"
        if self._two_phases:
            phase = "forget" if step < self.steps_a_phase else "retain"
        place = step % self.steps_a_phase
        return self.method.loss(
            Step(
                forget=self._side(self.sides.forget, self.forget, place),
                retain=self._side(self.sides.retain, self.retain, place),
                phase=phase,
            )
        )

    def _side(self, turns: Sequence[Turn], order: Order, step: int) -> Side:
        def batch(loaded: Loaded) -> Batch:
            chosen = [turns[i] for i in order.indices(step)]
            if self.method.loss_on == "answer":
                return training_batch(loaded, chosen)
            # a shared prompt token would be counted once instead of once a question, so nothing is packed here
            plain = loaded.encoder.batch(chosen).to(loaded.device)
            return label_everything(plain, image_token_id=loaded.image_token_id)

        def current() -> Forward:
            return run_forward(self.model, batch(self.loaded))

        return Side(current, self._reference(batch))

    def _reference(self, batch: Callable[[Loaded], Batch]) -> Callable[[], Forward]:
        """One pass of the frozen reference, without dropout: the adapter switched off, or a model of its own."""
        other = self.sides.reference
        model = other.model if other else self.model
        off: Callable[[], AbstractContextManager[Any]] = (
            (lambda: without_adapter(model)) if other is None else (lambda: torch.no_grad())
        )

        def reference() -> Forward:
            training = model.training
            model.eval()
            with torch.no_grad(), off():
                forward = run_forward(model, batch(other or self.loaded))
            model.train(training)
            return forward

        return reference
