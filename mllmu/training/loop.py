"""The one training loop: fine-tuning and every unlearning method run through it."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core import process
from mllmu.core.errors import ModelError
from mllmu.core.process import Progress, derive, start_meter, stop_meter
from mllmu.core.runfolder import write_atomic
from mllmu.models import devices
from mllmu.models.layers import adapted_outside
from mllmu.training import fitting
from mllmu.training.checkpoint import CHECKPOINT, TEMPORARY, load_checkpoint, save_checkpoint
from mllmu.training.distributed import agree, average_gradients

CURVE = "curve.json"
READ_STEPS, READ_S = 16, 1.0
"""Losses are read back after so many steps (at the beginning after as many as there were), or so many seconds."""
FUSED = ("cpu", "cuda")
"""Devices on which one operation clips, and one steps, all weights, and a step can be left out without asking."""


@dataclass(kw_only=True)
class Training:
    """Where and with what means one model is trained, whatever its loss.

    Attributes:
        folder: gets checkpoints and the curve while the training runs, and in the end what was trained.
        label: what progress and errors call the model; no random number depends on it.
        seed: of the order of the turns, dropout and new adapters.
        lora: size of the adapters; None trains the weights themselves.
        checkpoint_every_s: least seconds between two checkpoints.
        reference_mib: memory for what the frozen reference gives the replies of a side, see
            :mod:`mllmu.unlearning.trainer`; 0 runs the reference in every step.
        batch_size: turns of a step, of each side.
        micro_batch_size: most of them in one run of the model; None: all.
        recompute: activations are computed again in the backward pass; "auto": where a step does not fit.
    """

    folder: Path
    label: str
    seed: int
    progress: Progress
    lora: Lora | None = None
    checkpoint_every_s: float = 60.0
    reference_mib: float = 1024.0
    batch_size: int = 1
    micro_batch_size: int | None = None
    recompute: bool | Literal["auto"] = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: linear warm-up over a share of the steps, then linear decay to zero, or none."""

    num_steps: int
    learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    decay: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based); never zero, so the last step counts too."""
        rising = int(self.warmup * self.num_steps)
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        if not self.decay:
            return self.learning_rate
        return self.learning_rate * (self.num_steps - step) / max(1, self.num_steps - rising)


@dataclass
class TrainingState:
    """What a training has reached.

    Attributes:
        training: where the checkpoint lies, and where a note goes if it cannot be used.
        trainable: the trained parameters by name, changed in place.
        memory: numbers that the loss carries from step to step.
        curve: one {"step": step, name of a term: value, ...} per step, in nats unless the term says otherwise.
        unread: number, names of the terms, and on the device [terms and 2] their values, sum, and norm of the gradient,
            of the steps that are not in the curve yet.
    """

    training: Training
    trainable: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    memory: dict[str, float]
    curve: list[dict[str, float]] = field(default_factory=list)
    unread: list[tuple[int, list[str], Tensor]] = field(default_factory=list)

    def slope(self, model: Any, terms: Callable[[int], dict[str, Tensor]], step: int) -> dict[str, Tensor]:
        """The terms of a step, their gradient in the weights; what does not fit into memory is run in smaller parts."""
        memory = dict(self.memory)
        while True:
            torch.manual_seed(derive(self.training.seed, "step", step))
            try:
                return self._differentiate(terms(step))
            except (MemoryError, RuntimeError) as error:
                devices.check_memory_is_the_cause(error)
            # the error is gone here, and the tensors of the step, which its frames held
            fitting.make_smaller(model, self.training)
            fitting.put_back(self.memory, memory)

    def _differentiate(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        if terms:
            total, weights = torch.stack(list(terms.values())).sum(), list(self.trainable.values())
            # backward() would make one more operation for each weight
            for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
                weight.grad = None if gradient is None else gradient.contiguous()
        return terms

    def descend(self, terms: dict[str, Tensor], schedule: Schedule, step: int) -> None:
        """One step of the optimiser down the :meth:`slope` of the terms, without waiting for the device.

        From the first sum or norm of its gradient that is not finite on, no step changes the weights any more;
        :meth:`read` says so.
        """
        values = torch.stack(list(terms.values())).detach()
        total = values.sum()
        weights = list(self.trainable.values())
        if process.count() > 1:
            average_gradients(weights)
        fused = bool(self.optimizer.defaults["fused"])
        norm = torch.nn.utils.clip_grad_norm_(weights, schedule.max_grad_norm, foreach=fused or None)
        self.unread.append((step, list(terms), torch.stack([*values, total, norm])))
        if fused:
            bad = (total + norm).isfinite().logical_not().float()
            earlier = getattr(self.optimizer, "found_inf", bad)
            setattr(self.optimizer, "found_inf", torch.maximum(earlier, bad))  # noqa: B010 - declared nowhere
        else:
            self.read(schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def read(self, schedule: Schedule) -> None:
        """Put the unread losses into the curve, and show progress.

        Raises:
            ModelError: the sum, or the norm of its gradient, is not finite at one of the steps.
        """
        if not self.unread:
            return
        numbers = torch.cat([record for _, _, record in self.unread]).tolist()
        for step, names, _ in self.unread:
            *values, total, norm = numbers[: len(names) + 2]
            del numbers[: len(names) + 2]
            where = f"step {step + 1} of {schedule.num_steps}"
            _check_finite(total, f"{self.training.label}: the loss", where)
            _check_finite(norm, f"{self.training.label}: the norm of the gradient", where)
            self.curve.append({"step": step, **dict(zip(names, (round(v, 6) for v in values), strict=True))})
        self.training.progress.advance(len(self.unread), loss=total)
        self.unread.clear()


def train(
    model: Any,
    terms: Callable[[int], dict[str, Tensor]],
    schedule: Schedule,
    training: Training,
    memory: dict[str, float] | None = None,
) -> list[dict[str, float]]:
    """Minimise the sum of named loss terms; resumes from the checkpoint in the folder if there is one.

    The result of an interrupted and resumed run is bit-identical with the threads that the run records: order and
    dropout are derived from the step. So a checkpoint that cannot be used (damaged, cut short, of another version) only
    costs time: training starts over.
    With several processes each has its share of every step (see :mod:`mllmu.training.distributed`); process 0 writes.

    Args:
        model: its trainable parameters are changed in place.
        terms: step -> named scalar terms with gradient; a step without terms changes nothing.
        memory: numbers that ``terms`` carries from step to step; kept in the checkpoint and restored in place.

    Returns:
        The curve, see :class:`TrainingState`; it is written into the folder too.

    Raises:
        ModelError: the loss is not finite, with the step and what to change.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights, progress, folder = list(trainable.values()), training.progress, training.folder
    fused = all(weight.device.type in FUSED for weight in weights)
    rate, decay = schedule.learning_rate, schedule.weight_decay
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=fused)
    state = TrainingState(training, trainable, optimizer, {} if memory is None else memory)
    if process.count() > 1:
        agree(weights)
    first = load_checkpoint(state) if (folder / CHECKPOINT).is_file() else 0
    model.train()
    if training.lora and training.lora.targets and (line := adapted_outside(trainable)):
        progress.note(f"{training.label}: {line}")
    start_meter(sum(weight.numel() for weight in weights))
    progress.start(training.label, schedule.num_steps)
    progress.advance(first)
    saved = seen = time.monotonic()
    for step in range(first, schedule.num_steps):
        losses = state.slope(model, terms, step)
        if not losses:
            progress.advance(1)
            continue
        state.descend(losses, schedule, step)
        due = process.leads() and time.monotonic() - saved > training.checkpoint_every_s
        if due or len(state.unread) >= min(READ_STEPS, len(state.curve)) or time.monotonic() - seen > READ_S:
            state.read(schedule)
            seen = time.monotonic()
        if due:
            save_checkpoint(state, step + 1)
            saved = time.monotonic()
    state.read(schedule)
    progress.finish()
    size = min(training.micro_batch_size or training.batch_size, training.batch_size)
    stop_meter(micro_batch_size=size, gradient_checkpointing=training.recompute is True)
    model.eval()
    if process.leads():
        for leftover in (folder / CHECKPOINT, folder / TEMPORARY):
            leftover.unlink(missing_ok=True)
        write_atomic(folder / CURVE, json.dumps(state.curve) + "\n")
    return state.curve


def _check_finite(value: float, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise ModelError(
            f"{what} is {value} at {where}, expected a finite number. "
            "Lower learning_rate or epochs; the run folder keeps everything finished before."
        )
