"""Modifiers on disk: recognise the folder of one, read it, and let it act on a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mllmu.models.modifiers import (
    MODIFIER_FILE,
    TENSOR_FILE,
    Experts,
    Gate,
    LogitSteering,
    Modifier,
    ModifierSettings,
    Pruned,
    Steering,
)
from mllmu.models.parts import core


def is_modifier(folder: Path) -> bool:
    """Whether a folder among the adapters holds a modifier."""
    return (folder / MODIFIER_FILE).is_file()


def apply_modifier(model: Any, folder: Path, *, weights_file: str, adapter_file: str) -> Any:
    """Read a modifier and let it act on a model.

    Raises:
        ValueError, OSError, KeyError: the files are missing, damaged, or made for another model.
    """
    try:
        settings = ModifierSettings.model_validate_json((folder / MODIFIER_FILE).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{MODIFIER_FILE}: {error.errors()[0]['msg']}") from None
    made = _READ[settings.kind](settings, folder, model, weights_file, adapter_file)
    made.requires_grad_(requires_grad=False)
    made.attach(model)
    return model


def _read_gate(held: dict[str, Tensor]) -> Gate:
    return Gate(held.pop("gate_RD"), held.pop("threshold_R"))


def _read_steering(settings: ModifierSettings, folder: Path, *_: Any) -> Modifier:
    held = load_file(folder / TENSOR_FILE)
    return Steering(settings, _read_gate(held), held["vector_D"])


def _read_experts(settings: ModifierSettings, folder: Path, *_: Any) -> Modifier:
    held = load_file(folder / TENSOR_FILE)
    gate = _read_gate(held)
    names = [name.removeprefix("down/") for name in held if name.startswith("down/")]
    return Experts(
        settings, gate, held["owner_GR"], {name: (held[f"down/{name}"], held[f"up/{name}"]) for name in names}
    )


def _read_pruned(settings: ModifierSettings, folder: Path, *_: Any) -> Modifier:
    return Pruned(settings, load_file(folder / TENSOR_FILE))


def _read_logit_steering(
    settings: ModifierSettings, folder: Path, model: Any, weights_file: str, adapter_file: str
) -> Modifier:
    if (folder / weights_file).is_file():
        return LogitSteering(settings, dict(_differences(load_file(folder / weights_file), core(model))))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("use_dora") or config.get("use_rslora"):
        raise ValueError("only plain low-rank adapters can be applied to logits")
    return LogitSteering(settings, _factors(folder / adapter_file, config["lora_alpha"] / config["r"]))


def _differences(weights: dict[str, Tensor], own: Any) -> Iterable[tuple[str, tuple[Tensor, ...]]]:
    for name, reinforced_OI in weights.items():
        module = name.removesuffix(".weight")
        if module == name:
            raise ValueError(f"{name} is no weight matrix, so it cannot be kept as a difference")
        plain_OI = own.get_submodule(module).weight
        yield module, ((reinforced_OI - plain_OI.to(reinforced_OI)).to(plain_OI),)


def _factors(path: Path, scale: float) -> dict[str, tuple[Tensor, ...]]:
    with safe_open(path, framework="pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    names = [key.removesuffix(".lora_A.weight") for key in held if key.endswith(".lora_A.weight")]
    return {
        name.removeprefix("base_model.model."): (held[f"{name}.lora_A.weight"], scale * held[f"{name}.lora_B.weight"])
        for name in names
    }


_READ: dict[str, Any] = {
    "logit_steering": _read_logit_steering,
    "steering": _read_steering,
    "experts": _read_experts,
    "pruned": _read_pruned,
}
