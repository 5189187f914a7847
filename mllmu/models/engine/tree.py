"""Tree attention: segments of tokens that are kept once and seen by many.

Questions about an image continue the image, candidates continue their question. Each such segment is a *node*; nodes
that are read together are a :class:`TreeLevel`, and each continues a node of the level above::

    level 0    image p               image q
    level 1    question 1  question 2  question 3
    level 2    reply 1     reply 2     reply 3

A token sees the nodes above its own, and the tokens before it in its own. Attention is computed level by level, for all
tokens below a node at once, against the node's keys and values, which are never copied. The results are joined::

    out = sum_e exp(s_e) out_e / sum_e exp(s_e),    s_e = log sum_k exp(score(q, k)), k the keys of level e

with score(q, k) = scale q.k, or cap tanh(scale q.k / cap) where a layer bounds its scores. All else is the model's own
code, run on all new tokens in one row. A token's *index* is the number of tokens before it, by which sliding windows
are measured; its *position*, on one axis or several, is the model's input.

Shapes: M new tokens of all nodes, N nodes, G nodes of a level above, W and S most new and most held tokens of a node, H
heads, K heads of keys, D size of a head, R scores of a gate, A axes of positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from mllmu.models.engine import ragged, visibility
from mllmu.models.families import core

KERNEL = "mllmu_tree"
"""Name under which the library finds :func:`attend`."""
STEPS_AHEAD = 32
"""Room for new tokens that is made at a time."""
FEW = 8
"""Tokens below one node for which the plain kernel is quicker than the fused one."""
RAGGED = ("cuda",)
"""Devices that have fused attention between pieces of different lengths."""
MOST_SCORES = 2**26
"""Attention weights that are in memory at a time where no fused kernel is used."""


class AttentionRule(NamedTuple):
    """How a layer attends: factor of its scores, how far back it sees, and the bound of its scores; None: no limit.

    ``sinks`` [H] are scores of a key that every token sees, and whose value is zero.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


class NodeLayout:
    """Tokens arranged by the node they belong to: [M, ...] as [G, W, ...] and back, in their order within a node.

    Where half of the nodes or more have no tokens, G is the number of the others.
    """

    def __init__(self, owner_M: Tensor, groups: int, device: torch.device) -> None:
        count_G = torch.bincount(owner_M, minlength=groups)
        self.used_G: Tensor | None = None
        if 2 * int((count_G > 0).sum()) <= groups:
            self.used_G, owner_M = owner_M.unique(return_inverse=True)
            count_G, groups = count_G[self.used_G], len(self.used_G)
        self.groups, self.width = groups, int(count_G.max())
        number_M, order_M = torch.arange(len(owner_M)), owner_M.argsort(stable=True)
        sorted_M, start_G = owner_M[order_M], count_G.cumsum(0) - count_G
        slot_M = torch.empty_like(owner_M)
        slot_M[order_M] = sorted_M * self.width + number_M - start_G[sorted_M]
        self.regular = len(owner_M) == groups * self.width and bool((slot_M == number_M).all())
        if not self.regular:
            # where a node has fewer tokens than the longest, any token stands in; its output is never read
            token_X = torch.zeros(groups * self.width, dtype=torch.long)
            token_X[slot_M] = number_M
            self.slot_M, self.token_X = slot_M.to(device), token_X.to(device)

    def pick(self, x_N: Tensor) -> Tensor:
        """[N, ...] to [G, ...]: the nodes that have tokens."""
        return x_N if self.used_G is None else x_N[self.used_G.to(x_N.device)]

    def spread(self, x_M: Tensor) -> Tensor:
        """[M, ...] to [G, W, ...]."""
        picked = x_M if self.regular else x_M[self.token_X]
        return picked.reshape(self.groups, self.width, *x_M.shape[1:])

    def gather(self, x_GW: Tensor) -> Tensor:
        """[G, W, ...] to [M, ...]."""
        flat = x_GW.reshape(self.groups * self.width, *x_GW.shape[2:])
        return flat if self.regular else flat[self.slot_M]


