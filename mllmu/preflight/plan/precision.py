"""Where a recipe trains the weights themselves (``lora: null``), and whether a run would: only float32 weights are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from mllmu.config.recipe import ModelSection, Recipe, jobs
from mllmu.core.runfolder import read_json
from mllmu.models.loading import choose_device, choose_dtype, source_of
from mllmu.models.weights import stored_in


def weight_jobs(recipe: Recipe) -> list[str]:
    """The models of a recipe that are unlearned by training adapters or weights, not modifiers."""
    return [job.name for job in jobs(recipe) if job.method.trains and not job.method.modifies]


def sections_without_lora(recipe: Recipe) -> list[str]:
    """The sections of a recipe that train the weights themselves."""
    trains = {"finetune": recipe.finetune.given is None, "unlearn": bool(weight_jobs(recipe))}
    return [name for name, does in trains.items() if does and getattr(recipe, name).lora is None]


def refusal(model: ModelSection, sections: Sequence[str], dtype: torch.dtype, stored: str) -> str:
    """Why a run refuses to train the weights themselves, and what to set; empty if it does not.

    Args:
        sections: those of :func:`sections_without_lora`.
        dtype: the precision in which the model is loaded.
        stored: how its files hold weights of few bits, see :func:`mllmu.models.weights.stored_in`.
    """
    if model.quantize:
        held, change = f"model.quantize: {model.quantize} holds them in few bits", "leave model.quantize out and set "
    elif stored:
        held, change = f"model.path holds them in few bits ({stored})", "name a model in full precision and set "
    else:
        held, change = f"model.dtype: {model.dtype} makes them {str(dtype).removeprefix('torch.')}", "set "
    if not sections or (dtype == torch.float32 and not model.quantize and not stored):
        return ""
    keys = " and ".join(f"{section}.lora" for section in sections)
    return (
        f"{keys}: null trains the weights themselves, which a run does in float32 alone, but {held}. "
        f"Train adapters (leave {keys} out), or {change}model.dtype: float32."
    )


def dtype_here(model: ModelSection) -> torch.dtype:
    """The precision in which a run on this machine loads a model."""
    device = torch.device("cuda" if model.device.startswith("cuda") else "cpu")
    if model.device == "auto" and torch.cuda.is_available():
        device = choose_device("auto", None if model.device_map else source_of(model.path))
    return choose_dtype(model.dtype, device)


def stored_here(model: ModelSection) -> str:
    """How a model folder holds weights of few bits; empty if it does not, or is not on this machine."""
    file = Path(model.path) / "config.json"
    held = read_json(file).get("quantization_config") if file.is_file() else None
    return stored_in(SimpleNamespace(quantization_config=held))
