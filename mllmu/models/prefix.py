"""Read token sequences that branch from common beginnings: what is common is computed and stored once.

The questions about one picture share the picture; the options of a question share the question. A :class:`Tree` holds
the keys and values of all of them, in rows; a block of tokens goes on from another block and sees that one, what that
one sees, and itself::

    row 0   [picture p] [question 1] [question 2] [reply 1 ...][reply 2 ...]

So a question costs its own tokens alone, in time and in memory, and every token gets what it would get in a sequence
of its own, up to rounding.

Shapes: R rows, S cache slots, Q new slots, N blocks, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from mllmu.models.parts import core
from mllmu.models.pictures import embedded

NOTHING = -1
"""Block of a padding slot."""
SHORT, STEPS_AHEAD = 32, 32
"""After a step of at most so many tokens a row, room is made for so many steps."""
ROOM = 64
"""Candidate tokens that are read behind one copy of a row, at least; more behind long rows."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values with room behind them: a new token is written there, and what was read is not copied again."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self.room: tuple[Tensor, ...] = ()
            return self.keys, self.values
        used, new = self.keys.shape[2], key_states.shape[2]
        if not self.room or self.room[0].shape[2] < used + new:
            spare = STEPS_AHEAD * new if new <= SHORT else 0
            self.room = tuple(
                torch.cat([old, old.new_empty(*old.shape[:2], new + spare, old.shape[3])], dim=2)
                for old in (self.keys, self.values)
            )
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, used : used + new] = states
        self.keys, self.values = (room[:, :, : used + new] for room in self.room)
        return self.keys, self.values


def new_cache() -> Cache:
    """An empty cache for one tree; two trees never share one."""
    return Cache(layer_class_to_replicate=GrowingLayer)


@dataclass
class Tree:
    """What has been read.

    Attributes:
        cache: keys and values of all rows.
        block_RS: the block of every cache slot; NOTHING for padding.
        row: the row of each block.
        length: number of tokens from the beginning to the end of each block, which is the position of the next one.
        sees: the blocks that each block sees, itself included.
        last: hidden state [D] of each block's last token.
    """

    cache: Cache
    block_RS: Tensor
    row: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    sees: list[tuple[int, ...]] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)

    def sprout(self, parent: int | None) -> int:
        """A new, empty block behind another one, or in a new row."""
        block = len(self.row)
        self.row.append(max(self.row, default=-1) + 1 if parent is None else self.row[parent])
        self.length.append(0 if parent is None else self.length[parent])
        self.sees.append((block,) if parent is None else (*self.sees[parent], block))
        self.last.append(torch.empty(0) if parent is None else self.last[parent])
        return block

    def select(self, rows: Sequence[int]) -> Tree:
        """A tree of the given rows, a row possibly several times; it grows apart from this one.

        A block is in the first of its row's copies; those of rows left out must not be used again.
        """
        index = torch.tensor(rows, device=self.block_RS.device)
        cache = new_cache()
        for layer, held in enumerate(self.cache.layers):
            cache.update(held.keys[index], held.values[index], layer)
        place = {row: number for number, row in reversed(list(enumerate(rows)))}
        now = [place.get(row, NOTHING) for row in self.row]
        return Tree(cache, self.block_RS[index], now, list(self.length), list(self.sees), list(self.last))


def takes_masks(model: Any) -> bool:
    """Whether the attention kernel honours a mask of our own; the flash kernels silently do not."""
    return "flash" not in str(core(model).config.get_text_config()._attn_implementation)


def begin(model: Any, ids: Sequence[Sequence[int]], pictures: dict[str, Tensor], pad: int) -> Tree:
    """Read prefixes from their first token on, pictures included: block r is row r."""
    tree = Tree(new_cache(), torch.empty(len(ids), 0, dtype=torch.long, device=model.device))
    _read(model, tree, [(tree.sprout(None), row) for row in ids], pad, pictures)
    return tree


def extend(model: Any, tree: Tree, parents: Sequence[int], ids: Sequence[Sequence[int]], pad: int) -> list[int]:
    """Read ``ids[i]`` behind block ``parents[i]``, at least one token each; returns the new blocks."""
    blocks = [tree.sprout(parent) for parent in parents]
    _read(model, tree, list(zip(blocks, ids, strict=True)), pad, {})
    return blocks


def _read(
    model: Any, tree: Tree, grown: Sequence[tuple[int, Sequence[int]]], pad: int, pictures: dict[str, Tensor]
) -> list[Tensor]:
    """Append tokens to blocks; returns the hidden states of each block's new tokens."""
    tokens: list[list[int]] = [[] for _ in tree.block_RS]
    positions: list[list[int]] = [[] for _ in tree.block_RS]
    blocks: list[list[int]] = [[] for _ in tree.block_RS]
    places = []
    for block, ids in grown:
        row = tree.row[block]
        places.append((row, len(tokens[row]), len(tokens[row]) + len(ids)))
        tokens[row] += ids
        positions[row] += range(tree.length[block], tree.length[block] + len(ids))
        blocks[row] += [block] * len(ids)
        tree.length[block] += len(ids)
    device = tree.block_RS.device
    ids_RQ = _filled(tokens, pad, device)
    block_RQ = _filled(blocks, NOTHING, device)
    block_RS = torch.cat([tree.block_RS, block_RQ], dim=1)
    hidden_RQD = (
        core(model)
        .model(
            **embedded(model, {"input_ids": ids_RQ, **pictures}),
            attention_mask=visible(tree.sees, block_RQ, block_RS, model.dtype),
            position_ids=_filled(positions, 0, device),
            past_key_values=tree.cache,
            use_cache=True,
        )
        .last_hidden_state
    )
    tree.block_RS = block_RS
    hidden = [hidden_RQD[row, start:end] for row, start, end in places]
    for (block, _), new_QD in zip(grown, hidden, strict=True):
        tree.last[block] = new_QD[-1]
    return hidden


