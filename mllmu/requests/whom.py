"""Whom a request is about, and which facts: the files of ``--people`` and ``--facts``, as the data know them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mllmu.config.recipe import Recipe
from mllmu.core.csvrows import csv_rows
from mllmu.core.errors import DataError, did_you_mean
from mllmu.core.process import Progress
from mllmu.core.records import Profile
from mllmu.data.files import read_text
from mllmu.data.pseudonyms.keyfile import people_of
from mllmu.data.sources import Source

if TYPE_CHECKING:
    from mllmu.requests.order import ForgetOrder

ONE_A_LINE = "one id or name a line"
FACTS_TABLE = "a head, and an id or name in each row: 'id,attribute', or 'id' and a column for each attribute"


class RequestedFacts(NamedTuple):
    """Whom a request is about.

    Attributes:
        people: ids of all, in the order of the data; ``total``: how many people the data have.
        facts: by person the attributes to forget; whoever is not in it is forgotten as a whole.
    """

    people: list[str]
    facts: dict[str, list[str]]
    total: int

    @property
    def whole(self) -> list[str]:
        """The people who are forgotten as a whole."""
        return [person for person in self.people if person not in self.facts]

    @property
    def num_facts(self) -> int:
        """How many single facts are named."""
        return sum(map(len, self.facts.values()))

    @property
    def request(self) -> dict[str, Any] | None:
        """As ``unlearn.forget``; None if people are forgotten as a whole only, as their set says already."""
        return {"people": self.whole, "facts": self.facts} if self.facts else None

    @property
    def scope(self) -> list[str]:
        """The facts in words: attributes, if they are the same for everyone; else a person with attributes each."""
        own = {person: ", ".join(self.facts.get(person, ["everything"])) for person in self.people}
        same = len({*own.values()}) == 1
        return list(self.facts[self.people[0]]) if same else [f"{person}: {names}" for person, names in own.items()]


def rows_of(path: Path, option: str, expected: str) -> list[list[str]]:
    """The rows of a CSV file that have a first cell.

    Raises:
        DataError: no such file, or no row in it.
    """
    text = read_text(path, expected=f"Expected a CSV file with {expected}.", missing=f"{option} names it.")
    try:
        rows = [[cell.strip() for cell in row] for row in csv_rows(text) if row and row[0].strip()]
    except csv.Error as error:
        raise DataError(f"{path}: damaged CSV ({error}). Expected {expected}.") from None
    if not rows:
        raise DataError(f"{path}: names nobody. Expected {expected}.")
    return rows


def wanted(order: ForgetOrder, recipe: Recipe, progress: Progress) -> RequestedFacts:
    """The people and facts to forget.

    Raises:
        DataError: somebody, or a fact, is not in the data, or nobody would be retained; no other name is given.
    """
    source: Source = recipe.data.source.build("sources", "data.source")
    settings = recipe.data.source.settings
    profiles = {profile.id: profile for profile in source.generate(recipe.seed, progress)}
    known = {person.casefold(): person for person in profiles} | _originals(settings, profiles)
    whole, facts = set[str](), dict[str, list[str]]()
    if order.people:
        rows = [row[0] for row in rows_of(order.people, "--people", ONE_A_LINE)]
        # the head ('id', 'staff_no' ...) is told by the data, which have no such id
        rows = rows[1:] if rows[0].casefold() not in known and len(rows) > 1 else rows
        whole = set(_found(rows, known, order.people, order.data))
    if order.facts:
        facts = _facts(order.facts, known, profiles, _columns(settings), order.data)
        if twice := [person for person in facts if person in whole]:
            raise DataError(f"{order.facts}: '{twice[0]}' is forgotten as a whole by {order.people}. Name each once.")
    people = [person for person in profiles if person in whole or person in facts]
    if not people:
        raise DataError(
            "a request names nobody. Give --people FILE (whole people), --facts FILE (single facts), or both."
        )
    if len(people) == len(profiles):
        path = order.people or order.facts
        raise DataError(
            f"{path}: names all {len(profiles)} people of the data. Expected somebody who stays as they are."
        )
    return RequestedFacts(people, facts, len(profiles))


def _found(names: Sequence[str], known: Mapping[str, str], path: Path, data: Path) -> list[str]:
    """The ids of people by their ids or names."""
    unknown = [name for name in names if name.casefold() not in known]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(names)} people are not in the data of {data}, the first is "
            f"'{unknown[0]}'.{did_you_mean(unknown[0].casefold(), known)} Expected ids or names as the data have them."
        )
    return [known[name.casefold()] for name in names]


def _facts(
    path: Path, known: Mapping[str, str], profiles: Mapping[str, Profile], columns: Mapping[str, str], data: Path
) -> dict[str, list[str]]:
    """The attributes to forget, by person."""
    head, *rows = rows_of(path, "--facts", FACTS_TABLE)
    if len(head) < 2 or not rows:
        raise DataError(f"{path}: names no fact. Expected {FACTS_TABLE}.")
    by_line = _plain(head[1]) in ("attribute", "fact")
    named = [
        (row[0], cell if by_line else title)
        for row in rows
        for title, cell in zip(head[1:2] if by_line else head[1:], row[1:], strict=False)
        if cell
    ]
    if not named:
        raise DataError(f"{path}: no cell marks a fact. Expected {FACTS_TABLE}, and any text in the cell of each fact.")
    found: dict[str, list[str]] = {}
    for name, attribute in named:
        (person,) = _found([name], known, path, data)
        own = {_plain(each): each for each in profiles[person].attributes if each != "name"}
        asked = _plain(columns.get(_plain(attribute), attribute))
        if asked not in own:
            raise DataError(
                f"{path}: '{name}' has no fact '{attribute}' in the data of {data}.{did_you_mean(asked, own)} "
                f"Known: {', '.join(own)}."
            )
        if own[asked] not in found.setdefault(person, []):
            found[person].append(own[asked])
    return {person: found[person] for person in profiles if person in found}


def _plain(name: str) -> str:
    """The name of an attribute however it is written.

    >>> _plain("Birth date"), _plain("fact_employer")
    ('birth_date', 'employer')
    """
    return re.sub(r"[\s\-_]+", "_", name.strip().casefold()).removeprefix("fact_")


def _columns(settings: Mapping[str, Any]) -> dict[str, str]:
    """The attribute in every column that the source names, by the head of the column."""
    given = [settings.get(name) for name in ("columns", "facts", "dates")]
    return {_plain(head): name for own in given if isinstance(own, Mapping) for name, head in own.items()}


def _originals(settings: Mapping[str, Any], ids: Iterable[str]) -> dict[str, str]:
    """Real ids and names, where the key file of the source knows who is behind its pseudonyms."""
    key = Path(str(settings.get("key", "people.key.json")))
    if settings.get("pseudonymise") is False or not key.is_file():
        return {}
    known = people_of(key)
    return {
        known[person][field].casefold(): person for person in ids if person in known for field in ("id", "name")
        if known[person].get(field)
    }  # fmt: skip
