"""What a user sees when something goes wrong: one line on stderr and an exit code.

    0    done
    2    an error to be fixed by the user: a MllmuError, a full or unwritable disk, too little memory
    130  Ctrl-C; finished work is kept

Anything else is a bug of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

import typer

from mllmu.core.errors import FaultsError, MllmuError, ProcessError
from mllmu.core.ranks import leads

USER_ERROR = 2
INTERRUPTED = 130

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_BAD_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")
"""By name: torch's own class must not be imported for a command that does without torch."""


class ExplainedErrors:
    """Context manager that turns an error of the user's, or Ctrl-C, into one line and an exit code."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            typer.echo("\ninterrupted; the same command continues where it stopped", err=True)
            raise typer.Exit(INTERRUPTED)
        if error is not None and explanation(error) is not None:
            # the other processes of a run say the same; what only one of them says is a ProcessError
            if leads() or isinstance(error, ProcessError) or not isinstance(error, MllmuError):
                tell(error)
            raise typer.Exit(USER_ERROR)


def tell(error: BaseException) -> None:
    """Print an error of the user's on stderr: one line, or one more for every fault of a table."""
    for line in _lines(error):
        typer.echo(line, err=True)


def explanation(error: BaseException) -> str | None:
    """The message for an error the user can do something about; None for a bug."""
    if isinstance(error, MllmuError):
        return str(error)
    if isinstance(error, OSError):
        return _of_os_error(error)
    if type(error).__name__ in _OUT_OF_MEMORY:
        return (
            f"out of memory ({error or 'no details'}). Lower the batch sizes of the recipe "
            "(finetune.batch_size, evaluate.batch_size, batch_size of the methods); finished stages are kept."
        )
    if os.strerror(errno.ENOSPC) in str(error):  # weights are written by a library with an error class of its own
        return f"the disk is full ({error}). {_free_space()}"
    return None


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, FaultsError):
        return [f"error: {plain_line(error.summary)}", *(f"  {plain_line(fault)}" for fault in error.faults)]
    return [f"error: {plain_line(explanation(error) or str(error))}"]


def _of_os_error(error: OSError) -> str | None:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _DISK_FULL:
        return f"{place}cannot be written ({error.strerror}). {_free_space()}"
    if error.errno in _NOT_ALLOWED:
        return f"{place}access denied ({error.strerror}). Change the permissions or choose another folder with --out."
    if error.errno in _BAD_PLACE:
        return f"{place}not a usable place ({error.strerror}). Choose another path."
    return None


def _free_space() -> str:
    return "Free space or choose another folder with --out; finished stages are kept and will not be redone."


def plain_line(text: str) -> str:
    """One printable line: line breaks become spaces; terminal control characters are shown, not obeyed.

    >>> plain_line("a\\n  b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
