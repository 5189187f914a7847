"""A step divided: among processes, each of which sees the logits of all, and into parts, for less memory.

Losses here are means over tokens, over replies, differences between passes, and whatever a method makes up, so the
mean of the losses of shares is not the loss. Instead every process gathers the logits of all and computes the very
same loss. Backward reaches only its own share:

    dL/dw = sum over processes of (dL/dlogits of its share) * (dlogits/dw)
          = mean over processes of the gradient there, as the gather hands back its gradient times their number

which is how ``DistributedDataParallel`` and FSDP average too, and leaves terms right that depend on the weights
directly. Exact for every loss on logits or hidden states, but for the order of sums.

Shapes: N labelled tokens of all turns, X what is gathered for each (vocabulary, or hidden size).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from mllmu.core import process
from mllmu.models.encoding import grouped
from mllmu.models.engine.forward import labelled
from mllmu.models.families import Batch, Turn
from mllmu.parallel import team

MakeBatch = Callable[[Sequence[Turn]], Batch]
"""Encodes turns as a batch; the turns of a step, or some of them."""
RunBatch = Callable[[Batch], Tensor]
"""[N, X] what is computed for the labelled tokens of a batch."""


def run_divided(
    run: RunBatch, turns: Sequence[Turn], make: MakeBatch, at_once: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`mllmu.training.batches.run_step` gives, each process having run its share, part by part."""
    shares = share(turns, process.count())
    largest = max(1, *map(len, shares))
    parts = math.ceil(largest / min(at_once or largest, largest))
    own_NX, labels_N, row_N = _own(run, turns, make, cut(shares[process.rank()], parts))
    if process.count() == 1:
        return own_NX, labels_N, row_N
    sizes = _sizes(own_NX)
    tokens_N2 = _gather(torch.stack([labels_N, row_N], dim=1), sizes)
    return _Gather.apply(own_NX, sizes), tokens_N2[:, 0], tokens_N2[:, 1]


def _own(
    run: RunBatch, turns: Sequence[Turn], make: MakeBatch, parts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The results of this process, part by part; a part is a list of indices of turns.

    Of several parts no activation is kept: each is run again when backward reaches it, with the gradient of the loss
    of *all* parts at its logits. So memory is that of one part (and of all logits), time about a third more, and the
    gradient that of the whole, whatever the loss.
    """
    results = []
    for indices in parts:
        # a process without turns runs one and drops the result, so that all have the same graph
        batch = make([turns[index] for index in indices or [0]])
        if len(parts) > 1 and torch.is_grad_enabled():
            # given the tensors, checkpoint finds the devices whose random state it must restore
            tensors = batch.inputs.values()
            values_NX: Tensor = checkpoint(lambda *_, batch=batch: run(batch), *tensors, use_reentrant=False)
        else:
            values_NX = run(batch)
        labels_N, row_N = labelled(batch)
        row_N = torch.tensor(indices or [0], device=row_N.device)[row_N]
        kept = slice(None) if indices else slice(0)
        results.append((values_NX[kept], labels_N[kept], row_N[kept]))
    values, labels, rows = zip(*results, strict=True)
    return torch.cat(values), torch.cat(labels), torch.cat(rows)


def share(turns: Sequence[Turn], number: int) -> list[list[int]]:
    """Indices of the turns of each process, about as many for each; turns of one image stay together.

    >>> share([Turn(prompt="a"), Turn(prompt="b"), Turn(prompt="c")], 2)
    [[0, 1], [2]]
    """
    alike = grouped(range(len(turns)), lambda index: turns[index].opening)
    return cut([index for indices in alike.values() for index in indices], number)


def cut(indices: Sequence[int], number: int) -> list[list[int]]:
    """Cut a list into a number of parts whose lengths differ by at most one.

    >>> cut([4, 5, 6], 2)
    [[4, 5], [6]]
    """
    return [part.tolist() for part in torch.tensor(indices).tensor_split(number)]


class _Gather(torch.autograd.Function):
    """Rows of all processes, in their order; the gradient of the own rows times the number of processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int]) -> Tensor:
        start = sum(sizes[: process.rank()])
        ctx.own = slice(start, start + len(own))
        return _gather(own, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * process.count(), None


def _sizes(own: Tensor) -> list[int]:
    """Number of rows of every process."""
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(process.count())]
    team.team()
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    return [int(count) for count in counts]


def _gather(own: Tensor, sizes: Sequence[int]) -> Tensor:
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])


def average_gradients(weights: Sequence[Tensor]) -> None:
    """Put the mean over processes into every ``grad``; a weight that no process has reached keeps none."""
    for weight, gradient in zip(weights, average(weights, [weight.grad for weight in weights]), strict=True):
        weight.grad = gradient


def gradients(value: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradient of a loss for each weight, the same in all processes; None where it has no influence."""
    own = torch.autograd.grad(value, list(weights), allow_unused=True)
    return list(own) if process.count() == 1 else average(weights, own)


def average(weights: Sequence[Tensor], values: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Means over processes of values like the weights; None counts as 0, and stays None where it is so everywhere."""
    team.team()
    reached = torch.tensor([value is not None for value in values], device=weights[0].device, dtype=torch.float32)
    flat = [
        (torch.zeros_like(weight) if value is None else value).float().flatten()
        for weight, value in zip(weights, values, strict=True)
    ]
    total = torch.cat([reached, *flat])
    dist.all_reduce(total)
    reached, *sums = total.split([len(reached), *map(len, flat)])
    return [
        (sum_W / process.count()).view_as(weight).to(weight.dtype) if anywhere else None
        for weight, sum_W, anywhere in zip(weights, sums, reached.tolist(), strict=True)
    ]


def agree(weights: Sequence[Tensor]) -> None:
    """Make tensors those of the leading process, in place."""
    team.team()
    with torch.no_grad():
        for weight in weights:
            dist.broadcast(weight, 0)
