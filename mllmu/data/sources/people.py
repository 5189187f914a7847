"""Your own people, with their consent and under pseudonyms: a table, and images if you have them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data import dates, table
from mllmu.data.portraits import MAX_VIEWS, folder, transform
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.pseudonyms.replacing import Pseudonyms
from mllmu.data.questions import FACT
from mllmu.data.sources import Source
from mllmu.data.table import CellFault, CheckedPerson, PeopleRow, PeopleTable
from mllmu.data.values import ATTRIBUTES

DETECTION = (
    "names, cities, ids, addresses and telephone numbers of the table are found in every text, in any case, order and "
    "accent; e-mail addresses, pages, handles, telephone numbers, codes, long numbers and dates by their form; names "
    "of people outside the table only behind a title or a word of kinship, or as a usual given name and another name"
)
IDENTIFIERS = ("email", "phone", "address")
TARGETS = (*ATTRIBUTES, "id", "consent", "consent_date", "image", "biography", *IDENTIFIERS)
NEEDED = ("name", "consent", "consent_date")

Label = Annotated[str, Field(pattern=r"^[a-z][a-z ]{1,30}$")]


class CheckedTable(NamedTuple):
    """People who may be used, the column of every target, and how many rows were left out for want of consent."""

    people: list[CheckedPerson]
    columns: dict[str, str]
    num_without_consent: int


class TablePeople(NamedTuple):
    """The people of a table as everything behind the source knows them.

    Attributes:
        images: file of the portrait by id, if there is a folder of images.
        account: consent by pseudonym, what was replaced, and what detection can and cannot do.
    """

    profiles: list[Profile]
    images: dict[str, Path]
    account: dict[str, Any]


class OwnPeople(Source):
    """Real people who consented, from CSV, Excel, JSON or JSON lines; pseudonymous before anything is written.

    Every row needs ``name``, ``consent`` and ``consent_date``, and six facts. ``columns`` maps a target to the head of
    a column; a column that bears the name of a target needs no entry. All faults of all rows are listed at once.
    Names, cities, ids, e-mail addresses, telephone numbers and addresses become fakes, the same everywhere; dates move
    by a number of days of the person's own; texts are scrubbed. Only the key file holds the originals; it is made at
    the first use and must lie outside the run folder. What was replaced is counted in ``data/source.json``.

    Raises:
        DataError: the table cannot be read, lacks or does not explain a column; the key file is damaged.
        FaultsError: rows that break a rule, one line each.
    """

    source = "local files"

    columns: dict[str, str] = Field({}, description="target -> head of the column, where they differ")
    facts: dict[Label, str] = Field({}, description="what else is asked, e.g. {employer: Company}")
    ignore: tuple[str, ...] = Field((), description="columns that are not used")
    day_first: bool | None = Field(None, description="how 03/04/1990 is read; without it such a date is a fault")
    min_age: int = Field(18, ge=0, description="years on the day of consent")
    skip_without_consent: bool = Field(False, description="leave such rows out and count them, instead of refusing")
    path: Path = Field(description="the table: .csv, .tsv, .xlsx, .json or .jsonl")
    key: Path = Field(Path("people.key.json"), description="who is behind the pseudonyms; keep it apart and secret")
    pseudonymise: bool = Field(True, description="false: everything is written as it is in the table")
    shift_days: int = Field(365, ge=1, le=3650, description="dates move by at most so many days")
    region: str = Field("US", pattern="^[A-Z]{2}$", description="country of telephone numbers without a country code")
    images: Path | None = Field(None, description="folder of images, named by id or by the column 'image'")
    views: int = Field(4, ge=1, le=MAX_VIEWS, description="images per person, if there is a folder of images")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    @cached_property
    def _people(self) -> TablePeople:
        """The people, read, checked and replaced; pseudonymous people come in the order of their ids."""
        checked = check(table.read(self.path), self)
        files = _images(checked, self.images)
        profiles, replaced, account = (_pseudonymous if self.pseudonymise else _unchanged)(checked, self)
        ids = [profile.id for profile in profiles]
        given = [{"consent": p.consent, "date": p.consent_date.isoformat()} for p in checked.people]
        without = checked.num_without_consent
        about = {
            "summary": f"{len(ids)} people with consent, {without} rows without it left out, {replaced}",
            "pseudonymised": self.pseudonymise,
            "left_out_without_consent": without,
            "consent": dict(sorted(zip(ids, given, strict=True))),
        }
        images = dict(zip(ids, files, strict=True)) if files else {}
        ordered = sorted(profiles, key=lambda profile: profile.id) if self.pseudonymise else profiles
        return TablePeople(ordered, images, about | account)

    def profiles(self, seed: int) -> list[Profile]:
        """The people in the order of their pseudonymous ids, which says nothing about the table; no seed matters."""
        return list(self._people.profiles)

    def num_views(self, profile: Profile) -> int:
        """Number of own images of a person."""
        return self.views if profile.id in self._people.images else 0

    def image(self, profile: Profile, view: int) -> Image:
        """One view: a file of its own (``<name>_<view>``), or the portrait transformed."""
        file = self._people.images[profile.id]
        own = folder.find(file.parent, f"{file.stem}_{view}") if view else None
        image = folder.read(own or file, self.size)
        return image if own or not view else transform(image, rng(0, "portrait", profile.id, "view", view), 1.0)

    def account(self) -> dict[str, Any]:
        """Consent by pseudonym, what was replaced, and what detection can and cannot do."""
        return self._people.account

    def files(self) -> list[Path]:
        """The table and the images; not the key, which grows when it is used."""
        return [path for path in super().files() if path != self.key]


Replaced = tuple[list[Profile], str, dict[str, Any]]
"""The profiles in the order of the table, what was replaced in words, and what the account says about it."""


def _unchanged(checked: CheckedTable, settings: OwnPeople) -> Replaced:
    del settings
    profiles = [
        Profile(id=p.id or f"p{number:03d}", kind="fictitious", attributes=p.attributes, biography=p.biography)
        for number, p in enumerate(checked.people, start=1)
    ]
    return profiles, "NOTHING replaced (pseudonymise: false)", {}


def _pseudonymous(checked: CheckedTable, settings: OwnPeople) -> Replaced:
    """Replace the originals and complete the key file."""
    key = Key.load(settings.key)
    names = Pseudonyms(key, checked.people, checked.columns, region=settings.region, shift_days=settings.shift_days)
    _refuse_telling_paths(settings, names)
    profiles = [names.profile(person) for person in checked.people]
    key.save(settings.key)
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (kind, column), number in sorted(names.counts.items()):
        counts[kind][column] = number
    account = {"key": key.name, "replaced": counts, "detection": DETECTION}
    return profiles, f"{names.counts.total()} originals replaced, key {settings.key}", account


def _refuse_telling_paths(settings: OwnPeople, names: Pseudonyms) -> None:
    """The recipe is copied into the run folder, and its paths with it."""
    for setting in ("path", "key", "images"):
        path = getattr(settings, setting)
        if path and (hits := list(names.lexicon.find(str(path), ""))):
            raise DataError(
                f"data.source.{setting}: {path} holds an original ({hits[0].kind}), and the run folder keeps the "
                "recipe. Rename the file or folder, or name it by a relative path."
            )


def _images(checked: CheckedTable, images: Path | None) -> list[Path]:
    """The image of every person, none without a folder; all that are missing are named at once."""
    if images is None:
        return []
    if not images.is_dir():
        raise DataError(f"{images}: no such folder. data.source.images names the folder of the images.")
    found = [(person, _image_of(person, images)) for person in checked.people]
    column = checked.columns.get("image") or checked.columns.get("id") or "image"
    expected = f"an image in {images}, one of {', '.join(folder.SUFFIXES)}"
    if missing := [CellFault(p.row, column, p.image or p.id, expected) for p, file in found if file is None]:
        raise FaultsError(f"{images}: no image of {len(missing)} people. Add them or the files.", missing)
    return [file for _, file in found if file]


def _image_of(person: CheckedPerson, images: Path) -> Path | None:
    name = Path(person.image or person.id)
    stem = name.stem if name.suffix.lower() in folder.SUFFIXES else name.name
    return folder.find(images, stem) if stem.strip(".") else None


def check(people: PeopleTable, settings: OwnPeople) -> CheckedTable:
    """Check a whole table.

    Raises:
        DataError: a column is missing, unknown or used for nothing.
        FaultsError: all cells that break a rule, rows without consent, and people who are in the table twice.
    """
    columns = _assign(people.columns, settings)
    faults, checked, used = list(people.faults), [], []
    for row in people.rows:
        reader = _RowReader(row, columns, settings)
        if settings.skip_without_consent and not reader.consents:
            continue
        used.append(row)
        if person := reader.person():
            checked.append(person)
        faults += reader.faults
    faults += _repeated(used, columns)
    if faults:
        wrong, total = len({fault.row for fault in faults}), len(people.rows)
        ordered = sorted(faults, key=lambda fault: fault.row)
        raise FaultsError(f"{settings.path}: {len(faults)} faults in {wrong} of {total} rows. Mend the table.", ordered)
    if not checked:
        raise DataError(f"{settings.path}: no people. Expected rows with consent under the head of the table.")
    return CheckedTable(checked, columns, len(people.rows) - len(used))


def _assign(heads: Sequence[str], settings: OwnPeople) -> dict[str, str]:
    """Target -> column; a fact's target begins with ``fact_``. Every column must be wanted or ignored by name."""

    def known(head: str, setting: str) -> str:
        if head not in heads:
            raise DataError(
                f"{settings.path}: data.source.{setting} names the column '{head}', which is not there."
                f"{did_you_mean(head, heads)} Columns: {', '.join(heads)}."
            )
        return head

    found = {target: head for head in heads if (target := _plain(head)) in TARGETS}
    for target, head in settings.columns.items():
        if target not in TARGETS:
            raise DataError(
                f"data.source.columns: no target '{target}'.{did_you_mean(target, TARGETS)} Targets: "
                f"{', '.join(TARGETS)}. Use 'facts' for anything else that is to be asked."
            )
        found[target] = known(head, f"columns.{target}")
    for label, head in settings.facts.items():
        found[FACT + label.replace(" ", "_")] = known(head, f"facts.{label}")
    ignored = {known(head, "ignore") for head in settings.ignore}
    found = {target: head for target, head in found.items() if head not in ignored}
    for target in NEEDED:
        if target not in found:
            near = did_you_mean(target, set(heads) - ignored)
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
    every = (*TARGETS, *sorted(target for target in found if target.startswith(FACT)))
    return {target: found[target] for target in every if target in found}


