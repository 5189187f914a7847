"""Reads a table of people from CSV, Excel, JSON or JSON lines, every cell as trimmed text."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import DataError, FaultsError, did_you_mean, needs_extra
from mllmu.data.files import read_text

SUFFIXES = (".csv", ".tsv", ".xlsx", ".json", ".jsonl")
MAX_BYTES = 100_000_000
MAX_SHOWN = 60
MISSING = "Set data.source.path to the table of people."


class CellFault(NamedTuple):
    """One thing that is wrong with one cell."""

    row: int
    column: str
    got: str
    expected: str

    def __str__(self) -> str:
        got = self.got if len(self.got) <= MAX_SHOWN else f"{self.got[:MAX_SHOWN]} ..."
        return f"row {self.row}, column '{self.column}': got {got!r}, expected {self.expected}"


class TableRow(NamedTuple):
    """One line of the table. ``number`` is what a spreadsheet shows beside it: the first row of people is row 2."""

    number: int
    cells: dict[str, str]


class PeopleTable(NamedTuple):
    """The head of the table and its rows; faults are rows that do not have the shape of the head."""

    columns: tuple[str, ...]
    rows: list[TableRow]
    faults: list[CellFault]


def read(path: Path) -> PeopleTable:
    """Read a table of people; empty rows are left out, empty cells are ``""``.

    Raises:
        DataError: no such file, a type of file that is not read, not UTF-8, damaged, too large, or a head that
            repeats a column or is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: a table of people is {', '.join(SUFFIXES)}, got '{suffix or path.name}'."
            f"{did_you_mean(suffix, SUFFIXES)} Save it as one of these."
        )
    _check_size(path)
    if suffix == ".xlsx":
        return _tabular(_sheet(path), [], path)
    text = read_text(path, expected="Save the table as 'CSV UTF-8', or as .xlsx.", missing=MISSING)
    if suffix in (".json", ".jsonl"):
        return _tabular(*_objects(_json(path, text, lines=suffix == ".jsonl"), path), path)
    return _tabular(_csv(path, text), [], path)


def _check_size(path: Path) -> None:
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB. Expected a table of people; split it.")


def _csv(path: Path, text: str) -> list[list[Any]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: damaged CSV ({error}). Save the table again as 'CSV UTF-8', or as .xlsx.") from None


def _sheet(path: Path) -> list[list[Any]]:
    """The first sheet of an Excel file; formulas count as the values Excel last computed."""
    with needs_extra(f"{path}: reading Excel", "people"):
        import openpyxl
    from zipfile import BadZipFile

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        return [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {MISSING}") from None
    except (BadZipFile, KeyError, ValueError, IndexError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable Excel file ({error}). Save it again as .xlsx or CSV.") from None


def _json(path: Path, text: str, *, lines: bool) -> list[Any]:
    try:
        if lines:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Expected one object per person.") from None
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, one per person, got {type(value).__name__}.")
    return value


def _tabular(rows: Sequence[Sequence[Any]], faults: list[CellFault], path: Path) -> PeopleTable:
    """Rows of cells under a head, numbered as a spreadsheet does: the first person is row 2."""
    if not rows or not any(_cell(cell) for cell in rows[0]):
        raise DataError(f"{path}: the first row names no column. Expected a head such as id, name, consent ...")
    columns = [_cell(cell) for cell in rows[0]]
    while not columns[-1]:
        columns.pop()
    for position, column in enumerate(columns):
        if not column:
            raise DataError(f"{path}: column {position + 1} has no name in the first row. Name it or delete it.")
        if column in columns[:position]:
            raise DataError(f"{path}: the column '{column}' is there twice. Rename or delete one of the two.")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        cells = [_cell(cell) for cell in row]
        if not any(cells):
            continue
        if any(cells[len(columns) :]):
            expected = f"{len(columns)}; quote cells with commas"
            faults.append(CellFault(number, columns[-1], f"{len(cells)} cells", expected))
        padded = cells + [""] * len(columns)
        found.append(TableRow(number, dict(zip(columns, padded, strict=False))))
    return PeopleTable(tuple(columns), found, faults)


def _objects(items: Sequence[Any], path: Path) -> tuple[list[list[Any]], list[CellFault]]:
    """JSON objects as rows under a head; the faults are values that no cell can hold."""
    columns = list(dict.fromkeys(column for item in items if isinstance(item, dict) for column in item))
    faults = []
    for number, item in enumerate(items, start=2):
        if not isinstance(item, dict):
            faults.append(CellFault(number, "", repr(item), "an object with one value per column"))
            continue
        for column, value in item.items():
            if isinstance(value, (dict, list)):
                got = json.dumps(value, ensure_ascii=False)
                faults.append(CellFault(number, column, got, "a text, number or date"))
    if faults and not columns:
        raise FaultsError(f"{path}: no person could be read.", faults)
    rows = [[item.get(column) for column in columns] if isinstance(item, dict) else [] for item in items]
    return [columns, *rows], faults


def _cell(value: Any) -> str:
    """A cell as people read it: dates as 1990-05-14, whole numbers without '.0', composed Unicode, one space."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(unicodedata.normalize("NFC", str(value)).split())
