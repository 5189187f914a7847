"""The batches of a training: which turns come at which step, and how they become tensors.

The order of the turns depends on seed and epoch only, so a training can be resumed.

In a packed batch, what the turns have in common is run once. A packed sequence is a row of groups, a group is a shared
prefix (system prompt, image) and its blocks (the rest of each prompt and its reply)::

    [prefix p][question + reply][question + reply] [prefix q][question + reply] ...

A token sees the tokens before it in its own prefix and its own block, nothing else, and positions go on from the
prefix in every block, so each reply gets the same logits as in a sequence of its own. Labels lie on replies only; the
number of labelled tokens, and so every mean over tokens or replies, is that of the plain batch.

Shapes: B sequences, T tokens, A axes of positions, N labelled tokens, X what is computed for each of them.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mllmu.core import plugins, process
from mllmu.core.process import rng
from mllmu.core.records import OTHER_ATTRIBUTE, Question
from mllmu.data.dataset import image_path
from mllmu.models.encoding import Encoder, grouped, image_inputs, shared_length
from mllmu.models.engine.forward import Forward, labelled, run_logits
from mllmu.models.families import IGNORE, Batch, Turn, core, moved
from mllmu.models.loading import Loaded
from mllmu.training.distributed import MakeBatch, RunBatch, run_divided

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


def training_turns(
    questions: Sequence[Question], data_folder: Path, *, modality: str, variant: str = "train"
) -> list[Turn]:
    """Turns of the training questions of some people, in one modality or both, or of another variant in the same way.

    Every question is put as its task has it in training. Image + text questions show their image, if none is named the
    canonical portrait ``<profile>_0.png``; text questions have the name instead.
    """
    tasks = {name: plugins.build("tasks", name, {}) for name in dict.fromkeys(q.task for q in questions)}
    return [
        Turn(
            prompt=q.text if tasks[q.task].bare_in_training else tasks[q.task].prompt(q),
            reply=q.answer,
            image=data_folder / image_path(q.profile_id, q.view or 0) if q.modality == "image_text" else None,
            person=q.profile_id,
            topic="" if q.attribute == OTHER_ATTRIBUTE else q.attribute,
            task=q.task,
        )
        for q in questions
        if q.variant == variant and modality in ("both", q.modality)
    ]


@dataclass(frozen=True)
class Order:
    """A seeded order of items, epoch after epoch without end; every item comes once per epoch.

    Attributes:
        sets: the set of each item (its image); None for an item that shares with no other.
        together: so many items of a set follow each other, so that a step meets fewer sets (images) and shares more;
            1 mixes all, as published.
    """

    sets: tuple[Hashable, ...]
    batch_size: int
    seed: int
    label: str
    together: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return max(1, math.ceil(len(self.sets) / self.batch_size))

    def num_steps(self, epochs: float) -> int:
        """Number of steps of so many epochs, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    def indices(self, step: int) -> list[int]:
        """Items of one step. The last batch of an epoch may be smaller."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._of_epoch(epoch)[index * self.batch_size : (index + 1) * self.batch_size]

    @cached_property
    def _of_epoch(self) -> Callable[[int], list[int]]:
        """The order of an epoch; the last is remembered: drawing many items takes longer than the batch of a step."""
        return lru_cache(maxsize=1)(self._draw)

    def _draw(self, epoch: int) -> list[int]:
        draw = rng(self.seed, "order", self.label, epoch)
        order = list(range(len(self.sets)))
        draw.shuffle(order)
        if self.together == 1:
            return order
        members = grouped(order, lambda item: (item, "alone") if self.sets[item] is None else self.sets[item])
        bundles = [
            items[i : i + self.together] for items in members.values() for i in range(0, len(items), self.together)
        ]
        draw.shuffle(bundles)
        return [item for bundle in bundles for item in bundle]


def forward(model: Any, turns: Sequence[Turn], make: MakeBatch, *, at_once: int | None = None) -> Forward:
    """One pass over the turns of a step; reply b is that of ``turns[b]``, whichever process has run it."""
    return Forward(*run_step(partial(run_logits, model), turns, make, at_once), len(turns))


@torch.no_grad()
def step_tokens(turns: Sequence[Turn], make: MakeBatch, at_once: int | None) -> tuple[Tensor, Tensor]:
    """[N] the labelled tokens of a step and [N] the index of each one's turn, as :func:`forward` has them; no pass."""
    _, labels_N, row_N = run_step(lambda batch: labelled(batch)[0][:, None], turns, make, at_once)
    return labels_N, row_N