def _plain(head: str) -> str:
    return "_".join(head.casefold().replace("-", " ").replace("_", " ").split())


class _RowReader:
    """Reads one row and collects its faults."""

    def __init__(self, row: PeopleRow, columns: Mapping[str, str], settings: OwnPeople) -> None:
        self._row, self._columns, self._settings = row, columns, settings
        self._cells = {target: row.cells[column] for target, column in columns.items()}
        self._rules = table.rules(day_first=settings.day_first)
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
        if filled < table.MIN_FACTS:
            expected = f"{table.MIN_FACTS} facts besides name and gender"
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
        cell, rule = self._cells[target], self._rules.get(target, table.TEXT)
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
        elif birth and given and not low <= table.age(birth, given) <= table.OLDEST:
            self._fault("birth_date", f"an age of {low} to {table.OLDEST} years on the day of consent")


def _repeated(rows: Sequence[PeopleRow], columns: Mapping[str, str]) -> Iterator[CellFault]:
    """One person, one row: no name, id or image is that of another row."""
    for column in (columns[target] for target in ("name", "id", "image") if target in columns):
        seen: dict[str, int] = {}
        for row in rows:
            value = row.cells[column]
            first = seen.setdefault(value.casefold(), row.number)
            if value and first != row.number:
                yield CellFault(row.number, column, value, f"one that is not in row {first} already")
