"""Fused attention on CUDA in 16 bits between pieces of different lengths: no padding, no masks, no scores in memory.

Shapes: X tokens of queries and T of keys, pieces one after the other, P pieces, H heads, K heads of keys, D size of a
head; as in :mod:`mllmu.models.engine.tree` M new tokens, N nodes, S most held tokens of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mllmu.models.engine.tree import AttentionRule, TreePass

SIZES = range(8, 257, 8)
"""Sizes of a head that the fused kernel takes."""


class Pieces(NamedTuple):
    """Which queries see which keys.

    Attributes:
        first_q, first_k: [P + 1] the first query and key of each piece, and the end of the last; int32.
        most_q, most_k: of the longest piece, or more.
        seen: [P] the keys that are seen of each piece, from its first on; None: all.
    """

    first_q: Tensor
    first_k: Tensor
    most_q: int
    most_k: int
    seen: Tensor | None = None


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a fused kernel."""
    return device.type == "cuda" and dtype.itemsize == 2


def varlen(
    q_XHD: Tensor, k_TKD: Tensor, v_TKD: Tensor, pieces: Pieces, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """[X, H, D] attention of queries to the keys of their piece, and [X, H] the logarithm of its weight."""
    # with a single query a piece the kernel would give the weights of heads that share keys in another order
    most_q = max(2, pieces.most_q)
    out, weight, *_ = torch.ops.aten._flash_attention_forward(
        q_XHD, k_TKD, v_TKD, pieces.first_q, pieces.first_k, most_q, pieces.most_k, 0.0, causal, False,
        scale=scale, seqused_k=pieces.seen,
    )  # fmt: skip
    return out, weight.mT


def layouts(tree_pass: TreePass, counts: Tensor, owners: Sequence[Tensor], device: torch.device) -> list[Pieces] | None:
    """The pieces of a pass over a tree, by level counted upwards; None if tokens below a node are not together.

    Args:
        counts: new tokens of each node that gets some.
        owners: [M] by level, the node that each token belongs to.
    """
    if tree_pass.level.grows or tree_pass.ahead_M is not None or any((x.diff() < 0).any() for x in owners[1:]):
        return None
    first = _firsts(counts).to(device)
    found = [Pieces(first, first, int(counts.max()), int(counts.max()))]
    for (level, _, width), owner_M in zip(tree_pass.seen[1:], owners[1:], strict=True):
        count_N = torch.bincount(owner_M, minlength=len(level))
        first_k = torch.arange(len(level) + 1, dtype=torch.int32) * width
        seen = level.lengths.to(device, torch.int32)
        found.append(Pieces(_firsts(count_N).to(device), first_k.to(device), int(count_N.max()), width, seen))
    return found


def _firsts(count_P: Tensor) -> Tensor:
    return torch.cat([count_P.new_zeros(1), count_P.cumsum(0)]).int()


def attend(
    tree_pass: TreePass, pieces: Sequence[Pieces], layer: int, qkv: tuple[Tensor, Tensor, Tensor], rule: AttentionRule
) -> list[tuple[Tensor, Tensor]] | None:
    """Attention of a pass's new tokens by level, each with the logarithm of its weight; None where it is not fused."""
    q_MHD, k_MKD, v_MKD = qkv
    near = rule.window is not None and int(tree_pass.level.ends.max()) > rule.window
    fused = usable(q_MHD.device, q_MHD.dtype) and q_MHD.shape[2] in SIZES
    if near or not fused or rule.softcap is not None:
        return None
    parts = [varlen(q_MHD, k_MKD, v_MKD, pieces[0], rule.scale, causal=True)]
    for (level, _, _), each in zip(tree_pass.seen[1:], pieces[1:], strict=True):
        keys, values = level.states[layer].transpose(2, 3).flatten(1, 2)  # a view, see TreeLevel.put
        parts.append(varlen(q_MHD, keys, values, each, rule.scale))
    return parts
