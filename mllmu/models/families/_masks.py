"""What a token of a packed sequence sees, as the attention layers take it.

Shapes: B sequences, T tokens (the second T is what is seen).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """How the tokens of packed sequences belong together.

    Attributes:
        kin_BTT: True where two tokens are of one group, and the second is of its prefix or of the first one's block.
        position_BT: where a token stands in its own prompt; with several axes, along the first.
        image_BT: a number for every run of image tokens, -1 elsewhere.
    """

    kin_BTT: Tensor
    position_BT: Tensor
    image_BT: Tensor

    def causal(self) -> Tensor:
        """[B, T, T] kin that came earlier, and itself; in a packed sequence prefixes come before their blocks."""
        return self.kin_BTT.tril()

    def near(self, window: int) -> Tensor:
        """[B, T, T] True where the second token stands less than ``window`` places before the first, or behind it."""
        return self.position_BT[:, :, None] - self.position_BT[:, None, :] < window

    def has_image(self) -> Tensor:
        """[B, T, T] kin that are of the same image, before or behind."""
        same_BTT = self.image_BT[:, :, None] == self.image_BT[:, None, :]
        return same_BTT & (self.image_BT >= 0)[:, :, None] & self.kin_BTT


def runs(marked_BT: Tensor) -> Tensor:
    """[B, T] a number for every unbroken run of marked tokens of a row, -1 elsewhere.

    >>> runs(torch.tensor([[False, True, True, False, True]])).tolist()
    [[-1, 0, 0, -1, 1]]
    """
    before_BT = torch.cat([torch.zeros_like(marked_BT[:, :1]), marked_BT[:, :-1]], dim=1)
    number_BT = (marked_BT & ~before_BT).cumsum(1) - 1
    return torch.where(marked_BT, number_BT, -1)


def additive(seen_BTT: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, T] what is added to attention scores: 0 where the token sees, the lowest number elsewhere."""
    return torch.zeros(seen_BTT.shape, dtype=dtype).masked_fill(~seen_BTT, torch.finfo(dtype).min)[:, None]
