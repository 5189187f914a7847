"""Reads a table of people from CSV, Excel, JSON or JSON lines: rows of trimmed text under a head.

What the text of a cell must be is said in :mod:`mllmu.data.cells`.
"""

import csv
import json
import math
import unicodedata
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.csvrows import csv_rows
from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.data import spreadsheet
from mllmu.data.files import parse_json, read_text
from mllmu.data.spreadsheet import Worksheet

SUFFIXES = (".csv", ".tsv", ".xlsx", ".json", ".jsonl")
MAX_BYTES = 100_000_000
MAX_SHOWN = 60
MIN_FACTS = 6
"""Attributes, besides name and gender, that a person needs to be asked five different things in both modalities."""
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


class PeopleRow(NamedTuple):
    """One line of the table. ``number`` is what a spreadsheet shows beside it: the first row of people is row 2."""

    number: int
    cells: dict[str, str]


class CheckedPerson(NamedTuple):
    """One checked row. ``identity`` tells people apart: the id, or the name where the table has no ids."""

    row: int
    id: str
    consent: str
    consent_date: date
    image: str
    biography: str
    attributes: dict[str, str]
    identifiers: dict[str, str]

    @property
    def name(self) -> str:
        return self.attributes["name"]

    @property
    def identity(self) -> str:
        return self.id or self.name


class PeopleTable(NamedTuple):
    """The head of the table and its rows.

    Attributes:
        faults: rows that do not have the shape of the head, and cells whose content cannot be told.
        unread: other sheets of a workbook that hold anything.
    """

    columns: tuple[str, ...]
    rows: list[PeopleRow]
    faults: list[CellFault]
    unread: tuple[str, ...] = ()


def read(path: Path) -> PeopleTable:
    """Read a table of people; empty rows are left out, empty cells are ``""``.

    Raises:
        DataError: no such file, a type of file that is not read, not UTF-8, damaged, encrypted, too large, or a head
            that repeats a column or is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: a table of people is {', '.join(SUFFIXES)}, got '{suffix or path.name}'."
            f"{did_you_mean(suffix, SUFFIXES)} Save it as one of these."
        )
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB. Expected a table of people; split it.")
    if suffix == ".xlsx":
        return _from_sheet(spreadsheet.read(path), path)
    text = read_text(path, expected="Save the table as 'CSV UTF-8', or as .xlsx.", missing=MISSING)
    if suffix in (".json", ".jsonl"):
        items = parse_json(text, path, "Expected one object per person.", lines=suffix == ".jsonl")
        if not isinstance(items, list):
            raise DataError(f"{path}: expected a list of objects, one per person, got {type(items).__name__}.")
        return _tabular(*_objects(items, path), path)
    try:
        return _tabular(csv_rows(text), [], path)
    except csv.Error as error:
        raise DataError(f"{path}: damaged CSV ({error}). Save the table again as 'CSV UTF-8', or as .xlsx.") from None


def _from_sheet(sheet: Worksheet, path: Path) -> PeopleTable:
    table = _tabular(sheet.rows, [], path)
    expected = "a value: the file holds only the formula; open it in Excel and save it, or type the value"
    table.faults.extend(
        CellFault(row + 1, table.columns[column], formula, expected)
        for (row, column), formula in sheet.uncomputed.items()
        if row and column < len(table.columns)
    )
    expected = "a value in each cell: unmerge them, and fill in what each of them means"
    table.faults.extend(
        CellFault(max(cells.rows[0], 1) + 1, table.columns[column], f"the merged cells {cells.name}", expected)
        for cells in sheet.merged
        if cells.rows[-1]
        for column in cells.columns[: len(table.columns)]
        if column < len(table.columns)
    )
    return table._replace(unread=sheet.unread)


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
        found.append(PeopleRow(number, dict(zip(columns, padded, strict=False))))
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
            if isinstance(value, (dict, list)) or (isinstance(value, float) and not math.isfinite(value)):
                got = json.dumps(value, ensure_ascii=False)
                faults.append(CellFault(number, _cell(column), got, "a text, number or date; null where there is none"))
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
    if isinstance(value, date):  # or a datetime
        return value.isoformat()[:10]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(unicodedata.normalize("NFC", str(value)).split())