class TreeLevel:
    """Nodes, and the keys and values of their tokens.

    Attributes:
        above, parents: the level whose nodes these continue, None for the first, and [N] the number of each one's.
        ends: [N] tokens from the beginning to the end of each node, which is the index of the next token.
        following: [N] position of the next token, on all axes.
        first, lengths: [N] slot of each node's first token among the S held ones, and number of its tokens.
        grows: tokens are added one at a time; all nodes then end at the same slot.
        states: keys and values by layer, [2, N, K, S or more, D].
        maxima: by gate, [N, R] its highest scores from the beginning to the end of each node.
        last: [N, hidden size] hidden state of each node's last token.
    """

    def __init__(self, above: TreeLevel | None, parents: Sequence[int], *, grows: bool = False) -> None:
        self.above, self.grows = above, grows
        self.parents = torch.tensor(parents, dtype=torch.long)
        self.ends: Tensor = torch.zeros_like(self.parents) if above is None else above.ends[self.parents]
        self.following: Tensor = self.ends.clone() if above is None else above.following[self.parents]
        self.first, self.lengths = torch.zeros_like(self.parents), torch.zeros_like(self.parents)
        self.states: dict[int, Tensor] = {}
        self.maxima: dict[int, Tensor] = {}
        self.last = torch.empty(0)

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def width(self) -> int:
        """S: slots up to the end of the longest node."""
        return int((self.first + self.lengths).max())

    def growing(self, nodes: Sequence[int]) -> TreeLevel:
        """Some of the nodes as a level that grows: their tokens end at one slot, with room behind it."""
        chosen = torch.tensor(nodes)
        level = TreeLevel(self.above, self.parents[chosen].tolist(), grows=True)
        level.ends, level.following, level.lengths = (x[chosen] for x in (self.ends, self.following, self.lengths))
        width = int(level.lengths.max())
        level.first = width - level.lengths
        slot_NS = (torch.arange(width) - (level.first - self.first[chosen])[:, None]).clamp(min=0)
        for layer, states in self.states.items():
            node_N1, here_NS = (x.to(states.device) for x in (chosen[:, None], slot_NS))
            level.states[layer] = _with_room(states[:, node_N1, :, here_NS].permute(2, 0, 3, 1, 4))
        level.maxima = {gate: maxima[chosen.to(maxima.device)] for gate, maxima in self.maxima.items()}
        return level

    def put(self, layer: int, new: tuple[Tensor, Tensor], layout: NodeLayout, node_M: Tensor, width: int) -> None:
        """Keep keys and values [M, K, D] of new tokens of a layer; ``width`` is S with them."""
        if not self.grows:
            in_order = new[0].device.type in RAGGED  # tokens follow each other in memory, not heads
            spread = [layout.spread(x) if in_order else layout.spread(x).transpose(1, 2) for x in new]
            self.states[layer] = torch.stack(spread).transpose(2, 3) if in_order else torch.stack(spread)
            return
        if self.states[layer].shape[3] < width:
            self.states[layer] = _with_room(self.states[layer])
        # a slice where there is a token of every node, in order
        nodes = slice(None) if layout.regular and len(node_M) == len(self) else node_M
        for held, x in zip(self.states[layer], new, strict=True):
            held[nodes, :, width - 1] = x

    def padding(self) -> Tensor:
        """[N, S] which of the held slots are no tokens of their node."""
        slot_S = torch.arange(self.width)
        return (slot_S < self.first[:, None]) | (slot_S >= (self.first + self.lengths)[:, None])


def _with_room(states: Tensor) -> Tensor:
    held = states.new_empty(*states.shape[:3], states.shape[3] + STEPS_AHEAD, states.shape[4])
    held[:, :, :, : states.shape[3]] = states
    return held


class PassEnded(Exception):  # noqa: N818 - nothing went wrong
    """Ends a pass whose last wanted result is there: the keys and values of its last layer."""


