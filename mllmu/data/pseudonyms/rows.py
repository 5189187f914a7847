"""From a table to checked people: which column means what, and every fault of every row."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.core.plugins import Plugin
from mllmu.data import dates
from mllmu.data import table as cells
from mllmu.data.questions import FACT
from mllmu.data.table import CellFault, PeopleRow, PeopleTable
from mllmu.data.values import ATTRIBUTES

IDENTIFIERS = ("email", "phone", "address")
TARGETS = (*ATTRIBUTES, "id", "consent", "consent_date", "image", "biography", *IDENTIFIERS)
NEEDED = ("name", "consent", "consent_date")
MIN_ATTRIBUTES = 6
"""Attributes, besides name and gender, that a person needs to be asked five different things in both modalities."""

Label = Annotated[str, Field(pattern=r"^[a-z][a-z ]{1,30}$")]


class TableSettings(Plugin):
    """Which column holds what, and what every row must fulfil.

    ``columns`` maps a target to the head of a column; a column that bears the name of a target needs no entry.
    """

    columns: dict[str, str] = Field({}, description="target -> head of the column, where they differ")
    facts: dict[Label, str] = Field({}, description="what else is asked, e.g. {employer: Company}")
    ignore: tuple[str, ...] = Field((), description="columns that are not used")
    day_first: bool | None = Field(None, description="how 03/04/1990 is read; without it such a date is a fault")
    min_age: int = Field(18, ge=0, description="years on the day of consent")
    skip_without_consent: bool = Field(False, description="leave such rows out and count them, instead of refusing")


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


class CheckedTable(NamedTuple):
    """People who may be used, the column of every target, and how many rows were left out for want of consent."""

    people: list[CheckedPerson]
    columns: dict[str, str]
    num_without_consent: int


def check(table: PeopleTable, settings: TableSettings, path: Path) -> CheckedTable:
    """Check a whole table.

    Raises:
        DataError: a column is missing, unknown or used for nothing.
        FaultsError: all cells that break a rule, rows without consent, and people who are in the table twice.
    """
    columns = _assign(table.columns, settings, path)
    faults, people, used = list(table.faults), [], []
    for row in table.rows:
        reader = _RowReader(row, columns, settings)
        if settings.skip_without_consent and not reader.consents:
            continue
        used.append(row)
        if person := reader.person():
            people.append(person)
        faults += reader.faults
    faults += _repeated(used, columns)
    if faults:
        rows = len({fault.row for fault in faults})
        ordered = sorted(faults, key=lambda fault: fault.row)
        raise FaultsError(f"{path}: {len(faults)} faults in {rows} of {len(table.rows)} rows. Mend the table.", ordered)
    if not people:
        raise DataError(f"{path}: no people. Expected rows with consent under the head of the table.")
    return CheckedTable(people, columns, len(table.rows) - len(used))


def _assign(heads: Sequence[str], settings: TableSettings, path: Path) -> dict[str, str]:
    """Target -> column; a fact's target begins with ``fact_``. Every column must be wanted or ignored by name."""
    found = {target: head for head in heads if (target := _plain(head)) in TARGETS}
    for target, head in settings.columns.items():
        if target not in TARGETS:
            raise DataError(
                f"data.source.columns: no target '{target}'.{did_you_mean(target, TARGETS)} Targets: "
                f"{', '.join(TARGETS)}. Use 'facts' for anything else that is to be asked."
            )
        found[target] = _known(head, heads, f"columns.{target}", path)
    for label, head in settings.facts.items():
        found[FACT + label.replace(" ", "_")] = _known(head, heads, f"facts.{label}", path)
    for head in settings.ignore:
        _known(head, heads, "ignore", path)
        found = {target: other for target, other in found.items() if other != head}
    for target in NEEDED:
        if target not in found:
            near = did_you_mean(target, set(heads) - set(settings.ignore))
            raise DataError(
                f"{path}: no column for '{target}'.{near} Name it in data.source.columns, e.g. "
                f"columns: {{{target}: ...}}. Columns: {', '.join(heads)}."
            )
    if unused := [head for head in heads if head not in found.values() and head not in settings.ignore]:
        hints = [f"'{head}'{did_you_mean(_plain(head), TARGETS).rstrip('?')}" for head in unused]
        raise DataError(
            f"{path}: nothing is said about {len(unused)} column(s): {'; '.join(hints)}. Map each in "
            "data.source.columns, ask about it with data.source.facts, or list it in data.source.ignore."
        )
    every = (*TARGETS, *sorted(target for target in found if target.startswith(FACT)))
    return {target: found[target] for target in every if target in found}


