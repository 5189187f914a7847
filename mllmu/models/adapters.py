"""What is trained: a LoRA adapter on the language model, or all its weights; and how it is saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import save_file

from mllmu.config.recipe import Lora
from mllmu.core.errors import ModelError
from mllmu.core.runfolder import explain_os_errors
from mllmu.models.families import Family
from mllmu.models.loading import WEIGHTS_FILE, one_line, quiet_libraries

NEW = "default"
"""PEFT's name of the adapter in training; one of this name is saved without a folder of its own."""


def add_trainable(model: Any, family: Family, lora: Lora | None, *, seed: int, targets: str | None = None) -> Any:
    """Freeze everything, then make the language model's adapters (or, without LoRA, its linear layers) trainable.

    Vision tower and projector stay frozen: their names do not match the family's target pattern.

    Args:
        targets: regular expression of the layers to train, before that of ``lora`` and the family's.

    Raises:
        ModelError: the pattern is no regular expression, or matches no layer, or one that cannot have an adapter; or
            weights are to be trained that are not float32.
    """
    pattern = targets or (lora.targets if lora else None) or family.lora_targets
    try:
        matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ModelError(f"lora.targets: {pattern!r} is no regular expression: {error}.") from None
    if not matched:
        raise ModelError(
            f"lora.targets: the pattern {pattern!r} matches no layer of {type(model).__name__}. "
            f"It must match a whole layer name; leave it out to train the language model ({family.lora_targets!r})."
        )
    model.requires_grad_(requires_grad=False)
    if lora is None:
        return _train_weights(model, matched)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern,
        init_lora_weights="gaussian",
    )
    try:
        with quiet_libraries():
            return _add_adapter(model, config) if isinstance(model, PeftModel) else get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"lora.targets: {one_line(error)}. Match linear layers only.") from None


def _train_weights(model: Any, layers: Sequence[str]) -> Any:
    for name in layers:
        layer = model.get_submodule(name)
        if isinstance(model, PeftModel) or getattr(layer, "quant_state", None) or not layer.weight.is_floating_point():
            raise ModelError("lora: null trains the weights themselves, which model.quantize rounds. Use adapters.")
        if layer.weight.dtype != torch.float32:
            precision = str(layer.weight.dtype).removeprefix("torch.")
            raise ModelError(
                f"lora: null trains the weights themselves, and in {precision} most small steps are rounded away. "
                "Set model.dtype: float32, or train adapters, which are always float32."
            )
        layer.requires_grad_(requires_grad=True)
    return model


def _add_adapter(model: PeftModel, config: LoraConfig) -> PeftModel:
    """Put a new adapter on a model that has frozen ones beside its weights."""
    earlier = list(model.peft_config)
    model.add_adapter(NEW, config)
    _activate(model, [*earlier, NEW])
    return model


def _activate(model: PeftModel, names: Sequence[str]) -> None:
    """Let some adapters work; only the new one is trained."""
    model.base_model.set_adapter(list(names))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{NEW}." in name and NEW in names)


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """The model as it was before training: the new adapter off. This is the reference inside a loss."""
    if not isinstance(model, PeftModel):
        return nullcontext()
    earlier = [name for name in model.peft_config if name != NEW]
    return _only(model, earlier) if earlier else model.disable_adapter()


@contextmanager
def _only(model: PeftModel, names: Sequence[str]) -> Iterator[None]:
    _activate(model, names)
    try:
        yield
    finally:
        _activate(model, [*names, NEW])


def save_trained(model: Any, folder: Path) -> None:
    """Save the adapter, or the trained weights alone; never a full copy of the model."""
    if isinstance(model, PeftModel):
        with explain_disk_errors(folder):
            # embeddings are never trained; "auto" would ask the hub whether they were resized
            model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[NEW])
        (folder / "README.md").unlink(missing_ok=True)
        return
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    with explain_disk_errors(folder / WEIGHTS_FILE):
        save_file(trained, folder / WEIGHTS_FILE)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear message; the weights' writer has an error class of its own."""
    with explain_os_errors(path):
        try:
            yield
        except SafetensorError as error:
            raise OSError(one_line(error)) from None