class TreePass:
    """One pass over new tokens of a level's nodes: their layout, what they see, and what is kept of them.

    Args:
        nodes, counts: which nodes get new tokens, and how many each.
        positions: of the new tokens of each of these nodes, [A][tokens]; where None, they continue those before.
        ahead_M: tokens of one node with the same number, from 0 on, see each other, also forwards; -1 for the others.
        ahead_of_windows: they do also where a layer's window is shorter.
        until: the layer whose keys and values are the last that are wanted; :class:`PassEnded` is raised there.
    """

    def __init__(
        self,
        level: TreeLevel,
        nodes: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
        *,
        positions: Sequence[Sequence[Sequence[int]] | None] = (),
        ahead_M: Tensor | None = None,
        ahead_of_windows: bool = False,
        until: int | None = None,
    ) -> None:
        self.level, self.offset, self.ahead_M, self.until = level, 0, ahead_M, until
        self.ahead_of_windows = ahead_of_windows
        node_N, count_N = torch.tensor(nodes), torch.tensor(counts)
        node_M = node_N.repeat_interleave(count_N)
        number_M = torch.arange(len(node_M)) - (count_N.cumsum(0) - count_N).repeat_interleave(count_N)
        self.index_M = number_M + level.ends[node_M]
        self.position_AM = (number_M + level.following[node_M])[None]
        for counted in (level.lengths, level.ends, level.following):
            counted[node_N] += count_N
        if any(positions):
            self.position_AM = visibility.set_positions(self, nodes, counts, positions)
        self.last_N = (count_N.cumsum(0) - 1).to(device)
        self.node_M = node_M.to(device)
        owners, self.seen = [node_M], [(level, NodeLayout(node_M, len(level), device), level.width)]
        while level.above is not None:
            level, node_M = level.above, level.parents[node_M]
            self.seen.append((level, NodeLayout(node_M, len(level), device), level.width))
            owners.append(node_M)
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self.pieces = ragged.layouts(self, count_N, owners, device) if device.type in RAGGED else None

    def attend(self, layer: int, q_MHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, rule: AttentionRule) -> Tensor:
        """[M, H, D] attention of the new tokens to all that they see; keeps their keys and values."""
        layer += self.offset
        level, layout, width = self.seen[0]
        level.put(layer, (k_MKD, v_MKD), layout, self.node_M, width)
        if layer == self.until:
            raise PassEnded
        if self.pieces and (parts := ragged.attend(self, self.pieces, layer, (q_MHD, k_MKD, v_MKD), rule)):
            return join(parts, rule.sinks)
        alone = len(self.seen) == 1 and not level.grows and rule.softcap is None and rule.sinks is None
        if alone and self.mask(0, rule.window, q_MHD.dtype) is None:
            q, (k, v) = layout.spread(q_MHD).transpose(1, 2), level.states[layer]
            out_NHWD = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=rule.scale, enable_gqa=True)
            return layout.gather(out_NHWD.transpose(1, 2))
        return join([self._part(number, layer, q_MHD, rule) for number in range(len(self.seen))], rule.sinks)

    def _part(self, number: int, layer: int, q_MHD: Tensor, rule: AttentionRule) -> tuple[Tensor, Tensor]:
        """[M, H, D] and [M, H]: attention to one level, and the logarithm of its weight."""
        level, layout, width = self.seen[number]
        mask = self.mask(number, rule.window, q_MHD.dtype)
        causal = number == 0 and not level.grows and layout.width > 1 and mask is None
        keys, values = (layout.pick(x[:, :, :width]) for x in level.states[layer])
        q_GHWD = layout.spread(q_MHD).transpose(1, 2)
        out_GHWD, weight_GHW = attend_keys(q_GHWD, keys, values, rule, mask, causal=causal)
        return layout.gather(out_GHWD.transpose(1, 2)), layout.gather(weight_GHW.transpose(1, 2))

    def mask(self, number: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[G, 1, 1 or W, S] additive: the lowest number where a token does not see a level, counted upwards.

        None where it sees all of a level above, and all that comes before it in its own node.
        """
        near = window if window is not None and int(self.level.ends.max()) > window else None
        if (number, near) not in self._masks:
            level, layout, _ = self.seen[number]
            own, hidden_GWS, mask = number == 0 and not level.grows, layout.pick(level.padding())[:, None], None
            if special := near is not None or (own and self.ahead_M is not None):
                hidden_GWS = hidden_GWS | visibility.hidden(self, number, near)
            if special or (hidden_GWS.any() and not own):  # own padding comes after every token, none of which sees it
                mask = torch.zeros(hidden_GWS.shape, dtype=dtype).masked_fill_(hidden_GWS, torch.finfo(dtype).min)
                mask = mask[:, None].to(self.node_M.device)
            self._masks[number, near] = mask
        return self._masks[number, near]


def attend_keys(
    q_GHWD: Tensor, k_GKSD: Tensor, v_GKSD: Tensor, rule: AttentionRule, mask: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention to some keys, [G, H, W, D], and the logarithm of the sum of the weights' exponentials, [G, H, W].

    ``mask`` [G, 1, 1 or W, S] is added to the scores; ``causal``: W = S, and a token sees none that come later.
    """
    shape = q_GHWD.shape
    fold = shape[1] // k_GKSD.shape[1]
    if fold > 1 and causal:
        k_GKSD, v_GKSD = (x.repeat_interleave(fold, dim=1) for x in (k_GKSD, v_GKSD))
    elif fold > 1:  # heads that share keys become further tokens
        q_GHWD = q_GHWD.reshape(shape[0], shape[1] // fold, fold * shape[2], shape[3])
        mask = mask.repeat(1, 1, fold, 1) if mask is not None and mask.shape[2] > 1 else mask
    if q_GHWD.device.type == "cpu" and q_GHWD.shape[2] > FEW and rule.softcap is None:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_GHWD, k_GKSD, v_GKSD, 0.0, causal, attn_mask=mask, scale=rule.scale
        )
    else:
        if causal:
            mask = torch.full((shape[2], shape[2]), torch.finfo(q_GHWD.dtype).min, dtype=q_GHWD.dtype)
            mask = mask.triu(1).to(q_GHWD.device)[None, None]
        out, weight = _plain(q_GHWD * rule.scale, k_GKSD, v_GKSD, mask, rule.softcap)
    return out.reshape(shape), weight.reshape(shape[:3])


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """The same without a fused kernel, some tokens at a time, so that not all weights are in memory."""
    step = max(1, MOST_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    parts = []
    for start in range(0, q.shape[2], step):
        scores = q[:, :, start : start + step] @ k.mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores += mask if mask.shape[2] == 1 else mask[:, :, start : start + step]
        scores = scores.float()
        top = scores.amax(-1, keepdim=True)
        weights = scores.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        parts.append((((weights.to(v.dtype) @ v) / total.to(v.dtype)), (top + total.log())[..., 0]))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([out for out, _ in parts], dim=2), torch.cat([weight for _, weight in parts], dim=2)


def join(parts: Sequence[tuple[Tensor, Tensor]], sinks_H: Tensor | None = None) -> Tensor:
    """[M, H, D] the levels' outputs, each by its share of all weight, of which sinks have theirs and give nothing."""
    weights = [weight for _, weight in parts]
    if sinks_H is not None:
        weights.append(sinks_H.to(weights[0].dtype).expand_as(weights[0]))
    if len(weights) == 1:
        return parts[0][0]
    share_EMH = torch.stack(weights).softmax(0)
    joined = parts[0][0] * share_EMH[0, ..., None].to(parts[0][0].dtype)
    for (out, _), share in zip(parts[1:], share_EMH[1 : len(parts)], strict=True):
        joined.addcmul_(out, share[..., None].to(out.dtype))
    return joined


_current: ContextVar[TreePass | None] = ContextVar("tree_pass", default=None)
current_pass = _current.get
"""The pass that is running, if it is one over a tree."""


@contextmanager
def running(model: Any, tree_pass: Any) -> Iterator[None]:
    """The language model's attention is that of a pass over a tree (:meth:`TreePass.attend`), for one pass."""
    config = core(model).config.get_text_config()
    before, token = config._attn_implementation, _current.set(tree_pass)
    config._attn_implementation = KERNEL
    try:
        yield
    finally:
        config._attn_implementation = before
        _current.reset(token)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **of: Any
) -> tuple[Tensor, None]:
    """The library's attention function: [1, H, M, D] queries and [1, K, M, D] keys and values to [1, M, H, D]."""
    del attention_mask
    tree_pass = current_pass()
    assert tree_pass is not None  # noqa: S101 - the kernel is set for the time of a pass
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_MHD, k_MKD, v_MKD = (x[0].transpose(0, 1) for x in (query, key, value))
    rule = AttentionRule(scale, of.get("sliding_window"), of.get("softcap"), of.get("s_aux"))
    return tree_pass.attend(module.layer_idx, q_MHD, k_MKD, v_MKD, rule)[None], None


AttentionInterface.register(KERNEL, attend)