def _filled(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)


def visible(sees: Sequence[Sequence[int]], block_RQ: Tensor, block_RS: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, 1, Q, S] additive mask of the new slots, the last Q of S: 0 where one sees another, else the lowest number.

    A slot sees its own block and those before it, but no slot that comes later; padding sees itself alone.
    """
    pairs = torch.tensor([(one, other) for one, others in enumerate(sees) for other in others])
    sees_NN = torch.zeros(len(sees) + 1, len(sees) + 1, dtype=torch.bool)  # the last one is padding
    sees_NN[pairs[:, 0], pairs[:, 1]] = True
    seen_RQS = sees_NN.to(block_RQ.device)[block_RQ[:, :, None], block_RS[:, None, :]]
    width = block_RQ.shape[1]
    earlier_QQ = torch.ones(width, width, dtype=torch.bool, device=block_RQ.device).tril()
    seen_RQS[:, :, -width:] &= earlier_QQ
    seen_RQS[:, :, -width:] |= torch.eye(width, dtype=torch.bool, device=block_RQ.device)
    return torch.zeros(seen_RQS.shape, dtype=dtype, device=block_RQ.device).masked_fill_(
        ~seen_RQS, torch.finfo(dtype).min
    )[:, None]


def reply_logps(
    model: Any, tree: Tree, parents: Sequence[int], replies: Sequence[Sequence[int]], pad: int
) -> list[float]:
    """Log-probability in nats of each reply behind its parent block, summed over its tokens; the tree stays as is."""
    sums = [0.0] * len(replies)
    bins = _bins([tree.row[parent] for parent in parents], [len(reply) for reply in replies], tree)
    for start in range(0, len(bins), len(tree.block_RS)):
        chunk = bins[start : start + len(tree.block_RS)]
        items = [i for _, members in chunk for i in members]
        # The first token is predicted by the parent's last hidden state, the last token predicts nothing.
        hidden = {i: [tree.last[parents[i]][None]] for i in items}
        branch, grown = tree.select([row for row, _ in chunk]), []
        for place, (_, members) in enumerate(chunk):
            for i in members:
                if len(replies[i]) > 1:
                    grown.append((block := branch.sprout(parents[i]), replies[i][:-1]))
                    branch.row[block] = place
        longer = [i for i in items if len(replies[i]) > 1]
        for i, behind in zip(longer, _read(model, branch, grown, pad, {}) if grown else [], strict=True):
            hidden[i].append(behind)
        labels_M = torch.tensor([token for i in items for token in replies[i]], device=tree.block_RS.device)
        logits_MV = core(model).lm_head(torch.cat([part for i in items for part in hidden[i]])).float()
        logp_M = -F.cross_entropy(logits_MV, labels_M, reduction="none")
        for i, part in zip(items, logp_M.split([len(replies[i]) for i in items]), strict=True):
            sums[i] = float(part.sum())
    return sums


def _bins(rows: Sequence[int], lengths: Sequence[int], tree: Tree) -> list[tuple[int, list[int]]]:
    """Items by row, in bins of so many tokens that copying a row pays, the emptiest bin first.

    Returns:
        Row and items of each bin.
    """
    room = max(ROOM, tree.block_RS.shape[1] // 2)
    bins: list[tuple[int, list[int]]] = []
    used: list[int] = []
    newest: dict[int, int] = {}
    for item in sorted(range(len(rows)), key=lambda item: lengths[item]):
        at = newest.get(rows[item])
        if at is None or used[at] + lengths[item] > room:
            at = newest[rows[item]] = len(bins)
            bins.append((rows[item], []))
            used.append(0)
        bins[at][1].append(item)
        used[at] += lengths[item]
    return [bins[at] for at in sorted(range(len(bins)), key=lambda at: used[at])]


def decode(
    model: Any, tree: Tree, parents: Sequence[int], limits: Sequence[int], ends: frozenset[int], pad: int
) -> list[list[int]]:
    """Greedy replies behind blocks, each up to and including its end token or up to its limit; the tree is used up.

    A reply that has ended costs nothing any more, and rows without replies are dropped once they are half of all.
    """
    replies: list[list[int]] = [[] for _ in limits]
    blocks = [tree.sprout(parent) for parent in parents]
    going = list(range(len(limits)))
    while True:
        chosen = core(model).lm_head(torch.stack([tree.last[blocks[i]] for i in going])).argmax(-1).tolist()
        for i, token in zip(going, chosen, strict=True):
            replies[i].append(token)
        going = [i for i in going if len(replies[i]) < limits[i] and replies[i][-1] not in ends]
        if not going:
            return replies
        rows = sorted({tree.row[blocks[i]] for i in going})
        if 2 * len(rows) <= len(tree.block_RS):
            tree = tree.select(rows)
        _read(model, tree, [(blocks[i], [replies[i][-1]]) for i in going], pad, {})
