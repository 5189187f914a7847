"""Your own people, with their consent and under pseudonyms: a table, and images if you have them."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError, DependencyError, FaultsError
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data import table
from mllmu.data.checked import CheckedTable, check
from mllmu.data.portraits import MAX_VIEWS, folder, transform
from mllmu.data.pseudonyms.people import PeopleSettings, Pseudonymised
from mllmu.data.questions import FACT
from mllmu.data.sources import Source
from mllmu.data.table import CellFault, CheckedPerson, PeopleTable

Label = Annotated[str, Field(pattern=r"^[a-z][a-z ]{1,30}$")]


class TablePeople(NamedTuple):
    """The people of a table as everything behind the source knows them.

    Attributes:
        images: file of the portrait by id, if there is a folder of images.
        named: how many rows of the table, also of those left out, name a file (in lower case, without type).
        account: consent by pseudonym, what texts were kept, and what was searched for.
        pseudonyms: what looks through the finished data; None without pseudonyms.
    """

    profiles: list[Profile]
    images: dict[str, Path]
    named: Counter[str]
    account: dict[str, Any]
    pseudonyms: Pseudonymised | None


class OwnPeople(Source):
    """Real people who consented, from CSV, Excel, JSON or JSON lines; pseudonymous before anything is written.

    Every row needs ``name``, ``consent`` and ``consent_date``, and six facts. ``columns`` maps a target to the head of
    a column; a column that bears the name of a target needs no entry. All faults of all rows are listed at once.
    Names, ids and cities become fakes, days move by a number of days of the person's own; contacts are not kept. All
    other facts stay as they are: one that holds a name, id, contact, address or date is refused. Free texts are not
    read, or each waits until a person has approved what is left of it. At the end every text of the data is searched
    for the people of the table, and what is found must be mended or approved. Only the key file holds the originals; it
    is made at the first use and must lie outside the run folder, as must the file and page of what was approved.

    Raises:
        DataError: the table cannot be read, lacks or does not explain a column; the key file is damaged.
        FaultsError: rows that break a rule, facts that tell who somebody is, and what waits for approval; a line each.
    """

    source = "local files"
    made = frozenset({"key", "approved"})

    columns: dict[str, str] = Field({}, description="target -> head of the column, where they differ")
    facts: dict[Label, str] = Field({}, description="what else is asked, e.g. {employer: Company}")
    dates: dict[Label, str] = Field({}, description="facts that are days, e.g. {hiring date: Hired}; they move, too")
    ignore: tuple[str, ...] = Field((), description="columns that are not used")
    day_first: bool | None = Field(None, description="how 03/04/1990 is read; without it such a date is a fault")
    min_age: int = Field(18, ge=0, le=150, description="years on the day of consent")
    skip_without_consent: bool = Field(False, description="leave such rows out and count them, instead of refusing")
    path: Path = Field(description="the table: .csv, .tsv, .xlsx, .json or .jsonl")
    key: Path = Field(Path("people.key.json"), description="who is behind the pseudonyms; keep it apart and secret")
    pseudonymise: bool = Field(True, description="false: everything is written as it is in the table")
    shift_days: int = Field(365, ge=1, le=3650, description="dates move by at most so many days")
    free_text: Literal["ignore", "review"] = Field(
        "ignore", description="review: texts that a person approved are kept"
    )
    approved: Path = Field(Path("people.approved.json"), description="what a person approved; the page lies beside it")
    images: Path | None = Field(None, description="folder of images, named by id or by the column 'image'")
    views: int = Field(4, ge=1, le=MAX_VIEWS, description="images per person, if there is a folder of images")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    @cached_property
    def _people(self) -> TablePeople:
        """The people, read, checked and replaced; pseudonymous people come in the order of their ids."""
        people = table.read(self.path)
        checked = check(people, self)
        files = _images(checked, self.images)
        hidden = Pseudonymised(checked.people, checked.columns, self._pseudonyms()) if self.pseudonymise else None
        profiles = hidden.profiles if hidden else _unchanged(checked)
        ids = [profile.id for profile in profiles]
        given = [{"consent": p.consent, "date": p.consent_date.isoformat()} for p in checked.people]
        how = hidden.summary if hidden else "NOTHING replaced (pseudonymise: false)"
        about = {
            "summary": ", ".join([f"{len(ids)} people with consent", *_left_out(people, checked), how]),
            "pseudonymised": self.pseudonymise,
            "left_out_without_consent": checked.num_without_consent,
            "read_as_empty": checked.absent,
            "without_age": checked.num_without_age,
            "sheets_not_read": len(people.unread),
            "consent": dict(sorted(zip(ids, given, strict=True))),
        }
        images = dict(zip(ids, files, strict=True)) if files else {}
        ordered = sorted(profiles, key=lambda profile: profile.id) if self.pseudonymise else profiles
        return TablePeople(ordered, images, _named(checked), about | (hidden.account if hidden else {}), hidden)

    def _pseudonyms(self) -> PeopleSettings:
        days = {"birth_date", *(FACT + label.replace(" ", "_") for label in self.dates)}
        return PeopleSettings(self.path, self.key, self.approved, self.shift_days, days)

    def profiles(self, seed: int) -> list[Profile]:
        """The people in the order of their pseudonymous ids, which says nothing about the table; no seed matters."""
        return list(self._people.profiles)

    def num_views(self, profile: Profile) -> int:
        """Number of own images of a person."""
        return self.views if profile.id in self._people.images else 0

    def image(self, profile: Profile, view: int) -> Image:
        """One view: a file of its own (``<name>_<view>``), or the portrait transformed.

        A file that a row of the table names is that person's portrait and no view of another one.
        """
        file = self._people.images[profile.id]
        name = f"{file.stem}_{view}"
        own = folder.find(file.parent, name) if view and name.casefold() not in self._people.named else None
        image = folder.read(own or file, self.size)
        return image if own or not view else transform(image, rng(0, "portrait", profile.id, "view", view), 1.0)

    def account(self) -> dict[str, Any]:
        """Consent by pseudonym, what texts were kept, and what was searched for."""
        return self._people.account

    def inspect(self, folder: Path) -> None:
        """Search the data for the people of the table."""
        if self._people.pseudonyms:
            self._people.pseudonyms.inspect(folder)

    def expected_people(self) -> int | None:
        """The rows of the table."""
        try:
            return len(table.read(self.path).rows)
        except (DataError, DependencyError):  # said when the data are made
            return None

    @property
    def needed_extra(self) -> str:
        """Pseudonyms and Excel files need libraries of their own."""
        return "people" if self.pseudonymise or self.path.suffix.lower() == ".xlsx" else ""

    def files(self) -> list[Path]:
        """The table and the images; not the key, which grows when it is used."""
        return [path for path in super().files() if path != self.key]


def _left_out(people: PeopleTable, checked: CheckedTable) -> Iterator[str]:
    """What of the table is not used or cannot be checked, in words."""
    yield f"{checked.num_without_consent} rows without it left out"
    if empty := sum(markers.total() for markers in checked.absent.values()):
        marker = next(iter(next(iter(checked.absent.values()))))
        yield f"{empty} cells such as '{marker}' read as empty"
    if checked.num_without_age:
        yield f"{checked.num_without_age} people without a birth date whose age is NOT checked"
    if people.unread:
        yield f"{len(people.unread)} other sheets of the workbook NOT read"


def _unchanged(checked: CheckedTable) -> list[Profile]:
    return [
        Profile(id=p.id or f"p{number:03d}", kind="fictitious", attributes=p.attributes, biography=p.biography)
        for number, p in enumerate(checked.people, start=1)
    ]


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
    named, alone = _named(checked), "an image that no other row names, also none that is left out"
    if shared := [
        CellFault(p.row, column, p.image or p.id, alone)
        for p, file in found
        if file and named[file.stem.casefold()] > 1
    ]:
        raise FaultsError(f"{images}: {len(shared)} people share an image with another row. Mend the table.", shared)
    return [file for _, file in found if file]


def _image_of(person: CheckedPerson, images: Path) -> Path | None:
    stem = _stem(person.image or person.id)
    return folder.find(images, stem) if stem.strip(".") else None


def _named(checked: CheckedTable) -> Counter[str]:
    """How many rows name an image."""
    return Counter(_stem(name).casefold() for name in checked.images)


def _stem(name: str) -> str:
    """The name of an image without its type."""
    path = Path(name)
    return path.stem if path.suffix.lower() in folder.SUFFIXES else path.name
