"""Weights laid out for the processor's matrix products, for the time of an evaluation on a CPU.

A matrix product on a CPU first copies the weights into blocks that fit its caches. For the few tokens of a step of
writing, that copy costs as much as the product itself where weights are too large for the caches, and worst in the
output layer. So they are copied once before the first question, and dropped behind the last.

What is computed is the same in another order of summation: float32, to rounding.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmu.models.engine.memory import free_bytes
from mllmu.models.parts import core, decoder_layers

SHARE = 0.1
"""Of the machine's free memory that copies may take; the output layer comes first, it gains most."""


@contextmanager
def ready(model: Any) -> Iterator[None]:
    """The language model's linear layers use laid-out copies of their weights; these must not be written to meanwhile.

    Nothing happens on other devices, in other precisions, and where torch lacks the kernel. Vision towers are left out:
    what they make of an image is remembered beyond an evaluation.
    """
    layers = _linear(model) if _has_kernel() else []
    left = SHARE * free_bytes(torch.device("cpu"))
    for layer in layers:
        left -= layer.weight.nbytes
        if left < 0:
            break
        layer.forward = _product(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _has_kernel() -> bool:
    kernel = "_linear_pointwise" in dir(torch.ops.mkldnn)
    return kernel and torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")


def _linear(model: Any) -> list[Any]:
    """Plain linear layers in float32 on the CPU, the output layer first."""
    inside = [module for layer in decoder_layers(model) for module in layer.modules()]
    return [
        module
        for module in [*core(model).lm_head.modules(), *inside]
        if type(module) is nn.Linear
        and "forward" not in module.__dict__
        and (module.weight.device.type, module.weight.dtype) == ("cpu", torch.float32)
    ]


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    return partial(_multiply, layer.weight, layer.bias, torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()))


def _multiply(weight: Tensor, bias: Tensor | None, laid_out: Tensor, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # the kernel has no backward pass
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
    return product
