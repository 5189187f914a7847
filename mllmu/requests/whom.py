"""Whom a request is about, and which facts: the files of ``--people`` and ``--facts``, as the data know them."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
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
from mllmu.requests.standing import NOTHING, TakenFacts

if TYPE_CHECKING:
    from mllmu.requests.order import ForgetOrder

ONE_A_LINE = "one id or name a line; further columns have heads"
FACTS_TABLE = "a head, and an id or name in each row: 'id,attribute', or 'id' and a column for each attribute"
PERSON_HEADS, FACT_HEADS = ("id", "name", "person"), ("attribute", "fact")
"""What the columns of people, and of their facts, are called, beside what the source of the data calls them."""


class RequestedFacts(NamedTuple):
    """Whom a request is about.

    Attributes:
        people: ids of all, in the order of the data; ``total``: how many people the data have.
        facts: by person the attributes to forget; whoever is not in it is forgotten as a whole.
        earlier: what earlier requests have taken of these data.
    """

    people: list[str]
    facts: dict[str, list[str]]
    total: int
    earlier: TakenFacts = NOTHING

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
        """As ``unlearn.forget``; None for the first request, if it is for whole people: their set says it already."""
        people, facts = self.earlier
        earlier = {"earlier": {"people": list(people), "facts": dict(facts)}} if people or facts else {}
        return {"people": self.whole, "facts": self.facts, **earlier} if self.facts or earlier else None

    @property
    def scope(self) -> list[str]:
        """The facts in words: attributes, if they are the same for everyone; else a person with attributes each."""
        own = {person: ", ".join(self.facts.get(person, ["everything"])) for person in self.people}
        same = len({*own.values()}) == 1
        return list(self.facts[self.people[0]]) if same else [f"{person}: {names}" for person, names in own.items()]


class KnownPeople:
    """Who is meant by an id or name: an id of the data as it is written, else ids and names in whatever case.

    Args:
        profiles: everybody in the data, by id.
        originals: real ids and names behind pseudonyms, with the id in the data.
        heads: what a column of people may be called.
        data: where the data come from, for errors.
    """

    def __init__(
        self, profiles: Mapping[str, Profile], originals: Iterable[tuple[str, str]], heads: Sequence[str], data: Path
    ) -> None:
        self.profiles, self.heads, self._data = profiles, heads, data
        self._meant: dict[str, dict[str, None]] = {}
        own = ((text, one.id) for one in profiles.values() for text in (one.id, one.attributes.get("name", "")))
        for text, person in (*own, *originals):
            self._meant.setdefault(_folded(text), {})[person] = None

    def is_head(self, cell: str) -> bool:
        """Whether a cell is the head of a column of people, and no person."""
        return _plain(cell) in map(_plain, self.heads) and not self._who(cell)

    def ids(self, names: Sequence[str], path: Path, hint: str = "") -> list[str]:
        """The ids of the people meant by some ids or names.

        Args:
            hint: what to say if the first of them is nobody.

        Raises:
            DataError: one is nobody, or several people have the name.
        """
        found = {name: self._who(name) for name in names}
        if unknown := [name for name, who in found.items() if not who]:
            meant = did_you_mean(_folded(unknown[0]), self._meant)
            raise DataError(
                f"{path}: {len(unknown)} of {len(found)} people are not in the data of {self._data}, the first is "
                f"'{unknown[0]}'.{meant} Expected ids or names as the data have them."
                f"{hint if unknown[0] == names[0] else ''}"
            )
        for name, who in found.items():
            if len(who) > 1:
                raise DataError(
                    f"{path}: {len(who)} people are called '{name}': {', '.join(who)}. Give the id of each."
                )
        return [who[0] for who in found.values()]

    def _who(self, name: str) -> list[str]:
        return [name] if name in self.profiles else list(self._meant.get(_folded(name), ()))


def _folded(text: str) -> str:
    """An id or name however it is written: composed letters, one space between words, no capitals."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def rows_of(path: Path, option: str, expected: str) -> list[list[str]]:
    """The rows of a CSV file that are not empty.

    Raises:
        DataError: no such file, or no row in it.
    """
    text = read_text(path, expected=f"Expected a CSV file with {expected}.", missing=f"{option} names it.")
    try:
        rows = [[cell.strip() for cell in row] for row in csv_rows(text) if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path}: damaged CSV ({error}). Expected {expected}.") from None
    if not rows:
        raise DataError(f"{path}: names nobody. Expected {expected}.")
    return rows


def _check_shape(rows: Sequence[Sequence[str]], head: Sequence[str], path: Path, expected: str) -> None:
    """DataError for a row that names nobody in its first cell, or has a cell that nobody reads, below no head."""
    for row in rows:
        unread = [cell for cell, title in zip_longest(row, head, fillvalue="") if cell and not title]
        if unread or not row[0]:
            fault = f"has a cell more ('{unread[0]}')" if unread else "has no id or name in its first cell"
            raise DataError(f"{path}: the row '{', '.join(row)}' {fault}. Expected {expected}.")


