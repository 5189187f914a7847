"""Attention in a step of fixed shape: every row's new token to its own tokens and to the shared levels above.

On CUDA in 16 bits by the fused kernel for pieces of different lengths, all rows that see a node together; elsewhere,
and where a layer bounds its scores or has sinks, by the kernel of :mod:`mllmu.models.engine.tree` and masks over whole
buffers.

Shapes: B rows, S tokens of a row, T tokens of a level, G nodes of a level, H heads, K heads of keys, F heads that share
keys, D size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mllmu.models.engine import ragged
from mllmu.models.engine.ragged import Pieces
from mllmu.models.engine.tree import AttentionRule, attend_keys, join

if TYPE_CHECKING:
    from mllmu.models.engine.decode_graph import RowBuffers


@dataclass
class SharedLevel:
    """Keys and values of a level above without padding, and which rows see which node.

    Attributes:
        states: by layer, [2, T, K, D].
        starts_G1: first token of each node, and the end of the last.
        first_G1: first of the rows in ``order_B`` that see each node, and the end of the last.
        order_B, place_B: rows by their node, and the place of each row in that order.
        node_T, node_B: the node of each token, -1 for none, and of each row.
    """

    states: dict[int, Tensor]
    starts_G1: Tensor
    first_G1: Tensor
    order_B: Tensor
    place_B: Tensor
    node_T: Tensor
    node_B: Tensor
    of_rows: list[int] = field(default_factory=list)


class RowPass:
    """One step over the first ``used`` rows of some buffers: where keys go, and what a row sees."""

    def __init__(self, buffers: RowBuffers, used: int) -> None:
        self.buffers, self.used = buffers, used
        self.seen_B = buffers.held_B[:used] + 1
        self.slot_B = buffers.held_B[:used].long()
        self.first_B1 = torch.arange(used + 1, dtype=torch.int32, device=self.slot_B.device)
        self._masks: dict[int, Tensor] = {}

    def attend(self, layer: int, q_BHD: Tensor, k_BKD: Tensor, v_BKD: Tensor, rule: AttentionRule) -> Tensor:
        """[B, H, D] attention of every row's new token to its own tokens and those above; keeps its keys and values."""
        states, row_B = self.buffers.own[layer], self.buffers.row_B[: self.used]
        for held_BSKD, x_BKD in zip(states, (k_BKD, v_BKD), strict=True):
            held_BSKD[row_B, self.slot_B] = x_BKD
        bounded = rule.softcap is not None or rule.sinks is not None
        if not self.buffers.fused or q_BHD.shape[-1] not in ragged.SIZES or bounded:
            levels = range(1 + len(self.buffers.shared))
            return join([self._plain(number, layer, q_BHD, rule) for number in levels], rule.sinks)
        shape = (self.used, k_BKD.shape[1], -1, q_BHD.shape[2])
        q_BFKD = q_BHD.reshape(shape).transpose(1, 2)  # heads that share keys are further tokens of a row
        parts = [self._own(states[:, : self.used], q_BFKD, rule.scale)]
        parts += [_shared(each, layer, q_BFKD, rule.scale) for each in self.buffers.shared]
        joined_BFKD = _joined(parts).view(q_BFKD.shape)
        return joined_BFKD.transpose(1, 2).reshape(q_BHD.shape)

    def _own(self, states: Tensor, q_BFKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        fold, slots = q_BFKD.shape[1], states.shape[2]
        pieces = Pieces(self.first_B1 * fold, self.first_B1 * slots, fold, slots, self.seen_B)
        return _folded(q_BFKD, states.flatten(1, 2), pieces, scale)

    def _plain(self, number: int, layer: int, q_BHD: Tensor, rule: AttentionRule) -> tuple[Tensor, Tensor]:
        """Attention to the rows' own tokens (0) or to a level above by masks, over all that the buffers hold."""
        mask = self._mask(number, q_BHD.dtype)
        if number == 0:
            keys, values = self.buffers.own[layer][:, : self.used].transpose(2, 3)
            out, weight = attend_keys(q_BHD[:, :, None], keys, values, rule, mask, causal=False)
            return out[:, :, 0], weight[:, :, 0]
        keys, values = self.buffers.shared[number - 1].states[layer].transpose(1, 2)[:, None]
        out, weight = attend_keys(q_BHD.transpose(0, 1)[None], keys, values, rule, mask, causal=False)
        return out[0].transpose(0, 1), weight[0].transpose(0, 1)

    def _mask(self, number: int, dtype: torch.dtype) -> Tensor:
        if number not in self._masks:
            if number == 0:
                slot_S = torch.arange(self.buffers.slots, device=self.slot_B.device)
                hidden = (slot_S >= self.seen_B[:, None])[:, None, None]
            else:
                shared = self.buffers.shared[number - 1]
                hidden = (shared.node_T != shared.node_B[: self.used, None])[None, None]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[number] = mask.masked_fill_(hidden, torch.finfo(dtype).min)
        return self._masks[number]


def _shared(shared: SharedLevel, layer: int, q_BFKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    used, fold = q_BFKD.shape[:2]
    pieces = Pieces(shared.first_G1 * fold, shared.starts_G1, used * fold, len(shared.node_T))
    out, weight = _folded(q_BFKD[shared.order_B[:used]], shared.states[layer], pieces, scale)
    place_B = shared.place_B[:used]
    return out[place_B], weight[place_B]


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """As :func:`mllmu.models.engine.tree.join`, in fewer operations where there are two parts."""
    if len(parts) != 2:
        return join([(out.flatten(0, 1), weight.flatten(0, 1)) for out, weight in parts])
    (out, weight), (other, of_other) = parts
    share = (weight - of_other).sigmoid().to(out.dtype)
    return torch.lerp(other, out, share[..., None])


def _folded(q_BFKD: Tensor, states: Tensor, pieces: Pieces, scale: float) -> tuple[Tensor, Tensor]:
    """[B, F, K, D] attention to keys and values [2, T, K, D], and [B, F, K] the logarithm of its weight."""
    out, weight = ragged.varlen(q_BFKD.flatten(0, 1), states[0], states[1], pieces, scale)
    return out.view(q_BFKD.shape), weight.reshape(q_BFKD.shape[:3])
