"""The consoles: results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mllmu.cli.displays import PlainProgress, RichProgress
from mllmu.core.progress import Progress, SilentProgress
from mllmu.core.ranks import leads

WIDE = 140
"""Columns where there is no terminal to ask: a table written to a file should not be folded at 80."""


def results() -> Console:
    """Console on stdout. Text given to it is printed as it is: no markup, no guessing what to colour."""
    return _console(stderr=False)


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
    console = _console(stderr=True)
    shown: Progress = SilentProgress()
    if leads():
        shown = RichProgress(console) if console.is_terminal else PlainProgress(console)
    try:
        yield shown
    finally:
        shown.close()
