"""How a step is divided to fit into memory: activations are computed again, then parts are halved.

Data and recipe say which turns a step has, memory only how they are run: whichever division is taken, the step has the
same terms and the same gradient, up to the order of sums. What is tried, in this order::

    all turns at once, activations kept
    all turns at once, activations computed again        one more forward pass
    a half, a quarter, ... of the turns at once          one more still, and what turns share is read in every part

:func:`choose` takes the first that fits by count (:mod:`mllmu.training.cost`), so does ``mllmu plan``; a step that does
not fit all the same goes on to the next (:func:`make_smaller`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed as dist

from mllmu.config.recipe import Lora
from mllmu.core import process
from mllmu.core.errors import ModelError
from mllmu.models.devices import empty_caches, free_bytes, recompute_activations, recomputes
from mllmu.models.families import IGNORE, Batch, Turn, core
from mllmu.models.loading import Loaded
from mllmu.parallel import team
from mllmu.training.cost import ModelOutline, outline, step_cost
from mllmu.training.distributed import MakeBatch, share

if TYPE_CHECKING:
    from mllmu.training.loop import Training

LARGE = 10**8
"""Weights of a model whose memory is counted before it is trained; smaller ones just try."""
ROUND = 64
"""Tokens."""
SHARE = {"cpu": 0.8}
"""Of the free memory that a step may take by count. On other devices a step that is too large is tried and repeated,
which costs a second, so the count itself decides; on a CPU the system ends a process that takes too much."""


def divisions(batch_size: int, most: int | None, *, recompute: bool | Literal["auto"]) -> Iterator[tuple[int, bool]]:
    """How a step can be divided: turns at once, and whether activations are computed again; see the module.

    >>> list(divisions(5, None, recompute="auto"))
    [(5, False), (5, True), (3, True), (2, True), (1, True)]
    """
    part = min(batch_size, most or batch_size)
    if recompute == "auto":
        yield part, False
    yield part, recompute is not False
    while part > 1:
        part = (part + 1) // 2
        yield part, recompute is not False


def step_bytes(
    model: ModelOutline,
    lora: Lora | None,
    shapes: Sequence[tuple[int, int, int]],
    *,
    whole: bool,
    logits: float,
    reference: bool,
    recompute: bool,
) -> float:
    """Bytes of a step beyond weights and optimiser.

    Args:
        shapes: of what is run at once of each side: sequences, tokens of one, labelled tokens.
        whole: this is all of a side, and the sides wait for each other; otherwise all logits and their gradient wait.
        logits: bytes of all logits of a step.
        reference: the logits of a reference wait too.
    """
    costs = [step_cost(model, lora, *shape, recompute=recompute) for shape in shapes]
    kept = [cost.kept for cost in costs]
    waiting = sum(kept) - max(kept) if whole else 2 * logits
    return max(cost.peak for cost in costs) + waiting + logits * reference


def choose(
    loaded: Loaded,
    model: Any,
    training: Training,
    sides: Sequence[Sequence[Turn]],
    make: MakeBatch,
    *,
    reference: bool = False,
) -> None:
    """Divide the steps of a training by the memory that is there.

    Args:
        loaded, model: what is trained, and the same with the weights that are trained.
        sides: the turns of a step.
        make: encodes some of them.
        reference: the loss compares with a frozen reference.
    """
    free = room(loaded, model)
    sides = [[turns[index] for index in share(turns, process.count())[0]] for turns in sides if turns]
    outlined = outline(core(model).config, loaded.family, packs=loaded.packs)
    for at_once, recompute in divisions(training.batch_size, training.micro_batch_size, recompute=training.recompute):
        parts = [turns[:at_once] for turns in sides]
        shapes = [shape_of(make(part)) for part in parts]
        labelled = sum(n * len(turns) / len(part) for (_, _, n), turns, part in zip(shapes, sides, parts, strict=True))
        needed = step_bytes(
            outlined,
            training.lora,
            shapes,
            whole=parts == sides,
            logits=4 * labelled * int(core(model).config.get_text_config().vocab_size),
            reference=reference,
            recompute=recompute,
        )
        if needed <= free:
            break
    divide(model, training, at_once, recompute=recompute)


def room(loaded: Loaded, model: Any) -> float:
    """Bytes that a step may take: what is free, without what gradients and optimiser will hold; of several the least.

    With several processes all divide a step alike.
    """
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    free: float = SHARE.get(loaded.device.type, 1.0) * free_bytes(loaded.device) - 3 * trained
    if process.count() == 1:
        return free
    team.team()
    least = torch.tensor(free, dtype=torch.float64, device=loaded.device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return float(least)


def shape_of(batch: Batch) -> tuple[int, int, int]:
    """Sequences, tokens of one, labelled tokens; the latter rounded up, so that batches alike are counted once."""
    sequences, tokens = batch.labels.shape
    labelled = int((batch.labels != IGNORE).sum())
    return sequences, -(-tokens // ROUND) * ROUND, -(-labelled // ROUND) * ROUND


def divide(model: Any, training: Training, at_once: int, *, recompute: bool) -> None:
    """Run the steps of a training in such parts from now on."""
    own = core(model)
    if recompute != recomputes(own):
        recompute_activations(own, on=recompute)
    training.recompute = True if recompute else training.recompute
    training.micro_batch_size = at_once if at_once < training.batch_size else training.micro_batch_size


def make_smaller(model: Any, training: Training) -> None:
    """Go on to the next smaller division, after a step that did not fit.

    Raises:
        ModelError: there is none.
    """
    tries = divisions(training.batch_size, training.micro_batch_size, recompute=training.recompute)
    next(tries)
    following = next(tries, None)
    if following is None or process.count() > 1:
        raise ModelError(
            f"{training.label}: out of memory in training with {training.micro_batch_size or training.batch_size} "
            "question(s) at once. Set micro_batch_size (finetune, unlearn) and model.gradient_checkpointing: true, or "
            "use model.quantize: nf4, a smaller model, or a device with more memory; what is finished is kept."
        ) from None
    at_once, recompute = following
    divide(model, training, at_once, recompute=recompute)
    gc.collect()
    empty_caches()
    training.progress.note(
        f"{training.label}: a step did not fit into memory and is repeated, {at_once} question(s) at once"
        f"{', activations computed again' if recompute else ''}; the result is the same."
    )


def put_back(memory: dict[str, float], before: dict[str, float]) -> None:
    """Make the numbers that a loss carries what they were before a step, in place."""
    memory.clear()
    memory.update(before)
