"""A step divided: among processes, each of which sees the logits of all, and into parts, for less memory.

Losses here are means over tokens, over replies, differences between passes, and whatever a method makes up, so the
mean of the losses of shares is not the loss. Instead every process gathers the logits of all and computes the very
same loss. Backward reaches only its own share:

    dL/dw = sum over processes of (dL/dlogits of its share) * (dlogits/dw)
          = mean over processes of the gradient there, as the gather hands back its gradient times their number

which is how ``DistributedDataParallel`` and FSDP average too, and leaves terms right that depend on the weights
directly. Exact for every loss on logits or hidden states, but for the order of sums.

Shapes: B replies, N labelled tokens of all of them, X what is gathered for each (vocabulary, or hidden size).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from mllmu.core import ranks
from mllmu.models.engine.forward import Forward, labelled, run_hidden, run_logits
from mllmu.models.families import Batch, Turn
from mllmu.parallel import team

MakeBatch = Callable[[Sequence[Turn]], Batch]
"""Encodes turns as a batch; the turns of a step, or a share of them."""


def forward(model: Any, turns: Sequence[Turn], make: MakeBatch, *, at_once: int | None = None) -> Forward:
    """One pass over the turns of a step; reply b is that of ``turns[b]``, whoever has run it.

    Args:
        at_once: most turns in one run of the model; None: all. See :func:`_own`.
    """
    logits_NV, labels_N, row_N = together(partial(run_logits, model), turns, make, at_once)
    return Forward(logits_NV, labels_N, row_N, len(turns))


def hidden(model: Any, turns: Sequence[Turn], make: MakeBatch, layer: int, *, at_once: int | None = None) -> Tensor:
    """[N, D] hidden states behind a layer of the turns; see :func:`~mllmu.models.engine.forward.run_hidden`."""
    return together(partial(run_hidden, model, layer=layer), turns, make, at_once)[0]


@torch.no_grad()
def tokens(turns: Sequence[Turn], make: MakeBatch, *, at_once: int | None = None) -> tuple[Tensor, Tensor]:
    """[N] the labelled tokens of a step and [N] the turn of each, in the order of :func:`forward`, without a pass."""
    _, labels_N, row_N = together(lambda batch: labelled(batch)[0][:, None], turns, make, at_once)
    return labels_N, row_N


def together(
    run: Callable[[Batch], Tensor], turns: Sequence[Turn], make: MakeBatch, at_once: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, X] what ``run`` gives for the labelled tokens, the tokens [N], and the index of the turn of each [N]."""
    shares = share(turns, ranks.count())
    largest = max(1, *map(len, shares))
    parts = math.ceil(largest / min(at_once or largest, largest))
    if ranks.count() == 1 and parts == 1:
        batch = make(turns)
        return run(batch), *labelled(batch)
    own_NX, labels_N, row_N = _own(run, turns, make, cut(shares[ranks.rank()], parts))
    if ranks.count() == 1:
        return own_NX, labels_N, row_N
    sizes = _sizes(own_NX)
    facts_N2 = _gather(torch.stack([labels_N, row_N], dim=1), sizes)
    return _Gather.apply(own_NX, sizes), facts_N2[:, 0], facts_N2[:, 1]


