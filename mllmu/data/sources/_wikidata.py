"""Public figures from an export of the Wikidata query service (CSV or JSON): one row or several a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.core.records import Profile
from mllmu.data import cells as rules
from mllmu.data.questions import wordings
from mllmu.data.table import Fault, Table, read

NAMES = {
    "item": "id", "person": "id", "id": "id", "itemlabel": "name", "personlabel": "name", "name": "name",
    "sexorgender": "gender", "gender": "gender", "placeofbirth": "birthplace", "birthplace": "birthplace",
    "dateofbirth": "birth_year", "birth": "birth_year", "birthyear": "birth_year",
    "dateofdeath": "death_year", "death": "death_year", "deathyear": "death_year",
    "occupation": "profession", "profession": "profession", "countryofcitizenship": "nationality",
    "nationality": "nationality", "country": "nationality", "fieldofwork": "field", "field": "field",
    "notablework": "known_for", "knownfor": "known_for", "continent": "continent", "era": "era",
}  # fmt: skip
"""Usual heads, without case, blanks, '_' and the ending 'Label' -> attribute."""
MIN_FACTS = 6
_YEAR = re.compile(r"([12]\d{3})(?:-\d\d-\d\d.*)?")
_ITEM = re.compile(r"(?:https?://www\.wikidata\.org/entity/)?([A-Za-z0-9_-]{1,64})")


def people(path: Path, columns: Mapping[str, str]) -> list[Profile]:
    """The people of an export, one profile an item; of several values of one attribute the first counts.

    Raises:
        DataError: the export cannot be read, or a column is missing or unknown.
        FaultsError: every row that breaks a rule.
    """
    table = read(path)
    sources, found, faults = _assign(table, columns, path), dict[str, dict[str, str]](), list(table.faults)
    numbers: dict[str, int] = {}
    for row in table.rows:
        item = _ITEM.fullmatch(row.cells[sources["id"]])
        if not item:
            faults.append(Fault(row.number, sources["id"], row.cells[sources["id"]], "an item such as Q937"))
            continue
        numbers.setdefault(item[1], row.number)
        person = found.setdefault(item[1], {})
        for attribute, column in sources.items():
            cell = row.cells[column]
            value = _value(attribute, cell)
            if value is None:
                faults.append(Fault(row.number, column, cell, _expected(attribute)))
            elif value and attribute != "id":
                person.setdefault(attribute, value)
    for item_id, person in found.items():
        if "name" not in person or len(person) < MIN_FACTS + 1:
            got = f"{len(person)} values"
            faults.append(Fault(numbers[item_id], "all", got, f"a name and {MIN_FACTS} facts"))
    if faults:
        raise FaultsError(f"{path}: {len(faults)} faults in {len(table.rows)} rows. Mend the export.", faults)
    return [Profile(id=item_id, kind="celebrity", attributes=person) for item_id, person in found.items()]


def _assign(table: Table, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    known = ("id", *wordings("celebrity"))
    found: dict[str, str] = {}
    labelled = sorted(table.columns, key=lambda head: head.endswith("Label"))  # the label counts, not the address
    for head in labelled:
        target = NAMES.get(re.sub(r"[\s_-]", "", head).removesuffix("Label").casefold())
        if target == "id" and head.endswith("Label"):
            target = "name"
        if target:
            found[target] = head
    for target, head in columns.items():
        if target not in known or head not in table.columns:
            wrong, right = (target, known) if target not in known else (head, table.columns)
            raise DataError(
                f"data.celebrities.columns: no '{wrong}'.{did_you_mean(wrong, right)} Known: {', '.join(right)}."
            )
        found[target] = head
    if missing := [target for target in ("id", "name") if target not in found]:
        raise DataError(
            f"{path}: no column for {', '.join(missing)}. Name it in data.celebrities.columns. "
            f"Columns: {', '.join(table.columns)}."
        )
    return found


def _value(attribute: str, cell: str) -> str | None:
    if not cell or attribute == "id":
        return ""
    if attribute.endswith("_year"):
        year = _YEAR.fullmatch(cell)
        return year[1] if year else None
    return rules.RULES["gender"].read(cell) if attribute == "gender" else rules.TEXT.read(cell)


def _expected(attribute: str) -> str:
    if attribute.endswith("_year"):
        return "a year from 1000, or a day such as 1879-03-14T00:00:00Z"
    return rules.RULES["gender"].expected if attribute == "gender" else rules.TEXT.expected
