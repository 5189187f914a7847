"""One command at a time works in a run folder.

The lock is the operating system's (``flock`` on ``run.lock``): it is gone with the process that holds it, also after
kill -9, so no lock is ever stale. Who holds it stands in ``run.lock.json``, for the message alone. What a command
starts (workers, the ranks of a distributed launch) shares its folder; only the command itself takes the lock.
"""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mllmu.core import process
from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import explain_os_errors, read_json, write_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = "run.lock"
HOLDER_FILE = "run.lock.json"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Keep every other command out of a run folder while the block runs; the folder is made if there is none.

    Of several processes of one run the leading one holds it for all.

    Raises:
        RunStoreError: another process is at work there; names it.
    """
    if not process.leads():
        yield
        return
    from filelock import FileLock

    with explain_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK_FILE)
    _acquire(lock, root)
    try:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_json(root / HOLDER_FILE, holder)
        yield
    finally:
        (root / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: BaseFileLock, root: Path) -> None:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = read_json(root / HOLDER_FILE)  # not there yet if the other one has this moment begun
        who = "process {pid} on {host} since {since}".format(**holder) if holder else "another process"
        raise RunStoreError(
            f"{root}: {who} is at work in this run folder. Wait for it or stop it, or use --out for another run folder."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(f"{root}: this file system has no locks; let one command at a time work there", stacklevel=3)
