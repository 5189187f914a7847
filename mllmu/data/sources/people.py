"""Your own people, with their consent and under pseudonyms: a table, and images if you have them."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError, FaultsError
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data import table
from mllmu.data.checked import CheckedTable, check
from mllmu.data.portraits import MAX_VIEWS, folder, transform
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.pseudonyms.replacing import Pseudonyms
from mllmu.data.sources import Source
from mllmu.data.table import CellFault, CheckedPerson, PeopleTable

DETECTION = (
    "names, cities, ids, addresses and telephone numbers of the table are found in every text, in any case, order and "
    "accent; e-mail addresses, pages, handles, telephone numbers, codes, long numbers and dates by their form; names "
    "of people outside the table only behind a title or a word of kinship, or as a usual given name and another name"
)

Label = Annotated[str, Field(pattern=r"^[a-z][a-z ]{1,30}$")]


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
        people = table.read(self.path)
        checked = check(people, self)
        files = _images(checked, self.images)
        profiles, replaced, account = (_pseudonymous if self.pseudonymise else _unchanged)(checked, self)
        ids = [profile.id for profile in profiles]
        given = [{"consent": p.consent, "date": p.consent_date.isoformat()} for p in checked.people]
        about = {
            "summary": ", ".join([f"{len(ids)} people with consent", *_left_out(people, checked), replaced]),
            "pseudonymised": self.pseudonymise,
            "left_out_without_consent": checked.num_without_consent,
            "read_as_empty": checked.absent,
            "without_age": checked.num_without_age,
            "sheets_not_read": people.unread,
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


def _left_out(people: PeopleTable, checked: CheckedTable) -> Iterator[str]:
    """What of the table is not used or cannot be checked, in words."""
    yield f"{checked.num_without_consent} rows without it left out"
    if empty := sum(markers.total() for markers in checked.absent.values()):
        marker = next(iter(next(iter(checked.absent.values()))))
        yield f"{empty} cells such as '{marker}' read as empty"
    if checked.num_without_age:
        yield f"{checked.num_without_age} people without a birth date whose age is NOT checked"
    if people.unread:
        yield f"sheets not read: {', '.join(people.unread)}"


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
