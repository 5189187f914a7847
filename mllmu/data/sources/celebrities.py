"""The celebrity set: historical public figures whose knowledge must survive unlearning.

They are never fine-tuned on and never forgotten; they measure whether neighbouring knowledge was broken.
The facts about the 153 built-in people lie in ``mllmu/data/celebrities.jsonl``, one object per line, ``also`` with
further values that are true of the person; others come from an export of the Wikidata query service, one row or several
per person.
"""

import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from PIL.Image import Image
from pydantic import Field, model_validator

from mllmu.core.errors import DataError, FaultsError, did_you_mean
from mllmu.core.records import Profile
from mllmu.data.cells import RULES, TEXT, CellRule, is_absent, matching
from mllmu.data.portraits import folder
from mllmu.data.questions import wordings
from mllmu.data.sources import Source
from mllmu.data.table import MIN_FACTS, CellFault, PeopleTable, read

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
_YEARS = matching(r"\+?([12]\d{3})(?:-\d\d-\d\d.*)?", "a year from 1000, or a day such as 1879-03-14T00:00:00Z")
_ITEM = re.compile(r"(?:https?://www\.wikidata\.org/entity/)?([A-Za-z0-9_-]{1,64})")
_ADDRESS = r"https?://.*|<.*>|[QPLtb]\d+(?:-[SF]\d+)?|_:.*|[a-z]{2}(?:-[A-Za-z]{2,8})*"
"""No label: the address or id of an item, a value that Wikidata does not know, the code of a language."""
_NO_LABEL, _NO_NAME = re.compile(_ADDRESS), re.compile(rf"{_ADDRESS}|[a-z]{{3}}(?:-[A-Za-z]{{2,8}})*")


def _label(cell: str) -> str | None:
    return None if _NO_LABEL.fullmatch(cell) else TEXT.read(cell)


def _name(cell: str) -> str | None:
    return None if _NO_NAME.fullmatch(cell) else TEXT.read(cell)


_LABEL = CellRule("a label, neither an id nor an address nor the code of a language", _label)
_RULES = {"name": _LABEL._replace(read=_name), "gender": RULES["gender"], "birth_year": _YEARS, "death_year": _YEARS}


class WikidataExport(NamedTuple):
    """The people of an export; ``items`` counts all that it names, and ``left_out`` says what is not used and why."""

    people: list[Profile]
    num_items: int
    left_out: list[CellFault]


class Celebrities(Source):
    """Historical public figures that no stage trains on.

    Of an export whatever is no fact about a person is left out: ids and addresses in place of labels, unknown dates,
    dates before the year 1000, people with too few facts. They are counted, and ``data/source.json`` lists each with
    its row and the reason.

    Ids are ``c001``, ``c002`` ... in file order, so a smaller ``num_people`` is a prefix of a larger one.
    """

    source = "Liu et al. 2024, MLLMU-Bench, arXiv:2410.22108 (its celebrity set; these facts are our own)"
    invented = True

    num_people: int = Field(NUM_CELEBRITIES, ge=1, le=10**6, description="only the first n people")
    path: Path | None = Field(None, description="an export of the Wikidata query service (CSV, JSON), not our list")
    columns: dict[str, str] = Field({}, description="attribute -> head of a column of the export, where unusual")
    images: Path | None = Field(None, description="folder of images, named by id; people without one are drawn")
    size: int = Field(256, ge=32, le=1024, description="width and height of the images")

    @model_validator(mode="after")
    def _has_so_many(self) -> Self:
        if self.path is None and self.num_people > NUM_CELEBRITIES:
            raise ValueError(f"the built-in list has {NUM_CELEBRITIES} people; name an export in 'path' for more")
        return self

    @cached_property
    def _export(self) -> WikidataExport | None:
        return _exported(self.path, self.columns) if self.path else None

    def profiles(self, seed: int) -> list[Profile]:
        """Return the first ``num_people`` celebrities; real people do not depend on ``seed``.

        Raises:
            DataError: the export cannot be read, a column is missing or unknown, or there are fewer people than asked.
            FaultsError: nobody of the export can be used; every fault.
        """
        if self.images and not self.images.is_dir():
            raise DataError(f"{self.images}: no such folder. data.celebrities.images names the folder of the images.")
        people = self._export.people if self._export else _built_in()
        if len(people) < self.num_people and "num_people" in self.model_fields_set:
            raise DataError(
                f"{self.path}: {len(people)} people can be used, and data.celebrities.num_people asks for "
                f"{self.num_people}. Lower it, or mend the export. {self.account().get('summary', '')}"
            )
        return list(people[: self.num_people])

    def account(self) -> dict[str, Any]:
        """What of an export was left out: how much in words, and each with its row and reason."""
        if not (export := self._export):
            return {}
        lost = export.num_items - len(export.people)
        values = len(export.left_out) - lost
        first = f"; the first: {export.left_out[0]}" if export.left_out else ""
        summary = f"{len(export.people)} of {export.num_items} people of the export, {values} values left out{first}"
        return {"summary": summary, "left_out": [str(fault) for fault in export.left_out]}

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
        Profile(
            id=f"c{number:03d}", kind="celebrity", also=row.pop("also", {}), attributes=row, biography=_biography(row)
        )
        for number, row in enumerate(rows, start=1)
    )


