"""Seeded rounds of a fuzz test, and what came of each."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from mllmu.core.errors import MllmuError

MAX_SECONDS = 20.0
"""Processor time of one attempt: an input must not keep a command busy for long."""
OUTCOMES = ("tried", "read", "clear", "traceback", "slow", "silent")


class Fuzz:
    """The rounds of one test, and their outcomes.

    An attempt is ``clear`` when it ends in an error for the user, ``read`` when it ends without one, ``traceback`` at
    any other exception, ``slow`` beyond :data:`MAX_SECONDS`, and ``silent`` where the test calls :meth:`silent`: a
    number changed and nothing was said. The last three fail the test when it is over.
    """

    def __init__(self, name: str, rounds: int, seed: int) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._rounds, self._seed, self._round = rounds, seed, 0

    def rounds(self, share: float = 1.0) -> Iterator[Random]:
        """The random numbers of each round; ``share`` of the rounds for a test whose rounds take longer than others."""
        for number in range(max(1, round(self._rounds * share))):
            self._round = number
            yield Random(f"{self._seed}/{self.name}/{self._round}")  # noqa: S311

    @contextmanager
    def attempt(self, shown: object, clear: tuple[type[BaseException], ...] = (MllmuError,)) -> Iterator[None]:
        """One input is met inside; ``shown`` stands for it in messages, ``clear`` are the errors meant for the user."""
        began = time.process_time()
        try:
            yield
            outcome = "read"
        except clear as error:
            outcome = "clear"
            assert str(error).strip(), "an error without a message"
        except Exception as error:  # noqa: BLE001
            outcome = "traceback"
            last = traceback.extract_tb(error.__traceback__)[-1]
            self._fault(outcome, f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})", shown)
        if (seconds := time.process_time() - began) > MAX_SECONDS:
            outcome = "slow"
            self._fault(outcome, f"{seconds:.0f} s", shown)
        self.counts.update(("tried", outcome))

    def silent(self, what: str, shown: object) -> None:
        """Say that the attempt changed a number without a word."""
        self.counts["silent"] += 1
        self._fault("silent", what, shown)

    def _fault(self, outcome: str, what: str, shown: object) -> None:
        self.faults.append(f"round {self._round} of seed {self._seed}: {outcome}: {what[:500]}\n  {shown!r:.500}")
