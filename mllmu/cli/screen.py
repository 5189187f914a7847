"""What commands print: results on stdout, progress and errors on stderr; how tables write numbers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType

from mllmu.cli.displays import ConsoleProgress
from mllmu.core.process import Progress, SilentProgress, leads

WIDE = 140
"""Columns where no terminal says how many: a table written to a file should not be folded at 80."""


def results() -> Console:
    """Console on stdout. Text is printed as it is: no markup, no colours by guess."""
    return _console(stderr=False)


def say(content: RenderableType) -> None:
    """Print a table, or a line that is not wrapped."""
    results().print(content, soft_wrap=isinstance(content, str))


def number(value: float | None, digits: int = 2) -> str:
    """A cell of a table; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """A cell with both ends of an interval; a dash where there is none."""
    return "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=WIDE)
    return console


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress on stderr: live bars on a terminal, a few lines elsewhere; the bars are gone when the block ends.

    Of several processes only the leading one shows it.
    """
    display = ConsoleProgress(_console(stderr=True)) if leads() else SilentProgress()
    try:
        yield display
    finally:
        display.close()