def _plain(head: str) -> str:
    return "_".join(head.casefold().replace("-", " ").replace("_", " ").split())


def _known(head: str, heads: Sequence[str], setting: str, path: Path) -> str:
    if head not in heads:
        raise DataError(
            f"{path}: data.source.{setting} names the column '{head}', which is not there."
            f"{did_you_mean(head, heads)} Columns: {', '.join(heads)}."
        )
    return head


class _RowReader:
    """Reads one row and collects its faults."""

    def __init__(self, row: PeopleRow, columns: Mapping[str, str], settings: TableSettings) -> None:
        self._row, self._columns, self._settings = row, columns, settings
        self._cells = {target: row.cells[column] for target, column in columns.items()}
        self._rules = cells.rules(day_first=settings.day_first)
        self.faults: list[CellFault] = []

    @property
    def consents(self) -> bool:
        return bool(self._rules["consent"].read(self._cells["consent"]))

    def person(self) -> CheckedPerson | None:
        """The person, or None if anything is wrong."""
        values = {target: value for target in self._cells if (value := self._value(target))}
        asked = [t for t in self._cells if t in ATTRIBUTES or t.startswith(FACT)]
        given = self._day("consent_date")
        self._check_age(given)
        filled = sum(bool(self._cells[target]) for target in asked if target not in ("name", "gender"))
        if filled < MIN_ATTRIBUTES:
            expected = f"{MIN_ATTRIBUTES} facts besides name and gender"
            self.faults.append(CellFault(self._row.number, "all", f"{filled} facts", expected))
        if self.faults or not given:
            return None
        return CheckedPerson(
            row=self._row.number,
            id=values.get("id", ""),
            consent=values["consent"],
            consent_date=given,
            image=values.get("image", ""),
            biography=values.get("biography", ""),
            attributes={target: values[target] for target in asked if target in values},
            identifiers={target: values[target] for target in IDENTIFIERS if target in values},
        )

    def _value(self, target: str) -> str:
        """The printed value of a cell; empty stays empty, unless the cell is needed."""
        cell, rule = self._cells[target], self._rules.get(target, cells.TEXT)
        if not cell and target not in (*NEEDED, "id"):
            return ""
        value = rule.read(cell)
        if value is None:
            self._fault(target, rule.expected)
        return value or ""

    def _fault(self, target: str, expected: str) -> None:
        self.faults.append(CellFault(self._row.number, self._columns[target], self._cells[target], expected))

    def _day(self, target: str) -> date | None:
        return dates.parse(self._cells.get(target, ""), day_first=self._settings.day_first)

    def _check_age(self, given: date | None) -> None:
        """``given``: the day of consent."""
        birth, low = self._day("birth_date"), self._settings.min_age
        if given and given > date.today():
            self._fault("consent_date", "a day that is not in the future")
        elif birth and given and not low <= cells.age(birth, given) <= cells.OLDEST:
            self._fault("birth_date", f"an age of {low} to {cells.OLDEST} years on the day of consent")


def _repeated(rows: Sequence[PeopleRow], columns: Mapping[str, str]) -> Iterator[CellFault]:
    """One person, one row: no name, id or image is that of another row."""
    for column in (columns[target] for target in ("name", "id", "image") if target in columns):
        seen: dict[str, int] = {}
        for row in rows:
            value = row.cells[column]
            first = seen.setdefault(value.casefold(), row.number)
            if value and first != row.number:
                yield CellFault(row.number, column, value, f"one that is not in row {first} already")
