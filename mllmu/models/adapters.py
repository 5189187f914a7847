"""What is trained: a LoRA adapter on the language model, or all its weights; and how it is saved."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from mllmu.errors import ModelError
from mllmu.models.families import Family
from mllmu.models.loading import WEIGHTS_FILE
from mllmu.recipe import Lora


def add_trainable(model: Any, family: Family, lora: Lora | None, *, seed: int) -> Any:
    """Freeze everything, then make the language model's adapters (or, without LoRA, its linear layers) trainable.

    Vision tower and projector stay frozen: their names do not match the family's target pattern.

    Raises:
        ModelError: the pattern matches no layer.
    """
    pattern = (lora.targets if lora else None) or family.lora_targets
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if not matched:
        raise ModelError(f"lora.targets: the pattern {pattern!r} matches no layer of {type(model).__name__}.")
    model.requires_grad_(requires_grad=False)
    if lora is None:
        for name in matched:
            model.get_submodule(name).requires_grad_(requires_grad=True)
        return model
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern,
        init_lora_weights="gaussian",
    )
    return get_peft_model(model, config)


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """The model as it was before training: adapters off. This is the reference inside a loss."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def save_trained(model: Any, folder: Path) -> None:
    """Save the adapter, or the trained weights alone; never a full copy of the model."""
    if hasattr(model, "peft_config"):
        model.save_pretrained(str(folder))
        for config in folder.glob("README.md"):
            config.unlink()
        return
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / WEIGHTS_FILE)
