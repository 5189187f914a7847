"""From a table to checked people: which column means what, and every fault of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.data import cells as rules
from mllmu.data import dates
from mllmu.data.cells import RULES, Rule, age, date_rule, says_none
from mllmu.data.questions import FACT
from mllmu.data.table import Fault, Row, Table
from mllmu.data.values import ATTRIBUTES

IDENTIFIERS = ("email", "phone", "address")
OTHER = ("id", "consent", "consent_date", "image", "biography", *IDENTIFIERS)
TARGETS = (*ATTRIBUTES, *OTHER)
NEEDED = ("name", "consent", "consent_date")
MIN_ATTRIBUTES = 6
"""Attributes, besides name and gender, that a person needs to be asked five different things in both modalities."""


class Layout(BaseModel):
    """Which column holds what, and what every row must fulfil.

    ``columns`` maps a target to the head of a column; a column that bears the name of a target needs no entry.
    """

    model_config = ConfigDict(frozen=True)

    columns: dict[str, str] = {}
    facts: dict[str, str] = {}
    ignore: tuple[str, ...] = ()
    day_first: bool | None = None
    min_age: int = Field(18, ge=0)
    skip_without_consent: bool = False


class Person(NamedTuple):
    """One checked row. ``identity`` is what makes the person one: the id, or the name where the table has no ids."""

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


class Checked(NamedTuple):
    """People who may be used, where each column went, and how many rows were left out for want of consent."""

    people: list[Person]
    sources: dict[str, str]
    num_without_consent: int


def check(table: Table, layout: Layout, path: Path) -> Checked:
    """Check a whole table.

    Raises:
        DataError: a column is missing, unknown or used for nothing.
        FaultsError: all cells that break a rule, rows without consent, and people who are in the table twice.
    """
    sources = assign(table.columns, layout, path)
    faults, people, used = list(table.faults), [], []
    for row in table.rows:
        reader = _Reader(row, sources, layout)
        if layout.skip_without_consent and not reader.consents:
            continue
        used.append(row)
        person, found = reader.person()
        faults += found
        people += [person] if person else []
    faults += _repeated(used, sources)
    if faults:
        rows = len({fault.row for fault in faults})
        ordered = sorted(faults, key=lambda fault: fault.row)
        raise FaultsError(f"{path}: {len(faults)} faults in {rows} of {len(table.rows)} rows. Mend the table.", ordered)
    if not people:
        raise DataError(f"{path}: no people. Expected rows with consent under the head of the table.")
    return Checked(people, sources, len(table.rows) - len(used))


def assign(columns: Sequence[str], layout: Layout, path: Path) -> dict[str, str]:
    """Target -> column; a fact's target begins with ``fact_``. Every column must be wanted or ignored by name."""
    found = {target: column for column in columns if (target := _plain(column)) in TARGETS}
    for target, column in layout.columns.items():
        if target not in TARGETS:
            raise DataError(
                f"data.source.columns: no target '{target}'.{did_you_mean(target, TARGETS)} Targets: "
                f"{', '.join(TARGETS)}. Use 'facts' for anything else that is to be asked."
            )
        found[target] = _known(column, columns, f"columns.{target}", path)
    for label, column in layout.facts.items():
        found[FACT + label.replace(" ", "_")] = _known(column, columns, f"facts.{label}", path)
    for column in layout.ignore:
        _known(column, columns, "ignore", path)
        found = {target: other for target, other in found.items() if other != column}
    for target in NEEDED:
        if target not in found:
            near = did_you_mean(target, set(columns) - set(layout.ignore))
            raise DataError(
                f"{path}: no column for '{target}'.{near} Name it in data.source.columns, e.g. "
                f"columns: {{{target}: ...}}. Columns: {', '.join(columns)}."
            )
    _refuse_unused([c for c in columns if c not in found.values() and c not in layout.ignore], path)
    return {
        target: found[target]
        for target in (*TARGETS, *sorted(t for t in found if t.startswith(FACT)))
        if target in found
    }


def _plain(column: str) -> str:
    return "_".join(column.casefold().replace("-", " ").replace("_", " ").split())


def _known(column: str, columns: Sequence[str], setting: str, path: Path) -> str:
    if column not in columns:
        raise DataError(
            f"{path}: data.source.{setting} names the column '{column}', which is not there."
            f"{did_you_mean(column, columns)} Columns: {', '.join(columns)}."
        )
    return column


