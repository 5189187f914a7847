"""Packing: what the turns of a batch have in common is run once.

A packed sequence is a row of groups, a group is a shared prefix (system prompt, picture) and its blocks (the rest of
each prompt and its reply)::

    [prefix p][question + reply][question + reply] [prefix q][question + reply] ...

A token sees the tokens before it in its own prefix and its own block, nothing else, and positions go on from the
prefix in every block, so each reply gets the same logits as in a sequence of its own. Labels lie on replies only; the
number of labelled tokens, and so every mean over tokens or replies, is that of the plain batch.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mllmu.models.encoding import Encoder, shared_length
from mllmu.models.families import IGNORE, Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.models.pictures import picture_inputs

CAPACITY = 128
"""Aimed length of a packed sequence in tokens; longer ones waste attention on what is masked. Measured on the tiny
model (17 picture tokens, 64 questions a step, one core): 0.65 s a step at 96, 0.62 at 128, 0.67 at 160, 0.71 at 256."""
SHARE = 5
"""A sequence has room for at least so many times its longest prefix: running a long prefix again costs more."""


@dataclass
class Group:
    """A prefix and the turns that continue it, by their place in the batch."""

    prefix: Sequence[int]
    turns: list[int] = field(default_factory=list)
    blocks: list[tuple[Sequence[int], Sequence[int]]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(len(rest) + len(reply) for rest, reply in self.blocks)


def training_batch(loaded: Loaded, turns: Sequence[Turn]) -> Batch:
    """The batch of a training step on the model's device, packed if the model packs."""
    if not loaded.packs:
        return loaded.encoder.batch(turns).to(loaded.device)
    return pack(loaded, turns).to(loaded.device)


def pack(loaded: Loaded, turns: Sequence[Turn], *, capacity: int | None = None) -> Batch:
    """Encode turns as packed sequences; the losses of the batch equal those of ``loaded.encoder.batch(turns)``.

    Args:
        loaded: a model of a family with ``shares_prefix``.
        turns: with replies.
        capacity: a group is split, prefix and all, when it passes so many tokens; chosen by the prefixes if not given.
    """
    encoder = loaded.encoder
    groups = make_groups(encoder, turns, capacity)
    capacity = capacity or room_for(groups)
    sequences = fill(groups, max(capacity, *(group.length for group in groups)))
    width = max(sum(group.length for group in sequence) for sequence in sequences)
    shape = (len(sequences), width)
    ids_BT = torch.full(shape, encoder.pad)
    labels_BT, positions_BT = torch.full(shape, IGNORE), torch.zeros(shape, dtype=torch.long)
    group_BT, block_BT, reply_BT = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long), torch.zeros_like(ids_BT)
    for b, sequence in enumerate(sequences):
        at = 0
        for g, group in enumerate(sequence):
            group_BT[b, at : at + group.length] = g
            ids_BT[b, at : at + len(group.prefix)] = torch.tensor(group.prefix)
            positions_BT[b, at : at + len(group.prefix)] = torch.arange(len(group.prefix))
            at += len(group.prefix)
            for k, (turn, (rest, reply)) in enumerate(zip(group.turns, group.blocks, strict=True), start=1):
                end = at + len(rest) + len(reply)
                ids_BT[b, at:end] = torch.tensor([*rest, *reply])
                labels_BT[b, at + len(rest) : end] = torch.tensor(reply, dtype=torch.long)
                positions_BT[b, at:end] = torch.arange(end - at) + len(group.prefix)
                block_BT[b, at:end], reply_BT[b, at:end] = k, turn
                at = end
    shown = [turns[group.turns[0]] for sequence in sequences for group in sequence]
    mask = attention_mask(group_BT, block_BT, loaded.model.dtype)
    inputs = {"input_ids": ids_BT, "attention_mask": mask, "position_ids": positions_BT}
    inputs |= picture_inputs(loaded, shown)
    return Batch(inputs=inputs, labels=labels_BT, replies=reply_BT, num_replies=len(turns))


def room_for(groups: Sequence[Group]) -> int:
    """Tokens of a sequence that suit some groups: more where a prefix is long."""
    return max(CAPACITY, SHARE * max(len(group.prefix) for group in groups))


def make_groups(encoder: Encoder, turns: Sequence[Turn], capacity: int | None) -> list[Group]:
    """Group turns by picture and system prompt; a group ends where the next block would pass the capacity."""
    members: dict[object, list[int]] = {}
    for place, turn in enumerate(turns):
        encoder.check_length(turn, turn.reply)
        members.setdefault((turn.system, turn.before, turn.image), []).append(place)
    groups: list[Group] = []
    for places in members.values():
        prompts = [encoder.prompt(turns[place]) for place in places]
        cut = shared_length(prompts)
        group = Group(prompts[0][:cut])
        room = capacity or room_for([group])
        for place, prompt in zip(places, prompts, strict=True):
            block = (prompt[cut:], encoder.reply(turns[place].reply))
            if group.blocks and group.length + len(block[0]) + len(block[1]) > room:
                groups.append(group)
                group = Group(group.prefix)
            group.turns.append(place)
            group.blocks.append(block)
        groups.append(group)
    return groups


def fill(groups: Sequence[Group], room: int) -> list[list[Group]]:
    """Put groups into sequences of at most ``room`` tokens, the longest first, each into the first that has room."""
    sequences: list[list[Group]] = []
    used: list[int] = []
    for group in sorted(groups, key=lambda group: -group.length):
        place = next((i for i, length in enumerate(used) if length + group.length <= room), len(used))
        if place == len(used):
            sequences.append([])
            used.append(0)
        sequences[place].append(group)
        used[place] += group.length
    return sequences


def attention_mask(group_BT: Tensor, block_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, T] additive mask: 0 where the token (row) sees the token (column), the lowest number elsewhere.

    Block 0 is the prefix of its group. Padding (group -1) sees itself, so that no row is empty.
    """
    length = group_BT.shape[1]
    same_group = group_BT[:, :, None] == group_BT[:, None, :]
    same_block = (block_BT[:, None, :] == 0) | (block_BT[:, :, None] == block_BT[:, None, :])
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    seen = same_group & same_block & earlier
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask[:, None]
