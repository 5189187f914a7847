"""Hidden states of every layer where a reply is predicted, the layers themselves, and replacing what leaves one.

Shapes: L layers, N labelled tokens of all rows together, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mllmu.models.engine.forward import apply_head
from mllmu.models.families import IGNORE, Batch
from mllmu.models.parts import core, decoder_layers, last_norm


@torch.no_grad()
def hidden_states(model: Any, batch: Batch) -> list[Tensor]:
    """L tensors [N, D] in float32: what leaves each layer where a labelled token is predicted, before the last norm."""
    seen: list[Tensor] = []
    wanted_BT = batch.labels[:, 1:] != IGNORE

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(_hidden(output)[:, :-1][wanted_BT].float())

    handles = [block.register_forward_hook(keep) for block in decoder_layers(model)]
    try:
        core(model).model(**batch.inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def read_out(model: Any, hidden_ND: Tensor) -> Tensor:
    """[N, V] log-probabilities that the last norm and the head would give to hidden states of any layer: logit lens."""
    normed_ND = last_norm(model)(hidden_ND.to(core(model).dtype))
    return torch.log_softmax(apply_head(core(model), normed_ND).float(), dim=-1)


@contextmanager
def replaced(model: Any, layer: int, batch: Batch, hidden_ND: Tensor) -> Iterator[None]:
    """Inside this, what leaves a layer where a labelled token is predicted is ``hidden_ND``."""
    wanted_BT = torch.zeros_like(batch.labels, dtype=torch.bool)
    wanted_BT[:, :-1] = batch.labels[:, 1:] != IGNORE

    def swap(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed_BTD = _hidden(output).clone()
        changed_BTD[wanted_BT] = hidden_ND.to(changed_BTD.dtype)
        return (changed_BTD, *output[1:]) if isinstance(output, tuple) else changed_BTD

    handle = decoder_layers(model)[layer].register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def _hidden(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
