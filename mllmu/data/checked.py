"""Checks a whole table of people against the rules of its cells, and lists every fault at once."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple, Protocol

from mllmu.core.equal_values import without_accents
from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.data import cells, dates
from mllmu.data.questions import FACT
from mllmu.data.table import MIN_FACTS, CellFault, CheckedPerson, PeopleRow, PeopleTable
from mllmu.data.values import ATTRIBUTES

IDENTIFIERS = ("email", "phone", "address")
TARGETS = (*ATTRIBUTES, "id", "consent", "consent_date", "image", "biography", *IDENTIFIERS)
NEEDED = ("name", "consent", "consent_date")
AGES = frozenset({
    "age", "age in years", "current age", "years of age", "years old", "alter", "âge", "edad", "età", "idade",
    "leeftijd", "wiek", "ålder",
})  # fmt: skip
"""Labels of facts and heads of columns, in lower case, that hold the age of the person in years."""


class TableSettings(Protocol):
    """What a source says about its table; see the settings of :class:`mllmu.data.sources.people.OwnPeople`."""

    @property
    def path(self) -> Path: ...
    @property
    def columns(self) -> dict[str, str]: ...
    @property
    def facts(self) -> dict[str, str]: ...
    @property
    def dates(self) -> dict[str, str]: ...
    @property
    def free_text(self) -> str: ...
    @property
    def ignore(self) -> tuple[str, ...]: ...
    @property
    def day_first(self) -> bool | None: ...
    @property
    def min_age(self) -> int: ...
    @property
    def skip_without_consent(self) -> bool: ...


class CheckedTable(NamedTuple):
    """People who may be used.

    Attributes:
        columns: the column of every target.
        images: names of images of all rows, also of those left out: the cell 'image', or the id where it is empty.
        absent: how many cells of a column hold which marker of absence, e.g. ``{"hobby": {"n/a": 3}}``.
        num_without_age: people of whom neither a birth date nor an age is known.
    """

    people: list[CheckedPerson]
    columns: dict[str, str]
    num_without_consent: int
    images: list[str]
    absent: dict[str, Counter[str]]
    num_without_age: int


def check(people: PeopleTable, settings: TableSettings) -> CheckedTable:
    """Check a whole table.

    Raises:
        DataError: a column is missing, unknown or used for nothing, or two columns mean the same.
        FaultsError: all cells that break a rule, rows without consent, and people who are in the table twice.
    """
    columns = _assign(people.columns, settings)
    faults = [fault for fault in people.faults if fault.column not in settings.ignore]
    checked, used, absent = list[CheckedPerson](), list[_RowReader](), dict[str, Counter[str]]()
    images = []
    for row in people.rows:
        reader = _RowReader(row, columns, settings)
        images += [name for target in ("image", "id") if (name := reader.texts.get(target))][:1]
        if settings.skip_without_consent and not reader.consents:
            continue
        used.append(reader)
        if person := reader.person():
            checked.append(person)
        faults += reader.faults
        for target, marker in reader.absent.items():
            absent.setdefault(columns[target], Counter())[marker.casefold()] += 1
    faults += _repeated(used, columns)
    if faults:
        wrong, total = len({fault.row for fault in faults}), len(people.rows)
        ordered = sorted(faults, key=lambda fault: fault.row)
        raise FaultsError(f"{settings.path}: {len(faults)} faults in {wrong} of {total} rows. Mend the table.", ordered)
    if not checked:
        raise DataError(f"{settings.path}: no people. Expected rows with consent under the head of the table.")
    ages = sum(reader.has_age for reader in used)
    return CheckedTable(checked, columns, len(people.rows) - len(used), images, absent, len(used) - ages)


def _assign(heads: Sequence[str], settings: TableSettings) -> dict[str, str]:
    """Target -> column; a fact's target begins with ``fact_``. Every column must be wanted or ignored by name."""

    def known(head: str, setting: str) -> str:
        if head not in heads:
            raise DataError(
                f"{settings.path}: data.source.{setting} names the column '{head}', which is not there."
                f"{did_you_mean(head, heads)} Columns: {', '.join(heads)}."
            )
        return head

    ignored = {known(head, "ignore") for head in settings.ignore}
    found = _by_name([head for head in heads if head not in ignored], settings)
    for target, head in settings.columns.items():
        if target not in TARGETS:
            raise DataError(
                f"data.source.columns: no target '{target}'.{did_you_mean(target, TARGETS)} Targets: "
                f"{', '.join(TARGETS)}. Use 'facts' for anything else that is to be asked."
            )
        found[target] = known(head, f"columns.{target}")
    for label, head in (settings.facts | settings.dates).items():
        setting = "facts" if label in settings.facts else "dates"
        found[FACT + label.replace(" ", "_")] = known(head, f"{setting}.{label}")
    found = {target: head for target, head in found.items() if head not in ignored}
    _refuse_gaps(heads, found, ignored, settings)
    if settings.free_text == "ignore":
        found.pop("biography", None)
    every = (*TARGETS, *sorted(target for target in found if target.startswith(FACT)))
    return {target: found[target] for target in every if target in found}


def _by_name(heads: Sequence[str], settings: TableSettings) -> dict[str, str]:
    """Columns that bear the name of a target and are not mapped otherwise; two of one name are an error."""
    mapped = {*settings.columns.values(), *settings.facts.values(), *settings.dates.values()}
    found: dict[str, str] = {}
    for head in heads:
        target = _plain(head)
        if target not in TARGETS or target in settings.columns or head in mapped:
            continue
        if target in found:
            raise DataError(
                f"{settings.path}: the columns '{found[target]}' and '{head}' both mean '{target}'. Name the one that "
                f"counts in data.source.columns, e.g. columns: {{{target}: {head}}}, and list the other in "
                "data.source.ignore."
            )
        found[target] = head
    return found


