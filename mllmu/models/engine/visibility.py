"""What tokens of a tree see where that is not all before them: sliding windows, images that see ahead, gates' scores.

Shapes as in :mod:`mllmu.models.engine.tree`: M new tokens of all nodes, N nodes, G nodes of a level above, W and S most
new and most held tokens of a node, R scores of a gate, A axes of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mllmu.models.engine.tree import TreePass


def runs(marked_BT: Tensor) -> Tensor:
    """[B, T] a number for every unbroken run of marked tokens of a row, -1 elsewhere.

    >>> runs(torch.tensor([[False, True, True, False, True]])).tolist()
    [[-1, 0, 0, -1, 1]]
    """
    before_BT = torch.cat([torch.zeros_like(marked_BT[:, :1]), marked_BT[:, :-1]], dim=1)
    return torch.where(marked_BT, (marked_BT & ~before_BT).cumsum(1) - 1, -1)


def set_positions(
    tree_pass: TreePass, nodes: Sequence[int], counts: Sequence[int], named: Sequence[Sequence[Sequence[int]] | None]
) -> Tensor:
    """[A, M] positions of new tokens, those of a node as named for it; its next token gets the one after the highest.

    Args:
        named: [A][tokens] for each node; where None, tokens are counted on.
    """
    position_AM = tree_pass.position_AM.repeat(max(len(axes) for axes in named if axes), 1)
    start = 0
    for node, count, axes in zip(nodes, counts, named, strict=True):
        if axes:
            here_AT = torch.tensor([list(axis) for axis in axes])
            position_AM[:, start : start + count] = here_AT
            tree_pass.level.following[node] = here_AT.max() + 1
        start += count
    return position_AM


def tokens_ahead(looks: str, ids: Sequence[Sequence[int]], mark: int) -> Tensor | None:
    """[M] the number of the group of tokens that each token sees forwards too; None if no token does.

    Args:
        looks: the family's ``looks_ahead``.
        ids: tokens of some nodes.
        mark: the token of images.
    """
    if looks == "prompt":
        return torch.zeros(sum(map(len, ids)), dtype=torch.long)
    marked_M = torch.tensor([token == mark for row in ids for token in row])
    return runs(marked_M[None])[0] if marked_M.any() else None


def hidden(tree_pass: TreePass, number: int, near: int | None) -> Tensor:
    """[G, W, S] the tokens of a level, counted upwards, that a token does not see: later ones, and outside its window.

    Args:
        near: a token sees only this many indices back, itself included; None: all.
    """
    level, layout, _ = tree_pass.seen[number]
    device = tree_pass.node_M.device
    index_GW = layout.spread(tree_pass.index_M.to(device)).cpu()
    held_NS = torch.arange(level.width) + (level.ends - level.lengths - level.first)[:, None]
    distance_GWS = index_GW[:, :, None] - layout.pick(held_NS)[:, None]
    hidden_GWS = distance_GWS < 0
    far_GWS = distance_GWS >= near if near is not None else torch.zeros_like(hidden_GWS)
    if number == 0 and not level.grows and tree_pass.ahead_M is not None:
        group_GW = layout.spread(tree_pass.ahead_M.to(device)).cpu()
        apart_GWS = (group_GW[:, :, None] != group_GW[:, None]) | (group_GW < 0)[:, :, None]
        hidden_GWS &= apart_GWS
        if tree_pass.ahead_of_windows:
            far_GWS &= apart_GWS
    return hidden_GWS | far_GWS


def highest(tree_pass: TreePass, slot: int, score_MR: Tensor, window: int | None = None) -> Tensor:
    """[M, R] highest score of a gate among a token and all that it sees; ``slot`` tells the gates of a model apart."""
    level, layout, _ = tree_pass.seen[0]
    node_M = tree_pass.node_M
    if window is not None:
        return _highest_near(tree_pass, slot, score_MR, window)
    if level.grows:
        level.maxima[slot][node_M] = best_MR = torch.maximum(level.maxima[slot][node_M], score_MR)
        return best_MR
    if tree_pass.ahead_M is not None:
        score_MR = _mutual(node_M, tree_pass.ahead_M.to(score_MR.device), score_MR)
    best_MR = layout.gather(layout.spread(score_MR).cummax(dim=1).values)
    if level.above is not None:
        best_MR = torch.maximum(best_MR, level.above.maxima[slot][level.parents.to(node_M.device)][node_M])
    level.maxima[slot] = best_MR[tree_pass.last_N]
    return best_MR


def _highest_near(tree_pass: TreePass, slot: int, score_MR: Tensor, window: int) -> Tensor:
    """The same where a layer sees only so far back: scores are kept token by token, as keys of a layer are."""
    level, layout, width = tree_pass.seen[0]
    level.put(slot, (score_MR[:, None], score_MR[:, None]), layout, tree_pass.node_M, width)
    parts = []
    for number, (level, layout, width) in enumerate(tree_pass.seen):
        mask = tree_pass.mask(number, window, score_MR.dtype)
        if mask is None and number == 0 and not level.grows:
            mask = torch.full((layout.width, layout.width), -torch.inf, device=score_MR.device).triu(1)[None, None]
        best_GWSR = layout.pick(level.states[slot][0])[:, 0, None, :width]
        best_GWSR = best_GWSR if mask is None else best_GWSR + mask[:, 0, ..., None]
        parts.append(layout.gather(best_GWSR.amax(2).expand(-1, layout.width, -1)))
    return torch.stack(parts).amax(0)


def _mutual(node_M: Tensor, ahead_M: Tensor, score_MR: Tensor) -> Tensor:
    """[M, R] the highest score among tokens that see each other; the others keep their own."""
    group_M = torch.stack([node_M, ahead_M], dim=1).unique(dim=0, return_inverse=True)[1]
    best_XR = score_MR.new_full((int(group_M.max()) + 1, score_MR.shape[1]), -torch.inf)
    best_XR.scatter_reduce_(0, group_M[:, None].expand_as(score_MR), score_MR, "amax")
    return torch.where(ahead_M[:, None] >= 0, best_XR[group_M], score_MR)
