"""Two displays of progress: a few lines in a log, live bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from mllmu.core.progress import Progress

Clock = Callable[[], float]
"""Seconds, monotonic."""


class RunningTask:
    """Count, time and latest figures of the running task."""

    def __init__(self, label: str, total: int, now: float) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self.facts: dict[str, float] = {}
        self.began = self.printed = now

    def summary(self, now: float) -> str:
        """The line that a finished task leaves."""
        count = f"{self.done}" if self.done == self.total else f"{self.done} of {self.total}"
        return ", ".join([f"{self.label}: {count} in {duration(now - self.began)}", *figures(self.facts)])

    def state(self, now: float) -> str:
        """Count, time left and figures of an unfinished task."""
        left_s = (now - self.began) / self.done * (self.total - self.done) if self.done else 0.0
        left = [f"about {duration(left_s)} left"] if self.done else []
        return ", ".join([f"{self.label}: {self.done} of {self.total}", *left, *figures(self.facts)])


class PlainProgress:
    """Lines for a log: one when a task starts, one when it ends, and at most one per ``every_s`` seconds between.

    Args:
        console: where the lines are printed, without markup.
        every_s: least time between two lines of a task, in seconds.
        clock: tells the time.
    """

    def __init__(self, console: Console, *, every_s: float = 10.0, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.every_s = every_s
        self.clock = clock
        self.task: RunningTask | None = None

    def stage(self, name: str, detail: str) -> None:
        self.finish()
        self.print(Text(f"{name}: {detail}" if detail else name))

    def start(self, label: str, total: int) -> None:
        self.finish()
        self.task = RunningTask(label, total, self.clock())
        self.show_start(self.task)

    def advance(self, n: int = 1, **facts: float) -> None:
        if self.task is not None:
            self.task.done += n
            self.task.facts.update(facts)
            self.show_state(self.task)

    def finish(self) -> None:
        if self.task is not None:
            summary = self.task.summary(self.clock())
            self.close()
            self.note(summary)

    def note(self, text: str) -> None:
        self.print(Text(f"  {text}"))

    def lane(self) -> Progress:
        return PlainProgress(self.console, every_s=self.every_s, clock=self.clock)

    def close(self) -> None:
        self.task = None

    def print(self, text: Text) -> None:
        """Print one line, however long."""
        self.console.print(text, soft_wrap=True)

    def show_start(self, task: RunningTask) -> None:
        """A task has begun."""
        self.note(f"{task.label}: 0 of {task.total}")

    def show_state(self, task: RunningTask) -> None:
        """A task has advanced."""
        now = self.clock()
        if now - task.printed >= self.every_s and task.done < task.total:
            task.printed = now
            self.note(task.state(now))


class RichProgress(PlainProgress):
    """Live on a terminal: the stage, a bar, the count, the time left and the latest figures.

    A finished task leaves one line; the bar itself is removed. ``close`` must be called, or the cursor stays hidden.
    """

    def __init__(self, console: Console, *, clock: Clock = time.monotonic, bars: Bars | None = None) -> None:
        super().__init__(console, clock=clock)
        self.row: TaskID | None = None
        self.bars = bars or Bars(
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
        self.print(Text.assemble((name, "bold"), "  ", (detail, "dim")))

    def lane(self) -> Progress:
        return RichProgress(self.console, clock=self.clock, bars=self.bars)

    def close(self) -> None:
        if self.row is not None:
            self.bars.remove_task(self.row)
            if not self.bars.task_ids:  # other lanes may still show theirs
                self.bars.stop()
        self.task = self.row = None

    def show_start(self, task: RunningTask) -> None:
        self.bars.start()
        self.row = self.bars.add_task(task.label, total=task.total, figures="")

    def show_state(self, task: RunningTask) -> None:
        if self.row is not None:
            self.bars.update(self.row, completed=task.done, figures=", ".join(figures(task.facts)))


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