def _refuse_gaps(
    heads: Sequence[str], found: Mapping[str, str], ignored: Collection[str], settings: TableSettings
) -> None:
    """Raise DataError where a needed target has no column, or a column has no use."""
    for target in NEEDED:
        if target not in found:
            near = did_you_mean(target, set(heads) - set(ignored))
            raise DataError(
                f"{settings.path}: no column for '{target}'.{near} Name it in data.source.columns, e.g. "
                f"columns: {{{target}: ...}}. Columns: {', '.join(heads)}."
            )
    if unused := [head for head in heads if head not in found.values() and head not in ignored]:
        hints = [f"'{head}'{did_you_mean(_plain(head), TARGETS).rstrip('?')}" for head in unused]
        raise DataError(
            f"{settings.path}: nothing is said about {len(unused)} column(s): {'; '.join(hints)}. Map each in "
            "data.source.columns, ask about it with data.source.facts, or list it in data.source.ignore."
        )


def _plain(head: str) -> str:
    return "_".join(head.casefold().replace("-", " ").replace("_", " ").split())


def _bare(name: str) -> str:
    """A name without accents, case and marks between its words."""
    return " ".join(re.sub(r"[\s.,'’\-‐‑]+", " ", without_accents(name).casefold()).split())


class _RowReader:
    """Reads one row and collects its faults.

    Attributes:
        texts: the cell of every target, empty for a marker of absence.
        absent: these markers.
    """

    def __init__(self, row: PeopleRow, columns: Mapping[str, str], settings: TableSettings) -> None:
        self.row, self._columns, self._settings = row, columns, settings
        given = {target: row.cells[column] for target, column in columns.items()}
        self.absent = {target: cell for target, cell in given.items() if cells.is_absent(target, cell)}
        self.texts = given | dict.fromkeys(self.absent, "")
        rules = cells.rules(day_first=settings.day_first)
        days = (FACT + label.replace(" ", "_") for label in settings.dates)
        self._rules = rules | dict.fromkeys(days, rules["birth_date"])
        self.faults: list[CellFault] = []

    @property
    def consents(self) -> bool:
        return bool(self._rules["consent"].read(self.texts["consent"]))

    @property
    def has_age(self) -> bool:
        return bool(self._day("birth_date")) or any(self.texts[target] for target in self._age_facts())

    def person(self) -> CheckedPerson | None:
        """The person, or None if anything is wrong."""
        values = {target: value for target in self.texts if (value := self._value(target))}
        asked = [t for t in self.texts if t in ATTRIBUTES or t.startswith(FACT)]
        given = self._day("consent_date")
        self._check_age(given)
        filled = sum(bool(self.texts[target]) for target in asked if target not in ("name", "gender"))
        if filled < MIN_FACTS:
            expected = f"{MIN_FACTS} facts besides name and gender"
            self.faults.append(CellFault(self.row.number, "all", f"{filled} facts", expected))
        if self.faults or not given:
            return None
        return CheckedPerson(
            row=self.row.number,
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
        cell, rule = self.texts[target], self._rules.get(target, cells.TEXT)
        if not cell and target not in (*NEEDED, "id"):
            return ""
        if cells.is_error(cell):
            self._fault(target, "a value; this is the mark of a formula that failed: mend it, or empty the cell")
            return ""
        value = rule.read(cell)
        if value is None:
            self._fault(target, rule.fault(cell))
        return value or ""

    def _fault(self, target: str, expected: str) -> None:
        column = self._columns[target]
        self.faults.append(CellFault(self.row.number, column, self.row.cells[column], expected))

    def _day(self, target: str) -> date | None:
        return dates.parse(self.texts.get(target, ""), day_first=self._settings.day_first)

    def _age_facts(self) -> list[str]:
        """Facts that say how old the person is."""
        named = {target: {target.removeprefix(FACT), column} for target, column in self._columns.items()}
        facts = [target for target in self.texts if target.startswith(FACT)]
        return [fact for fact in facts if any(_plain(name).replace("_", " ") in AGES for name in named[fact])]

    def _check_age(self, given: date | None) -> None:
        """``given``: the day of consent."""
        birth, low = self._day("birth_date"), self._settings.min_age
        if given and given > date.today():
            self._fault("consent_date", "a day that is not in the future")
        elif birth and given and not low <= cells.age(birth, given) <= cells.OLDEST:
            self._fault("birth_date", f"an age of {low} to {cells.OLDEST} years on the day of consent")
        elif given:
            first, last = (
                (cells.age(birth, given) - 1, cells.age(birth, date.today())) if birth else (low, cells.OLDEST)
            )
            told = f" by the birth date {birth}" if birth else ""
            for fact in self._age_facts():
                years = self.texts[fact]
                if years and not (years.isdecimal() and len(years) < 4 and max(low, first) <= int(years) <= last):
                    self._fault(fact, f"an age of {max(low, first)} to {last} years{told}")


def _repeated(rows: Sequence[_RowReader], columns: Mapping[str, str]) -> Iterator[CellFault]:
    """One person, one row: no name, id or image is that of another row.

    Where there are no ids, a name is the same without accents and whatever stands between its words.
    """
    for target in ("name", "id", "image"):
        seen: dict[str, int] = {}
        for row in rows:
            text, number = row.texts.get(target, ""), row.row.number
            bare = target == "name" and not row.texts.get("id")
            first = seen.setdefault(_bare(text) if bare else text.casefold(), number)
            if text and first != number:
                yield CellFault(number, columns[target], text, f"one that is not in row {first} already")
