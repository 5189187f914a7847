"""The layers of a language model, whatever its family and with or without an adapter's wrapper.

Shapes: N labelled tokens of all rows together, D hidden size.
"""

import re
from typing import Any

from torch import Tensor, nn

from mllmu.core.errors import ModelError
from mllmu.models.engine.forward import run_body
from mllmu.models.families import IGNORE, Batch, core

_LAYER = re.compile(r"(?:.*\.)?(?:language_model|text_model)\.(?:.*\.)?layers\.(\d+)")


def decoder_layers(model: Any) -> list[nn.Module]:
    """The layers of the language model, first to last."""
    layers = {int(m[1]): module for name, module in core(model).named_modules() if (m := _LAYER.fullmatch(name))}
    if not layers:
        raise ModelError(f"{type(model).__name__}: no layers of a language model found, so nothing can act on one.")
    return [layers[number] for number in sorted(layers)]


def window_of(model: Any, layer: int) -> int | None:
    """How many tokens back a layer sees, itself included; None if all."""
    config = core(model).config.get_text_config()
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (types and types[layer] != "sliding_attention"):
        return None
    return int(window)


def decoder(model: Any) -> nn.Module:
    """The module that holds the layers of the language model, and runs them."""
    first = decoder_layers(model)[0]
    name = next(name for name, module in core(model).named_modules() if module is first)
    whole: nn.Module = core(model).get_submodule(name.rsplit(".", 2)[0])
    return whole


def last_norm(model: Any) -> nn.Module:
    """The norm between the last layer and the output layer."""
    inner = core(model).model
    for name in ("language_model", "text_model"):
        norm = getattr(getattr(inner, name, None), "norm", None)
        if isinstance(norm, nn.Module):
            return norm
    raise ModelError(f"{type(core(model)).__name__}: no norm behind the language model's layers found.")


def run_hidden(model: Any, batch: Batch, layer: int) -> Tensor:
    """[N, D] float32 hidden states, as they leave a layer of the language model, that predict the labelled tokens."""
    layers, outputs = decoder_layers(model), list[Tensor]()

    def keep(_module: Any, _args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = layers[layer].register_forward_hook(keep)
    try:
        end_BTD = run_body(model, batch)
    finally:
        handle.remove()
    # behind the last layer there is the norm, as among the library's own hidden states
    hidden_BTD = end_BTD if layer == len(layers) - 1 else outputs[0]
    hidden_ND: Tensor = hidden_BTD[:, :-1][batch.labels[:, 1:] != IGNORE]
    return hidden_ND.float()