def _refuse_unused(unused: Sequence[str], path: Path) -> None:
    if not unused:
        return
    hints = [f"'{column}'{did_you_mean(_plain(column), TARGETS).rstrip('?')}" for column in unused]
    raise DataError(
        f"{path}: nothing is said about {len(unused)} column(s): {'; '.join(hints)}. Map each in data.source.columns, "
        f"ask about it with data.source.facts, or list it in data.source.ignore."
    )


class _Reader:
    """Reads one row and collects its faults."""

    def __init__(self, row: Row, sources: Mapping[str, str], layout: Layout) -> None:
        self._row, self._sources, self._layout = row, sources, layout
        self._faults: list[Fault] = []
        self._dates = date_rule(day_first=layout.day_first)

    @property
    def consents(self) -> bool:
        return self._cell("consent").casefold() in rules.YES

    def person(self) -> tuple[Person | None, list[Fault]]:
        """The person, or None if anything is wrong."""
        values = {target: self._value(target) for target in self._sources}
        self._check_consent()
        self._check_age()
        self._check_enough(values)
        if self._faults:
            return None, self._faults
        asked = (*ATTRIBUTES, *(target for target in values if target.startswith(FACT)))
        return Person(
            row=self._row.number,
            id=values.get("id", ""),
            consent=values["consent"],
            consent_date=self._day("consent_date") or date.min,
            image=values.get("image", ""),
            biography=values.get("biography", ""),
            attributes={target: values[target] for target in asked if values.get(target)},
            identifiers={target: values[target] for target in IDENTIFIERS if values.get(target)},
        ), []

    def _cell(self, target: str) -> str:
        return self._row.cells.get(self._sources.get(target, ""), "")

    def _rule(self, target: str) -> Rule | None:
        if target in ("birth_date", "consent_date"):
            return self._dates
        return None if target == "consent" else RULES.get(target, rules.TEXT)

    def _value(self, target: str) -> str:
        """The printed value of a cell; empty stays empty, unless the cell is needed."""
        cell, rule = self._cell(target), self._rule(target)
        if rule is None or says_none(target, cell):
            return cell.casefold() if rule else cell
        if not cell:
            if target in ("name", "id", "consent_date"):
                self._fault(target, rule.expected)
            return ""
        value = rule.read(cell)
        if value is None:
            self._fault(target, rule.expected)
        return value or ""

    def _fault(self, target: str, expected: str) -> None:
        self._faults.append(Fault(self._row.number, self._sources[target], self._cell(target), expected))

    def _day(self, target: str) -> date | None:
        return dates.parse(self._cell(target), day_first=self._layout.day_first)

    def _check_consent(self) -> None:
        if not self.consents:
            self._fault("consent", f"consent, one of {', '.join(rules.YES[:6])}; remove the person without it")
        given = self._day("consent_date")
        if given and given > date.today():
            self._fault("consent_date", "a day that is not in the future")

    def _check_age(self) -> None:
        birth, given = self._day("birth_date"), self._day("consent_date")
        if not birth or not given or given > date.today():
            return
        low = self._layout.min_age
        if not low <= age(birth, given) <= rules.OLDEST:
            self._fault("birth_date", f"an age of {low} to {rules.OLDEST} years on the day of consent")

    def _check_enough(self, values: Mapping[str, str]) -> None:
        asked = [t for t in values if (t in ATTRIBUTES or t.startswith(FACT)) and t not in ("name", "gender")]
        filled = sum(bool(self._cell(target)) for target in asked)
        if filled < MIN_ATTRIBUTES:
            self._faults.append(
                Fault(self._row.number, "all", f"{filled} facts", f"{MIN_ATTRIBUTES} facts besides name and gender")
            )


def _repeated(rows: Sequence[Row], sources: Mapping[str, str]) -> Iterator[Fault]:
    """One person, one row: names, ids and images are nobody else's."""
    for column in (sources[target] for target in ("name", "id", "image") if target in sources):
        seen: dict[str, int] = {}
        for row in rows:
            value = row.cells[column]
            first = seen.setdefault(value.casefold(), row.number)
            if value and first != row.number:
                yield Fault(row.number, column, value, f"one that is not in row {first} already")


def as_layout(settings: Mapping[str, Any]) -> Layout:
    """The part of a source's settings that says how to read the table."""
    return Layout.model_validate({name: settings[name] for name in Layout.model_fields})
