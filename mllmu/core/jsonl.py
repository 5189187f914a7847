"""JSON lines: records on disk, one per line, and a journal that is appended to and read back after a crash."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from mllmu.core.errors import DataError
from mllmu.core.records import Record
from mllmu.core.runfolder import explain_os_errors, write_atomic

R = TypeVar("R", bound=Record)


def dump_lines(records: Iterable[Record]) -> str:
    """Serialise records as JSON lines (UTF-8, one object a line, default fields left out)."""
    return "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)


def parse_lines(text: str, kind: type[R], *, where: str) -> Iterator[R]:
    """Parse JSON lines into records; a bad line raises DataError naming file and line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            fault: Any = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "line"
            raise DataError(
                f"{where}:{number}: {place}: {fault['msg']}. Expected one {kind.__name__} record."
            ) from None


def read_lines(path: Path, kind: type[R]) -> list[R]:
    """Read a JSON lines file of records."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run the stage that writes it first.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    return list(parse_lines(text, kind, where=str(path)))


class Journal(Generic[R]):
    """Records appended to a file as they are made, so that a killed process loses at most the last append.

    Args:
        path: the file; made by the first :meth:`resume`.
        kind: class of the records.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> list[R]:
        """All records that were written completely; a last line cut short by a crash is left out.

        Raises:
            DataError: another line is damaged; names file and line.
        """
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode("utf-8", errors="ignore")
        return list(parse_lines(text[: text.rfind("\n") + 1], self._kind, where=str(self.path)))

    def resume(self) -> list[R]:
        """As :meth:`read`; also removes a line cut short from the file, so that appending starts on a new line."""
        records = self.read()
        write_atomic(self.path, dump_lines(records))
        return records

    def append(self, records: Iterable[R]) -> None:
        """Add records and force them to disk before returning.

        Raises:
            RunStoreError: the disk is full or cannot be written.
        """
        with explain_os_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(dump_lines(records))
            file.flush()
            os.fsync(file.fileno())
