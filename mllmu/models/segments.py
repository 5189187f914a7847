"""Attention over segments of tokens that are kept once and seen by many.

Questions about a picture go on from the picture, candidates from their question. Each such segment is a *node*; nodes
that are read together are a :class:`Level`, and every node of a level goes on from a node of the level above it, or
from nothing::

    level 0    picture p               picture q
    level 1    question 1  question 2  question 3
    level 2    reply 1     reply 2     reply 3

A token sees the tokens of the nodes above its own, and those before it in its own. Attention is computed level by
level: all tokens below a node at once, against keys and values of that node, which are never copied. What the levels
give is put together by the weight that each has in the softmax over all of them::

    out = sum_e exp(s_e) out_e / sum_e exp(s_e),    s_e = log sum_k exp(scale q.k), k the keys of level e

Everything else is the model's own code, run on all new tokens in one row, so nothing is computed for padding.

Shapes: M new tokens of all nodes, N nodes, G nodes of a level above, W and S most new and most held tokens of a node, H
heads, K heads of keys, D size of a head, R scores of a gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from mllmu.models.parts import core

KERNEL = "mllmu_levels"
"""Name under which the library finds :func:`attend`."""
STEPS_AHEAD = 32
"""Room for new tokens that is made at a time."""
FEW = 8
"""Tokens below one node for which the plain kernel is quicker than the fused one."""
MOST_SCORES = 2**26
"""Attention weights that are in memory at a time where no fused kernel is used."""


class Fan:
    """Tokens arranged by the node they belong to: [M, ...] as [G, W, ...] and back, in a node as they came."""

    def __init__(self, owner_M: Tensor, groups: int, device: torch.device) -> None:
        count_G = torch.bincount(owner_M, minlength=groups)
        self.groups, self.width = groups, int(count_G.max())
        order_M = owner_M.argsort(stable=True)
        start_G = count_G.cumsum(0) - count_G
        number_M = torch.arange(len(owner_M))
        sorted_M = owner_M[order_M]
        place_M = torch.empty_like(owner_M)
        place_M[order_M] = sorted_M * self.width + number_M - start_G[sorted_M]
        self.regular = len(owner_M) == groups * self.width and bool((place_M == number_M).all())
        if not self.regular:
            self.place_M = place_M.to(device)
            # where a node has fewer tokens than the longest, any token stands in; nobody reads what it gets
            token_X = torch.zeros(groups * self.width, dtype=torch.long)
            token_X[place_M] = number_M
            self.token_X = token_X.to(device)

    def spread(self, x_M: Tensor) -> Tensor:
        """[M, ...] to [G, W, ...]."""
        picked = x_M if self.regular else x_M[self.token_X]
        return picked.reshape(self.groups, self.width, *x_M.shape[1:])

    def gather(self, x_GW: Tensor) -> Tensor:
        """[G, W, ...] to [M, ...]."""
        flat = x_GW.reshape(self.groups * self.width, *x_GW.shape[2:])
        return flat if self.regular else flat[self.place_M]


class Level:
    """Nodes and what was read of them.

    Attributes:
        above: the level whose nodes these go on from; None for beginnings.
        parents: [N] number of the node above.
        ends: [N] tokens from the beginning to the end of each node, which is the position of the next one.
        first, lengths: [N] place of each node's first token among the S held ones, and number of its tokens.
        grows: tokens are added one at a time; all nodes then end at the same place.
        keys, values: by layer, [N, K, S or more, D].
        maxima: by place in the model, [N, R] highest scores of a gate from the beginning to the end of each node.
        last: [N, hidden size] hidden state of each node's last token.
    """

    def __init__(self, above: Level | None, parents: Sequence[int], *, grows: bool = False) -> None:
        self.above = above
        self.parents = torch.tensor(parents, dtype=torch.long)
        self.ends: Tensor = torch.zeros_like(self.parents) if above is None else above.ends[self.parents]
        self.first, self.lengths = torch.zeros_like(self.parents), torch.zeros_like(self.parents)
        self.grows = grows
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.maxima: dict[int, Tensor] = {}
        self.last = torch.empty(0)

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def width(self) -> int:
        """S: up to where the longest node is held."""
        return int((self.first + self.lengths).max())

    def growing(self, nodes: Sequence[int]) -> Level:
        """Some of the nodes as a level that grows: their tokens end at one place, with room behind it."""
        chosen = torch.tensor(nodes)
        level = Level(self.above, self.parents[chosen].tolist(), grows=True)
        level.ends, level.lengths = self.ends[chosen], self.lengths[chosen]
        width = int(level.lengths.max())
        level.first = width - level.lengths
        place_NS = torch.arange(width) - (level.first - self.first[chosen])[:, None]
        for held, kept in ((self.keys, level.keys), (self.values, level.values)):
            for layer, states in held.items():
                node_N1, here_NS = (x.to(states.device) for x in (chosen[:, None], place_NS.clamp(min=0)))
                kept[layer] = _with_room(states[node_N1, :, here_NS].transpose(1, 2))
        level.maxima = {place: maxima[chosen.to(maxima.device)] for place, maxima in self.maxima.items()}
        return level

    def put(self, layer: int, new: tuple[Tensor, Tensor], fan: Fan, node_M: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values [M, K, D] of new tokens; returns all that is held of the layer, [N, K, S, D] each."""
        width = self.width
        for store, states in zip((self.keys, self.values), new, strict=True):
            if not self.grows:
                store[layer] = fan.spread(states).transpose(1, 2).contiguous()
                continue
            if store[layer].shape[2] < width:
                store[layer] = _with_room(store[layer])
            store[layer][node_M, :, width - 1] = states
        return self.keys[layer][:, :, :width], self.values[layer][:, :, :width]

    def padding(self) -> Tensor:
        """[N, S] which of the held places are no tokens of their node."""
        place_S = torch.arange(self.width)
        return (place_S < self.first[:, None]) | (place_S >= (self.first + self.lengths)[:, None])

    def positions(self) -> Tensor:
        """[N, S] position of every held token."""
        return torch.arange(self.width) + (self.ends - self.lengths - self.first)[:, None]


