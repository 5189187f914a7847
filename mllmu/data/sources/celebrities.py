"""The celebrity set: historical public figures whose knowledge must survive unlearning.

They are never fine-tuned on and never forgotten; they measure whether neighbouring knowledge was broken.
The facts about the 153 built-in people lie in ``mllmu/data/celebrities.jsonl``, one object per line; others come from
an export of the Wikidata query service, one row or several per person.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

from PIL.Image import Image
from pydantic import Field, model_validator

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.core.records import Profile
from mllmu.data.portraits import folder
from mllmu.data.questions import wordings
from mllmu.data.sources import Source
from mllmu.data.table import MIN_FACTS, RULES, TEXT, CellFault, PeopleTable, matching, read

FACTS = Path(__file__).parent.parent / "celebrities.jsonl"
NUM_CELEBRITIES = 153
NAMES = {
    "item": "id", "person": "id", "id": "id", "itemlabel": "name", "personlabel": "name", "name": "name",
    "sexorgender": "gender", "gender": "gender", "placeofbirth": "birthplace", "birthplace": "birthplace",
    "dateofbirth": "birth_year", "birth": "birth_year", "birthyear": "birth_year",
    "dateofdeath": "death_year", "death": "death_year", "deathyear": "death_year",
    "occupation": "profession", "profession": "profession", "countryofcitizenship": "nationality",
    "nationality": "nationality", "country": "nationality", "fieldofwork": "field", "field": "field",
    "notablework": "known_for", "knownfor": "known_for", "continent": "continent", "era": "era",
}  # fmt: skip
"""Usual heads, without case, blanks, '_' and the ending 'Label' -> attribute."""
_YEARS = matching(r"([12]\d{3})(?:-\d\d-\d\d.*)?", "a year from 1000, or a day such as 1879-03-14T00:00:00Z")
_RULES = {"gender": RULES["gender"], "birth_year": _YEARS, "death_year": _YEARS}
_ITEM = re.compile(r"(?:https?://www\.wikidata\.org/entity/)?([A-Za-z0-9_-]{1,64})")


class Celebrities(Source):
    """Historical public figures that no stage trains on.

    Ids are ``c001``, ``c002`` ... in file order, so a smaller ``num_people`` is a prefix of a larger one.
    """

    source = "Liu et al. 2024, MLLMU-Bench, arXiv:2410.22108 (its celebrity set; these facts are our own)"

    num_people: int = Field(NUM_CELEBRITIES, ge=1, description="only the first n people")
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
            DataError: the export cannot be read, or a column is missing or unknown.
            FaultsError: every row of the export that breaks a rule.
        """
        people = _built_in() if self.path is None else _exported(self.path, self.columns)
        return list(people[: self.num_people])

    def num_views(self, profile: Profile) -> int:
        """One image if the folder has one of this person."""
        return int(self.images is not None and folder.find(self.images, profile.id) is not None)

    def image(self, profile: Profile, view: int) -> Image:
        """The person's image from the folder, without metadata."""
        file = self.images and folder.find(self.images, profile.id)
        if file is None:
            raise DataError(f"{self.images}: no image of {profile.id}. The folder changed; make the data again.")
        return folder.read(file, self.size)


@cache
def _built_in() -> tuple[Profile, ...]:
    rows = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    return tuple(
        Profile(id=f"c{number:03d}", kind="celebrity", attributes=row, biography=_biography(row))
        for number, row in enumerate(rows, start=1)
    )


def _biography(row: Mapping[str, str]) -> str:
    """Two sentences; 'The <nationality> <profession>' needs no choice between a and an."""
    they = "She" if row["gender"] == "female" else "He"
    return (
        f"The {row['nationality']} {row['profession']} {row['name']} ({row['birth_year']}-{row['death_year']}) "
        f"was born in {row['birthplace']}. {they} is known for {row['known_for']}."
    )


def _exported(path: Path, columns: Mapping[str, str]) -> list[Profile]:
    """The people of an export, one profile per item; of several values of one attribute the first counts."""
    table = read(path)
    sources, found, faults = _assign(table, columns, path), dict[str, dict[str, str]](), list(table.faults)
    numbers, items = dict[str, int](), sources.pop("id")
    for row in table.rows:
        item = _ITEM.fullmatch(row.cells[items])
        if not item:
            faults.append(CellFault(row.number, items, row.cells[items], "an item such as Q937"))
            continue
        numbers.setdefault(item[1], row.number)
        person = found.setdefault(item[1], {})
        for attribute, column in sources.items():
            cell, rule = row.cells[column], _RULES.get(attribute, TEXT)
            if value := rule.read(cell):
                person.setdefault(attribute, value)
            elif cell:
                faults.append(CellFault(row.number, column, cell, rule.expected))
    for item_id, person in found.items():
        if "name" not in person or len(person) < MIN_FACTS + 1:
            expected = f"a name and {MIN_FACTS} facts"
            faults.append(CellFault(numbers[item_id], "all", f"{len(person)} values", expected))
    if faults:
        raise FaultsError(f"{path}: {len(faults)} faults in {len(table.rows)} rows. Mend the export.", faults)
    return [Profile(id=item_id, kind="celebrity", attributes=person) for item_id, person in found.items()]


def _assign(table: PeopleTable, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    known = ("id", *wordings("celebrity"))
    found: dict[str, str] = {}
    labelled = sorted(table.columns, key=lambda head: head.endswith("Label"))  # the label counts, not the address
    for head in labelled:
        target = NAMES.get(re.sub(r"[\s_-]", "", head).removesuffix("Label").casefold())
        if target == "id" and head.endswith("Label"):
            target = "name"
        if target:
            found[target] = head
    for target, head in columns.items():
        if target not in known or head not in table.columns:
            wrong, right = (target, known) if target not in known else (head, table.columns)
            raise DataError(
                f"data.celebrities.columns: no '{wrong}'.{did_you_mean(wrong, right)} Known: {', '.join(right)}."
            )
        found[target] = head
    if missing := [target for target in ("id", "name") if target not in found]:
        raise DataError(
            f"{path}: no column for {', '.join(missing)}. Name it in data.celebrities.columns. "
            f"Columns: {', '.join(table.columns)}."
        )
    return found
