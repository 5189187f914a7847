"""Real people from a table: every row is checked, and who they are is replaced before anything is written.

:func:`read_people` is the way in; :func:`reveal` says who is behind a pseudonym, for whoever has the key file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from mllmu.core.errors import DataError, FaultsError
from mllmu.core.records import Profile
from mllmu.data import table
from mllmu.data.portraits import folder
from mllmu.data.pseudonyms.keyfile import Key, refuse_run_folder, reveal
from mllmu.data.pseudonyms.replacing import Pseudonyms
from mllmu.data.pseudonyms.rows import CheckedPerson, CheckedTable, TableSettings, check
from mllmu.data.table import CellFault

__all__ = ["PeopleSettings", "TablePeople", "read_people", "reveal"]

DETECTION = (
    "names, cities, ids, addresses and telephone numbers of the table are found in every text, in any case, order and "
    "accent; e-mail addresses, pages, handles, telephone numbers, codes, long numbers and dates by their form; names "
    "of people outside the table only behind a title or a word of kinship, or as a usual given name and another name"
)


class PeopleSettings(TableSettings):
    """Where the people are, and how they are made pseudonymous."""

    path: Path = Field(description="the table: .csv, .tsv, .xlsx, .json or .jsonl")
    key: Path = Field(Path("people.key.json"), description="who is behind the pseudonyms; keep it apart and secret")
    pseudonymise: bool = Field(True, description="false: everything is written as it is in the table")
    shift_days: int = Field(365, ge=1, le=3650, description="dates move by at most so many days")
    region: str = Field("US", pattern="^[A-Z]{2}$", description="country of telephone numbers without a country code")
    images: Path | None = Field(None, description="folder of images, named by id or by the column 'image'")


class TablePeople(NamedTuple):
    """The people of a table as everything behind the source knows them.

    Attributes:
        images: file of the portrait by id, if there is a folder of images.
        account: consent by pseudonym, what was replaced, and what detection can and cannot do.
    """

    profiles: list[Profile]
    images: dict[str, Path]
    account: dict[str, Any]


def read_people(settings: PeopleSettings) -> TablePeople:
    """Read, check and replace.

    Pseudonymous people come in the order of their ids, which says nothing about the table.

    Raises:
        DataError: the table cannot be read, lacks or does not explain a column; the key file is damaged or lies in a
            run folder; a path holds an original.
        FaultsError: rows that break a rule, or people without an image, one line each.
    """
    checked = check(table.read(settings.path), settings, settings.path)
    files = _images(checked, settings.images)
    account: dict[str, Any] = {}
    if settings.pseudonymise:
        ids, profiles, told = _pseudonymous(checked, settings, account)
    else:
        ids = {p.row: p.id or f"p{number:03d}" for number, p in enumerate(checked.people, start=1)}
        profiles = [
            Profile(id=ids[p.row], kind="fictitious", attributes=p.attributes, biography=p.biography)
            for p in checked.people
        ]
        told = "NOTHING replaced (pseudonymise: false)"
    consent = {ids[p.row]: {"consent": p.consent, "date": p.consent_date.isoformat()} for p in checked.people}
    about = {
        "summary": f"{len(ids)} people with consent, {checked.num_without_consent} rows without it left out, {told}",
        "pseudonymised": settings.pseudonymise,
        "left_out_without_consent": checked.num_without_consent,
        "consent": dict(sorted(consent.items())),
    }
    return TablePeople(profiles, {ids[row]: file for row, file in files.items()}, about | account)


def _pseudonymous(
    checked: CheckedTable, settings: PeopleSettings, account: dict[str, Any]
) -> tuple[dict[int, str], list[Profile], str]:
    """Ids by row, profiles, and what the summary says; the account is completed."""
    key = Key(settings.key)
    names = Pseudonyms(key, checked.people, checked.columns, region=settings.region, shift_days=settings.shift_days)
    _refuse_telling_paths(settings, names)
    profiles = [names.profile(person) for person in checked.people]
    key.save()
    replaced: Mapping[str, dict[str, int]] = defaultdict(dict)
    for (kind, column), number in sorted(names.counts.items()):
        replaced[kind][column] = number
    account |= {"key": key.name, "replaced": dict(replaced), "detection": DETECTION}
    ids = {person.row: names.id_of(person) for person in checked.people}
    told = f"{names.counts.total()} originals replaced, key {settings.key}"
    return ids, sorted(profiles, key=lambda profile: profile.id), told


def _refuse_telling_paths(settings: PeopleSettings, names: Pseudonyms) -> None:
    """The recipe is copied into the run folder, and its paths with it."""
    for setting in ("path", "key", "images"):
        path = getattr(settings, setting)
        if path and (hits := list(names.lexicon.find(str(path), ""))):
            raise DataError(
                f"data.source.{setting}: {path} holds an original ({hits[0].kind}), and the run folder keeps the "
                "recipe. Rename the file or folder, or name it by a relative path."
            )
    refuse_run_folder(settings.key)


def _images(checked: CheckedTable, images: Path | None) -> dict[int, Path]:
    """The image of every row; all that are missing are named at once."""
    if images is None:
        return {}
    if not images.is_dir():
        raise DataError(f"{images}: no such folder. data.source.images names the folder of the images.")
    found = {person.row: _image_of(person, images) for person in checked.people}
    column = checked.columns.get("image") or checked.columns.get("id") or "image"
    expected = f"an image in {images}, one of {', '.join(folder.SUFFIXES)}"
    missing = [CellFault(p.row, column, p.image or p.id, expected) for p in checked.people if found[p.row] is None]
    if missing:
        raise FaultsError(f"{images}: no image of {len(missing)} people. Add them or the files.", missing)
    return {row: file for row, file in found.items() if file}


def _image_of(person: CheckedPerson, images: Path) -> Path | None:
    name = Path(person.image or person.id)
    stem = name.stem if name.suffix.lower() in folder.SUFFIXES else name.name
    return folder.find(images, stem) if stem.strip(".") else None
