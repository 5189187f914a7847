"""Reads a table of people from CSV, Excel, JSON or JSON lines, and says what every cell about a person must be.

A cell is trimmed text; a :class:`CellRule` makes of it what a question prints.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import DataError, FaultsError, did_you_mean, needs_extra
from mllmu.core.records import ID_PATTERN
from mllmu.data import dates
from mllmu.data.files import parse_json, read_text
from mllmu.data.values import ATTRIBUTES, NONE

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
    """The head of the table and its rows; faults are rows that do not have the shape of the head."""

    columns: tuple[str, ...]
    rows: list[PeopleRow]
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
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB. Expected a table of people; split it.")
    if suffix == ".xlsx":
        return _tabular(_sheet(path), [], path)
    text = read_text(path, expected="Save the table as 'CSV UTF-8', or as .xlsx.", missing=MISSING)
    if suffix in (".json", ".jsonl"):
        items = parse_json(text, path, "Expected one object per person.", lines=suffix == ".jsonl")
        if not isinstance(items, list):
            raise DataError(f"{path}: expected a list of objects, one per person, got {type(items).__name__}.")
        return _tabular(*_objects(items, path), path)
    return _tabular(_csv(path, text), [], path)


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
        book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=True)
        return [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {MISSING}") from None
    except (BadZipFile, KeyError, ValueError, IndexError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable Excel file ({error}). Save it again as .xlsx or CSV.") from None


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
    if isinstance(value, date):  # or a datetime
        return value.isoformat()[:10]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(unicodedata.normalize("NFC", str(value)).split())


MAX_LETTERS = 80
MAX_BIOGRAPHY = 5_000
HEIGHT_CM = (50, 272)
SALARY = (0, 10_000_000)
OLDEST = 120
YES = ("yes", "y", "true", "1", "given", "granted", "signed", "x")
GENDERS = {
    **dict.fromkeys(("female", "f", "woman", "w"), "female"),
    **dict.fromkeys(("male", "m", "man"), "male"),
    **dict.fromkeys(("non-binary", "nonbinary", "diverse", "other", "x"), "non-binary"),
}
_MARKUP = frozenset("<>{}\\|`")
_NUMBER = re.compile(r"\d{1,3}(?:[,']\d{3})+|\d+(?:\.\d+)?")
_EMAIL = r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+"
_IMAGE = r"[^/\\\0]{1,200}"


class CellRule(NamedTuple):
    """How one kind of cell is read: the printed value, or None for a cell that is not what was expected."""

    expected: str
    read: Callable[[str], str | None]


def _text(limit: int = MAX_LETTERS) -> CellRule:
    def read(cell: str) -> str | None:
        plain = all(char.isprintable() and char not in _MARKUP for char in cell)
        return cell if plain and len(cell) <= limit and any(char.isalnum() for char in cell) else None

    return CellRule(f"1 to {limit} letters of plain text without markup", read)


def _name(cell: str) -> str | None:
    words = cell.split()
    fits = 1 <= len(words) <= 6 and all(any(char.isalpha() for char in word) for word in words)
    letters = all(char.isalpha() or char in " .,'’-" for char in cell)
    return cell if fits and letters and len(cell) <= MAX_LETTERS else None


def _place(cell: str) -> str | None:
    parts = [part.strip() for part in cell.split(",")]
    return ", ".join(parts) if len(parts) >= 2 and all(parts) and _text().read(cell) else None


def _height(cell: str) -> str | None:
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(cm|m)?", cell.casefold())
    if not found:
        return None
    cm = round(float(found[1]) * (100 if found[2] == "m" else 1))
    return f"{cm} cm" if HEIGHT_CM[0] <= cm <= HEIGHT_CM[1] else None


def _salary(cell: str) -> str | None:
    """Whole units of a currency; the sign is kept and is a dollar where there is none."""
    sign = cell[0] if cell[:1] in ("$", "€", "£") else "$"
    plain = cell.strip("$€£ ")
    if not _NUMBER.fullmatch(plain):
        return None
    amount = float(re.sub("[,']", "", plain))
    return f"{sign}{round(amount):,}" if SALARY[0] <= amount <= SALARY[1] else None


def matching(pattern: str, expected: str) -> CellRule:
    """A cell that is kept as it is, or the group of the pattern in it."""

    def read(cell: str) -> str | None:
        found = re.fullmatch(pattern, cell)
        return found[found.lastindex or 0] if found else None

    return CellRule(expected, read)


def _phone(cell: str) -> str | None:
    digits = sum(char.isdecimal() for char in cell)
    return cell if 5 <= digits <= 15 and all(char in "0123456789 +-()./" for char in cell) else None


def _none_or_text(cell: str) -> str | None:
    """No illness and no pet are an answer and not a gap."""
    return NONE if cell.casefold() == NONE else TEXT.read(cell)


def _consent(cell: str) -> str | None:
    return cell if cell.casefold() in YES else None


PLACE = CellRule("a city and a country with a comma between, e.g. Lyon, France", _place)
TEXT = _text()
MAY_BE_NONE = ("medical_condition", "pet")
RULES: dict[str, CellRule] = {
    **dict.fromkeys(ATTRIBUTES, TEXT),
    **dict.fromkeys(MAY_BE_NONE, CellRule(TEXT.expected, _none_or_text)),
    "name": CellRule("1 to 6 words of letters", _name),
    "gender": CellRule("female, male or non-binary", lambda cell: GENDERS.get(cell.casefold())),
    "birthplace": PLACE,
    "residence": PLACE,
    "height": CellRule(f"a height of {HEIGHT_CM[0]} to {HEIGHT_CM[1]} cm, e.g. 172 or 1.72 m", _height),
    "salary": CellRule(f"an amount of {SALARY[0]} to {SALARY[1]:,}, e.g. 58000 or $58,000", _salary),
    "id": matching(ID_PATTERN, "1 to 64 letters, digits, '_' or '-'"),
    "email": matching(_EMAIL, "an e-mail address"),
    "phone": CellRule("a telephone number of 5 to 15 digits", _phone),
    "address": _text(200),
    "image": matching(_IMAGE, "the name of a file in the folder of images, without '/'"),
    "biography": _text(MAX_BIOGRAPHY),
    "consent": CellRule(f"consent, one of {', '.join(YES[:6])}; remove the person without it", _consent),
}
"""By target of a column."""


def rules(*, day_first: bool | None) -> dict[str, CellRule]:
    """The rules of all targets; a day is printed as questions print it."""
    hint = "" if day_first is not None else "; 03/04/1990 needs the setting day_first"

    def read_day(cell: str) -> str | None:
        day = dates.parse(cell, day_first=day_first)
        return dates.printed(day) if day else None

    rule = CellRule(f"a day such as 1990-05-14{hint}", read_day)
    return RULES | {"birth_date": rule, "consent_date": rule}


def age(birth: date, at: date) -> int:
    """Whole years between two days."""
    return at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))
