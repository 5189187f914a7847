"""What the prompts of a batch have in common, as levels to be read one after the other.

Prompts with the same system text and examples share those; those with the same image share all up to its end::

    examples (5 images) -> image p -> question 1
                                       -> question 2
                          -> image q -> question 3

Shapes: F image tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mllmu.models.encoding import shared_length
from mllmu.models.engine import prefix
from mllmu.models.engine.image_features import FEATURES, features_of
from mllmu.models.engine.tree import Level
from mllmu.models.families import Turn
from mllmu.models.families._masks import runs
from mllmu.models.loading import Loaded
from mllmu.models.parts import core

SHORTEST = 16
"""Tokens of an opening that are worth a level of their own; a shorter one is read with every prompt."""


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt, and the turn that they say."""

    ids: Sequence[int]
    turn: Turn

    @property
    def opening(self) -> Hashable:
        """System text and examples; prompts are only compared with those of the same opening."""
        return (self.turn.system, self.turn.before, self.turn.image is not None)


@dataclass
class Step:
    """The nodes of a level: behind which node of the level before, and which tokens of which prompt."""

    parents: list[int] = field(default_factory=list)
    pieces: list[tuple[int, slice]] = field(default_factory=list)

    def add(self, parent: int, prompt: int, start: int, end: int) -> int:
        """A node of the tokens from ``start`` to ``end`` of a prompt; returns its number."""
        self.parents.append(parent)
        self.pieces.append((prompt, slice(start, end)))
        return len(self.parents) - 1


@dataclass
class Plan:
    """Prompts that share in the same manner: each step goes on from the one before, the last has a node a prompt."""

    steps: list[Step]
    members: list[int] = field(default_factory=list)


def apart(prompts: Sequence[Prompt]) -> list[Plan]:
    """Every prompt by itself, all at once: what a prompt begins with depends on what comes behind it."""
    whole = Step()
    for i, prompt in enumerate(prompts):
        whole.add(0, i, 0, len(prompt.ids))
    return [Plan([whole], list(range(len(prompts))))]


def plan(prompts: Sequence[Prompt], own_starts: Sequence[int]) -> list[Plan]:
    """What is read in which order, for all prompts.

    Args:
        own_starts: where the first token of each prompt's own image is, or 0 if what comes before it cannot be read
            without it; of no meaning where there is none.
    """
    plans: dict[tuple[bool, bool], Plan] = {}
    for members in _grouped(range(len(prompts)), lambda i: prompts[i].opening):
        has_image = prompts[members[0]].turn.image is not None
        opening = _opening(prompts, own_starts, members)
        kind = plans.setdefault((opening > 0, has_image), Plan([Step() for _ in range(1 + (opening > 0) + has_image)]))
        top = kind.steps[0].add(0, members[0], 0, opening) if opening else 0
        for alike in _grouped(members, lambda i: prompts[i].turn.image):
            parent, start = top, opening
            if has_image:
                start = shared_length([prompts[i].ids for i in alike])
                parent = kind.steps[-2].add(top, alike[0], opening, start)
            for i in alike:
                kind.steps[-1].add(parent, i, start, len(prompts[i].ids))
                kind.members.append(i)
    return list(plans.values())


