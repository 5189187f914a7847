"""One command at a time works in a run folder.

The lock is the operating system's (``flock`` on ``run.lock``): it is gone with the process that holds it, also after
kill -9, so no lock is ever stale. Who holds it stands in ``run.lock.json``, for the message alone. What a command
starts (workers, the ranks of a distributed launch) shares its folder; only the command itself takes the lock.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mllmu.core import manifest, process
from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.runfolder import UNIT_FILE, RunFolder, explain_os_errors, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = "run.lock"
HOLDER_FILE = "run.lock.json"
MARKER = ".mllmu"
"""In every run folder: says that mllmu may write there."""
_LEFTOVERS = re.compile(r"\..+\.[0-9a-f]{16}\.tmp|\.checkpoint\.safetensors\.tmp")
"""Names of files that a killed process was writing."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Keep every other command out of a run folder while the block runs; the folder is made if there is none.

    Its manifest is taken away at the beginning and written anew at the end, whatever the end is.

    Of several processes of one run the leading one holds it for all.

    Raises:
        RunStoreError: another process is at work there; names it. Or the folder holds other things, see :func:`claim`.
    """
    if not process.leads():
        yield
        return
    from filelock import FileLock

    claim(root)
    lock = FileLock(root / LOCK_FILE)
    _acquire(lock, root)
    try:
        (root / manifest.MANIFEST).unlink(missing_ok=True)
        _tidy(root)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        write_json(root / HOLDER_FILE, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        yield
    finally:
        with suppress(RunStoreError, DataError):  # damaged, or a full disk: the block says so, or the next command does
            manifest.write_manifest(root)
        (root / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def holder(root: Path) -> str:
    """Who is at work in a run folder, in words; empty if nobody is."""
    from filelock import FileLock, Timeout

    if not (root / LOCK_FILE).is_file():
        return ""
    lock = FileLock(root / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _who(root)
    except OSError:  # a folder that cannot be written, or a file system without locks
        return ""
    lock.release()
    return ""


def _who(root: Path) -> str:
    found = read_json(root / HOLDER_FILE)  # not there yet if the other one has this moment begun
    return "process {pid} on {host} since {since}".format(**found) if found else "another process"


def _acquire(lock: BaseFileLock, root: Path) -> None:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunStoreError(
            f"{root}: {_who(root)} is at work in this run folder. Wait for it or stop it, or use --out for another run "
            "folder."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(f"{root}: this file system has no locks; let one command at a time work there", stacklevel=3)


def claim(folder: Path, option: str = "--out") -> None:
    """Make a folder for results, or take one that is empty; nothing is written into a folder of others.

    Raises:
        RunStoreError: there is something in it, and nothing says that this program has made it; ``option`` names
            another folder.
    """
    if folder.is_dir() and any(folder.iterdir()) and not is_ours(folder):
        raise RunStoreError(
            f"{folder.absolute()}: is not empty and was not made by mllmu, so nothing is written there. Expected a new "
            f"or empty folder, or one that an earlier command has made; name another one with {option}."
        )
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARKER).is_file():
        write_atomic(folder / MARKER, "Made by mllmu, which may write here.\n")


def is_ours(folder: Path) -> bool:
    """Whether a folder is a run folder, or holds nothing but run folders and the page that links them."""
    if _is_marked(folder):
        return True
    return all(_is_marked(path) for path in folder.iterdir() if path.name not in (LOCK_FILE, HOLDER_FILE, "index.html"))


def _is_marked(folder: Path) -> bool:
    """By the marker; run folders of earlier versions by their record, their data, or their responses."""
    units = (RunFolder.DATA, f"{RunFolder.evaluation('*')}/*/{RunFolder.RESPONSES}")
    if (folder / MARKER).is_file() or any(any(folder.glob(f"{unit}/{UNIT_FILE}")) for unit in units):
        return True
    with suppress(RunStoreError, NotADirectoryError):
        return "mllmu" in read_json(folder / RunFolder.RECORD)
    return False


def _tidy(root: Path) -> None:
    """Remove the temporary files of processes that were killed; whoever holds the folder is the only one to write."""
    for path in root.rglob(".*.tmp"):
        if _LEFTOVERS.fullmatch(path.name):
            path.unlink(missing_ok=True)
