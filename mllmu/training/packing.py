"""Packing: what the turns of a batch have in common is run once.

A packed sequence is a row of groups, a group is a shared prefix (system prompt, image) and its blocks (the rest of
each prompt and its reply)::

    [prefix p][question + reply][question + reply] [prefix q][question + reply] ...

A token sees the tokens before it in its own prefix and its own block, nothing else, and positions go on from the
prefix in every block, so each reply gets the same logits as in a sequence of its own. Labels lie on replies only; the
number of labelled tokens, and so every mean over tokens or replies, is that of the plain batch.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mllmu.models.encoding import Encoder, shared_length
from mllmu.models.engine.image_features import image_inputs
from mllmu.models.families import IGNORE, Batch, Turn
from mllmu.models.families._masks import Layout, additive, runs
from mllmu.models.loading import Loaded
from mllmu.models.parts import core

CAPACITY = 128
"""Tokens that a group has room for at least. Seconds of a forward and backward pass of the tiny model (17 image
tokens, 64 questions, one core): 0.73 at 64, 0.67 at 80, 0.66 at 96, 0.64 at 128, 0.66 at 160 and 200, 0.69 at 256."""
SHARE = 5
"""A group has room for at least so many times its prefix: running a long prefix again costs more."""
ATTENTION = 4
"""So many times its hidden size is the length of a sequence whose attention costs as much as all else, about: with it
the times above are the cost of :func:`arrange` times a constant, to 5 %."""
SLACK = (1.0, 1.04, 1.08)
"""Room beyond an even share of the tokens that is tried for a number of sequences; groups are not cut to fit."""


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
        loaded: a model of a family that can be packed.
        turns: with replies.
        capacity: of a sequence in tokens: a group is split, prefix and all, when it passes it. If not given, groups
            have room by their prefixes, and sequences the length that costs least.
    """
    groups = make_groups(loaded.encoder, turns, capacity)
    longest = max(group.length for group in groups)
    hidden_size = core(loaded.model).config.get_text_config().hidden_size
    sequences = fill(groups, max(capacity, longest)) if capacity else arrange(groups, hidden_size)
    rows = [lay_out(loaded, turns, sequence) for sequence in sequences]
    ids_BT = filled([row.ids for row in rows], loaded.encoder.pad)
    positions_ABT = torch.stack([filled(axis, 0) for axis in zip(*(row.positions for row in rows), strict=True)])
    group_BT = filled([row.group for row in rows], -1)
    masks = packed_masks(loaded, ids_BT, positions_ABT[0], group_BT, filled([row.block for row in rows], 0))
    inputs = {"input_ids": ids_BT, "position_ids": positions_ABT[0] if len(positions_ABT) == 1 else positions_ABT}
    if "" in masks:
        inputs["attention_mask"] = masks.pop("")
    inputs |= image_inputs(loaded, [turns[group.turns[0]] for sequence in sequences for group in sequence])
    return Batch(
        inputs=inputs,
        labels=filled([row.labels for row in rows], IGNORE),
        replies=filled([row.reply for row in rows], 0),
        num_replies=len(turns),
        masks=masks,
    )


@dataclass
class Row:
    """A sequence as it grows: each token's id, label, group, block (0: the prefix) and reply, and positions by axis."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    reply: list[int] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)

    def add(
        self, ids: Sequence[int], labels: Sequence[int], places: Sequence[Sequence[int]], *, of: tuple[int, int, int]
    ) -> None:
        """Append tokens of one group, block and reply."""
        self.ids += ids
        self.labels += labels
        for number, same in zip(of, (self.group, self.block, self.reply), strict=True):
            same += [number] * len(ids)
        self.positions = self.positions or [[] for _ in places]
        for axis, more in zip(self.positions, places, strict=True):
            axis += more


def lay_out(loaded: Loaded, turns: Sequence[Turn], sequence: Sequence[Group]) -> Row:
    """Put groups side by side; in every block positions go on from the prefix, on all axes alike."""
    row = Row()
    for number, group in enumerate(sequence):
        images = partial(loaded.encoder.images, [turns[group.turns[0]]])
        places = loaded.family.positions(core(loaded.model), group.prefix, images)
        row.add(group.prefix, [IGNORE] * len(group.prefix), places, of=(number, 0, 0))
        start = 1 + max(max(axis, default=-1) for axis in places)
        for block, (turn, (rest, reply)) in enumerate(zip(group.turns, group.blocks, strict=True), start=1):
            following = range(start, start + len(rest) + len(reply))
            labels = [*[IGNORE] * len(rest), *reply]
            row.add([*rest, *reply], labels, [following] * len(places), of=(number, block, turn))
    return row


def filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """[B, T] rows of numbers, filled up to the longest."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def make_groups(encoder: Encoder, turns: Sequence[Turn], capacity: int | None) -> list[Group]:
    """Group turns by image and system prompt; a group ends where the next block would pass the capacity."""
    members: dict[object, list[int]] = {}
    for place, turn in enumerate(turns):
        encoder.check_length(turn, turn.reply)
        members.setdefault((turn.system, turn.before, turn.image), []).append(place)
    groups: list[Group] = []
    for places in members.values():
        prompts = [encoder.prompt(turns[place]) for place in places]
        cut = shared_length(prompts)
        group = Group(prompts[0][:cut])
        room = capacity or max(CAPACITY, SHARE * cut)
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


def arrange(groups: Sequence[Group], hidden_size: int) -> list[list[Group]]:
    """Put groups into sequences, as many and as long as cost least together, padding included.

    cost = B * T * (1 + T / (ATTENTION * hidden size)),  B sequences filled up to the longest, T
    """
    total, longest = sum(group.length for group in groups), max(group.length for group in groups)

    def cost(sequences: list[list[Group]]) -> float:
        length = max(sum(group.length for group in sequence) for sequence in sequences)
        return len(sequences) * length * (1 + length / (ATTENTION * hidden_size))

    rooms = {
        max(longest, math.ceil(slack * total / number))
        for number in range(1, max(1, total // longest) + 2)
        for slack in SLACK
    }
    return min((fill(groups, room) for room in sorted(rooms)), key=cost)


def packed_masks(
    loaded: Loaded, ids_BT: Tensor, position_BT: Tensor, group_BT: Tensor, block_BT: Tensor
) -> dict[str, Tensor]:
    """Additive attention masks [B, 1, T, T] by the kind of layer, or one for all named ""; the prefix is block 0."""
    image = -1 if loaded.image_token_id is None else loaded.image_token_id
    layout = Layout(kin(group_BT, block_BT), position_BT, runs(ids_BT.eq(image)))
    seen = loaded.family.packed_masks(core(loaded.model), layout)
    return {kind: additive(seen_BTT, loaded.model.dtype) for kind, seen_BTT in seen.items()}


def kin(group_BT: Tensor, block_BT: Tensor) -> Tensor:
    """[B, T, T] True where two tokens are of one group, and the second is of its prefix or of the first one's block.

    Padding (group -1) is a group of its own, so that no token sees nothing.
    """
    same_group = group_BT[:, :, None] == group_BT[:, None, :]
    return same_group & ((block_BT[:, None, :] == 0) | (block_BT[:, :, None] == block_BT[:, None, :]))
