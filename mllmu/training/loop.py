"""The one training loop: fine-tuning and every unlearning method run through it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mllmu.core.errors import ModelError
from mllmu.core.progress import Progress
from mllmu.core.ranks import leads
from mllmu.core.runfolder import write_atomic
from mllmu.core.seeding import derive
from mllmu.models.adapters import explain_disk_errors
from mllmu.models.engine import meter
from mllmu.models.loading import one_line
from mllmu.training.distributed import agree, average_gradients

CHECKPOINT = "checkpoint.safetensors"
TEMPORARY = f".{CHECKPOINT}.tmp"
CURVE = "curve.json"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: linear warm-up over a share of the steps, then linear decay to zero, or none."""

    num_steps: int
    learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    checkpoint_every_s: float = 60.0
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
class Curve:
    """Loss terms by step: ``points`` is a list of {step, name: value, ...}."""

    points: list[dict[str, float]] = field(default_factory=list)


def train(
    model: Any,
    terms: Callable[[int], dict[str, Tensor]],
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    label: str,
    memory: dict[str, float] | None = None,
) -> Curve:
    """Minimise the sum of named loss terms; resumes from the checkpoint in ``folder`` if there is one.

    The result of an interrupted and resumed run is bit-identical: order and dropout are derived from the step. For the
    same reason a checkpoint that cannot be used (cut short, of another version) only costs time: training starts over.
    With several processes each has its share of every step (see :mod:`mllmu.training.distributed`); process 0 writes.

    Args:
        model: its trainable parameters are changed in place.
        terms: step -> named scalar terms with gradient; a step without terms changes nothing.
        folder: where the checkpoint is kept; removed when training is complete.
        memory: numbers that ``terms`` carries from step to step; kept in the checkpoint and restored in place.

    Raises:
        ModelError: the loss is not finite, with the step and what to change.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    curve, memory = Curve(), {} if memory is None else memory
    agree(list(trainable.values()))
    first = load_checkpoint(folder, trainable, optimizer, curve, progress, memory)
    model.train()
    meter.begin(trainable.values())
    progress.start(label, schedule.num_steps)
    progress.advance(first)
    saved = time.monotonic()
    for step in range(first, schedule.num_steps):
        torch.manual_seed(derive(seed, label, "step", step))
        losses = terms(step)
        if not losses:
            progress.advance(1)
            continue
        total = torch.stack(list(losses.values())).sum()
        where = f"step {step + 1} of {schedule.num_steps}"
        _check_finite(total, f"{label}: the loss", where)
        total.backward()
        average_gradients(list(trainable.values()))
        norm = torch.nn.utils.clip_grad_norm_(trainable.values(), schedule.max_grad_norm)
        _check_finite(norm, f"{label}: the norm of the gradient", where)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        curve.points.append({"step": step, **{name: round(value.item(), 6) for name, value in losses.items()}})
        progress.advance(1, loss=total.item())
        if leads() and time.monotonic() - saved > schedule.checkpoint_every_s:
            save_checkpoint(folder, trainable, optimizer, curve, step + 1, memory)
            saved = time.monotonic()
    progress.finish()
    meter.end()
    model.eval()
    if leads():
        for leftover in (folder / CHECKPOINT, folder / TEMPORARY):
            leftover.unlink(missing_ok=True)
        write_atomic(folder / CURVE, json.dumps(curve.points) + "\n")
    return curve


def _check_finite(value: Tensor, what: str, where: str) -> None:
    if not torch.isfinite(value):
        raise ModelError(
            f"{what} is {value.item()} at {where}, expected a finite number. "
            "Lower learning_rate or epochs; the run folder keeps everything finished before."
        )


def save_checkpoint(
    folder: Path,
    trainable: dict[str, Tensor],
    optimizer: Any,
    curve: Curve,
    next_step: int,
    memory: dict[str, float] | None = None,
) -> None:
    """Write parameters, optimiser state and curve as one safetensors file (no pickle), atomically."""
    tensors = {f"p/{name}": p.detach().contiguous() for name, p in trainable.items()}
    for name, parameter in trainable.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"o/{key}/{name}"] = torch.as_tensor(value).detach().contiguous()
    facts = {"step": str(next_step), "curve": json.dumps(curve.points), "memory": json.dumps(memory or {})}
    with explain_disk_errors(folder / CHECKPOINT):
        save_file(tensors, folder / TEMPORARY, metadata=facts)
        (folder / TEMPORARY).replace(folder / CHECKPOINT)


def load_checkpoint(
    folder: Path,
    trainable: dict[str, Tensor],
    optimizer: Any,
    curve: Curve,
    progress: Progress,
    memory: dict[str, float] | None = None,
) -> int:
    """Restore a checkpoint in place and return the next step; 0 if there is none or, with a note, none that fits."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    try:
        tensors, step, points, numbers = _read_checkpoint(path, trainable)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        progress.note(f"{path}: not a checkpoint of this training ({one_line(error)}); training starts over.")
        return 0
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(tensors.pop(f"p/{name}"))
    for place, value in tensors.items():
        _, key, name = place.split("/", 2)
        parameter = trainable[name]
        # the optimiser counts its steps on the CPU; everything else lies beside the parameter
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    curve.points[:] = points
    if memory is not None:
        memory.update(numbers)
    return step


def _read_checkpoint(
    path: Path, trainable: dict[str, Tensor]
) -> tuple[dict[str, Tensor], int, list[dict[str, float]], dict[str, float]]:
    """ScoredRun in a checkpoint, checked as a whole before anything is used."""
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    shapes = {name: tuple(p.shape) for name, p in trainable.items()}
    held = {key[2:]: tuple(value.shape) for key, value in tensors.items() if key.startswith("p/")}
    if held != shapes or not {key.split("/", 2)[2] for key in tensors if key.startswith("o/")} <= set(shapes):
        raise ValueError("it holds other parameters")
    return tensors, int(meta["step"]), json.loads(meta["curve"]), json.loads(meta["memory"])
