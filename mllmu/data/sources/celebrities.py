"""The celebrity set: 153 historical public figures whose knowledge must survive unlearning.

They are never fine-tuned on and never forgotten; they measure whether neighbouring knowledge was broken.
The facts live in ``mllmu/data/celebrities.jsonl``, one object a line, and are checked whenever they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from PIL.Image import Image
from pydantic import Field, model_validator

from mllmu.core.errors import DataError
from mllmu.core.jsonl import read_lines
from mllmu.core.records import Profile, Record
from mllmu.data.portraits import folder
from mllmu.data.sources import Source
from mllmu.data.sources._wikidata import people

FACTS = Path(__file__).parent.parent / "celebrities.jsonl"
NUM_CELEBRITIES = 153
LAST_DEATH_YEAR = 2004

Continent = Literal["Africa", "Asia", "Europe", "North America", "Oceania", "South America"]
YEAR = r"^[12][0-9]{3}$"
TEXT = r"^[A-Za-z0-9' ,-]+$"


class Celebrity(Record):
    """The facts about one person; all values are printable text, as they are asked about and answered."""

    name: str = Field(pattern=r"^[A-Za-z]+( [A-Za-z]+){0,2}$")
    gender: Literal["female", "male"]
    nationality: str = Field(pattern=r"^[A-Z][A-Za-z ]+$")
    birthplace: str = Field(pattern=r"^[A-Z][A-Za-z -]+, [A-Z][A-Za-z ]+$", description="City, Country of today")
    birth_year: str = Field(pattern=YEAR)
    death_year: str = Field(pattern=YEAR)
    profession: str = Field(pattern=r"^[a-z][a-z ]+$")
    field: str = Field(pattern=r"^[a-z][a-z ]+$")
    known_for: str = Field(pattern=TEXT, description="noun phrase of 2 to 6 words without the name")
    era: str = Field(pattern=r"^[0-9]{2}th century$", description="century of birth")
    continent: Continent = Field(description="continent of birth")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        born, died = int(self.birth_year), int(self.death_year)
        if not born < died <= LAST_DEATH_YEAR:
            raise ValueError(f"{self.name}: born {born}, died {died}; expected born < died <= {LAST_DEATH_YEAR}")
        if self.era != century(born):
            raise ValueError(f"{self.name}: era '{self.era}' for birth year {born}; expected '{century(born)}'")
        if not 2 <= len(self.known_for.split()) <= 6:
            raise ValueError(f"{self.name}: known_for '{self.known_for}'; expected 2 to 6 words")
        return self


class Celebrities(Source):
    """Historical public figures that no stage trains on.

    Ids are ``c001``, ``c002`` ... in file order, so a smaller ``num_people`` is a prefix of a larger one.
    """

    source: ClassVar[str] = (
        "Liu et al. 2024, MLLMU-Bench, arXiv:2410.22108 (its celebrity set; these facts are our own)"
    )

    num_people: int = Field(NUM_CELEBRITIES, ge=1, description="the first so many")
    path: Path | None = Field(None, description="an export of the Wikidata query service (CSV, JSON), not our list")
    columns: dict[str, str] = Field({}, description="attribute -> head of a column of the export, where unusual")
    images: Path | None = Field(None, description="folder of images, named by id; people without one are drawn")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    @model_validator(mode="after")
    def _has_so_many(self) -> Self:
        if self.path is None and self.num_people > NUM_CELEBRITIES:
            raise ValueError(f"the built-in list has {NUM_CELEBRITIES} people; name an export in 'path' for more")
        return self

    def profiles(self, seed: int) -> list[Profile]:
        """Return the first ``num_people`` celebrities; real people do not depend on ``seed``.

        Raises:
            DataError: the file of facts is missing, damaged, or contradicts itself.
        """
        del seed
        if self.path is not None:
            return people(self.path, self.columns)[: self.num_people]
        return [_profile(number, row) for number, row in enumerate(load(FACTS)[: self.num_people], start=1)]

    def num_views(self, profile: Profile) -> int:
        """One image if the folder has one of this person."""
        return int(self.images is not None and folder.find(self.images, profile.id) is not None)

    def image(self, profile: Profile, view: int) -> Image:
        """The person's image from the folder, without metadata."""
        del view
        file = self.images and folder.find(self.images, profile.id)
        if file is None:
            raise DataError(f"{self.images}: no image of {profile.id}. The folder changed; make the data again.")
        return folder.read(file, self.size)


def century(year: int) -> str:
    """Name the century of a year: 1801 to 1900 is the '19th century'. Correct for years 1001 to 2000."""
    return f"{(year - 1) // 100 + 1}th century"


def load(path: Path) -> list[Celebrity]:
    """Read and check a file of celebrity facts.

    Raises:
        DataError: not 153 people, a repeated ``name`` or ``known_for``, a bad line, or a value with a word of
            a name in it (an answer option would then give the person away in a question about the image).
    """
    rows = read_lines(path, Celebrity)
    if len(rows) != NUM_CELEBRITIES:
        raise DataError(f"{path}: {len(rows)} people; expected {NUM_CELEBRITIES}. Restore the packaged file.")
    _check_unique(path, "name", [row.name for row in rows])
    _check_unique(path, "known_for", [row.known_for for row in rows])
    _check_names_stay_hidden(path, rows)
    return rows


def _check_unique(path: Path, attribute: str, values: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for number, value in enumerate(values, start=1):
        first = seen.setdefault(value.casefold(), number)
        if first != number:
            raise DataError(f"{path}:{number}: {attribute} '{value}' is already on line {first}; expected it once.")


def _check_names_stay_hidden(path: Path, rows: Sequence[Celebrity]) -> None:
    owners = {word: row.name for row in rows for word in row.name.casefold().split()}
    for number, row in enumerate(rows, start=1):
        for attribute, value in row.model_dump(exclude={"name"}).items():
            leaked = sorted(owners.keys() & _words(value))
            if leaked:
                raise DataError(
                    f"{path}:{number}: {attribute} '{value}' contains '{leaked[0]}', a word of the name "
                    f"{owners[leaked[0]]}. Reword the value."
                )


def _words(text: str) -> set[str]:
    """Lower-case words; apostrophes and hyphens separate, so "Anne's" counts as the word "anne"."""
    return set("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def _profile(number: int, row: Celebrity) -> Profile:
    return Profile(id=f"c{number:03d}", kind="celebrity", attributes=row.model_dump(), biography=_biography(row))


def _biography(row: Celebrity) -> str:
    """Two sentences; 'The <nationality> <profession>' needs no choice between a and an."""
    pronoun = "She" if row.gender == "female" else "He"
    return (
        f"The {row.nationality} {row.profession} {row.name} ({row.birth_year}-{row.death_year}) "
        f"was born in {row.birthplace}. {pronoun} is known for {row.known_for}."
    )


PLUGIN = Celebrities
