"""What every cell about a person must be, and how it is printed in a question."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from mllmu.data import dates
from mllmu.data.values import ATTRIBUTES, NONE

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
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_IMAGE = re.compile(r"[^/\\\0]{1,200}")


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


def _gender(cell: str) -> str | None:
    return GENDERS.get(cell.casefold())


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


def _matching(pattern: re.Pattern[str], expected: str) -> CellRule:
    return CellRule(expected, lambda cell: cell if pattern.fullmatch(cell) else None)


def _phone(cell: str) -> str | None:
    digits = sum(char.isdecimal() for char in cell)
    return cell if 5 <= digits <= 15 and all(char in "0123456789 +-()./" for char in cell) else None


def date_rule(*, day_first: bool | None) -> CellRule:
    """A day, printed as questions print it."""
    hint = "" if day_first is not None else "; 03/04/1990 needs the setting day_first"

    def read(cell: str) -> str | None:
        day = dates.parse(cell, day_first=day_first)
        return dates.printed(day) if day else None

    return CellRule(f"a day such as 1990-05-14{hint}", read)


PLACE = CellRule("a city and a country with a comma between, e.g. Lyon, France", _place)
FREE_TEXT = _text(MAX_BIOGRAPHY)
TEXT = _text()
RULES: dict[str, CellRule] = {
    **dict.fromkeys(ATTRIBUTES, TEXT),
    "name": CellRule("1 to 6 words of letters", _name),
    "gender": CellRule("female, male or non-binary", _gender),
    "birthplace": PLACE,
    "residence": PLACE,
    "height": CellRule(f"a height of {HEIGHT_CM[0]} to {HEIGHT_CM[1]} cm, e.g. 172 or 1.72 m", _height),
    "salary": CellRule(f"an amount of {SALARY[0]} to {SALARY[1]:,}, e.g. 58000 or $58,000", _salary),
    "id": CellRule("1 to 64 letters, digits, '_' or '-'", lambda cell: cell if _ID.fullmatch(cell) else None),
    "email": _matching(_EMAIL, "an e-mail address"),
    "phone": CellRule("a telephone number of 5 to 15 digits", _phone),
    "address": _text(200),
    "image": _matching(_IMAGE, "the name of a file in the folder of images, without '/'"),
    "biography": FREE_TEXT,
}
"""By target of a column; dates depend on a setting, see :func:`date_rule`."""
MAY_BE_NONE = ("medical_condition", "pet")


def says_none(attribute: str, cell: str) -> bool:
    """Whether a cell says that there is no illness or no pet, which is an answer and not a gap."""
    return attribute in MAY_BE_NONE and cell.casefold() == NONE


def age(birth: date, at: date) -> int:
    """Whole years between two days."""
    return at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))
