"""Read token sequences that branch from common beginnings: what is common is computed and stored once.

The questions about one image share the image; the candidates of a question share the question; questions with the
same examples share those. What is read together is a :class:`mllmu.models.engine.tree.Level`, whose nodes go on
from nodes of a level above, so a question costs its own tokens alone, in time and in memory. Every token gets what it
would get in a sequence of its own, up to rounding.

Shapes: M new tokens of all nodes, N nodes, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from mllmu.models.engine.forward import apply_head
from mllmu.models.engine.image_features import embedded
from mllmu.models.engine.tree import Kept, Level, Reading, running
from mllmu.models.modifiers import modified
from mllmu.models.parts import core, decoder_layers

MOST_LOGITS = 2**24
"""Logits that are in memory at a time: tokens times vocabulary."""
MOST_TOKENS = 8192
"""Candidate tokens that are read at a time."""
FULL = 0.75
"""A level from which more than the rest of the replies have ended is made smaller."""


def read(
    model: Any,
    above: Level | None,
    parents: Sequence[int],
    ids: Sequence[Sequence[int]],
    images: dict[str, Tensor] | None = None,
    *,
    positions: Sequence[Sequence[Sequence[int]] | None] = (),
    ahead_M: Tensor | None = None,
    ends: bool = True,
) -> Level:
    """Read a node of at least one token behind each parent, or from the beginning; images are those among ``ids``.

    Args:
        parents: numbers of nodes of ``above``; of no meaning where there is none.
        positions, ahead_M: see :class:`mllmu.models.engine.tree.Reading`.
        ends: prompts end with this level. Where all of them go on, nobody asks what comes behind a node, and the last
            layer makes keys and values alone.
    """
    level = Level(above, parents)
    until = None if ends or modified(model) else len(decoder_layers(model)) - 1
    current = Reading(
        level, range(len(ids)), list(map(len, ids)), model.device, positions=positions, ahead_M=ahead_M, until=until
    )  # fmt: skip
    with suppress(Kept):
        level.last = _run(model, current, ids, images or {})[1]
    return level


def _append(model: Any, level: Level, nodes: Sequence[int], ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Append tokens to nodes; returns what :func:`_run` does."""
    return _run(model, Reading(level, nodes, list(map(len, ids)), model.device), ids, {})


def _run(
    model: Any, current: Reading, ids: Sequence[Sequence[int]], images: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Read tokens; returns hidden states: of the new tokens [M, D], of each node's last one [N, D]."""
    device, position_AM = model.device, current.position_AM
    ids_1M = torch.tensor([[token for row in ids for token in row]], device=device)
    with running(model, current):
        output = core(model).model(
            **embedded(model, {"input_ids": ids_1M, **images}),
            attention_mask=None,
            position_ids=(position_AM if len(position_AM) == 1 else position_AM[:, None]).to(device),
            use_cache=False,
        )
    hidden_MD: Tensor = output.last_hidden_state[0]
    return hidden_MD, hidden_MD[current.last_N]


def next_logits(model: Any, level: Level) -> Tensor:
    """[N, V] logits of the token that comes behind each node."""
    parts = [logits_MV for _, logits_MV in _logits(model, level.last)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _logits(model: Any, hidden_MD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits of hidden states, some at a time."""
    own = core(model)
    step = max(1, MOST_LOGITS // own.lm_head.weight.shape[0])
    for start in range(0, len(hidden_MD), step):
        part = slice(start, start + step)
        yield part, apply_head(own, hidden_MD[part])


def reply_logps(
    model: Any, level: Level, first_NV: Tensor, parents: Sequence[int], replies: Sequence[Sequence[int]]
) -> list[float]:
    """Log-probability in nats of each reply behind its parent node, summed over its tokens.

    Args:
        first_NV: what :func:`next_logits` gave for the level.
    """
    if not replies:
        return []
    device = first_NV.device
    parent_B, opening_B = (
        torch.tensor(values, device=device, dtype=torch.long) for values in (parents, [reply[0] for reply in replies])
    )
    norm_N = torch.cat(
        [part.float().logsumexp(-1) for part in first_NV.split(max(1, MOST_LOGITS // first_NV.shape[1]))]
    )
    sum_B = first_NV[parent_B, opening_B].float() - norm_N[parent_B]
    for some in _portions([len(reply) - 1 for reply in replies], parents):
        branch = Level(level, [parents[i] for i in some])
        hidden_MD, _ = _append(model, branch, range(len(some)), [replies[i][:-1] for i in some])
        label_M = torch.tensor([token for i in some for token in replies[i][1:]], device=device)
        logp_M = torch.cat([_logp(logits, label_M[part]) for part, logits in _logits(model, hidden_MD)])
        reply_M = torch.tensor(some, device=device).repeat_interleave(branch.lengths.to(device))
        sum_B.index_add_(0, reply_M, logp_M)
    found: list[float] = sum_B.tolist()
    return found


def _logp(logits_MV: Tensor, label_M: Tensor) -> Tensor:
    logits_MV = logits_MV.float()
    return logits_MV.gather(1, label_M[:, None])[:, 0] - logits_MV.logsumexp(-1)


def _portions(lengths: Sequence[int], parents: Sequence[int]) -> Iterator[list[int]]:
    """The replies that have tokens, of at most MOST_TOKENS tokens together, or one.

    Those of about one length come together, because they are filled up to the longest; of these what one node is
    continued with, which is read side by side.
    """
    kinds = [length.bit_length() for length in lengths]
    portion: list[int] = []
    used = 0
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (kinds[i], parents[i])):
        if portion and (used + lengths[i] > MOST_TOKENS or kinds[i] != kinds[portion[0]]):
            yield portion
            portion, used = [], 0
        portion.append(i)
        used += lengths[i]
    if portion:
        yield portion


def decode(model: Any, level: Level, first_NV: Tensor, limits: Sequence[int], ends: frozenset[int]) -> list[list[int]]:
    """Greedy replies behind the nodes of a level, each up to and including its end token or up to its limit.

    A reply that has ended costs nothing any more. The level itself stays as it is.

    Args:
        first_NV: what :func:`next_logits` gave for the level.
    """
    replies: list[list[int]] = [[] for _ in limits]
    going = list(range(len(limits)))
    chosen = best(first_NV)
    place: dict[int, int] = {}  # of each reply among the nodes of the level that grows
    while True:
        for i, token in zip(going, chosen, strict=True):
            replies[i].append(token)
        going = [i for i in going if len(replies[i]) < limits[i] and replies[i][-1] not in ends]
        if not going:
            return replies
        if len(going) <= FULL * len(place) or not place:
            level = level.growing([place.get(i, i) for i in going])
            place = {i: number for number, i in enumerate(going)}
        _, hidden_ND = _append(model, level, [place[i] for i in going], [[replies[i][-1]] for i in going])
        chosen = [token for _, logits_NV in _logits(model, hidden_ND) for token in best(logits_NV)]


def best(logits_NV: Tensor) -> list[int]:
    """[N] the likeliest token; of equals the first."""
    if logits_NV.device.type == "cpu" and logits_NV.dtype == torch.float32:
        # ten times as fast as torch's own on a CPU
        found: list[int] = logits_NV.numpy().argmax(-1).tolist()
        return found
    return [int(token) for token in logits_NV.argmax(-1).tolist()]
