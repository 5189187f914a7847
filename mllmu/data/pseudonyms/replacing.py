"""Pseudonyms for the people of a table: what stands for names, ids, places and days, and texts without them.

The same original gets the same fake as long as the key is the same. Facts are never changed inside.
"""

import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from functools import cache
from typing import NamedTuple

from faker import Faker

from mllmu.core.errors import DataError
from mllmu.data import dates
from mllmu.data.files import packaged_yaml
from mllmu.data.pseudonyms.identities import (
    Find,
    Form,
    Identities,
    apart,
    name_forms,
    name_words,
    other_forms,
    plain,
    words,
)
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.table import CheckedPerson
from mllmu.data.values import GENDERS, Gender, family_names, given_names, pools

LOCALES = ("en_US", "en_GB", "fr_FR", "de_DE", "es_ES", "it_IT", "nl_NL", "sv_SE", "pt_PT")
"""Locales whose family names have one form for all genders."""
SINGLE_TRIES, MAX_TRIES = 100, 10_000
"""After so many tries for a free name two are joined; after so many in all there is none."""
PLACES = ("birthplace", "residence")
NUMBER, ADDRESS = "[number]", "[address]"
_TELLING = re.compile(r"""[^\s(\["']*(?:\d|@|://|www\.)(?:\S*[^\s.,;:!?)\]"'])?""", re.IGNORECASE)


class Fakes:
    """Fakes under one key. No two originals share one; where single ones run out, two are joined ('Mia-Ruth').

    Args:
        barred: plain words that no fake may contain.
    """

    def __init__(self, key: Key, barred: Collection[str]) -> None:
        self._key, self._barred = key, barred

    def given(self, word: str, gender: str) -> str:
        """A given name; of the same gender where that is female or male."""
        genders = tuple(g for g in GENDERS if g == gender) or GENDERS
        kind = f"given name ({gender or 'any'})"
        return self._fake(kind, plain(word), lambda dice: dice.choice(_names(genders, given=True)))

    def family(self, word: str) -> str:
        """A family name."""
        return self._fake("family name", plain(word), lambda dice: dice.choice(_names(GENDERS, given=False)))

    def city(self, city: str, country: str) -> str:
        """A city of the same country where Faker knows one of its locales; else with an English name."""
        locale = _locales().get(country.casefold(), "en_US")
        return self._fake("place", plain(city), lambda dice: _faker(locale, dice).city())

    def _fake(self, kind: str, original: str, make: Callable[[random.Random], str]) -> str:
        """What stands for an original.

        Raises:
            DataError: neither a single fake nor two joined ones are free.
        """
        known = self._key.replaced.setdefault(kind, {})
        if original in known:
            return known[original]
        taken = set(known.values())
        for attempt in range(MAX_TRIES):
            seed = self._key.number(kind, original, str(attempt))
            dice = random.Random(seed)  # noqa: S311 - the seed is secret
            fake = make(dice) if attempt < SINGLE_TRIES else f"{make(dice)}-{make(dice)}"
            if fake not in taken and not any(word.plain in self._barred for word in words(fake)):
                return known.setdefault(original, fake)
        raise DataError(
            f"data.source: no free {kind} after {MAX_TRIES:,} tries, also none of two joined; the key file holds "
            f"{len(taken):,}. Split the table, and give each part a key file of its own (data.source.key)."
        )


@cache
def _names(genders: tuple[Gender, ...], *, given: bool) -> tuple[str, ...]:
    table = given_names if given else family_names
    return tuple(sorted({name for locale in LOCALES for gender in genders for name in table(locale, gender)}))


@cache
def _locales() -> dict[str, str]:
    """Country -> locale, of the countries of the invented people as far as Faker knows cities of it."""
    found = {city.country.casefold(): city.locale for city in pools().cities if city.locale in LOCALES}
    more = {"united states": "en_US", "uk": "en_GB", "united kingdom": "en_GB", "england": "en_GB"}
    return more | found


_instance = cache(Faker)


def _faker(locale: str, dice: random.Random) -> Faker:
    fake = _instance(locale)
    fake.seed_instance(dice.getrandbits(64))
    return fake


class TextPiece(NamedTuple):
    """A part of a text, and what stands in its place, None if it stays; ``doubtful``: it stays, but may be a name."""

    text: str
    fake: str | None = None
    doubtful: bool = False


