"""Your own people, with their consent and under pseudonyms: a table, and images if you have them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from PIL.Image import Image
from pydantic import Field

from mllmu.core.records import Profile
from mllmu.core.seeding import rng
from mllmu.data.portraits import MAX_VIEWS, folder, transform
from mllmu.data.pseudonyms import PeopleSettings, TablePeople, read_people
from mllmu.data.sources import Source


class OwnPeople(PeopleSettings, Source):
    """Real people who consented, from CSV, Excel, JSON or JSON lines; pseudonymous before anything is written.

    Every row needs ``name``, ``consent`` and ``consent_date``, and six facts. All faults of all rows are listed at
    once. Names, cities, ids, e-mail addresses, telephone numbers and addresses become fakes, the same everywhere; dates
    move by a number of days of the person's own; texts are scrubbed. Only the key file holds the originals; it is made
    at the first use and must lie outside the run folder. What was replaced is counted in ``data/source.json``.

    Raises:
        DataError: the table cannot be read, lacks or does not explain a column; the key file is damaged.
        FaultsError: rows that break a rule, one line each.
    """

    source: ClassVar[str] = "local files"

    views: int = Field(4, ge=1, le=MAX_VIEWS, description="images per person, if there is a folder of images")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    @cached_property
    def _people(self) -> TablePeople:
        return read_people(self)

    def profiles(self, seed: int) -> list[Profile]:
        """The people in the order of their pseudonymous ids, which says nothing about the table; no seed matters."""
        del seed
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


PLUGIN = OwnPeople
