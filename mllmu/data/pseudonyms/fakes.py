"""Draws what stands in the place of an original: the same original, the same fake, as long as the key is the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import cache

from faker import Faker

from mllmu.core.errors import DataError
from mllmu.data.pseudonyms.finding import plain, words
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.values import GENDERS, Gender, family_names, given_names, pools

LOCALES = ("en_US", "en_GB", "fr_FR", "de_DE", "es_ES", "it_IT", "nl_NL", "sv_SE", "pt_PT")
"""Locales whose family names have one form for everybody."""
MAX_TRIES = 10_000
AREA_CODES = tuple(code for code in range(201, 990) if code % 100 not in (11, 55) and code // 10 % 10 != 9)
GIVEN, FAMILY = "given name", "family name"


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
        return self._fake(
            f"{GIVEN} ({gender or 'any'})", plain(word), lambda dice: dice.choice(_names(genders, given=True))
        )

    def family(self, word: str) -> str:
        """A family name."""
        return self._fake(FAMILY, plain(word), lambda dice: dice.choice(_names(GENDERS, given=False)))

    def city(self, city: str, country: str) -> str:
        """A city of the same country where Faker knows one of its locales; else with an English name."""
        locale = _locales().get(country.casefold(), "en_US")
        return self._fake("place", plain(city), lambda dice: _faker(locale, dice).city())

    def address(self, address: str) -> str:
        """A street and a house number."""
        return self._fake("address", plain(address), lambda dice: _faker("en_US", dice).street_address())

    def identifier(self, kind: str, original: str) -> str:
        """What stands for an e-mail address, page, handle or telephone number; of others their shape with other signs.

        Addresses and pages lie under example.org, which is reserved and reaches nobody. Telephone numbers come from the
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
            fake = make(self._key.draw(kind, original, str(attempt)))
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


@cache
def _instance(locale: str) -> Faker:
    return Faker(locale)


def _faker(locale: str, dice: random.Random) -> Faker:
    fake = _instance(locale)
    fake.seed_instance(dice.getrandbits(64))
    return fake
