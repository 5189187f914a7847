"""Damaged and oddly written tables of people: each is read as it stands, or refused with one clear message."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import mutators
import pytest
from rounds import Fuzz

from mllmu.core.errors import MllmuError
from mllmu.data.cells import RULES
from mllmu.data.checked import CheckedTable, check
from mllmu.data.sources.people import OwnPeople
from mllmu.data.table import read

TABLE = Path(__file__).parents[2] / "examples" / "people" / "people.csv"
SETTINGS: dict[str, Any] = {
    "columns": {"id": "staff_no", "name": "full name", "email": "mail", "address": "street", "biography": "notes"},
    "facts": {"employer": "company"},
    "ignore": ("desk",),
}
CELLS = (
    "N/A", "#REF!", "#N/A", "None", "unknown", "-", "NaN", "inf", "75.000", "75.000 €", "58000 £", "1,72 m", "172,5",
    "8010 Graz, Austria", "Graz", "yes", "no", "14 May 1990", "1990-05-14", "31.02.1980", "03/04/1990", "31234",
    "1e5", "मीरा जोशी", "カルラ・ベニング", "O`Darrell", "Zero\u200bwidth", "a|b", "=1+1", "@SUM(A1)", "sep=;",
    "x;y", '"', "a\nb", "12", "-1", "0", "007", "tru", "female", "a" * 500,
)  # fmt: skip
"""What people and programs write into cells."""

Rows = list[dict[str, Any]]


def people() -> Rows:
    """The table of the example."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_csv(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="", errors="surrogatepass") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_json(path: Path, rows: Rows) -> Path:
    text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


def as_workbook(path: Path, rows: Rows) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for number, cells in enumerate([list(rows[0]), *(list(row.values()) for row in rows)], start=1):
        for column, value in enumerate(cells, start=1):
            cell = book.active.cell(number, column)
            cell.value = value
            cell.data_type = "s"  # text, also where it begins with '='
    book.save(path)
    return path


def checked(path: Path) -> CheckedTable:
    return check(read(path), OwnPeople(path=path, **SETTINGS))


def outcome(path: Path) -> object:
    """What a table is read as, or what it is refused with, without the name of the file."""
    try:
        return checked(path).people
    except MllmuError as error:
        return str(error).replace(str(path), "")


def test_damaged_text_of_a_table(fuzz: Fuzz, tmp_path: Path) -> None:
    text, path = TABLE.read_text(encoding="utf-8"), tmp_path / "p.csv"
    for rng in fuzz.rounds():
        damaged = mutators.text(rng, text)
        path.write_bytes(damaged.encode("utf-8", errors="surrogatepass"))
        with fuzz.attempt(damaged[:300]):
            checked(path)


def test_a_changed_cell_of_a_table_is_that_cell_in_every_type_of_file(fuzz: Fuzz, tmp_path: Path) -> None:
    """All other people stay as they are, and CSV, JSON and Excel give the same people or the same faults."""
    rows = people()
    whole = {person.row: person for person in checked(as_csv(tmp_path / "whole.csv", rows)).people}
    for rng in fuzz.rounds(0.5):
        changed, place, head = [dict(row) for row in rows], rng.randrange(len(rows)), rng.choice(list(rows[0]))
        cell = rng.choice([*CELLS, *mutators.WORDS, mutators.text(rng, changed[place][head])])
        if not cell.isprintable() and cell != "a\nb":
            continue  # what a sheet or an encoding cannot hold
        changed[place][head] = cell
        with fuzz.attempt((head, cell)):
            found = [
                outcome(as_csv(tmp_path / "p.csv", changed, rng.choice(",;\t|"))),
                outcome(as_json(tmp_path / "p.json", changed)),
                outcome(as_json(tmp_path / "p.jsonl", changed)),
                outcome(as_workbook(tmp_path / "p.xlsx", changed)),
            ]
            if any(one != found[0] for one in found):
                fuzz.silent(f"read otherwise by type: {found}", (head, cell))
            if isinstance(found[0], list) and any(p != whole[p.row] for p in found[0] if p.row != place + 2):
                fuzz.silent("another row changed", (head, cell))


def test_damaged_bytes_of_a_workbook(fuzz: Fuzz, tmp_path: Path) -> None:
    """A workbook has checksums: it reads as before, or not at all."""
    path = as_workbook(tmp_path / "p.xlsx", people())
    content, whole = path.read_bytes(), checked(path).people
    for rng in fuzz.rounds():
        path.write_bytes(mutators.raw(rng, content))
        with fuzz.attempt("bytes of a workbook"):
            if checked(path).people != whole:
                fuzz.silent("other people", "bytes of a workbook")


def test_damaged_parts_of_a_workbook(fuzz: Fuzz, tmp_path: Path) -> None:
    """The parts of a workbook are text that programs write in many ways, some of them wrong."""
    path = as_workbook(tmp_path / "p.xlsx", people())
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    for rng in fuzz.rounds(0.5):
        name = rng.choice([*parts, *["xl/worksheets/sheet1.xml"] * len(parts)])
        damaged = mutators.text(rng, parts[name].decode()).encode("utf-8", errors="surrogatepass")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as book:
            for part, content in parts.items():
                book.writestr(part, damaged if part == name else content)
        path.write_bytes(buffer.getvalue())
        with fuzz.attempt((name, damaged[:300])):
            checked(path)


def test_values_of_a_table_in_json(fuzz: Fuzz, tmp_path: Path) -> None:
    rows = people()
    for rng in fuzz.rounds():
        changed = mutators.tree(rng, rows)
        path = tmp_path / rng.choice(("p.json", "p.jsonl"))
        lines = changed if isinstance(changed, list) and path.suffix == ".jsonl" else [changed]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        with fuzz.attempt(changed):
            checked(path)


CURRENCIES = {"$": ("$", "USD", "US$"), "€": ("€", "EUR", "eur"), "£": ("£", "GBP"), "CHF ": ("CHF", "Fr.")}


def test_amounts_in_every_usual_writing(fuzz: Fuzz) -> None:
    for rng in fuzz.rounds(5):
        amount, printed = round(10 ** rng.uniform(0, 6.9)), rng.choice(list(CURRENCIES))
        written = _written(rng, amount, rng.choice(CURRENCIES[printed]))
        with fuzz.attempt(written):
            if (got := RULES["salary"].read(written)) != f"{printed}{amount:,}":
                fuzz.silent(f"{amount} {printed} was read as {got}", written)


def _written(rng: Random, amount: int, currency: str) -> str:
    group, decimal = rng.choice((",.", ".,", "'.", "’,", " ,", " .", "_."))
    plain = f"{amount:,}".replace(",", group) if rng.random() < 0.7 else str(amount)
    cents = rng.choice(("", f"{decimal}00", f"{decimal}0", f"{decimal}-", f"{decimal}–"))
    number, space = plain + cents, rng.choice(("", " "))
    return rng.choice((f"{currency}{space}{number}", f"{number}{space}{currency}"))
