"""The layers of a language model, whatever its family and with or without an adapter's wrapper.

Shapes: N labelled tokens of all rows together, D hidden size.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mllmu.core.errors import ModelError
from mllmu.models.engine.forward import run_body
from mllmu.models.families import IGNORE, Batch, core

LANGUAGE = re.compile(r"(?:^|\.)(?:language_model|text_model|lm_head)(?:\.|$)")
"""Names of layers of the language model; all other layers process the image."""


def adapted_outside(names: Iterable[str]) -> str:
    """A line on adapters outside of the language model, by the names of trained parameters; empty if there are none."""
    layers = {name.split(".lora_")[0] for name in names if ".lora_" in name}
    outside = sorted(layer for layer in layers if not LANGUAGE.search(layer))
    if not outside:
        return ""
    first = outside[0].removeprefix("base_model.model.")
    of_all = f"{len(outside)} of {len(layers)} layers with adapters"
    return f"lora.targets: {of_all} are outside the language model, e.g. {first}."


def decoder(model: Any) -> Any:
    """The module that holds the layers of the language model, and runs them."""
    whole = core(model).get_decoder()
    if not isinstance(getattr(whole, "layers", None), nn.ModuleList):
        raise ModelError(f"{type(model).__name__}: no layers of a language model found, so nothing can act on one.")
    return whole


def decoder_layers(model: Any) -> list[Any]:
    """The layers of the language model, first to last."""
    return list(decoder(model).layers)


def window_of(model: Any, layer: int) -> int | None:
    """How many tokens back a layer sees, itself included; None if all."""
    config = core(model).config.get_text_config()
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (types and types[layer] != "sliding_attention"):
        return None
    return int(window)


def last_norm(model: Any) -> nn.Module:
    """The norm between the last layer and the output layer."""
    norm = getattr(decoder(model), "norm", None)
    if not isinstance(norm, nn.Module):
        raise ModelError(f"{type(core(model)).__name__}: no norm behind the language model's layers found.")
    return norm


def run_hidden(model: Any, batch: Batch, layer: int) -> Tensor:
    """[N, D] float32 hidden states, as they leave a layer of the language model, that predict the labelled tokens."""
    layers, outputs = decoder_layers(model), list[Tensor]()

    def keep(_module: Any, _args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with layers[layer].register_forward_hook(keep):
        end_BTD = run_body(model, batch)
    # behind the last layer there is the norm, as among the library's own hidden states
    hidden_BTD = end_BTD if layer == len(layers) - 1 else outputs[0]
    return hidden_BTD[:, :-1][batch.labels[:, 1:] != IGNORE].float()


def check_second_pass(model: Any, changed: Iterable[str] | None = None) -> None:
    """Refuse changes that are lost where logits are steered by a second pass: those outside of the layers it runs.

    The output layer is run once for both passes, and images go in as features that the vision tower gave before.

    Args:
        changed: names of the changed modules; None: those with weights that are trained.

    Raises:
        ModelError: some are outside of the language model's layers.
    """
    if changed is None:
        changed = {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    modules = {name: model.get_submodule(name) for name in changed}
    inside = {module for layer in decoder_layers(model) for module in layer.modules()}
    outside = sorted({name.split(".lora_")[0] for name, module in modules.items() if module not in inside})
    if outside:
        raise ModelError(
            f"logits are steered by a second pass of the language model's layers, and {len(outside)} of the changed "
            f"layers are outside of these, e.g. {outside[0].removeprefix('base_model.model.')}: their part would be "
            "lost. Use layers: recipe, and lora.targets that match layers of the language model alone."
        )
