"""Replies on disk, by what was asked: a rerun costs nothing, and a crash loses nothing that was paid for."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from mllmu.core.errors import RunStoreError
from mllmu.core.records import Record

FILE = "replies.sqlite"


class Reply(Record):
    """What an endpoint answered: the text, and the tokens that were read and written.

    ``estimated`` says that the endpoint did not count its tokens and that four characters were taken for one.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finished: bool = True
    estimated: bool = False


class ReplyCache:
    """A table from the digest of a request to its reply, shared by threads and by processes.

    It holds neither questions nor keys; the folder is readable by its owner only. To forget the replies, delete it.

    Args:
        folder: holds ``replies.sqlite``; made if missing.

    Raises:
        RunStoreError: the folder cannot be written, or the file in it is not such a table.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        with self._explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._table = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self._table.execute("PRAGMA journal_mode=WAL")
                self._table.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            except sqlite3.Error:
                self._table.close()
                raise

    def get(self, key: str) -> Reply | None:
        """The kept reply, None if there is none."""
        with self._explained(), self._lock:
            row = self._table.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
            return Reply.model_validate_json(row[0]) if row else None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns. The first reply to a request stays."""
        with self._explained(), self._lock:
            self._table.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, reply.model_dump_json()))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._table.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValidationError) as error:
            reason = "a damaged entry" if isinstance(error, ValidationError) else error
            raise RunStoreError(
                f"{self._path}: the cache of replies cannot be used ({reason}). Free space, delete the file if it is "
                "damaged, or choose another folder with the setting 'cache'."
            ) from None