def _with_room(states: Tensor) -> Tensor:
    return torch.cat([states, states.new_empty(*states.shape[:2], STEPS_AHEAD, states.shape[3])], dim=2)


class Reading:
    """One pass over new tokens of a level's nodes: where they lie, what they see, and what is kept of them.

    Args:
        nodes, counts: which nodes get new tokens, and how many each.
    """

    def __init__(self, level: Level, nodes: Sequence[int], counts: Sequence[int], device: torch.device) -> None:
        self.level, self.offset = level, 0
        node_N, count_N = torch.tensor(nodes), torch.tensor(counts)
        node_M = node_N.repeat_interleave(count_N)
        start_M = (count_N.cumsum(0) - count_N).repeat_interleave(count_N)
        self.position_M = torch.arange(len(node_M)) - start_M + level.ends[node_M]
        level.lengths[node_N] += count_N
        level.ends[node_N] += count_N
        self.last_N = (count_N.cumsum(0) - 1).to(device)
        self.node_M = node_M.to(device)
        self.own = Fan(node_M, len(level), device)
        self.above: list[tuple[Level, Fan]] = []
        seen, owner_M = level, node_M
        while seen.above is not None:
            seen, owner_M = seen.above, seen.parents[owner_M]
            self.above.append((seen, Fan(owner_M, len(seen), device)))
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def attend(self, module: Any, q_MHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> Tensor:
        """[M, H, D] what the new tokens get from all that they see; keeps their keys and values."""
        layer, window = module.layer_idx + self.offset, getattr(module, "sliding_window", None)
        held = self.level.put(layer, (k_MKD, v_MKD), self.own, self.node_M)
        if not self.above and not self.level.grows and self._mask(0, self.level, self.own, window, q_MHD.dtype) is None:
            q_NHWD = self.own.spread(q_MHD).transpose(1, 2)
            alone = F.scaled_dot_product_attention(q_NHWD, *held, is_causal=True, scale=scale, enable_gqa=True)
            return self.own.gather(alone.transpose(1, 2))
        parts = [self._part(0, self.level, self.own, q_MHD, held, scale, window)]
        for number, (level, fan) in enumerate(self.above, start=1):
            held = level.keys[layer][:, :, : level.width], level.values[layer][:, :, : level.width]
            parts.append(self._part(number, level, fan, q_MHD, held, scale, window))
        return join(parts)

    def _part(
        self,
        number: int,
        level: Level,
        fan: Fan,
        q_MHD: Tensor,
        held: tuple[Tensor, Tensor],
        scale: float,
        window: int | None,
    ) -> tuple[Tensor, Tensor]:
        """[M, H, D] and [M, H]: what one level gives, and the logarithm of its weight."""
        mask = self._mask(number, level, fan, window, q_MHD.dtype)
        causal = number == 0 and not level.grows and fan.width > 1 and mask is None
        out_GHWD, weight_GHW = weigh(fan.spread(q_MHD).transpose(1, 2), *held, scale, mask, causal=causal)
        return fan.gather(out_GHWD.transpose(1, 2)), fan.gather(weight_GHW.transpose(1, 2))

    def _mask(self, number: int, level: Level, fan: Fan, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[G, 1, 1 or W, S] additive: the lowest number at padding and at what lies outside a sliding window."""
        near = window if window is not None and int(self.level.ends.max()) > window else None
        key = (number, near)
        if key not in self._masks:
            hidden_GWS = level.padding()[:, None]
            if near is not None:
                position_GW = fan.spread(self.position_M.to(self.node_M.device)).cpu()
                distance_GWS = position_GW[:, :, None] - level.positions()[:, None]
                hidden_GWS = hidden_GWS | (distance_GWS < 0) | (distance_GWS >= near)
            own = number == 0 and not level.grows  # what is padded there lies behind, where nobody looks
            if near is not None or (hidden_GWS.any() and not own):
                mask = torch.zeros(hidden_GWS.shape, dtype=dtype).masked_fill_(hidden_GWS, torch.finfo(dtype).min)
                self._masks[key] = mask[:, None].to(self.node_M.device)
            else:
                self._masks[key] = None
        return self._masks[key]

    def highest(self, place: int, score_MR: Tensor) -> Tensor:
        """[M, R] highest score among a token and all that it sees; ``place`` tells the gates of a model apart."""
        level = self.level
        if level.grows:
            level.maxima[place][self.node_M] = best_MR = torch.maximum(level.maxima[place][self.node_M], score_MR)
            return best_MR
        best_MR = self.own.gather(self.own.spread(score_MR).cummax(dim=1).values)
        if level.above is not None:
            best_MR = torch.maximum(
                best_MR, level.above.maxima[place][level.parents.to(self.node_M.device)][self.node_M]
            )
        level.maxima[place] = best_MR[self.last_N]
        return best_MR


def weigh(
    q_GHWD: Tensor, k_GKSD: Tensor, v_GKSD: Tensor, scale: float, mask: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention to some keys, [G, H, W, D], and the logarithm of the sum of the weights' exponentials, [G, H, W].

    Args:
        mask: [G, 1, 1 or W, S], is added to the scores.
        causal: W = S, and a token sees none that come later.
    """
    shape = q_GHWD.shape
    fold = shape[1] // k_GKSD.shape[1]
    if fold > 1 and causal:
        k_GKSD, v_GKSD = (x.repeat_interleave(fold, dim=1) for x in (k_GKSD, v_GKSD))
    elif fold > 1:  # heads that share keys become further tokens
        q_GHWD = q_GHWD.reshape(shape[0], shape[1] // fold, fold * shape[2], shape[3])
        mask = mask.repeat(1, 1, fold, 1) if mask is not None and mask.shape[2] > 1 else mask
    if q_GHWD.device.type == "cpu" and q_GHWD.shape[2] > FEW:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_GHWD, k_GKSD, v_GKSD, 0.0, causal, attn_mask=mask, scale=scale
        )
    else:
        out, weight = _plain(q_GHWD * scale, k_GKSD, v_GKSD, _behind(shape[2], q_GHWD) if causal else mask)
    return out.reshape(shape), weight.reshape(shape[:3])


def _behind(width: int, like: Tensor) -> Tensor:
    lowest = torch.full((width, width), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return lowest.triu(1)[None, None]


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same without a fused kernel, some tokens at a time, so that not all weights are in memory."""
    step = max(1, MOST_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    found = []
    for start in range(0, q.shape[2], step):
        scores = q[:, :, start : start + step] @ k.mT
        if mask is not None:
            scores += mask if mask.shape[2] == 1 else mask[:, :, start : start + step]
        scores = scores.float()
        top = scores.amax(-1, keepdim=True)
        weights = scores.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        found.append((((weights.to(v.dtype) @ v) / total.to(v.dtype)), (top + total.log())[..., 0]))
    if len(found) == 1:
        return found[0]
    return torch.cat([out for out, _ in found], dim=2), torch.cat([weight for _, weight in found], dim=2)


def join(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """[M, H, D] the levels' outputs, each by its share of all weight."""
    if len(parts) == 1:
        return parts[0][0]
    share_EMH = torch.stack([weight for _, weight in parts]).softmax(0)
    joined = parts[0][0] * share_EMH[0, ..., None].to(parts[0][0].dtype)
    for (out, _), share in zip(parts[1:], share_EMH[1:], strict=True):
        joined.addcmul_(out, share[..., None].to(out.dtype))
    return joined


_reading: ContextVar[Reading | None] = ContextVar("reading", default=None)


def reading() -> Reading | None:
    """The pass that is running, if it is one over levels."""
    return _reading.get()


@contextmanager
def running(model: Any, current: Reading) -> Iterator[None]:
    """The language model's attention goes over levels, for one pass."""
    config = core(model).config.get_text_config()
    before, token = config._attn_implementation, _reading.set(current)
    config._attn_implementation = KERNEL
    try:
        yield
    finally:
        config._attn_implementation = before
        _reading.reset(token)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """The library's attention function: [1, H, M, D] queries and [1, K, M, D] keys and values to [1, M, H, D]."""
    del attention_mask
    current = _reading.get()
    assert current is not None  # noqa: S101 - the kernel is set for the time of a reading
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_MHD, k_MKD, v_MKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return current.attend(module, q_MHD, k_MKD, v_MKD, scale)[None], None


AttentionInterface.register(KERNEL, attend)
