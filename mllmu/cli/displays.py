"""Progress on a console: live bars on a terminal, a few lines in a log."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from mllmu.core.process import Progress

Clock = Callable[[], float]
"""Seconds, monotonic."""


class ConsoleProgress:
    """Reports one task at a time; a finished task leaves one line.

    On a terminal, an unfinished task is a bar with count, time left and latest figures; ``close`` must be called, or
    the cursor stays hidden. Elsewhere it is a line when it starts and at most one line per ``every_s`` seconds.

    Args:
        console: prints text as it is, without markup.
        every_s: least time between two lines of a task, in seconds.
        clock: tells the time.
        bars: the bars of all lanes.
    """

    def __init__(
        self, console: Console, *, every_s: float = 10.0, clock: Clock = time.monotonic, bars: Bars | None = None
    ) -> None:
        self.console = console
        self.every_s = every_s
        self.clock = clock
        self.bars = bars or Bars(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False, style="dim"),
            console=console,
            transient=True,
            get_time=clock,
        )
        self.task: Task | None = None
        self.facts: dict[str, float] = {}
        self.printed = 0.0

    def stage(self, name: str, detail: str) -> None:
        self.finish()
        if self.console.is_terminal:
            self.print(Text.assemble((name, "bold"), "  ", (detail, "dim")))
        else:
            self.print(Text(f"{name}: {detail}" if detail else name))

    def start(self, label: str, total: int) -> None:
        self.finish()
        row = self.bars.add_task(label, total=total, figures="")
        self.task = next(task for task in self.bars.tasks if task.id == row)
        self.facts, self.printed = {}, self.clock()
        if self.console.is_terminal:
            self.bars.start()
        else:
            self.note(f"{label}: 0 of {total}")

    def advance(self, n: int = 1, **facts: float) -> None:
        task = self.task
        if task is None:
            return
        self.facts |= facts
        self.bars.update(task.id, advance=n, figures=", ".join(figures(self.facts)))
        if not self.console.is_terminal and not task.finished and self.clock() - self.printed >= self.every_s:
            self.printed = self.clock()
            left_s = (task.elapsed or 0.0) * (task.remaining or 0.0) / max(task.completed, 1.0)
            count = f"{task.completed:g} of {task.total:g}, about {duration(left_s)} left"
            self.note(", ".join([f"{task.description}: {count}", *figures(self.facts)]))

    def finish(self) -> None:
        task = self.task
        if task is not None:
            self.close()
            count = f"{task.completed:g}" if task.completed == task.total else f"{task.completed:g} of {task.total:g}"
            after = duration(task.elapsed or 0.0)
            self.note(", ".join([f"{task.description}: {count} in {after}", *figures(self.facts)]))

    def note(self, text: str) -> None:
        self.print(Text(f"  {text}"))

    def lane(self) -> Progress:
        return ConsoleProgress(self.console, every_s=self.every_s, clock=self.clock, bars=self.bars)

    def close(self) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task.id)
            if self.console.is_terminal and not self.bars.task_ids:  # other lanes may still show theirs
                self.bars.stop()
        self.task = None

    def print(self, text: Text) -> None:
        """Print one line, however long."""
        self.console.print(text, soft_wrap=True)


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
