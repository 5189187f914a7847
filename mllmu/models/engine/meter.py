"""What a training costs: trainable parameters, and how many tokens a second are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmu.core import ranks
from mllmu.models.families import Batch


@dataclass
class Meter:
    """Counts while a training runs; ``tokens`` may lie on the accelerator, so that counting never waits for it."""

    trainable: int = 0
    tokens: int | Tensor = 0
    seconds: float = 0.0
    started: float | None = None


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(facts: dict[str, Any]) -> Iterator[None]:
    """Add ``trainable`` (parameters) and ``tokens_per_s`` to ``facts``, if anything is trained inside.

    Tokens are those of all passes of the training, image tokens included and padding not, of the reference model too:
    a method that needs four passes a step reads four times as many. Of an interrupted training only what this process
    did counts, tokens and time alike. With several processes it is this one's times their
    number: their shares of a step are alike.
    """
    meter = Meter()
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)
    if meter.trainable:
        facts["trainable"] = meter.trainable
    if meter.seconds > 0 and (tokens := int(meter.tokens)):
        facts["tokens_per_s"] = round(ranks.count() * tokens / meter.seconds, 1)


def begin(parameters: Iterable[Tensor]) -> None:
    """A training starts that changes these parameters."""
    if meter := _meter.get():
        meter.trainable = sum(parameter.numel() for parameter in parameters)
        meter.started = time.monotonic()


def end() -> None:
    """It has ended."""
    meter = _meter.get()
    if meter and meter.started is not None:
        meter.seconds += time.monotonic() - meter.started
        meter.started = None


def count(batch: Batch) -> None:
    """A batch is read by a model; outside of a training nothing is counted."""
    meter = _meter.get()
    if meter and meter.started is not None:
        meter.tokens = meter.tokens + num_tokens(batch)


@torch.no_grad()
def num_tokens(batch: Batch) -> Tensor:
    """Tokens of a batch without padding, on the batch's device.

    A packed row has padding at its end alone, with position 0; its last token has another, for no group is that short.
    """
    if batch.replies is None:
        return batch.inputs["attention_mask"].sum()
    positions = batch.inputs["position_ids"]
    positions_BT = positions[0] if positions.dim() == 3 else positions  # of several axes the first
    places_T = torch.arange(1, positions_BT.shape[-1] + 1, device=positions_BT.device)
    return (places_T * (positions_BT > 0)).amax(-1).sum()
