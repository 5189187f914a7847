"""How long work says where it is: live bars on a terminal, a few lines in a log, nothing in tests.

The pipeline calls ``stage`` once a stage, and around every countable task ``start``, ``advance`` ... ``finish``. There
is one task at a time; starting another ends the one before. Tasks that go on side by side have a ``lane`` each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text


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
        """A progress for one of several tasks that go on at the same time, shown in the same place."""

    def close(self) -> None:
        """Nothing more will be reported; whatever is shown live is put away."""


class SilentProgress:
    """Shows nothing."""

    def stage(self, name: str, detail: str) -> None:
        del name, detail

    def start(self, label: str, total: int) -> None:
        del label, total

    def advance(self, n: int = 1, **facts: float) -> None:
        del n, facts

    def finish(self) -> None:
        return

    def note(self, text: str) -> None:
        del text

    def lane(self) -> Progress:
        return self

    def close(self) -> None:
        return


class _Task:
    """Count, time and latest figures of the task under way."""

    def __init__(self, label: str, total: int, now: float) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self.facts: dict[str, float] = {}
        self.began = now
        self.spoke = now

    def advance(self, n: int, facts: Mapping[str, float]) -> None:
        self.done += n
        self.facts.update(facts)

    def summary(self, now: float) -> str:
        count = f"{self.done}" if self.done == self.total else f"{self.done} of {self.total}"
        return ", ".join([f"{self.label}: {count} in {duration(now - self.began)}", *figures(self.facts)])


class PlainProgress:
    """Lines for a log: one when a task starts, one when it ends, and at most one per ``every_s`` seconds between.

    Args:
        console: where the lines go; its markup is not used.
        every_s: least time between two lines of a task, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._every_s = every_s
        self._clock = clock
        self._task: _Task | None = None

    def stage(self, name: str, detail: str) -> None:
        self.finish()
        self._say(f"{name}: {detail}" if detail else name)

    def start(self, label: str, total: int) -> None:
        self.finish()
        self._task = _Task(label, total, self._clock())
        self._say(f"  {label}: 0 of {total}")

    def advance(self, n: int = 1, **facts: float) -> None:
        task, now = self._task, self._clock()
        if task is None:
            return
        task.advance(n, facts)
        if now - task.spoke >= self._every_s and task.done < task.total:
            task.spoke = now
            left_s = (now - task.began) / task.done * (task.total - task.done) if task.done else 0.0
            left = [f"about {duration(left_s)} left"] if task.done else []
            self._say("  " + ", ".join([f"{task.label}: {task.done} of {task.total}", *left, *figures(task.facts)]))

    def finish(self) -> None:
        if self._task is not None:
            self._say(f"  {self._task.summary(self._clock())}")
            self._task = None

    def note(self, text: str) -> None:
        self._say(f"  {text}")

    def lane(self) -> Progress:
        return PlainProgress(self._console, every_s=self._every_s, clock=self._clock)

    def close(self) -> None:
        self._task = None

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class RichProgress:
    """Live on a terminal: the stage, a bar, the count, the time left and the latest figures.

    A finished task leaves one line; the bar itself goes away. ``close`` must be called, or the cursor stays hidden.
    """

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, bars: Bars | None = None
    ) -> None:
        self._console = console
        self._clock = clock
        self._task: _Task | None = None
        self._row: TaskID | None = None
        self._bars = bars or Bars(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False, style="dim"),
            console=console,
            transient=True,
        )

    def stage(self, name: str, detail: str) -> None:
        self.finish()
        self._console.print(Text.assemble((name, "bold"), "  ", (detail, "dim")))

    def start(self, label: str, total: int) -> None:
        self.finish()
        self._task = _Task(label, total, self._clock())
        self._bars.start()
        self._row = self._bars.add_task(label, total=total, figures="")

    def advance(self, n: int = 1, **facts: float) -> None:
        if self._task is None or self._row is None:
            return
        self._task.advance(n, facts)
        self._bars.update(self._row, completed=self._task.done, figures=", ".join(figures(self._task.facts)))

    def finish(self) -> None:
        if self._task is None:
            return
        summary = self._task.summary(self._clock())
        self.close()
        self._console.print(Text(f"  {summary}"))

    def note(self, text: str) -> None:
        self._console.print(Text(f"  {text}"))

    def lane(self) -> Progress:
        return RichProgress(self._console, clock=self._clock, bars=self._bars)

    def close(self) -> None:
        if self._row is not None:
            self._bars.remove_task(self._row)
            if not self._bars.task_ids:  # other lanes may still show theirs
                self._bars.stop()
        self._task = self._row = None


def figures(facts: Mapping[str, float]) -> list[str]:
    """Named figures with three significant digits.

    >>> figures({"loss": 0.123456})
    ['loss 0.123']
    """
    return [f"{name} {value:.3g}" for name, value in facts.items()]


def duration(seconds: float) -> str:
    """Seconds in the largest two units that matter.

    >>> duration(8.4), duration(75), duration(3700)
    ('8 s', '1 min 15 s', '1 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
