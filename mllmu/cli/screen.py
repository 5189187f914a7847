"""What commands print: results on stdout, progress and errors on stderr; how tables write numbers and times."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mllmu.core.process import Progress, SilentProgress, leads

WIDE = 140
"""Columns where no terminal says how many: a table written to a file should not be folded at 80."""
LEAST_COLUMNS = 2
LONGEST_CELL = 30
"""Longer texts are folded, shorter ones never."""
EVERY_S = 10.0
"""Least time between two lines of a task where there is no terminal."""


def results() -> Console:
    """Console on stdout. Text is printed as it is: no markup, no colours by guess."""
    return _console(stderr=False)


def say(content: RenderableType) -> None:
    """Print a table, or a line that is not wrapped; of a table that is too wide, the last columns are left out."""
    console = results()
    for part in content.renderables if isinstance(content, Group) else [content]:
        if isinstance(part, Table):
            fit(part, console)
        console.print(part, soft_wrap=isinstance(part, str))


def fit(table: Table, console: Console) -> None:
    """Leave out the last columns of a table until names and numbers fit unbroken, and say which; the first two stay."""
    for index, column in enumerate(table.columns):
        widths = [cell_len(str(cell)) for cell in (column.header, *column.cells)]
        if index == 0 or max(widths) <= LONGEST_CELL:
            column.no_wrap, column.min_width = True, max(widths)
    left_out: list[str] = []
    unbounded = console.options.update(max_width=10_000)
    while len(table.columns) > LEAST_COLUMNS and Measurement.get(console, unbounded, table).minimum > console.width:
        left_out.insert(0, str(table.columns.pop().header))
    if left_out and any(left_out):
        note = f"no room for: {', '.join(filter(None, left_out))}"
        table.caption = f"{table.caption}; {note}" if table.caption else note


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on stderr: live bars on a terminal, a few lines elsewhere; the bars are gone when the block ends.

    Of several processes only the leading one shows it.
    """
    display: Progress = ConsoleProgress(_console(stderr=True)) if leads() else SilentProgress()
    try:
        yield display
    finally:
        display.close()


class ConsoleProgress(Progress):
    """Reports one task at a time; a finished task leaves one line.

    On a terminal, an unfinished task is a bar with count, time left and latest figures; ``close`` must be called, or
    the cursor stays hidden. Elsewhere it is a line when it starts and at most one line per :data:`EVERY_S`.

    Args:
        console: prints text as it is, without markup.
        clock: tells the time, in seconds.
        bars: the bars of all lanes.
    """

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, bars: Bars | None = None
    ) -> None:
        self.console = console
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
        self.bars.add_task(label, total=total, figures="")
        self.task = self.bars.tasks[-1]
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
        if not self.console.is_terminal and not task.finished and self.clock() - self.printed >= EVERY_S:
            self.printed = self.clock()
            left_s = (task.elapsed or 0.0) * (task.remaining or 0.0) / max(task.completed, 1.0)
            self._note_task(task, f"{task.completed:g} of {task.total:g}, about {duration(left_s)} left")

    def finish(self) -> None:
        task = self.task
        if task is not None:
            self.close()
            count = f"{task.completed:g}" if task.completed == task.total else f"{task.completed:g} of {task.total:g}"
            self._note_task(task, f"{count} in {duration(task.elapsed or 0.0)}")

    def _note_task(self, task: Task, count: str) -> None:
        self.note(", ".join([f"{task.description}: {count}", *figures(self.facts)]))

    def note(self, text: str) -> None:
        self.print(Text(f"  {text}"))

    def lane(self) -> Progress:
        return ConsoleProgress(self.console, clock=self.clock, bars=self.bars)

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
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 2) -> str:
    """A cell of a table; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """A cell with both ends of an interval; a dash where there is none."""
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
