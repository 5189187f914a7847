"""What long work reports while it runs, and how fast a training reads.

Terminal displays of it are in :mod:`mllmu.cli.displays`.

The pipeline calls ``stage`` once per stage, and ``start``, ``advance`` ... ``finish`` around every countable task. One
task runs at a time; starting another ends the one before. Tasks that run side by side have a ``lane`` each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from mllmu.core import ranks


class Progress(Protocol):
    """What a long task reports to. Implementations never raise and never change a result."""

    def stage(self, name: str, detail: str) -> None:
        """A stage begins; ``detail`` says what it works on."""

    def start(self, label: str, total: int) -> None:
        """A task of ``total`` countable units begins."""

    def advance(self, n: int = 1, **facts: float) -> None:
        """``n`` more units are done; ``facts`` are the latest figures, e.g. ``loss=0.7``."""

    def finish(self) -> None:
        """The task is over."""

    def note(self, text: str) -> None:
        """One line worth reading later."""

    def lane(self) -> Progress:
        """A progress for one of several tasks that run at the same time, shown in the same display."""

    def close(self) -> None:
        """Nothing more will be reported; a live display is removed."""


class SilentProgress:
    """Shows nothing."""

    def stage(self, name: str, detail: str) -> None: ...

    def start(self, label: str, total: int) -> None: ...

    def advance(self, n: int = 1, **facts: float) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...

    def lane(self) -> Progress:
        return self

    def close(self) -> None: ...


@dataclass
class TokenMeter:
    """Counts of one training; ``started`` while it runs."""

    parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    started: float | None = None


_meter: ContextVar[TokenMeter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(facts: dict[str, Any]) -> Iterator[None]:
    """Add ``trainable`` (parameters) and ``tokens_per_s`` to ``facts``, if there is a training inside.

    Tokens are those of all passes of the training, without padding, with image tokens and those of the reference model.
    Of an interrupted training only the part of this process counts, tokens and time alike; with several processes it is
    the number of this one times theirs, as their shares of a step are alike.
    """
    meter = TokenMeter()
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)
    if meter.parameters:
        facts["trainable"] = meter.parameters
    if meter.seconds > 0 and meter.tokens:
        facts["tokens_per_s"] = round(ranks.count() * meter.tokens / meter.seconds, 1)


def start_meter(parameters: int) -> None:
    """A training of so many parameters begins."""
    if meter := _meter.get():
        meter.parameters, meter.started = parameters, time.monotonic()


def count_tokens(number: int) -> None:
    """A model reads so many tokens; outside of a training they are not counted."""
    if (meter := _meter.get()) and meter.started is not None:
        meter.tokens += number


def stop_meter() -> None:
    """The training has ended."""
    meter = _meter.get()
    if meter and meter.started is not None:
        meter.seconds, meter.started = meter.seconds + time.monotonic() - meter.started, None
