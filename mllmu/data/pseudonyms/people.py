"""People of a table as a run may know them: under pseudonyms, their facts searched for who they are, texts approved."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import FaultsError
from mllmu.core.records import Profile
from mllmu.data.pseudonyms.approvals import Doubt, decide, digest, marked
from mllmu.data.pseudonyms.identities import Find, Identities
from mllmu.data.pseudonyms.keyfile import Key, alone_with
from mllmu.data.pseudonyms.replacing import Pseudonyms
from mllmu.data.pseudonyms.search import files_of, meant, said_anyway, search
from mllmu.data.table import CellFault, CheckedPerson

TYPED = frozenset({"name", "gender", "height", "salary"})
"""Attributes that are pseudonyms, numbers or one of three words, and so cannot tell who somebody is."""
SEARCHED = (
    "full names in any order, ids, e-mail and street addresses, telephone numbers in every text; single words of names "
    "in facts, in the recipe and in texts of a language model; transliterated, without case and accents. NOT found: "
    "inflected forms, nicknames, names of people outside of the table, descriptions"
)
_NET = re.compile(r"@|://|www\.", re.IGNORECASE)
_YEAR, _DAY = r"(?<!\d)(?:19|20)\d\d(?!\d)", r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])(?!\d)"
_DATE = re.compile(rf"{_YEAR}.{{1,16}}{_DAY}|{_DAY}.{{1,16}}{_YEAR}|(?<!\d)\d{{1,2}}([./-])\d{{1,2}}\1\d\d(?!\d)")


class PeopleSettings(NamedTuple):
    """What the source says about pseudonyms; see :class:`mllmu.data.sources.people.OwnPeople`."""

    path: Path
    key: Path
    approved: Path
    shift_days: int
    days: Collection[str]


class Pseudonymised:
    """The people of a table under pseudonyms.

    Args:
        people: checked rows.
        columns: target -> head of its column.

    Attributes:
        profiles: in the order of the table; only approved texts.
        summary: what was done, in words.
        account: what ``data/source.json`` says about it.

    Raises:
        FaultsError: facts that tell who somebody is; or texts and words that no person has decided about.
    """

    def __init__(self, people: Sequence[CheckedPerson], columns: Mapping[str, str], settings: PeopleSettings) -> None:
        self._settings, self._columns = settings, columns
        with alone_with(settings.key):
            self._key = Key.load(settings.key)
            self._names = Pseudonyms(self._key, people, shift_days=settings.shift_days, days=settings.days)
            self._key.save(settings.key)
        self._rows = {self._names.id_of(person): f"in row {person.row}" for person in people}
        told = {person.row: self._names.attributes(person) for person in people}
        self._refuse([fault for person in people for fault in self._faults(person, told[person.row])])
        texts = {person.row: self._text(person) for person in people if person.biography}
        words = [doubt for person in people for doubt in self._words(person, told[person.row])]
        self._decided = [*words, *texts.values()]
        approved = decide(self._decided, settings.approved).approved
        kept = {row: doubt.replaced for row, doubt in texts.items() if doubt.digest in approved}
        self._approved_texts = frozenset([*kept.values(), SEARCHED])
        self.profiles = [
            Profile(
                id=self._names.id_of(person),
                kind="fictitious",
                attributes=told[person.row],
                biography=kept.get(person.row, ""),
            )
            for person in people
        ]
        self.summary = f"key {settings.key}" + (f", {len(kept)} of {len(texts)} texts approved" if texts else "")
        self.account: dict[str, Any] = {
            "key": self._key.name,
            "texts": {"given": len(texts), "approved": len(kept)},
            "words_approved": len(words),
            "searched": SEARCHED,
        }

    def inspect(self, folder: Path) -> None:
        """The last check: no text of the data, nor of the recipe beside them, says who somebody is.

        Raises:
            FaultsError: finds that no person has approved, each with its place.
        """
        found = search(files_of(folder, folder.parent), self._names.identities, said_anyway(folder))
        doubts = [self._doubt(t.where, t.text, t.find) for t in found if t.text not in self._approved_texts]
        decide([*self._decided, *doubts], self._settings.approved)

    def _refuse(self, faults: Sequence[CellFault]) -> None:
        if faults:
            raise FaultsError(
                f"{self._settings.path}: {len(faults)} facts tell who a person is. Facts are never changed inside: "
                "write them otherwise, map a column of days in data.source.dates, or list one in data.source.ignore.",
                faults,
            )

    def _facts(self, person: CheckedPerson, told: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        """Head of the column, cell, and what is kept of it."""
        for target, value in told.items():
            if target not in TYPED and target not in self._settings.days:
                yield self._columns[target], person.attributes[target], value

    def _faults(self, person: CheckedPerson, told: Mapping[str, str]) -> Iterator[CellFault]:
        for column, cell, value in self._facts(person, told):
            if why := self._telling(value):
                yield CellFault(person.row, column, cell, f"a fact without {why}")

    def _telling(self, value: str) -> str:
        """What in a fact says who somebody is; empty if nothing does."""
        for find in self._identities.find(value):
            if find.form.certain:
                return self._meant(value, find).replace(" is the ", ", the ")
        if _NET.search(value):
            return "an address of its own"
        return "a date of its own" if _DATE.search(value) else ""

    def _words(self, person: CheckedPerson, told: Mapping[str, str]) -> Iterator[Doubt]:
        for column, _, value in self._facts(person, told):
            for find in self._identities.find(value):
                if not find.form.certain:
                    yield self._doubt(f"row {person.row}, column '{column}'", value, find)

    def _text(self, person: CheckedPerson) -> Doubt:
        pid, pieces = self._names.id_of(person), self._names.pieces(person.biography)
        where = f"row {person.row}, column '{self._columns['biography']}'"
        doubt = Doubt("", where, f"a text of {len(person.biography)} characters", pieces, free=True)
        return doubt._replace(digest=digest(self._key, "text", pid, doubt.replaced))

    def _doubt(self, where: str, text: str, find: Find) -> Doubt:
        pieces = marked(text, find.start, find.end)
        return Doubt(digest(self._key, "find", find.form.plain, text), where, self._meant(text, find), pieces)

    def _meant(self, text: str, find: Find) -> str:
        return f"{meant(text, find)} {self._rows.get(find.form.owner, '')}"

    @property
    def _identities(self) -> Identities:
        return self._names.identities
