"""Reads the first visible sheet of an Excel workbook: all rows, whatever size the file claims, as they are shown."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from mllmu.core.errors import DataError, needs_extra, one_line

MAX_UNPACKED = 1_000_000_000
MAX_ROWS = 1_048_576
"""The last row that a workbook can have."""
_OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Begins the container in which old workbooks (.xls) lie, and encrypted ones of every type."""
_AGAIN = "Save it again as .xlsx or as CSV UTF-8."


class MergedCells(NamedTuple):
    """Cells that a sheet shows as one: the file holds one value for all of them.

    Attributes:
        name: as Excel names them: ``C3:C7``.
        rows, columns: that they cover, from 0.
    """

    name: str
    rows: range
    columns: range


class Worksheet(NamedTuple):
    """One sheet.

    Attributes:
        rows: cells of every row from the first; a row may be shorter than others.
        uncomputed: (row, column), from 0, of formulas whose value the file does not hold -> the formula.
        merged: cells that are merged and hold anything.
        unread: the other sheets that hold anything.
    """

    rows: list[list[Any]]
    uncomputed: dict[tuple[int, int], str]
    merged: tuple[MergedCells, ...]
    unread: tuple[str, ...]


def read(path: Path) -> Worksheet:
    """Read a workbook.

    Raises:
        DataError: no such file, encrypted, of the old type, damaged, or too large when unpacked.
    """
    with needs_extra(f"{path}: reading Excel", "people"):
        import openpyxl
    try:
        content = path.read_bytes()
        if content.startswith(_OLD):
            raise DataError(
                f"{path}: an encrypted workbook, or one of the old type .xls. Save it without a password as .xlsx."
            )
        _check_archive(path, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a sheet holds beside its cells
            shown, written = (
                openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=data_only)
                for data_only in (True, False)
            )
            return _first(path, shown, written)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Set data.source.path to the table of people.") from None
    except Exception as error:  # noqa: BLE001 - whatever the library stumbles over in a damaged file
        raise DataError(f"{path}: not a readable Excel file ({one_line(error)}). {_AGAIN}") from None


def _check_archive(path: Path, content: bytes) -> None:
    """A workbook is a zip file: its checksums hold, and it does not unpack to more than memory can take."""
    with ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise DataError(
                f"{path}: unpacks to {unpacked:,} bytes, expected at most {MAX_UNPACKED:,}. Split the table."
            )
        if damaged := archive.testzip():
            raise BadZipFile(f"the checksum of {damaged} is wrong")


def _first(path: Path, shown: Any, written: Any) -> Worksheet:
    """The first visible sheet of the workbook with its values (``shown``) and with its formulas (``written``)."""
    sheets = shown.worksheets
    number = next((n for n, sheet in enumerate(sheets) if sheet.sheet_state == "visible"), 0)
    if not sheets:
        raise DataError(f"{path}: the workbook has no sheet of cells. Expected a table of people.")
    doubtful = bool(shown.calculation and shown.calculation.fullCalcOnLoad)
    rows, uncomputed = [], dict[tuple[int, int], str]()
    for row, (cells, formulas) in enumerate(
        zip(*(map(_rows, (sheets[number], written.worksheets[number]))), strict=True)
    ):
        rows.append([_as_shown(cell) for cell in cells])
        for column, (cell, formula) in enumerate(zip(cells, formulas, strict=True)):
            if formula.data_type == "f" and _is_uncomputed(cell, doubtful=doubtful):
                uncomputed[row, column] = str(getattr(formula.value, "text", formula.value))
    others = (sheet for n, sheet in enumerate(sheets) if n != number)
    unread = tuple(sheet.title for sheet in others if any(map(_is_filled, _rows(sheet))))
    return Worksheet(rows, uncomputed, tuple(_merged(sheets[number], rows)), unread)


def _merged(sheet: Any, rows: Sequence[Sequence[Any]]) -> Iterator[MergedCells]:
    """Merged cells, which the library does not tell of a sheet that it reads row by row."""
    from openpyxl.utils import range_boundaries
    from openpyxl.xml.functions import iterparse

    with sheet._get_source() as file:  # the library says nowhere else which part it is
        for _, element in iterparse(file):
            if element.tag.endswith("}row"):
                element.clear()
            if element.tag.endswith("}mergeCell"):
                left, top, right, bottom = range_boundaries(name := element.get("ref"))
                first = rows[top - 1][left - 1 : left] if top <= len(rows) else []
                if any(value is not None for value in first):
                    yield MergedCells(name, range(top - 1, bottom), range(left - 1, right))


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Every row that the sheet has; the dimension that the file states is often wrong and not looked at."""
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows()):
        if number == MAX_ROWS:
            raise ValueError(f"rows beyond {MAX_ROWS:,}")
        yield row


def _is_filled(row: tuple[Any, ...]) -> bool:
    return any(cell.value is not None for cell in row)


def _is_uncomputed(cell: Any, *, doubtful: bool) -> bool:
    """No value is kept, or the 0 that libraries write for a value which Excel has still to compute (``doubtful``).

    A text of no letters is a value: a formula such as =IF(B2="","",B2) gives it.
    """
    return (cell.value is None and cell.data_type != "str") or (doubtful and cell.data_type == "n" and cell.value == 0)


def _as_shown(cell: Any) -> Any:
    """The value with the zeros, percent sign, currency or unit that only its number format holds.

    75000 under the format ``#,##0 "€"`` is ``75000 €``, and 42 under ``0000`` is ``0042``.
    """
    value, form = cell.value, (cell.number_format or "").partition(";")[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if re.fullmatch("0+", form) and value == int(value) >= 0:
        return str(int(value)).zfill(len(form))
    if form.endswith("%"):
        return f"{value * 100:.15g}%"
    words = [word for found in _LITERALS.findall(form) if (word := "".join(found).strip())]
    return " ".join([f"{value:.15g}", *words]) if words else value


_LITERALS = re.compile(r"\[\$([^\]-]*)[^\]]*\]|\"([^\"]*)\"|([$€£¥₹₽₩₺₴₪₫฿₱₦])")
"""What a number format prints beside the number: ``[$CHF-807]``, ``"kr"``, ``€``."""
