"""Weights other than floats with one adapter on top: in 8 or 4 bits, rounded in place, or trained themselves.

Quantised are only the layers that can get adapters (extra ``qlora``); their adapters stay beside them. Vision tower,
projector, embeddings and head keep their precision: they are few, and rounding them costs much.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from mllmu.core.errors import ModelError, needs_extra
from mllmu.models.families import Family

NEW = "default"
"""PEFT's name of the adapter in training; one of this name is saved without a folder of its own."""
WEIGHTS_FILE = "weights.safetensors"
REPACKS = "support_avx512bf16_for_cpu"


def load_settings(kind: str, config: Any, family: Family, compute: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Further arguments with which the library loads the weights.

    Args:
        kind: 'int8' (LLM.int8, about 1 byte per weight) or 'nf4' (QLoRA's 4-bit normal floats with double
            quantisation, about 0.52 bytes per weight).
        config: of the model, to find its layers without loading it.
        family: its ``lora_targets`` are the layers to make small.
        compute: precision of the products.
        device: packed weights are made where they stay.

    Raises:
        DependencyError: bitsandbytes is not installed.

    Source: Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314.
    """
    with needs_extra(f"model.quantize: {kind}", "qlora"):
        import bitsandbytes  # noqa: F401 - the library uses it when it loads
    settings: dict[str, Any] = {"llm_int8_skip_modules": kept_layers(config, family)}
    if kind == "int8":
        settings["load_in_8bit"] = True
    else:
        settings |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        settings["bnb_4bit_compute_dtype"] = compute
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": str(device)}}


def kept_layers(config: Any, family: Family) -> list[str]:
    """Linear layers that stay as they are, by their full names; the model is only outlined, nothing is loaded."""
    with torch.device("meta"):
        outline = AutoModelForImageTextToText.from_config(config)
    linear = [name for name, layer in outline.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in linear if not re.fullmatch(family.lora_targets, name)]


def keep_gradients(model: Any) -> None:
    """Keep weights of 4 bits in the form that gradients go through.

    On some CPUs the library packs them anew at the first evaluation, and what is trained after that gets no gradient,
    without an error.
    """
    for layer in model.modules():
        if hasattr(layer, REPACKS):
            setattr(layer, REPACKS, False)


def add_adapter(model: PeftModel, config: LoraConfig) -> PeftModel:
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


@contextmanager
def earlier_adapters(model: PeftModel) -> Iterator[None]:
    """The model without its new adapter, with those of earlier stages."""
    names = [name for name in model.peft_config if name != NEW]
    _activate(model, names)
    try:
        yield
    finally:
        _activate(model, [*names, NEW])


@torch.no_grad()
def round_weights(model: Any, family: Family, *, bits: int) -> int:
    """Round the linear layers of the language model to ``bits`` bits, in place; returns how many layers.

    Round to nearest, symmetric, one scale per output channel: w = s * round(w / s), s = max|w| / (2^(bits-1) - 1).
    The arithmetic stays in the model's own precision, so this shows what the coarser weights do to the replies, not
    the speed or memory of a quantised model. Formats with other levels (NF4, GPTQ) round differently.
    """
    layers = [layer for name, layer in model.named_modules() if re.fullmatch(family.lora_targets, name)]
    for layer in layers:
        layer.weight.copy_(rounded(layer.weight, bits))
    return len(layers)


def rounded(weight_OI: Tensor, bits: int) -> Tensor:
    """[O, I] the nearest of 2^bits - 1 evenly spaced levels for every entry; a row of zeros stays zero.

    >>> rounded(torch.tensor([[0.9, 2.2, -3.0]]), 3)
    tensor([[ 1.,  2., -3.]])
    """
    levels = 2 ** (bits - 1) - 1
    scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / levels
    return torch.where(scale_O1 > 0, scale_O1 * torch.round(weight_OI / scale_O1.clamp(min=1e-30)), weight_OI)


def train_weights(model: Any, layers: Sequence[str]) -> Any:
    """Make the weights of some layers of a frozen model trainable (``lora: null``).

    Raises:
        ModelError: they are packed, or not float32.
    """
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


def read_weights(model: Any, folder: Path) -> Any:
    """The model with the changed weights of a folder; ValueError if it has no such layers."""
    unknown = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the base has no layer {unknown[0]}")
    return model


@torch.no_grad()
def scale_change(model: Any, start: Sequence[Tensor] | None, factor: float) -> None:
    """Multiply what training changed, in place: w = start + factor * (w - start), or factor * B for adapters A, B."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for index, (name, p) in enumerate(trained):
        if start is not None:
            p.sub_(start[index]).mul_(factor).add_(start[index])
        elif "lora_B" in name:
            p.mul_(factor)
