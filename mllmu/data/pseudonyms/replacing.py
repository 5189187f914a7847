"""Replaces what identifies people: in their attributes, in their texts, and in what texts of others say about them.

The same original gets the same fake as long as the key is the same.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from functools import cache

from faker import Faker

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data import dates
from mllmu.data.pseudonyms import finding
from mllmu.data.pseudonyms.finding import Hit, Lexicon, Match, plain, words
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.questions import FACT
from mllmu.data.table import CheckedPerson
from mllmu.data.values import GENDERS, Gender, family_names, given_names, pools

LOCALES = ("en_US", "en_GB", "fr_FR", "de_DE", "es_ES", "it_IT", "nl_NL", "sv_SE", "pt_PT")
"""Locales whose family names have one form for all genders."""
MAX_TRIES = 10_000
AREA_CODES = tuple(code for code in range(201, 990) if code % 100 not in (11, 55) and code // 10 % 10 != 9)


class Fakes:
    """Fakes under one key. No fake has a word of an original name or city in it, and no two originals share one.

    Args:
        originals: plain words that no fake may contain.
    """

    def __init__(self, key: Key, originals: Collection[str]) -> None:
        self._key, self._originals = key, originals

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

    def address(self, address: str) -> str:
        """A street and a house number."""
        return self._fake("address", plain(address), lambda dice: _faker("en_US", dice).street_address())

    def identifier(self, kind: str, original: str) -> str:
        """What stands for an e-mail address, page, handle or telephone number; of others their shape with other signs.

        Addresses and pages lie under example.org, which is reserved and reaches no one. Telephone numbers come from the
        range that is kept for fiction: +1, an area code, 555, 0100 to 0199. Shape: EMP-0042 -> QXA-7719.
        """
        make = _MAKERS.get(kind, lambda dice: "".join(_other(char, dice) for char in original))
        return self._fake(kind, original, make)

    def _fake(self, kind: str, original: str, make: Callable[[random.Random], str]) -> str:
        known = self._key.replaced.setdefault(kind, {})
        if original in known:
            return known[original]
        taken = set(known.values())
        for attempt in range(MAX_TRIES):
            seed = self._key.number(kind, original, str(attempt))
            fake = make(random.Random(seed))  # noqa: S311 - the seed is secret
            if fake not in taken and not any(word.plain in self._originals for word in words(fake)):
                return known.setdefault(original, fake)
        raise DataError(
            f"data.source: no free {kind} after {MAX_TRIES} tries, {len(taken)} are taken. Split the table."
        )


def _handle(dice: random.Random) -> str:
    name = dice.choice(_names(GENDERS, given=True)) + dice.choice(_names(GENDERS, given=False))
    return f"{name.casefold().replace('-', '')}{dice.randrange(10, 100)}"


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": lambda dice: f"{_handle(dice)}@example.org",
    "handle": lambda dice: f"@{_handle(dice)}",
    "url": lambda dice: f"https://example.org/{_handle(dice)}",
    "phone": lambda dice: f"+1 {dice.choice(AREA_CODES)} 555 01{dice.randrange(100):02d}",
}


def _other(char: str, dice: random.Random) -> str:
    if char.isdecimal():
        return str(dice.randrange(10))
    if char.isalpha():
        letter = dice.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        return letter if char.isupper() else letter.lower()
    return char


@cache
def _names(genders: tuple[Gender, ...], *, given: bool) -> tuple[str, ...]:
    table = given_names if given else family_names
    return tuple(sorted({name for locale in LOCALES for gender in genders for name in table(locale, gender)}))


@cache
def _locales() -> dict[str, str]:
    """Country -> a locale of Faker that has cities of it."""
    found = {city.country.casefold(): city.locale for city in pools().cities if city.locale in LOCALES}
    more = {"united states": "en_US", "uk": "en_GB", "united kingdom": "en_GB", "england": "en_GB"}
    return more | found


_instance = cache(Faker)


def _faker(locale: str, dice: random.Random) -> Faker:
    fake = _instance(locale)
    fake.seed_instance(dice.getrandbits(64))
    return fake


PLACES = ("birthplace", "residence")
KEPT = ("gender", "height", "salary")
"""Attributes that are numbers or one of three words, and so cannot hide a name."""
MIN_ID_LETTERS = 4
"""A shorter id is not looked for in texts: '7' would be everywhere."""
MIN_JOINED = 6


class Pseudonyms:
    """Pseudonyms of the people of one table.

    Args:
        people: all of them; each person of the table is recognised in the texts of all.
        sources: target -> head of its column, for the count of what was replaced.
        region: where telephone numbers without a country code belong.
        shift_days: dates of a person move by at most so many days, by the same number all of them.
    """

    def __init__(
        self, key: Key, people: Sequence[CheckedPerson], sources: Mapping[str, str], *, region: str, shift_days: int
    ) -> None:
        self._key, self._sources, self._region, self._shift_days = key, sources, region, shift_days
        self._fakes = Fakes(key, frozenset(_original_words(people)))
        self._days = {day for person in people if (day := _birth(person))}
        names = [person.identity for person in people]
        # an id says nothing: ten hexadecimal digits under the key
        self._ids = {name: f"p{key.number('person', name.casefold()) % 2**40:010x}" for name in names}
        self.lexicon = Lexicon()
        self.counts: Counter[tuple[str, str]] = Counter()
        for person in sorted(people, key=self.id_of):
            self._learn(person)

    def id_of(self, person: CheckedPerson) -> str:
        """The pseudonymous id of a person."""
        return self._ids[person.identity]

    def profile(self, person: CheckedPerson) -> Profile:
        """The person as everything after the source knows it; counts what is replaced."""
        if person.id:
            self._count("id", "id")
        attributes = {name: self._attribute(person, name, value) for name, value in person.attributes.items()}
        biography = self.scrub(person.biography, person, "biography", free=True)
        return Profile(id=self.id_of(person), kind="fictitious", attributes=attributes, biography=biography)

    def scrub(self, text: str, person: CheckedPerson, target: str, *, free: bool) -> str:
        """A text that identifies no person; ``free``: also guess at names of people who are not in the table."""
        hits = dates.apart(self._hits(text, person, free=free))  # of two that overlap, the more certain one counts
        for hit in reversed(hits):
            self._count(hit.kind, target)
            text = text[: hit.start] + hit.fake + text[hit.end :]
        return text

    def _attribute(self, person: CheckedPerson, attribute: str, value: str) -> str:
        if attribute in KEPT:
            return value
        if attribute == "name":
            self._count("name", attribute)
            return self._known(person)["pseudonym"]
        if attribute in PLACES:
            self._count("place", attribute)
            city, *_, country = value.split(", ")
            return f"{self._fakes.city(city, country)}, {country}"
        if attribute == "birth_date" and (day := dates.parse(value)):
            self._count("date", attribute)
            return dates.printed(dates.moved(day, self._shift(person)))
        return self.scrub(value, person, attribute, free=attribute.startswith(FACT))

    def _count(self, kind: str, target: str) -> None:
        self.counts[kind, self._sources.get(target, target)] += 1

    def _known(self, person: CheckedPerson) -> dict[str, str]:
        """What the key holds of a person; the pseudonym is made word for word, so namesakes stay namesakes."""
        return self._key.people.setdefault(self.id_of(person), {})

    def _shift(self, person: CheckedPerson) -> int:
        return int(self._known(person)["shift_days"])

    def _hits(self, text: str, person: CheckedPerson, *, free: bool) -> Iterator[Hit]:
        yield from map(self._hit, finding.by_form(text, finding.NET))
        yield from self.lexicon.find(text, self.id_of(person))
        for found in dates.find(text):
            yield Hit(found.start, found.end, "date", found.write(dates.moved(found.day, self._shift(person))))
        yield from map(self._hit, finding.by_form(text, finding.ACCOUNTS))
        yield from map(self._hit, finding.phones(text, self._region))
        yield from map(self._hit, finding.by_form(text, finding.NUMBERS))
        if free:
            for match in finding.others(text):
                first, *rest = match.key.split()
                fakes = [self._fakes.given(first, ""), *(self._fakes.family(word) for word in rest[-1:])]
                yield Hit(match.start, match.end, "name", " ".join(fakes))

    def _hit(self, match: Match) -> Hit:
        return Hit(match.start, match.end, match.kind, self._fakes.identifier(match.kind, match.key))

    def _learn(self, person: CheckedPerson) -> None:
        """Give a person a pseudonym and teach the lexicon every form in which the person may be met."""
        pid, gender = self.id_of(person), person.attributes.get("gender", "")
        parts = _name_words(person.name)
        fakes = [self._fakes.given(word, gender) for word in parts[:-1]] + [self._fakes.family(parts[-1])]
        if len(parts) == 1:
            fakes.insert(0, self._fakes.given(f"of {parts[0]}", gender))
        known = self._known(person)
        known |= {"id": person.id, "name": person.name, **person.identifiers}
        known.setdefault("pseudonym", self._unique(" ".join(fakes), pid, gender))
        known.setdefault("shift_days", str(self._new_shift(person, pid)))
        self._learn_name(person.name, parts, fakes[-len(parts) :], pid)
        self._learn_identifiers(person, pid)

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

    def _learn_name(self, name: str, parts: Sequence[str], fakes: Sequence[str], pid: str) -> None:
        pseudonym = self._key.people[pid]["pseudonym"]
        joined = "".join(fakes).casefold()
        if len(parts) > 1:
            first, _, rest = name.partition(" ")
            short = (" ".join(parts), " ".join([*parts[1:], parts[0]]), f"{parts[0]} {parts[-1]}")
            for form in (name, f"{rest} {first}", *short):
                self.lexicon.add(form, "name", pseudonym, owner=pid)
            for form in (parts[0] + parts[-1], parts[-1] + parts[0]):
                if len(form) >= MIN_JOINED:
                    self.lexicon.add(form, "name", joined, owner=pid)
        for word, fake in zip(parts, fakes, strict=True):
            self.lexicon.add(word, "name", fake, owner=pid, loose=False)

    def _learn_identifiers(self, person: CheckedPerson, pid: str) -> None:
        if len(person.id) >= MIN_ID_LETTERS:
            self.lexicon.add(person.id, "id", pid, owner=pid)
        if phone := person.identifiers.get("phone"):
            fake = self._fakes.identifier("phone", finding.phone_key(phone, self._region))
            self.lexicon.add(phone, "phone", fake, owner=pid)
        if address := person.identifiers.get("address"):
            fake = self._fakes.address(address)
            for part in {address, *(p for p in address.split(",") if len(p.split()) > 1)}:
                self.lexicon.add(part, "address", fake, owner=pid)
        for place in (person.attributes[target] for target in PLACES if target in person.attributes):
            *cities, country = place.split(", ")
            for city in cities:
                self.lexicon.add(city, "place", self._fakes.city(cities[0], country), loose=False)


def _original_words(people: Sequence[CheckedPerson]) -> Iterator[str]:
    """Words that no fake may contain: of names, of cities, of e-mail addresses and ids."""
    for person in people:
        places = [person.attributes.get(target, "").rpartition(", ")[0] for target in PLACES]
        for text in (person.name, person.id, person.identifiers.get("email", "").partition("@")[0], *places):
            yield from (word.plain for word in words(text) if word.plain.isalpha() and len(word.plain) > 1)


def _name_words(name: str) -> list[str]:
    """The words of a name that tell who it is: no initials, no 'de' or 'van', no titles.

    >>> _name_words("Dr. Anna M. de la Cruz")
    ['Anna', 'Cruz']
    """
    found = [w.strip(".,") for w in name.split() if not (w.endswith(".") or (w[0].islower() and len(w) < 4))]
    return [word for word in found if len(word) > 1] or [re.sub(r"\W", "", name)]


def _birth(person: CheckedPerson) -> date | None:
    return dates.parse(person.attributes.get("birth_date", ""))