def wanted(order: ForgetOrder, recipe: Recipe, progress: Progress, earlier: TakenFacts = NOTHING) -> RequestedFacts:
    """The people and facts to forget.

    Args:
        earlier: what earlier requests have taken; of people who are in these data it is kept out of the request.

    Raises:
        DataError: somebody, or a fact, is not in the data, or nobody would be retained; no other name is given.
    """
    source: Source = recipe.data.source.build("sources", "data.source")
    settings = recipe.data.source.settings
    key = _key_of(source)
    profiles = {profile.id: profile for profile in source.generate(recipe.seed, progress)}
    known = KnownPeople(profiles, _originals(key, profiles) if key else (), _heads(settings), order.data)
    whole, facts = set[str](), dict[str, list[str]]()
    if order.people:
        whole = set(_whole(order.people, known))
    if order.facts:
        facts = _facts(order.facts, known, _columns(settings), order.data)
        if twice := [person for person in facts if person in whole]:
            raise DataError(f"{order.facts}: '{twice[0]}' is forgotten as a whole by {order.people}. Name each once.")
    people = [person for person in profiles if person in whole or person in facts]
    if not people:
        raise DataError(
            "a request names nobody. Give --people FILE (whole people), --facts FILE (single facts), or both."
        )
    gone = _in_data(earlier, profiles)
    if not profiles.keys() - {*people, *gone.people}:
        path = order.people or order.facts
        left = " that earlier requests have left" if gone.people else ""
        raise DataError(
            f"{path}: names all {len(people)} people of the data{left}. Expected somebody who stays as they are."
        )
    return RequestedFacts(people, facts, len(profiles), gone)


def _in_data(earlier: TakenFacts, profiles: Mapping[str, Profile]) -> TakenFacts:
    """What earlier requests have taken, as far as these data have it."""
    facts = ((p, tuple(n for n in own if n in profiles[p].attributes)) for p, own in earlier.facts if p in profiles)
    return TakenFacts(tuple(p for p in earlier.people if p in profiles), tuple(each for each in facts if each[1]))


def _whole(path: Path, known: KnownPeople) -> list[str]:
    """The ids of the people of a list, with or without a head."""
    rows = rows_of(path, "--people", ONE_A_LINE)
    headed = known.is_head(rows[0][0])
    _check_shape(rows, rows[0] if headed else PERSON_HEADS[:1], path, ONE_A_LINE)
    if headed and len(rows) == 1:
        raise DataError(f"{path}: names nobody below its head '{rows[0][0]}'. Expected {ONE_A_LINE}.")
    hint = "" if headed else f" If it is meant as the head of the column: the heads are {', '.join(known.heads)}."
    return known.ids([row[0] for row in rows[headed:]], path, hint)


def _facts(path: Path, known: KnownPeople, columns: Mapping[str, str], data: Path) -> dict[str, list[str]]:
    """The attributes to forget, by person."""
    head, *rows = rows_of(path, "--facts", FACTS_TABLE)
    if not known.is_head(head[0]):
        raise DataError(
            f"{path}: '{head[0]}' is no head of a column of people ({', '.join(known.heads)}). Expected {FACTS_TABLE}."
        )
    if len(head) < 2 or not rows:
        raise DataError(f"{path}: names no fact. Expected {FACTS_TABLE}.")
    by_line = _plain(head[1]) in FACT_HEADS
    _check_shape(rows, head[:2] if by_line else head, path, FACTS_TABLE)
    if by_line and (gaps := [row[0] for row in rows if not any(row[1:])]):
        raise DataError(f"{path}: names no attribute of '{gaps[0]}'. Expected {FACTS_TABLE}.")
    named = [
        (row[0], cell if by_line else title)
        for row in rows
        for title, cell in zip(head[1:], row[1:], strict=False)
        if cell
    ]
    if not named:
        raise DataError(f"{path}: no cell marks a fact. Expected {FACTS_TABLE}, and any text in the cell of each fact.")
    facts: dict[str, list[str]] = {}
    for name, attribute in named:
        (person,) = known.ids([name], path)
        own = {_plain(each): each for each in known.profiles[person].attributes if each != "name"}
        asked = _plain(columns.get(_plain(attribute), attribute))
        if asked not in own:
            raise DataError(
                f"{path}: '{name}' has no fact '{attribute}' in the data of {data}.{did_you_mean(asked, own)} "
                f"Known: {', '.join(own)}."
            )
        if own[asked] not in facts.setdefault(person, []):
            facts[person].append(own[asked])
    return {person: facts[person] for person in known.profiles if person in facts}


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


def _heads(settings: Mapping[str, Any]) -> list[str]:
    """What a column of people may be called, with the names that the source has for its ids and names."""
    columns = settings.get("columns")
    own = [str(columns[name]) for name in PERSON_HEADS if name in columns] if isinstance(columns, Mapping) else []
    return list(dict.fromkeys([*PERSON_HEADS, *own]))


def _key_of(source: Source) -> Path | None:
    """The key file of a source whose people are under pseudonyms; None for others.

    Raises:
        DataError: it is not there. A new one would give pseudonyms that no model was taught.
    """
    key: Path | None = getattr(source, "key", None) if getattr(source, "pseudonymise", False) else None
    if key is not None and not key.is_file():
        raise DataError(
            f"data.source.key: {key}: no such key file, and only the one that the data of the model were made with "
            "tells their pseudonyms. Name it with --set data.source.key=FILE; if the model was taught the table as it "
            "is, give --set data.source.pseudonymise=false."
        )
    return key


def _originals(key: Path, ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Real ids and names that a key file knows, with the id in the data."""
    known = people_of(key)
    for person in ids:
        for field in ("id", "name"):
            if original := known.get(person, {}).get(field):
                yield original, person