def _own(
    run: Callable[[Batch], Tensor], turns: Sequence[Turn], make: MakeBatch, parts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The results of this process, part by part; see :func:`together`.

    Of several parts no activation is kept: each is run again when backward reaches it, with the gradient of the loss
    of *all* parts at its logits. So memory is that of one part (and of all logits), time about a third more, and the
    gradient that of the whole, whatever the loss.
    """
    found = []
    for places in parts:
        # whoever has nothing to do runs a turn for nothing, so that all have the same graph
        batch = make([turns[place] for place in places or [0]])
        if len(parts) > 1 and torch.is_grad_enabled():
            # by its tensors, from which the devices whose generators must be put back are found
            again = partial(_ignoring_tensors, run, batch)
            values_NX: Tensor = checkpoint(again, *batch.inputs.values(), use_reentrant=False)
        else:
            values_NX = run(batch)
        labels_N, row_N = labelled(batch)
        row_N = torch.tensor(places or [0], device=row_N.device)[row_N]
        kept = slice(None) if places else slice(0)
        found.append((values_NX[kept], labels_N[kept], row_N[kept]))
    values, labels, rows = zip(*found, strict=True)
    return torch.cat(values), torch.cat(labels), torch.cat(rows)


def _ignoring_tensors(run: Callable[[Batch], Tensor], batch: Batch, *tensors: Tensor) -> Tensor:
    del tensors
    return run(batch)


def share(turns: Sequence[Turn], number: int) -> list[list[int]]:
    """Places of the turns of each process, about as many for each; turns of one image stay together.

    >>> share([Turn(prompt="a"), Turn(prompt="b"), Turn(prompt="c")], 2)
    [[0, 1], [2]]
    """
    first: dict[object, int] = {}
    for place, turn in enumerate(turns):
        first.setdefault(_prefix(turn), place)
    return cut(sorted(range(len(turns)), key=lambda place: first[_prefix(turns[place])]), number)


def _prefix(turn: Turn) -> object:
    return turn.system, turn.before, turn.image


def cut(places: Sequence[int], number: int) -> list[list[int]]:
    """Cut a list into a number of parts whose lengths differ by at most one.

    >>> cut([4, 5, 6], 2)
    [[4, 5], [6]]
    """
    small, larger = divmod(len(places), number)
    ends = [n * small + min(n, larger) for n in range(number + 1)]
    return [list(places[start:end]) for start, end in pairwise(ends)]


class _Gather(torch.autograd.Function):
    """Rows of all processes, in their order; the gradient of the own rows times the number of processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int]) -> Tensor:
        start = sum(sizes[: ranks.rank()])
        ctx.own = slice(start, start + len(own))
        return _gather(own, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * ranks.count(), None


def _sizes(own: Tensor) -> list[int]:
    """Number of rows of every process."""
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(ranks.count())]
    team.team()
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    return [int(count) for count in counts]


def _gather(own: Tensor, sizes: Sequence[int]) -> Tensor:
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded)
    return torch.cat([rows[:size] for rows, size in zip(everyone, sizes, strict=True)])


def average_gradients(weights: Sequence[Tensor]) -> None:
    """Put the mean over processes into every ``grad``; a weight that no process has reached keeps none."""
    if ranks.count() == 1:
        return
    for weight, gradient in zip(weights, average(weights, [weight.grad for weight in weights]), strict=True):
        weight.grad = gradient


def gradients(value: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradient of a loss of :func:`forward` for each weight, the same in all processes; None: it has no influence."""
    found = torch.autograd.grad(value, list(weights), allow_unused=True)
    return list(found) if ranks.count() == 1 else average(weights, found)


def average(weights: Sequence[Tensor], values: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Means over processes of values like the weights; None counts as 0, and stays None where it is so everywhere."""
    team.team()
    there = torch.tensor([value is not None for value in values], device=weights[0].device, dtype=torch.float32)
    flat = torch.cat(
        [
            there,
            *(
                torch.zeros_like(weight, dtype=torch.float32).flatten() if value is None else value.float().flatten()
                for weight, value in zip(weights, values, strict=True)
            ),
        ]
    )
    dist.all_reduce(flat)
    reached, *sums = flat.split([len(there), *(weight.numel() for weight in weights)])
    return [
        (total / ranks.count()).view_as(weight).to(weight.dtype) if found else None
        for weight, total, found in zip(weights, sums, reached.tolist(), strict=True)
    ]


def agree(weights: Sequence[Tensor]) -> None:
    """Make tensors those of the leading process, in place."""
    if ranks.count() > 1:
        team.team()
        with torch.no_grad():
            for weight in weights:
                dist.broadcast(weight, 0)
