"""Where the parts of a model are, whatever its family and with or without an adapter's wrapper."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mllmu.core.errors import ModelError

_LAYER = re.compile(r"(?:.*\.)?(?:language_model|text_model)\.(?:.*\.)?layers\.(\d+)")


def core(model: Any) -> Any:
    """The model itself, without the adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: Any) -> list[nn.Module]:
    """The layers of the language model, first to last."""
    found = {int(m[1]): module for name, module in core(model).named_modules() if (m := _LAYER.fullmatch(name))}
    if not found:
        raise ModelError(f"{type(model).__name__}: no layers of a language model found, so nothing can act on one.")
    return [found[number] for number in sorted(found)]


def window_of(model: Any, layer: int) -> int | None:
    """How many tokens back a layer sees, itself included; None if all."""
    config = core(model).config.get_text_config()
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (kinds and kinds[layer] != "sliding_attention"):
        return None
    return int(window)


def decoder(model: Any) -> nn.Module:
    """What holds the layers of the language model, and runs them."""
    first = decoder_layers(model)[0]
    name = next(name for name, module in core(model).named_modules() if module is first)
    found: nn.Module = core(model).get_submodule(name.rsplit(".", 2)[0])
    return found


def last_norm(model: Any) -> nn.Module:
    """What stands between the last layer and the output layer."""
    inner = core(model).model
    for name in ("language_model", "text_model"):
        norm = getattr(getattr(inner, name, None), "norm", None)
        if isinstance(norm, nn.Module):
            return norm
    raise ModelError(f"{type(core(model)).__name__}: no norm behind the language model's layers found.")