class Pseudonyms:
    """Pseudonyms of the people of one table.

    Args:
        people: all of them; each is recognised in the cells of all.
        days: attributes that are days.
        shift_days: dates of a person move by at most so many days, by the same number all of them.

    Attributes:
        identities: everybody's, to be found in texts.
    """

    def __init__(self, key: Key, people: Sequence[CheckedPerson], *, shift_days: int, days: Collection[str]) -> None:
        self._key, self._shift_days, self._dated = key, shift_days, days
        self._fakes = Fakes(key, frozenset(_barred(people)))
        self._days = {day for person in people if (day := _birth(person))}
        names = [person.identity for person in people]
        # an id says nothing: ten hexadecimal digits under the key
        self._ids = {name: f"p{key.number('person', name.casefold()) % 2**40:010x}" for name in names}
        forms = [form for person in sorted(people, key=self.id_of) for form in self._learn(person)]
        phones = {p.identifiers["phone"]: self.id_of(p) for p in people if "phone" in p.identifiers}
        self.identities = Identities(forms, phones)
        cities = {form.plain: form for person in people for form in self._cities(person)}
        self._with_cities = Identities([*forms, *cities.values()], phones)

    def id_of(self, person: CheckedPerson) -> str:
        """The pseudonymous id of a person."""
        return self._ids[person.identity]

    def attributes(self, person: CheckedPerson) -> dict[str, str]:
        """What is known of a person afterwards: another name, other cities, other days; all other facts as they are."""
        return {name: self._attribute(person, name, value) for name, value in person.attributes.items()}

    def _attribute(self, person: CheckedPerson, attribute: str, value: str) -> str:
        if attribute == "name":
            return self._known(person)["pseudonym"]
        if attribute in PLACES:
            city, *_, country = value.split(", ")
            return f"{self._fakes.city(city, country)}, {country}"
        day = dates.parse(value) if attribute in self._dated else None
        return dates.printed(dates.moved(day, int(self._known(person)["shift_days"]))) if day else value

    def pieces(self, text: str) -> list[TextPiece]:
        """A text with what identifies people of the table replaced, and whatever has a digit or looks like an address.

        Words of names are replaced where they are written as names; where they are not, and where a word begins like
        one, they stay as doubtful.
        """
        found: list[TextPiece] = []
        at = 0
        known = apart([*self._with_cities.find(text), *_telling(text)])
        near = [f for f in self._with_cities.near(text) if all(f.end <= k.start or f.start >= k.end for k in known)]
        for find in sorted([*known, *near]):
            original = text[find.start : find.end]
            stays = find in near or (not find.form.certain and original[:1].islower())
            found += [
                TextPiece(text[at : find.start]),
                TextPiece(original, None if stays else _stand_in(find.form), stays),
            ]
            at = find.end
        return [piece for piece in (*found, TextPiece(text[at:])) if piece.text]

    def _known(self, person: CheckedPerson) -> dict[str, str]:
        """What the key holds of a person; the pseudonym is made word for word, so namesakes stay namesakes."""
        return self._key.people.setdefault(self.id_of(person), {})

    def _learn(self, person: CheckedPerson) -> Iterator[Form]:
        """Give a person a pseudonym, and say in which forms the person may be met."""
        pid, gender = self.id_of(person), person.attributes.get("gender", "")
        parts = name_words(person.name)
        fakes = [self._fakes.given(word, gender) for word in parts[:-1]] + [self._fakes.family(parts[-1])]
        of_words = dict(zip(parts, fakes, strict=True))
        if len(parts) == 1:
            fakes.insert(0, self._fakes.given(f"of {parts[0]}", gender))
        known = self._known(person)
        known |= {"id": person.id, "name": person.name, **person.identifiers}
        known.setdefault("pseudonym", self._unique(" ".join(fakes), pid, gender))
        known.setdefault("shift_days", str(self._new_shift(person, pid)))
        yield from name_forms(pid, person.name, known["pseudonym"], of_words)
        yield from other_forms(pid, known)

    def _cities(self, person: CheckedPerson) -> Iterator[Form]:
        for place in (person.attributes[target] for target in PLACES if target in person.attributes):
            city, *_, country = place.split(", ")
            if form := plain(city).replace(" ", ""):
                yield Form(form, "place", "", certain=False, fake=self._fakes.city(city, country))

    def _unique(self, name: str, pid: str, gender: str) -> str:
        """A name that no other person of the table has; namesakes but for an initial get a middle name."""
        others = {known.get("pseudonym") for other, known in self._key.people.items() if other != pid}
        if name not in others:
            return name
        first, _, rest = name.partition(" ")
        return f"{first} {self._fakes.given(f'of {pid}', gender)} {rest}"

    def _new_shift(self, person: CheckedPerson, pid: str) -> int:
        """A number of days, never 0, that moves the day of birth to none of the table."""
        birth, days = _birth(person), 0
        for attempt in range(100):
            number = self._key.number("shift", pid, str(attempt))
            days = (number // 2 % self._shift_days + 1) * (1 if number % 2 else -1)
            if birth is None or dates.moved(birth, days) not in self._days:
                break
        return days


def _barred(people: Sequence[CheckedPerson]) -> Iterator[str]:
    """Words that no fake may contain: of originals, of facts, and of our own sentences and months."""
    yield from (word.plain for word in words(f"{packaged_yaml('questions/wordings.yaml')} {dates.MONTHS}"))
    for person in people:
        originals = (person.id, person.identifiers.get("email", "").partition("@")[0], *person.attributes.values())
        yield from (word.plain for text in originals for word in words(text) if len(word.plain) > 1)


def _stand_in(form: Form) -> str:
    return form.fake or (NUMBER if form.kind == "phone" else ADDRESS)


def _telling(text: str) -> Iterator[Find]:
    """What has a digit or looks like an address."""
    for m in _TELLING.finditer(text):
        fake = ADDRESS if re.search(r"@|://|www\.", m[0], re.IGNORECASE) else NUMBER
        yield Find(m.start(), m.end(), Form("", "number", "", certain=True, fake=fake))


def _birth(person: CheckedPerson) -> date | None:
    return dates.parse(person.attributes.get("birth_date", ""))
