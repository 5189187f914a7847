"""What a user sees when something goes wrong: one line on stderr and an exit code.

    0    done
    2    an error to be fixed by the user: a MllmuError, a full or unwritable disk, too little memory
    130  Ctrl-C; finished work is kept

Anything else is a bug of the program and keeps its traceback.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import typer

from mllmu.core.confidential import redacted
from mllmu.core.errors import FaultsError, MllmuError, ProcessError, is_out_of_memory, one_line
from mllmu.core.process import leads

USER_ERROR = 2
INTERRUPTED = 130

_FREE_SPACE = "Free space or choose another folder with --out; finished stages are kept and will not be redone."
_OS_ERRORS = (
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "cannot be written", _FREE_SPACE),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "access denied", "Change the permissions or choose another path."),
    ((errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG), "not a usable path", "Choose another path."),
)
"""Numbers of errors that the user can fix, what is wrong, and what to do."""


@contextmanager
def explained_errors() -> Iterator[None]:
    """Turn an error that the user can fix, or Ctrl-C, into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the same command continues where it stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if explanation(error) is None:
            raise
        # all processes of a run print the same message, so one prints it; a ProcessError is of one process alone
        if leads() or isinstance(error, ProcessError) or not isinstance(error, MllmuError):
            tell(error)
        raise typer.Exit(USER_ERROR) from None


def tell(error: BaseException) -> None:
    """Print an error on stderr: one line, and one more for every fault in a table of people."""
    typer.echo(f"error: {plain_line(redacted(explanation(error) or str(error)))}", err=True)
    for fault in error.faults if isinstance(error, FaultsError) else ():
        typer.echo(f"  {plain_line(redacted(fault))}", err=True)


def tell_bug(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    """Print the traceback of a bug on stderr, without keys and passwords."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, place))))


def explanation(error: BaseException) -> str | None:
    """The message for an error that the user can fix; None for a bug."""
    if isinstance(error, MllmuError):
        return error.summary if isinstance(error, FaultsError) else str(error)
    if is_out_of_memory(error):
        details = one_line(error) if str(error) else "no details"
        return (
            f"out of memory ({details}). Lower the batch sizes of the recipe (finetune.batch_size, "
            "evaluate.batch_size, batch_size of the methods), or the workers; finished stages are kept."
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        known = ((fault, advice) for numbers, fault, advice in _OS_ERRORS if error.errno in numbers)
        return next((f"{where}{fault} ({error.strerror}). {advice}" for fault, advice in known), None)
    if os.strerror(errno.ENOSPC) in str(error):  # weights are written by a library with an error class of its own
        return f"the disk is full ({error}). {_FREE_SPACE}"
    return None


def plain_line(text: str) -> str:
    """One printable line: line breaks become spaces; terminal control characters are shown, not obeyed.

    >>> plain_line("a\\n  b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
