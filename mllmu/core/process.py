"""This process: its place among the processes of the run, its random numbers, and what it reports while it works.

Without a launcher (``torchrun``, ``accelerate launch``) there is one process. Random numbers depend on what an item is,
never on the order in which items are visited. The pipeline calls ``stage`` of its :class:`Progress` once per stage, and
``start``, ``advance`` ... ``finish`` around every countable task. One task runs at a time; starting another ends the
one before. Tasks that run side by side have a ``lane`` each. Terminal displays are in :mod:`mllmu.cli.screen`.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
"""Variables that a launcher sets for every process."""


def count() -> int:
    """Number of processes of this run."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank())) if count() > 1 else 0


def leads() -> bool:
    """This process goes through the run and writes; true where there is only one."""
    return rank() == 0


def derive(seed: int, *keys: str | int) -> int:
    """Derive a 63-bit seed from a base seed and the identity of an item.

    seed' = first 8 bytes of SHA-256(seed / key1 / key2 ...), top bit cleared.
    The same keys give the same number on every machine and in any order of calls.
    """
    text = "\x1f".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *keys: str | int) -> random.Random:
    """A private generator for one item; see :func:`derive`."""
    return random.Random(derive(seed, *keys))  # noqa: S311 - reproducibility, not secrecy


class Progress:
    """What a long task reports to. Subclasses never raise and never change a result; this class ignores everything."""

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
        return self

    def close(self) -> None:
        """Nothing more will be reported; a live display is removed."""


class SilentProgress(Progress):
    """Shows nothing."""


@dataclass
class TokenMeter:
    """Counts of one training, and what else it says of itself; ``started`` while it runs."""

    parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    started: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


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
    facts |= meter.facts
    if meter.parameters:
        facts["trainable"] = meter.parameters
    if meter.seconds > 0 and meter.tokens:
        facts["tokens_per_s"] = round(count() * meter.tokens / meter.seconds, 1)


def start_meter(parameters: int) -> None:
    """A training of so many parameters begins."""
    if meter := _meter.get():
        meter.parameters, meter.started = parameters, time.monotonic()


def count_tokens(number: int) -> None:
    """A model reads so many tokens; outside of a training they are not counted."""
    if (meter := _meter.get()) and meter.started is not None:
        meter.tokens += number


def stop_meter(**facts: Any) -> None:
    """The training has ended, with these facts about it."""
    meter = _meter.get()
    if meter and meter.started is not None:
        meter.facts = facts
        meter.seconds, meter.started = meter.seconds + time.monotonic() - meter.started, None
