"""Weights other than float32 ones with adapters merged in: in 8, 4 or 16 bits, rounded, or trained themselves.

Models of a base share its weights (:func:`mllmu.models.loading.keep_base`), so nothing here writes to any: changed
weights take the place of others. In bfloat16 the adapters of earlier stages stay beside the weights.

Quantised are only the layers that can get adapters (extra ``qlora``); their adapters stay beside them. Vision tower,
projector, embeddings and head keep their precision: they are few, and rounding them costs much.

Shapes: I inputs and O outputs of a layer, R rank.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from mllmu.core.errors import ModelError, needs_extra
from mllmu.models.families import Family, core

NEW = "default"
"""PEFT's name of the adapter in training; one of this name is saved without a folder of its own."""
WEIGHTS_FILE = "weights.safetensors"
OFF = "switched_off"
"""Buffer of a layer whose weights cannot be set: the inputs that it ignores."""
REPACKS = "support_avx512bf16_for_cpu"


def load_settings(
    kind: str | None, config: Any, family: Family, compute: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Further arguments with which the library loads the weights.

    Args:
        kind: 'int8' (LLM.int8, about 1 byte per weight) or 'nf4' (QLoRA's 4-bit normal floats with double
            quantisation, about 0.52 bytes per weight); None for weights that are stored so, as ``config`` says.
        config: of the model, to find its layers without loading it.
        family: its ``lora_targets`` are the layers to make small.
        compute: precision of the products.
        device: packed weights are made where they stay.

    Raises:
        DependencyError: bitsandbytes is not installed.
        ModelError: the weights are to be made small and are stored so already.

    Source: Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314.
    """
    stored = stored_in(config)
    if stored and kind:
        raise ModelError(
            f"model.quantize: {kind}, but model.path is stored in {stored} already. Leave model.quantize out."
        )
    if stored in ("", "bitsandbytes"):
        with needs_extra(f"model.quantize: {kind}" if kind else "model.path: stored in few bits", "qlora"):
            import bitsandbytes  # noqa: F401 - the library uses it when it loads
    if stored:
        return {"device_map": {"": str(device)}}
    settings: dict[str, Any] = {"llm_int8_skip_modules": kept_layers(config, family)}
    if kind == "int8":
        settings["load_in_8bit"] = True
    else:
        settings |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        settings["bnb_4bit_compute_dtype"] = compute
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": str(device)}}


def stored_in(config: Any) -> str:
    """The method by which the weights of a checkpoint are stored in few bits; empty if they are not."""
    held = getattr(config, "quantization_config", None)
    method = held.get("quant_method") if isinstance(held, dict) else getattr(held, "quant_method", None)
    return str(getattr(method, "value", method) or "few bits") if held else ""


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


class AdaptedLinear(nn.Linear):
    """A linear layer with the frozen adapters of earlier stages beside its weights: y = W x + b + up (down x).

    Attributes:
        down_RI, up_OR: the factors of all adapters one below the other, in the precision of the weights; the scales are
            in ``up_OR``. R is the sum of the ranks.
    """

    down_RI: Tensor
    up_OR: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The change is what the big product is added to, so that their sum is rounded once."""
        change = F.linear(F.linear(x, self.down_RI), self.up_OR, self.bias)
        return torch.addmm(change.flatten(0, -2), x.flatten(0, -2), self.weight.t()).view_as(change)

    def merged_OI(self) -> Tensor:
        """[O, I] float32 weights with the adapters in them."""
        return self.weight.float() + self.up_OR.float() @ self.down_RI.float()


@torch.no_grad()
def put_beside(layer: nn.Linear, down_RI: Tensor, up_OR: Tensor) -> None:
    """Keep an adapter beside the weights of a layer, on top of those that are there."""
    if not isinstance(layer, nn.Linear) or (down_RI.shape[1], up_OR.shape[0]) != layer.weight.shape[::-1]:
        raise ValueError(
            f"an adapter of {up_OR.shape[0]} x {down_RI.shape[1]} for a layer of {tuple(layer.weight.shape)}"
        )
    down_RI, up_OR = down_RI.to(layer.weight), up_OR.to(layer.weight)
    if isinstance(layer, AdaptedLinear):
        down_RI, up_OR = torch.cat([layer.down_RI, down_RI]), torch.cat([layer.up_OR, up_OR], dim=1)
    layer.__class__ = AdaptedLinear  # the same module, with what watches it
    layer.register_buffer("down_RI", down_RI, persistent=False)
    layer.register_buffer("up_OR", up_OR, persistent=False)


def take_away(layer: nn.Linear) -> None:
    """Forget the adapters beside a layer, if it has any."""
    if isinstance(layer, AdaptedLinear):
        del layer.down_RI, layer.up_OR
        layer.__class__ = nn.Linear  # type: ignore[assignment]


@torch.no_grad()
def fold(model: Any) -> Any:
    """Merge all adapters beside the weights, in float32, rounded once; for tools that know ordinary layers only."""
    for layer in core(model).modules():
        if isinstance(layer, AdaptedLinear):
            merged_OI = layer.merged_OI().to(layer.weight.dtype)
            take_away(layer)
            layer.weight = nn.Parameter(merged_OI, requires_grad=False)
    return model


def plain_weight(layer: nn.Linear) -> Tensor:
    """[O, I] the weights of a layer, with the adapters beside them."""
    return layer.merged_OI() if isinstance(layer, AdaptedLinear) else layer.weight


@torch.no_grad()
def switch_off(layer: Any, off_I: Tensor) -> None:
    """Make a layer ignore some of its inputs: their weights become 0.

    Packed weights have no entries to set, and PEFT's layers none of their own: there the inputs are 0 whenever it runs.
    """
    off_I = off_I.to(layer.weight.device)
    if type(layer) not in (nn.Linear, AdaptedLinear):
        if not hasattr(layer, OFF):
            layer.register_forward_pre_hook(_without_inputs)
        # among the buffers, so that features of images are not taken for those of the layer without it
        layer.register_buffer(OFF, off_I | getattr(layer, OFF, off_I), persistent=False)
        return
    layer.weight = nn.Parameter(layer.weight.masked_fill(off_I, 0), requires_grad=layer.weight.requires_grad)
    if isinstance(layer, AdaptedLinear):
        layer.down_RI = layer.down_RI.masked_fill(off_I, 0)


def _without_inputs(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    off_I: Tensor = getattr(layer, OFF)
    return args[0].masked_fill(off_I.to(args[0].device), 0), *args[1:]


@torch.no_grad()
def replace(model: Any, changed: Mapping[str, Tensor]) -> None:
    """Put new weights in the place of others, by name, wherever a model uses them; the old ones stay as they are.

    Raises:
        ValueError: the model has no such weights, or of another size.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Parameter] = {}
    for name, value in changed.items():
        if name not in known or known[name].shape != value.shape:
            raise ValueError(f"the base has no layer {name}" + f" of {tuple(value.shape)}" * (name in known))
        new[id(known[name])] = nn.Parameter(value.to(known[name]), requires_grad=known[name].requires_grad)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in new:
                setattr(module, name, new[id(parameter)])


def attach(model: Any, folder: Path) -> Any:
    """The model with an adapter beside its weights, on top of those that it has already; all of them frozen."""
    earlier = list(model.peft_config) if isinstance(model, PeftModel) else []
    name = f"earlier_{len(earlier)}"  # the adapter in training has PEFT's own name
    with warnings.catch_warnings():
        # layers that the file lacks are only warned about; they are counted below instead
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        if earlier:
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    model.base_model.set_adapter([*earlier, name], inference_mode=True)
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
        held = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        different = set(file.keys()) ^ set(held)
    if different:
        raise ValueError(f"{len(different)} layers are in one but not in the other, the first is {min(different)}")
    return model


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
    """The model without its new adapter, with those of earlier stages; inside of another such context, too."""
    before = list(model.active_adapters)
    _activate(model, [name for name in model.peft_config if name != NEW])
    try:
        yield
    finally:
        _activate(model, before)


@torch.no_grad()
def round_weights(model: Any, family: Family, *, bits: int) -> int:
    """Round the linear layers of the language model to ``bits`` bits; returns how many layers.

    Round to nearest, symmetric, one scale per output channel: w = s * round(w / s), s = max|w| / (2^(bits-1) - 1).
    The arithmetic stays in the model's own precision, so this shows what the coarser weights do to the replies, not
    the speed or memory of a quantised model. Formats with other levels (NF4, GPTQ) round differently.
    """
    if isinstance(model, PeftModel):
        raise ModelError("weights of 4 or 8 bits cannot be rounded again. Use a base in full precision for this.")
    layers = {name: layer for name, layer in fold(model).named_modules() if re.fullmatch(family.lora_targets, name)}
    replace(model, {f"{name}.weight": rounded(layer.weight, bits) for name, layer in layers.items()})
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
    """Make the weights, and biases where there are any, of some layers of a frozen model trainable (``lora: null``).

    Copies of them are trained, as other models share the originals.

    Raises:
        ModelError: they are packed, or not float32.
    """
    for name in layers:
        layer = model.get_submodule(name)
        if isinstance(model, PeftModel) or getattr(layer, "quant_state", None) or not layer.weight.is_floating_point():
            raise ModelError("lora: null trains the weights themselves, and these have few bits. Use adapters.")
        if layer.weight.dtype != torch.float32:
            precision = str(layer.weight.dtype).removeprefix("torch.")
            raise ModelError(
                f"lora: null trains the weights themselves, and in {precision} most small steps are rounded away. "
                "Set model.dtype: float32, or train adapters, which are always float32."
            )
        replace(model, {f"{name}.{part}": own.detach().clone() for part, own in layer.named_parameters()})
        layer.requires_grad_(requires_grad=True)
    return model


def read_weights(model: Any, folder: Path) -> Any:
    """The model with the changed weights of a folder; ValueError if it has no such layers."""
    changed = load_file(folder / WEIGHTS_FILE)
    replace(model, changed)
    for name in changed:
        take_away(model.get_submodule(name.rpartition(".")[0]))
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
