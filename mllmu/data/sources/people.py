"""Your own people, with their consent and under pseudonyms: a table, and images if you have them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from PIL.Image import Image
from pydantic import Field, PrivateAttr

from mllmu.core.errors import DataError, FaultsError
from mllmu.core.records import Profile
from mllmu.core.seeding import rng
from mllmu.data.portraits import MAX_VIEWS, transform
from mllmu.data.portraits import folder as images
from mllmu.data.pseudonyms import keyfile
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.pseudonyms.persons import Checked, Person, as_layout, check
from mllmu.data.pseudonyms.pseudonyms import Pseudonyms
from mllmu.data.sources import Source
from mllmu.data.table import Fault, read

Label = Annotated[str, Field(pattern=r"^[a-z][a-z ]{1,30}$")]
DETECTION = (
    "names, cities, ids, addresses and telephone numbers of the table are found in every text, in any case, order and "
    "accent; e-mail addresses, pages, handles, telephone numbers, codes, long numbers and dates by their form; names "
    "of people outside the table only behind a title or a word of kinship, or as a usual given name and another name"
)


class People(Source):
    """Real people who consented, from CSV, Excel, JSON or JSON lines; pseudonymous before anything is written.

    Every row needs ``name``, ``consent`` and ``consent_date``, and six facts. All faults of all rows are listed at
    once. Names, cities, ids, e-mail addresses, telephone numbers and addresses become fakes, the same everywhere; dates
    move by a number of days of the person's own; texts are scrubbed. Who is who stands in the key file alone, which
    is made at the first use and must lie outside the run folder. What was replaced is counted in ``data/source.json``.

    Raises:
        DataError: the table cannot be read, lacks or does not explain a column; the key file is damaged.
        FaultsError: rows that break a rule, one line each.
    """

    source: ClassVar[str] = "local files"

    path: Path = Field(description="the table: .csv, .tsv, .xlsx, .json or .jsonl")
    key: Path = Field(Path("people.key.json"), description="who is behind the pseudonyms; keep it apart and secret")
    columns: dict[str, str] = Field({}, description="target -> head of the column, where they differ")
    facts: dict[Label, str] = Field({}, description="what else is asked, e.g. {employer: Company}")
    ignore: tuple[str, ...] = Field((), description="columns that are not used")
    day_first: bool | None = Field(None, description="how 03/04/1990 is read; without it such a date is a fault")
    min_age: int = Field(18, ge=0, description="years on the day of consent")
    skip_without_consent: bool = Field(False, description="leave such rows out and count them, instead of refusing")
    pseudonymise: bool = Field(True, description="false: everything is written as it is in the table")
    shift_days: int = Field(365, ge=1, le=3650, description="dates move by at most so many days")
    region: str = Field("US", pattern="^[A-Z]{2}$", description="country of telephone numbers without a country code")
    images: Path | None = Field(None, description="folder of images, named by id or by the column 'image'")
    views: int = Field(4, ge=1, le=MAX_VIEWS, description="images a person, if there is a folder of images")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    _shown: dict[str, Path] = PrivateAttr(default_factory=dict)
    _account: dict[str, Any] = PrivateAttr(default_factory=dict)

    def profiles(self, seed: int) -> list[Profile]:
        """The people in the order of their pseudonymous ids, which says nothing about the table; no seed matters."""
        del seed
        checked = check(read(self.path), as_layout(self.model_dump()), self.path)
        files = self._images(checked)
        return self._pseudonymous(checked, files) if self.pseudonymise else self._as_they_are(checked, files)

    def num_views(self, profile: Profile) -> int:
        """Number of own images of a person."""
        return self.views if profile.id in self._files() else 0

    def image(self, profile: Profile, view: int) -> Image:
        """One view: a file of its own (``<name>_<view>``), or the portrait transformed."""
        file = self._files()[profile.id]
        own = images.find(file.parent, f"{file.stem}_{view}") if view else None
        image = images.read(own or file, self.size)
        return image if own or not view else transform(image, rng(0, "portrait", profile.id, "view", view), 1.0)

    def account(self) -> dict[str, Any]:
        """Consent by pseudonym, what was replaced, and what detection can and cannot do."""
        return self._account

    def files(self) -> list[Path]:
        """The table and the images; not the key, which grows when it is used."""
        return [self.path, *([self.images] if self.images else [])]

    def _files(self) -> Mapping[str, Path]:
        if not self._account:
            self.profiles(0)
        return self._shown

    def _pseudonymous(self, checked: Checked, files: Mapping[int, Path]) -> list[Profile]:
        key = Key(self.key)
        names = Pseudonyms(key, checked.people, checked.sources, region=self.region, shift_days=self.shift_days)
        self._refuse_telling_paths(names)
        profiles = {names.id_of(person): names.profile(person) for person in checked.people}
        key.save()
        self._remember(checked, files, {person.row: names.id_of(person) for person in checked.people})
        replaced: dict[str, dict[str, int]] = defaultdict(dict)
        for (kind, column), number in sorted(names.counts.items()):
            replaced[kind][column] = number
        total = sum(names.counts.values())
        self._account["summary"] += f", {total} originals replaced, key {self.key}"
        self._account |= {"key": key.name, "replaced": dict(replaced), "detection": DETECTION}
        return [profiles[pid] for pid in sorted(profiles)]

    def _as_they_are(self, checked: Checked, files: Mapping[int, Path]) -> list[Profile]:
        ids = {p.row: p.id or f"p{number:03d}" for number, p in enumerate(checked.people, start=1)}
        self._remember(checked, files, ids)
        self._account["summary"] += ", NOTHING replaced (pseudonymise: false)"
        return [
            Profile(id=ids[p.row], kind="fictitious", attributes=p.attributes, biography=p.biography)
            for p in checked.people
        ]

    def _remember(self, checked: Checked, files: Mapping[int, Path], ids: Mapping[int, str]) -> None:
        self._shown.clear()
        self._shown.update({ids[row]: file for row, file in files.items()})
        consent = {ids[p.row]: {"consent": p.consent, "date": p.consent_date.isoformat()} for p in checked.people}
        self._account.clear()
        self._account.update(
            summary=f"{len(ids)} people with consent, {checked.num_without_consent} rows without it left out",
            pseudonymised=self.pseudonymise,
            left_out_without_consent=checked.num_without_consent,
            consent=dict(sorted(consent.items())),
        )

    def _images(self, checked: Checked) -> dict[int, Path]:
        """The image of every row; all that are missing are named at once."""
        if self.images is None:
            return {}
        if not self.images.is_dir():
            raise DataError(f"{self.images}: no such folder. data.source.images names the folder of the images.")
        found = {person.row: self._image_of(person, self.images) for person in checked.people}
        column = checked.sources.get("image") or checked.sources.get("id") or "image"
        missing = [
            Fault(p.row, column, p.image or p.id, f"an image in {self.images}, one of {', '.join(images.SUFFIXES)}")
            for p in checked.people
            if found[p.row] is None
        ]
        if missing:
            raise FaultsError(f"{self.images}: no image of {len(missing)} people. Add them or the files.", missing)
        return {row: file for row, file in found.items() if file}

    def _image_of(self, person: Person, folder: Path) -> Path | None:
        name = Path(person.image or person.id)
        stem = name.stem if name.suffix.lower() in images.SUFFIXES else name.name
        return images.find(folder, stem) if stem.strip(".") else None

    def _refuse_telling_paths(self, names: Pseudonyms) -> None:
        """The recipe is copied into the run folder, and its paths with it."""
        for setting, path in (("path", self.path), ("key", self.key), ("images", self.images)):
            if path and (hits := list(names.lexicon.find(str(path), ""))):
                raise DataError(
                    f"data.source.{setting}: {path} holds an original ({hits[0].kind}), and the run folder keeps the "
                    "recipe. Rename the file or folder, or name it by a relative path."
                )
        keyfile.refuse_run_folder(self.key)


PLUGIN = People
