"""Linear gates behind a layer of the language model, which say for every token whom it is about.

Shapes: B rows, T tokens of a pass, S tokens with the cached ones, D hidden size, R requests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from mllmu.models.engine.tree import current_pass
from mllmu.models.engine.visibility import highest
from mllmu.models.families import core
from mllmu.models.layers import decoder_layers, window_of

CACHES = ("cache", "past_key_values")
"""What versions of transformers call the keys and values of earlier tokens among the inputs of a layer."""


class Gate(nn.Module):
    """Which request a token belongs to, if any: decided once by a linear score, and from then on kept.

    score_sr = h_s . w_r - threshold_r;  token t belongs to argmax_r of max over s of score_sr, if that is above 0

    s runs over the tokens that t attends to, itself included, so the attention mask decides (padding, other questions
    of a packed batch and later tokens do not count). Scores of cached tokens lie in a layer of their own behind those
    of the model, so a cache that is copied, extended or reordered carries them along.
    """

    gate_RD: Tensor
    threshold_R: Tensor

    def __init__(self, gate_RD: Tensor, threshold_R: Tensor) -> None:
        super().__init__()
        self.register_buffer("gate_RD", gate_RD.float())
        self.register_buffer("threshold_R", threshold_R.float())
        self.slot = 0
        self.window: int | None = None

    def watch(self, model: Any, layer: int) -> Any:
        """The layer whose output is to be read; chooses the slot in the cache."""
        gates = sum(isinstance(module, Gate) for module in core(model).modules())
        layers = decoder_layers(model)
        self.slot = len(layers) + gates - 1
        self.window = window_of(model, layer)
        return layers[layer]

    def score(self, hidden_BTD: Tensor) -> Tensor:
        """[B, T, R] how clearly a token by itself belongs to each request; above 0 is enough."""
        # of a model on several devices, a layer may lie on another one than the gate
        gate_RD, threshold_R = (each.to(hidden_BTD.device) for each in (self.gate_RD, self.threshold_R))
        return hidden_BTD.float() @ gate_RD.T - threshold_R

    def forward(self, hidden_BTD: Tensor, layer_inputs: dict[str, Any]) -> Tensor:
        """[B, T, R] ones and zeros, at most one 1 per token.

        Args:
            hidden_BTD: output of the layer for the tokens of this pass.
            layer_inputs: the layer's arguments by name: ``attention_mask`` and the cache.
        """
        score_BTR = self.score(hidden_BTD)
        if (tree_pass := current_pass()) is not None:
            best_BTR = highest(tree_pass, self.slot, score_BTR[0], self.window)[None]
        else:
            cache = next((layer_inputs[name] for name in CACHES if layer_inputs.get(name) is not None), None)
            best_BTR = self._highest_in_rows(score_BTR, layer_inputs.get("attention_mask"), cache)
        chosen_BTR = nn.functional.one_hot(best_BTR.argmax(-1), best_BTR.shape[-1]) * (best_BTR > 0)
        return chosen_BTR.to(hidden_BTD.dtype)

    def _highest_in_rows(self, score_BTR: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """[B, T, R] highest score among the tokens that each attends to by the layer's mask (none: all before it)."""
        held_BSR = score_BTR
        if cache is not None:
            while len(cache.layers) <= self.slot:
                cache.layers.append(DynamicLayer())
            held_BSR = cache.layers[self.slot].update(score_BTR[:, None], score_BTR[:, None])[0][:, 0]
        if mask is None or mask.ndim == 2:  # [B, S] says which tokens are there, as flash attention takes it
            num_new, num_held = score_BTR.shape[1], held_BSR.shape[1]
            visible_BTS = torch.ones(1, num_new, num_held, dtype=torch.bool).tril(num_held - num_new)
            if mask is not None:
                visible_BTS = visible_BTS.to(mask.device) & mask[:, None, -num_held:].bool()
        else:
            visible_BTS = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] >= 0
        visible_BTS = visible_BTS.to(held_BSR.device)
        held_BSR = held_BSR[:, -visible_BTS.shape[-1] :]
        best = [held.masked_fill(~visible_BTS, -torch.inf).amax(-1) for held in held_BSR.mT[:, :, None].unbind(1)]
        return torch.stack(best, dim=-1)
