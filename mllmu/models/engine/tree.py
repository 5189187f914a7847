"""Attention over segments of tokens that are kept once and seen by many.

Questions about an image go on from the image, candidates from their question. Each such segment is a *node*; nodes
that are read together are a :class:`Level`, and every node of a level goes on from a node of the level above it, or
from nothing::

    level 0    image p               image q
    level 1    question 1  question 2  question 3
    level 2    reply 1     reply 2     reply 3

A token sees the tokens of the nodes above its own, and those before it in its own. Attention is computed level by
level: all tokens below a node at once, against keys and values of that node, which are never copied. What the levels
give is put together by the weight that each has (:mod:`mllmu.models.engine.attention`). Everything else is the
model's own code, run on all new tokens in one row, so nothing is computed for padding.

Where a token stands is told in two ways. Its place is the number of tokens before it, by which sliding windows are
measured. Its position is what the model is told, on one axis or several: the tokens of an image may stand side by
side, and what comes next goes on from the highest.

Shapes: M new tokens of all nodes, N nodes, G nodes of a level above, W and S most new and most held tokens of a node, H
heads, K heads of keys, D size of a head, R scores of a gate, A axes of positions.
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

from mllmu.models.engine.attention import Rule, join, weigh
from mllmu.models.parts import core

KERNEL = "mllmu_levels"
"""Name under which the library finds :func:`attend`."""
STEPS_AHEAD = 32
"""Room for new tokens that is made at a time."""


class Fan:
    """Tokens arranged by the node they belong to: [M, ...] as [G, W, ...] and back, in a node as they came.

    Where half of the nodes or more have no tokens, G is the number of the others.
    """

    def __init__(self, owner_M: Tensor, groups: int, device: torch.device) -> None:
        count_G = torch.bincount(owner_M, minlength=groups)
        self.used_G: Tensor | None = None
        if 2 * int((count_G > 0).sum()) <= groups:
            self.used_G, owner_M = owner_M.unique(return_inverse=True)
            count_G, groups = count_G[self.used_G], len(self.used_G)
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

    def pick(self, x_N: Tensor) -> Tensor:
        """[N, ...] what there is of every node, of those with tokens."""
        return x_N if self.used_G is None else x_N[self.used_G.to(x_N.device)]

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
        ends: [N] tokens from the beginning to the end of each node, which is the place of the next one.
        following: [N] position of the next token, on all axes.
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
        self.following: Tensor = self.ends.clone() if above is None else above.following[self.parents]
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
        level.ends, level.following, level.lengths = (x[chosen] for x in (self.ends, self.following, self.lengths))
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
            if fan.regular and len(node_M) == len(self):  # a token of every node, in order
                store[layer][:, :, width - 1] = states
            else:
                store[layer][node_M, :, width - 1] = states
        return self.keys[layer][:, :, :width], self.values[layer][:, :, :width]

    def padding(self) -> Tensor:
        """[N, S] which of the held places are no tokens of their node."""
        place_S = torch.arange(self.width)
        return (place_S < self.first[:, None]) | (place_S >= (self.first + self.lengths)[:, None])

    def places(self) -> Tensor:
        """[N, S] place of every held token."""
        return torch.arange(self.width) + (self.ends - self.lengths - self.first)[:, None]


def _with_room(states: Tensor) -> Tensor:
    held = states.new_empty(*states.shape[:2], states.shape[2] + STEPS_AHEAD, states.shape[3])
    held[:, :, : states.shape[2]] = states
    return held


class Kept(Exception):  # noqa: N818 - nothing went wrong
    """Ends a pass of which nothing more is asked: the keys and values of the last layer are kept."""


class Reading:
    """One pass over new tokens of a level's nodes: where they lie, what they see, and what is kept of them.

    Args:
        nodes, counts: which nodes get new tokens, and how many each.
        positions: of the new tokens of each of these nodes, [A][tokens]; where None, they go on from what is there.
        ahead_M: tokens of one node with the same number, from 0 on, see each other, also forwards; -1 for the others.
        until: the layer whose keys and values are the last that anybody asks for; :class:`Kept` is raised there.
    """

    def __init__(
        self,
        level: Level,
        nodes: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
        *,
        positions: Sequence[Sequence[Sequence[int]] | None] = (),
        ahead_M: Tensor | None = None,
        until: int | None = None,
    ) -> None:
        self.level, self.offset, self.ahead_M, self.until = level, 0, ahead_M, until
        node_N, count_N = torch.tensor(nodes), torch.tensor(counts)
        node_M = node_N.repeat_interleave(count_N)
        number_M = torch.arange(len(node_M)) - (count_N.cumsum(0) - count_N).repeat_interleave(count_N)
        self.place_M = number_M + level.ends[node_M]
        self.position_AM = (number_M + level.following[node_M])[None]
        level.lengths[node_N] += count_N
        level.ends[node_N] += count_N
        level.following[node_N] += count_N
        if any(positions):
            self._stand(nodes, counts, positions)
        self.last_N = (count_N.cumsum(0) - 1).to(device)
        self.node_M = node_M.to(device)
        self.own = Fan(node_M, len(level), device)
        self.above: list[tuple[Level, Fan]] = []
        seen, owner_M = level, node_M
        while seen.above is not None:
            seen, owner_M = seen.above, seen.parents[owner_M]
            self.above.append((seen, Fan(owner_M, len(seen), device)))
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def _stand(
        self, nodes: Sequence[int], counts: Sequence[int], positions: Sequence[Sequence[Sequence[int]] | None]
    ) -> None:
        """Put tokens where their positions say, and what follows behind the highest."""
        axes = max(len(told) for told in positions if told)
        self.position_AM = self.position_AM.repeat(axes, 1)
        start = 0
        for node, count, told in zip(nodes, counts, positions, strict=True):
            if told:
                here_AT = torch.tensor([list(axis) for axis in told])
                self.position_AM[:, start : start + count] = here_AT
                self.level.following[node] = here_AT.max() + 1
            start += count

    def attend(self, layer: int, q_MHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, rule: Rule) -> Tensor:
        """[M, H, D] what the new tokens get from all that they see; keeps their keys and values."""
        layer += self.offset
        held = self.level.put(layer, (k_MKD, v_MKD), self.own, self.node_M)
        if layer == self.until:
            raise Kept
        alone = not self.above and not self.level.grows and rule.softcap is None
        if alone and self._mask(0, self.level, self.own, rule.window, q_MHD.dtype) is None:
            q_NHWD = self.own.spread(q_MHD).transpose(1, 2)
            out_NHWD = F.scaled_dot_product_attention(q_NHWD, *held, is_causal=True, scale=rule.scale, enable_gqa=True)
            return self.own.gather(out_NHWD.transpose(1, 2))
        parts = [self._part(0, self.level, self.own, q_MHD, held, rule)]
        for number, (level, fan) in enumerate(self.above, start=1):
            held = level.keys[layer][:, :, : level.width], level.values[layer][:, :, : level.width]
            parts.append(self._part(number, level, fan, q_MHD, held, rule))
        return join(parts)

    def _part(
        self, number: int, level: Level, fan: Fan, q_MHD: Tensor, held: tuple[Tensor, Tensor], rule: Rule
    ) -> tuple[Tensor, Tensor]:
        """[M, H, D] and [M, H]: what one level gives, and the logarithm of its weight."""
        mask = self._mask(number, level, fan, rule.window, q_MHD.dtype)
        causal = number == 0 and not level.grows and fan.width > 1 and mask is None
        keys, values = map(fan.pick, held)
        out_GHWD, weight_GHW = weigh(fan.spread(q_MHD).transpose(1, 2), keys, values, rule, mask, causal=causal)
        return fan.gather(out_GHWD.transpose(1, 2)), fan.gather(weight_GHW.transpose(1, 2))

    def _mask(self, number: int, level: Level, fan: Fan, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[G, 1, 1 or W, S] additive: the lowest number where a token does not see; None if that is plain."""
        near = window if window is not None and int(self.level.ends.max()) > window else None
        key = (number, near)
        if key not in self._masks:
            hidden_GWS = self._hidden(level, fan, near, own=number == 0 and not level.grows)
            if hidden_GWS is not None:
                mask = torch.zeros(hidden_GWS.shape, dtype=dtype).masked_fill_(hidden_GWS, torch.finfo(dtype).min)
                self._masks[key] = mask[:, None].to(self.node_M.device)
            else:
                self._masks[key] = None
        return self._masks[key]

    def _hidden(self, level: Level, fan: Fan, near: int | None, *, own: bool) -> Tensor | None:
        """[G, 1 or W, S] what a token does not see of a level: padding, and what lies outside a sliding window.

        None where it sees all, and where it sees all that comes before it among its own.
        """
        padding_G1S = fan.pick(level.padding())[:, None]
        mutual = own and self.ahead_M is not None
        if near is None and not mutual:
            # what is padded among its own lies behind, where nobody looks
            return padding_G1S if padding_G1S.any() and not own else None
        place_GW = fan.spread(self.place_M.to(self.node_M.device)).cpu()
        distance_GWS = place_GW[:, :, None] - fan.pick(level.places())[:, None]
        hidden_GWS = distance_GWS < 0
        if near is not None:
            hidden_GWS |= distance_GWS >= near
        if mutual and self.ahead_M is not None:
            group_GW = fan.spread(self.ahead_M.to(self.node_M.device)).cpu()
            hidden_GWS &= (group_GW[:, :, None] != group_GW[:, None]) | (group_GW < 0)[:, :, None]
        return hidden_GWS | padding_G1S

    def highest(self, place: int, score_MR: Tensor, window: int | None = None) -> Tensor:
        """[M, R] highest score among a token and all that it sees; ``place`` tells the gates of a model apart."""
        level = self.level
        if window is not None:
            return self._highest_near(place, score_MR, window)
        if level.grows:
            level.maxima[place][self.node_M] = best_MR = torch.maximum(level.maxima[place][self.node_M], score_MR)
            return best_MR
        if self.ahead_M is not None:
            score_MR = self._mutual(score_MR)
        best_MR = self.own.gather(self.own.spread(score_MR).cummax(dim=1).values)
        if level.above is not None:
            best_MR = torch.maximum(
                best_MR, level.above.maxima[place][level.parents.to(self.node_M.device)][self.node_M]
            )
        level.maxima[place] = best_MR[self.last_N]
        return best_MR

    def _highest_near(self, place: int, score_MR: Tensor, window: int) -> Tensor:
        """The same where a layer sees only so far back: scores are kept token by token, as keys of a layer are."""
        self.level.put(place, (score_MR[:, None], score_MR[:, None]), self.own, self.node_M)
        found = []
        for number, (level, fan) in enumerate([(self.level, self.own), *self.above]):
            mask = self._mask(number, level, fan, window, score_MR.dtype)
            if mask is None and number == 0 and not level.grows:
                mask = torch.full((fan.width, fan.width), -torch.inf, device=score_MR.device).triu(1)[None, None]
            best_GWSR = fan.pick(level.keys[place])[:, 0, None, : level.width]
            best_GWSR = best_GWSR if mask is None else best_GWSR + mask[:, 0, ..., None]
            found.append(fan.gather(best_GWSR.amax(2).expand(-1, fan.width, -1)))
        return torch.stack(found).amax(0)

    def _mutual(self, score_MR: Tensor) -> Tensor:
        """[M, R] the highest score among tokens that see each other; the others keep their own."""
        assert self.ahead_M is not None  # noqa: S101 - asked for by the only caller
        ahead_M = self.ahead_M.to(score_MR.device)
        group_M = torch.stack([self.node_M, ahead_M], dim=1).unique(dim=0, return_inverse=True)[1]
        best_XR = score_MR.new_full((int(group_M.max()) + 1, score_MR.shape[1]), -torch.inf)
        best_XR.scatter_reduce_(0, group_M[:, None].expand_as(score_MR), score_MR, "amax")
        return torch.where(ahead_M[:, None] >= 0, best_XR[group_M], score_MR)


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
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None, **of: Any
) -> tuple[Tensor, None]:
    """The library's attention function: [1, H, M, D] queries and [1, K, M, D] keys and values to [1, M, H, D]."""
    del attention_mask
    current = _reading.get()
    assert current is not None  # noqa: S101 - the kernel is set for the time of a reading
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_MHD, k_MKD, v_MKD = (x[0].transpose(0, 1) for x in (query, key, value))
    rule = Rule(scale, of.get("sliding_window"), of.get("softcap"))
    return current.attend(module.layer_idx, q_MHD, k_MKD, v_MKD, rule)[None], None


AttentionInterface.register(KERNEL, attend)
