"""What long work reports while it runs. Terminal displays of it are in :mod:`mllmu.cli.displays`.

The pipeline calls ``stage`` once per stage, and ``start``, ``advance`` ... ``finish`` around every countable task. One
task runs at a time; starting another ends the one before. Tasks that run side by side have a ``lane`` each.
"""

from __future__ import annotations

from typing import Protocol


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