def _grouped(items: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    found: dict[Hashable, list[int]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _opening(prompts: Sequence[Prompt], own_starts: Sequence[int], members: Sequence[int]) -> int:
    """How many tokens prompts of one opening begin with, before their own images; 0 if too few to matter."""
    images = {prompts[i].turn.image for i in members}
    if len(members) == 1 or (len(images) == 1 and None not in images):
        return 0  # an image that all show is shared with what comes before it
    length = shared_length([prompts[i].ids for i in members])
    if None not in images:
        length = min(length, *(own_starts[i] for i in members))
    return length if length >= SHORTEST else 0


def read_and_write(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    limits: Sequence[int],
    ends: frozenset[int],
    owners: Sequence[int] = (),
    candidates: Sequence[Sequence[int]] = (),
) -> tuple[list[list[int]], list[float]]:
    """The tokens of a greedy reply to every prompt, and the log-probability of candidates in nats.

    Args:
        limits, ends: most tokens of each reply, and the tokens that end one.
        owners, candidates: the number of the prompt that each candidate is a reply to, and its tokens.
    """
    written: list[list[int]] = [[] for _ in prompts]
    sums = [0.0] * len(candidates)
    for members, level in read(loaded, prompts):
        first_NV = prefix.next_logits(loaded.model, level)
        node = {prompt: number for number, prompt in enumerate(members)}
        own = [i for i, prompt in enumerate(owners) if prompt in node]
        parents, replies = [node[owners[i]] for i in own], [candidates[i] for i in own]
        for i, value in zip(own, prefix.reply_logps(loaded.model, level, first_NV, parents, replies), strict=True):
            sums[i] = value
        found = prefix.decode(loaded.model, level, first_NV, [limits[i] for i in members], ends)
        for i, reply in zip(members, found, strict=True):
            written[i] = reply
    return written, sums


def read(loaded: Loaded, prompts: Sequence[Prompt]) -> list[tuple[list[int], Level]]:
    """Read prompts; returns levels, and for each which prompts its nodes are."""
    plans, features = layout(loaded, prompts)
    found = []
    for each in plans:
        level: Level | None = None
        for step in each.steps:
            ids = [prompts[i].ids[piece] for i, piece in step.pieces]
            images = _images(loaded, prompts, features, step)
            told = [_positions(loaded, prompts[i], piece) for i, piece in step.pieces]
            ahead_M, ends = _ahead(loaded, ids), step is each.steps[-1]
            level = prefix.read(
                loaded.model, level, step.parents, ids, images, positions=told, ahead_M=ahead_M, ends=ends
            )  # fmt: skip
        assert level is not None  # noqa: S101 - a plan has at least one step
        found.append((each.members, level))
    return found


def layout(loaded: Loaded, prompts: Sequence[Prompt]) -> tuple[list[Plan], list[list[Tensor]] | None]:
    """The plan of prompts, and the features of each one's images; None if images are put in as pixels."""
    features = features_of(loaded, [prompt.turn.images for prompt in prompts])
    if loaded.family.looks_ahead == "prompt":
        return apart(prompts), features
    mark = loaded.image_token_id
    starts = [_own_start(prompt, features[i] if features else None, mark) for i, prompt in enumerate(prompts)]
    return plan(prompts, starts), features


def _own_start(prompt: Prompt, features: list[Tensor] | None, mark: int | None) -> int:
    places = [place for place, token in enumerate(prompt.ids) if token == mark]
    if not places or (len(prompt.turn.images) > 1 and not features):
        return 0
    return places[-len(features[-1])] if features else places[0]


def _images(
    loaded: Loaded, prompts: Sequence[Prompt], features: list[list[Tensor]] | None, step: Step
) -> dict[str, Tensor]:
    """The images among the tokens of a step: their part of the features, or the pixels of all that they show."""
    parts, shown, mark = [], [], loaded.image_token_id
    for i, piece in step.pieces:
        before, here = (prompts[i].ids[part].count(mark) for part in (slice(piece.start), piece))
        if here and features:
            parts.append(torch.cat(features[i])[before : before + here])
        elif here:
            shown.append(prompts[i].turn)
    if parts:
        return {FEATURES: torch.cat(parts)}
    return {key: value.to(loaded.device) for key, value in loaded.encoder.images(shown).items()}


def _positions(loaded: Loaded, prompt: Prompt, piece: slice) -> list[Sequence[int]] | None:
    """The positions of a part of a prompt by axis; None if no image is in it, so that they just go on."""
    if loaded.image_token_id not in prompt.ids[piece]:
        return None
    own, images = core(loaded.model), partial(loaded.encoder.images, [prompt.turn])
    return [axis[piece.start :] for axis in loaded.family.positions(own, prompt.ids[: piece.stop], images)]


def _ahead(loaded: Loaded, ids: Sequence[Sequence[int]]) -> Tensor | None:
    """[M] the number of the tokens that each token of some nodes sees forwards too; None if no token does."""
    looks, mark = loaded.family.looks_ahead, loaded.image_token_id
    if looks == "prompt":
        return torch.zeros(sum(map(len, ids)), dtype=torch.long)
    marked_M = torch.tensor([token == mark for row in ids for token in row])
    return runs(marked_M[None])[0] if looks == "image" and marked_M.any() else None
