"""The checkpoint of a training: one safetensors file (no pickle) with its own digest, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mllmu.core.errors import one_line
from mllmu.models.loading import explain_disk_errors

if TYPE_CHECKING:
    from mllmu.training.loop import TrainingState

CHECKPOINT = "checkpoint.safetensors"
TEMPORARY = f".{CHECKPOINT}.tmp"


def save_checkpoint(state: TrainingState, next_step: int) -> None:
    """Write what a training has reached."""
    folder = state.training.folder
    tensors = {f"p/{name}": p.detach().contiguous() for name, p in state.trainable.items()}
    for name, parameter in state.trainable.items():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"o/{key}/{name}"] = torch.as_tensor(value).detach().contiguous()
    meta = {"step": str(next_step), "curve": json.dumps(state.curve), "memory": json.dumps(state.memory)}
    meta["digest"] = content_digest(tensors, meta)
    with explain_disk_errors(folder / CHECKPOINT):
        save_file(tensors, folder / TEMPORARY, metadata=meta)
        (folder / TEMPORARY).replace(folder / CHECKPOINT)


def content_digest(tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> str:
    """SHA-256 of the facts, and of the name, type, shape and bytes of every tensor."""
    found = hashlib.sha256(json.dumps(dict(meta), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_checkpoint(state: TrainingState) -> int:
    """Restore the checkpoint in place and return the next step; 0 if it does not fit."""
    path = state.training.folder / CHECKPOINT
    try:
        tensors, meta = _read(state, path)
        step, curve, memory = (json.loads(meta[key]) for key in ("step", "curve", "memory"))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        state.training.progress.note(
            f"{path}: not a checkpoint of this training ({one_line(error)}); training starts over."
        )
        return 0
    with torch.no_grad():
        for name, parameter in state.trainable.items():
            parameter.copy_(tensors.pop(f"p/{name}"))
    for key, value in tensors.items():
        _, statistic, name = key.split("/", 2)
        parameter = state.trainable[name]
        here = statistic != "step" or state.optimizer.defaults["fused"]  # else steps are counted on the CPU
        state.optimizer.state[parameter][statistic] = value.to(parameter.device) if here else value
    state.curve = curve
    state.memory.update(memory)
    return int(step)


def _read(state: TrainingState, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a checkpoint; they must be of the parameters that are trained here."""
    with safe_open(path, framework="pt") as file:
        meta = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    if meta.pop("digest", "") != content_digest(tensors, meta):
        raise ValueError("it is not as it was written, by its digest")
    shapes = {name: tuple(p.shape) for name, p in state.trainable.items()}
    held = {key[2:]: tuple(value.shape) for key, value in tensors.items() if key.startswith("p/")}
    if held != shapes or not {key.split("/", 2)[2] for key in tensors if key.startswith("o/")} <= set(shapes):
        raise ValueError("it holds other parameters")
    return tensors, meta