def _biography(row: Mapping[str, str]) -> str:
    """Two sentences; 'The <nationality> <profession>' needs no choice between a and an."""
    they = "She" if row["gender"] == "female" else "He"
    return (
        f"The {row['nationality']} {row['profession']} {row['name']} ({row['birth_year']}-{row['death_year']}) "
        f"was born in {row['birthplace']}. {they} is known for {row['known_for']}."
    )


def _exported(path: Path, columns: Mapping[str, str]) -> WikidataExport:
    """The people of an export, one profile per item; the first usable value of an attribute is asked, all are true."""
    table = read(path)
    sources, found, left_out = _assign(table, columns, path), dict[str, dict[str, list[str]]](), list(table.faults)
    numbers, items = dict[str, int](), sources.pop("id")
    for row in table.rows:
        cell = row.cells[items]
        if not (item := _ITEM.fullmatch(cell)):
            left_out.append(CellFault(row.number, items, cell, "an item such as Q937"))
            continue
        numbers.setdefault(item[1], row.number)
        person = found.setdefault(item[1], {})
        for attribute, column in sources.items():
            cell, rule = row.cells[column], _RULES.get(attribute, _LABEL)
            if is_absent(attribute, cell) or not cell:
                continue
            if value := rule.read(cell):
                values = person.setdefault(attribute, [])
                values += [value] if value not in values else []
            else:
                left_out.append(CellFault(row.number, column, cell, rule.fault(cell)))
    people = dict[str, Profile]()
    for item_id, person in found.items():
        name = person.get("name", [""])[0]
        if not name or len(person) < MIN_FACTS + 1:
            got, expected = f"{name or 'no name'}, {len(person)} values", f"a name and {MIN_FACTS} facts"
        elif name.casefold() in people:
            got, expected = name, f"a name that is not also that of {people[name.casefold()].id}"
        else:
            facts = {attribute: values[0] for attribute, values in person.items()}
            more = {attribute: tuple(values[1:]) for attribute, values in person.items() if values[1:]}
            people[name.casefold()] = Profile(id=item_id, kind="celebrity", attributes=facts, also=more)
            continue
        left_out.append(CellFault(numbers[item_id], items, f"{item_id}: {got}", expected))
    left_out.sort(key=lambda fault: fault.row)
    if not people:
        raise FaultsError(f"{path}: nobody of {len(found)} people can be used. Mend the export.", left_out)
    return WikidataExport(list(people.values()), len(found), left_out)


def _assign(table: PeopleTable, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Attribute -> column; the column with labels counts, and not the one with addresses."""
    known = ("id", *wordings("celebrity"))
    found: dict[str, str] = {}
    for head in table.columns:
        target, labels = NAMES.get(re.sub(r"[\s_-]", "", head).removesuffix("Label").casefold()), head.endswith("Label")
        if target == "id" and labels:
            target = "name"
        if not target or target in columns or head in columns.values():
            continue
        if target in found and found[target].endswith("Label") == labels:
            raise DataError(
                f"{path}: the columns '{found[target]}' and '{head}' both mean '{target}'. Name the one that counts in "
                f"data.celebrities.columns, e.g. columns: {{{target}: {head}}}."
            )
        if labels or target not in found:
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