def run_step(
    run: RunBatch, turns: Sequence[Turn], make: MakeBatch, at_once: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``run`` gives for the labelled tokens of a step [N, X], the tokens [N], and the indices of their turns [N].

    Args:
        at_once: most turns in one run of the model, for less memory; None: all. The result is the same.
    """
    if process.count() == 1 and (at_once is None or len(turns) <= at_once):
        batch = make(turns)
        return run(batch), *labelled(batch)
    return run_divided(run, turns, make, at_once)


@dataclass
class Group:
    """A prefix and the turns that continue it, by their index in the batch."""

    prefix: Sequence[int]
    turns: list[int] = field(default_factory=list)
    blocks: list[tuple[Sequence[int], Sequence[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.length = len(self.prefix)

    def add(self, turn: int, block: tuple[Sequence[int], Sequence[int]]) -> None:
        self.turns.append(turn)
        self.blocks.append(block)
        self.length += sum(map(len, block))


def training_batch(loaded: Loaded, turns: Sequence[Turn]) -> Batch:
    """The batch of a training step on the model's device, packed if the model packs."""
    return encoded(loaded, turns).to(loaded.device)


def encoded(loaded: Loaded, turns: Sequence[Turn]) -> Batch:
    """The same before it is moved: labels and replies lie where Python reads them without waiting."""
    return (pack if loaded.packs else plain)(loaded, turns)


def plain(loaded: Loaded, turns: Sequence[Turn]) -> Batch:
    """One row per turn."""
    batch, noise = loaded.encoder.batch(turns), getattr(core(loaded.model), "noise", None)
    return replace(batch, noise=noise.keys(loaded.encoder, turns)) if noise else batch


def pack(loaded: Loaded, turns: Sequence[Turn], *, capacity: int | None = None) -> Batch:
    """Encode turns as packed sequences; the losses of the batch equal those of ``loaded.encoder.batch(turns)``.

    Args:
        loaded: a model of a family that can be packed.
        turns: with replies.
        capacity: tokens of a sequence; longer groups are split, prefix and all. None: see :func:`arrange`.
    """
    groups = make_groups(loaded.encoder, turns, capacity)
    longest = max(group.length for group in groups)
    hidden_size = core(loaded.model).config.get_text_config().hidden_size
    sequences = fill(groups, max(capacity, longest)) if capacity else arrange(groups, hidden_size)
    laid_XBT = lay_out(loaded, turns, sequences)
    _, labels_BT, _, _, reply_BT, *_ = laid_XBT.unbind()
    ids_BT, _, group_BT, block_BT, _, index_BT, *positions_ABT = moved(laid_XBT, loaded.device).unbind()
    masks = packed_masks(loaded, ids_BT, index_BT, group_BT, block_BT)
    positions = positions_ABT[0] if len(positions_ABT) == 1 else torch.stack(positions_ABT)
    inputs = {"input_ids": ids_BT, "position_ids": positions}
    if "" in masks:
        inputs["attention_mask"] = masks.pop("")
    inputs |= image_inputs(loaded, [turns[group.turns[0]] for sequence in sequences for group in sequence])
    noise = getattr(core(loaded.model), "noise", None)
    return Batch(
        inputs=inputs,
        labels=labels_BT,
        num_tokens=sum(group.length for group in groups),
        replies=reply_BT,
        num_replies=len(turns),
        masks=masks,
        noise=noise.packed_keys(turns, sequences) if noise else {},
    )


def lay_out(loaded: Loaded, turns: Sequence[Turn], sequences: Sequence[Sequence[Group]]) -> Tensor:
    """[X, B, T]: token ids, labels, group, block (0: the prefix), reply, index, and the positions along each axis.

    The index of a token is the number of tokens before it in its own prefix and block, whatever its position. Sequences
    are filled up to the longest. In every block positions go on from the prefix, on all axes alike.
    """
    rows: list[list[tuple[int, ...]]] = []
    for sequence in sequences:
        row: list[tuple[int, ...]] = []
        for number, group in enumerate(sequence):
            images = partial(loaded.encoder.images, [turns[group.turns[0]]])
            axes = loaded.family.positions(core(loaded.model), group.prefix, images) or [range(len(group.prefix))]
            for index, (token, positions) in enumerate(zip(group.prefix, zip(*axes, strict=True), strict=True)):
                row.append((token, IGNORE, number, 0, 0, index, *positions))
            start = 1 + max(max(axis, default=-1) for axis in axes)
            for block, (turn, (rest, reply)) in enumerate(zip(group.turns, group.blocks, strict=True), start=1):
                labels = [*[IGNORE] * len(rest), *reply]
                for place, (token, label) in enumerate(zip([*rest, *reply], labels, strict=True)):
                    after = [start + place] * len(axes)
                    row.append((token, label, number, block, turn, len(group.prefix) + place, *after))
        rows.append(row)
    padding = (loaded.encoder.pad, IGNORE, -1, 0, 0, 0, *[0] * len(axes))
    width = max(map(len, rows))
    packed_BTX = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
    return packed_BTX.permute(2, 0, 1).contiguous()


def make_groups(encoder: Encoder, turns: Sequence[Turn], capacity: int | None) -> list[Group]:
    """Group turns by image and system prompt; a group ends where the next block would pass the capacity."""
    encoder.check(turns)
    members = grouped(range(len(turns)), lambda index: turns[index].opening)
    groups: list[Group] = []
    for indices in members.values():
        prompts = [encoder.prompt(turns[index]) for index in indices]
        cut = shared_length(prompts)
        groups.append(Group(prompts[0][:cut]))
        room = capacity or max(CAPACITY, SHARE * cut)
        for index, prompt in zip(indices, prompts, strict=True):
            block = (prompt[cut:], encoder.reply(turns[index].reply))
            if groups[-1].blocks and groups[-1].length + sum(map(len, block)) > room:
                groups.append(Group(prompts[0][:cut]))
            groups[-1].add(index, block)
    return groups


def fill(groups: Sequence[Group], room: int) -> list[list[Group]]:
    """Put groups into sequences of at most ``room`` tokens, the longest first, each into the first that has room."""
    sequences: list[list[Group]] = []
    used: list[int] = []
    for group in sorted(groups, key=lambda group: -group.length):
        index = next((i for i, length in enumerate(used) if length + group.length <= room), len(used))
        if index == len(used):
            sequences.append([])
            used.append(0)
        sequences[index].append(group)
        used[index] += group.length
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
    loaded: Loaded, ids_BT: Tensor, index_BT: Tensor, group_BT: Tensor, block_BT: Tensor
) -> dict[str, Tensor]:
    """Additive attention masks [B, 1, T, T] by the type of layer, or one for all named ""; the prefix is block 0."""
    is_image_BT = ids_BT.eq(loaded.image_token_id)
    seen = loaded.family.packed_masks(core(loaded.model), kin(group_BT, block_BT), index_BT, is_image_BT)
    zero, lowest = torch.zeros((), dtype=loaded.model.dtype), torch.finfo(loaded.model.dtype).min
    return {layer: torch.where(seen_BTT, zero, lowest)[:, None] for layer, seen_BTT in seen.items()}


def kin(group_BT: Tensor, block_BT: Tensor) -> Tensor:
    """[B, T, T] True where two tokens are of one group, and the second is of its prefix or of the first one's block.

    Padding (group -1) is a group of its own, so that no token sees nothing.
    """
    same_group = group_BT[:, :, None] == group_BT[:, None, :]
    return same_group & ((block_BT[:, None, :] == 0) | (block_BT[:, :, None] == block_BT[:, None, :]))
