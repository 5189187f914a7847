"""The closed pools from which fictitious people are made, and the rules that keep a person coherent.

The pools lie in ``values.yaml`` beside this file. They are closed so that the values of one attribute are comparable:
a wrong alternative for a truth ratio or a multiple choice is always of the same type as the right one.
Given and family names come from the locale tables of Faker (https://github.com/joke2k/faker), read as tables and not
drawn by Faker, so that a person does not depend on the order of draws.
"""

import importlib
import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from functools import cache
from typing import Literal, NamedTuple

from mllmu.core.records import Record
from mllmu.data import dates
from mllmu.data.files import packaged_yaml

Gender = Literal["female", "male"]

NONE = "none"
GENDERS: tuple[Gender, ...] = ("female", "male")
CORE_ATTRIBUTES: tuple[str, ...] = (
    "name", "gender", "birthplace", "birth_date", "profession", "height", "education", "salary", "residence",
    "medical_condition",
)  # fmt: skip
EXTRA_ATTRIBUTES: tuple[str, ...] = ("father_job", "mother_job", "hobby", "food", "pet", "collection")
ATTRIBUTES: tuple[str, ...] = CORE_ATTRIBUTES + EXTRA_ATTRIBUTES

# Letters that Unicode does not take apart into a base letter and an accent.
_LETTERS = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss", "æ": "ae", "ı": "i", "đ": "d", "Đ": "D"})
_NAME = re.compile(r"[A-Z][a-z]+(-[A-Z][a-z]+)?")
_MAX_NAME_LETTERS = 14
_POOL_NAMES_PER_CITY = 8


class ValueRange(Record):
    """A closed range of whole numbers."""

    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))


class City(NamedTuple):
    """A birthplace or residence, and the Faker locale whose names are given there."""

    city: str
    country: str
    locale: str

    @property
    def label(self) -> str:
        return f"{self.city}, {self.country}"


class Profession(NamedTuple):
    """Where one learns a profession, its pay in thousands of dollars per year, and the youngest age to hold it."""

    schools: tuple[str, ...]
    low: int
    high: int
    min_age: int


class Pools(Record):
    """The content of ``values.yaml``; see the comments there."""

    reference_year: int
    age: ValueRange
    height_cm: dict[Gender, ValueRange]
    salary_grid: tuple[int, ...]
    cities: tuple[City, ...]
    schools: dict[str, tuple[str, ...]]
    professions: dict[str, Profession]
    parent_jobs: tuple[str, ...]
    medical_conditions: tuple[str, ...]
    hobbies: tuple[str, ...]
    foods: tuple[str, ...]
    animals: tuple[str, ...]
    pet_names: tuple[str, ...]
    collections: tuple[str, ...]
    biography: dict[str, tuple[str, ...]]
    health: dict[str, tuple[str, ...]]
    company: dict[str, tuple[str, ...]]


@cache
def pools() -> Pools:
    """Read ``values.yaml`` once."""
    return Pools.model_validate(packaged_yaml("values.yaml"))


def dollars(thousands: int) -> str:
    """Print a salary: ``dollars(75)`` is ``"$75,000"``."""
    return f"${thousands * 1000:,}"


def with_article(noun: str) -> str:
    """``"an architect"``, ``"a nurse"``; by the first letter, which is right for every job in the pools."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def salary_options(profession: str, age: int) -> tuple[int, ...]:
    """Salaries (thousands of dollars a year) that fit a profession at an age in years, ascending.

    A career is cut in three: up to 33 the lower half of the profession's band, up to 48 its middle half, later its
    upper half; both ends count as inside.
    """
    band = pools().professions[profession]
    width = band.high - band.low
    start = 0.0 if age <= 33 else 0.25 if age <= 48 else 0.5
    low, high = band.low + start * width, band.low + (start + 0.5) * width
    return tuple(value for value in pools().salary_grid if low <= value <= high)


def school_options(profession: str) -> tuple[str, ...]:
    """Schools at which a profession is learnt, in the order of the table."""
    return tuple(school for kind in pools().professions[profession].schools for school in pools().schools[kind])


@cache
def given_names(locale: str, gender: Gender) -> tuple[str, ...]:
    """Given names of a Faker locale that only one gender bears, in plain letters, sorted."""
    other = GENDERS[1 - GENDERS.index(gender)]
    own, others = (_latin(_tables(locale, "first_names_{g}", "first_romanized_names_{g}", g)) for g in (gender, other))
    return tuple(sorted(own - others))


@cache
def family_names(locale: str, gender: Gender) -> tuple[str, ...]:
    """Family names of a Faker locale in the form that a gender bears, in plain letters, sorted."""
    own = _latin(_tables(locale, "last_names_{g}", "last_romanized_names", gender))
    return tuple(sorted(own or _latin(_tables(locale, "last_names", "last_romanized_names", gender))))


def _tables(locale: str, plain: str, romanized: str, gender: Gender) -> tuple[str, ...]:
    """The romanised table of a locale if it has one, else the plain table."""
    provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
    tables = (getattr(provider, table.format(g=gender), ()) for table in (romanized, plain))
    return next((tuple(table) for table in tables if table), ())


def _latin(names: Iterable[str]) -> set[str]:
    """Strip accents; keep single words of plain letters, perhaps joined by one hyphen."""
    bare = ("".join(c for c in unicodedata.normalize("NFKD", n.translate(_LETTERS)) if c.isascii()) for n in names)
    return {name for name in bare if _NAME.fullmatch(name) and len(name) <= _MAX_NAME_LETTERS}


def value_pool(attribute: str) -> tuple[str, ...]:
    """All printable values that one of the :data:`ATTRIBUTES` of a fictitious person can have, in a fixed order.

    ``name`` and ``birth_date`` are samples (8 names per city and gender, two dates per month); the others are
    complete. ``medical_condition`` and ``pet`` hold ``"none"`` as their last value.
    """
    return _all_pools()[attribute]


@cache
def _all_pools() -> dict[str, tuple[str, ...]]:
    table = pools()
    cities = tuple(city.label for city in table.cities)
    heights = sorted({cm for span in table.height_cm.values() for cm in span.values})
    return {
        "name": _some_names(),
        "gender": GENDERS,
        "birthplace": cities,
        "birth_date": _some_dates(),
        "profession": tuple(table.professions),
        "height": tuple(f"{cm} cm" for cm in heights),
        "education": tuple(school for kind in table.schools.values() for school in kind),
        "salary": tuple(dollars(value) for value in table.salary_grid),
        "residence": cities,
        "medical_condition": (*table.medical_conditions, NONE),
        "father_job": table.parent_jobs,
        "mother_job": table.parent_jobs,
        "hobby": table.hobbies,
        "food": table.foods,
        "pet": (*(f"{animal} named {name}" for animal in table.animals for name in table.pet_names), NONE),
        "collection": table.collections,
    }


def _some_names() -> tuple[str, ...]:
    """A few names per city and gender, spread over the alphabet; given and family names are walked in opposite ways."""
    found: dict[str, None] = {}
    for number, city in enumerate(pools().cities):
        for gender in GENDERS:
            given, family = given_names(city.locale, gender), family_names(city.locale, gender)
            for step in range(_POOL_NAMES_PER_CITY):
                first = given[_spread(len(given), step, number)]
                last = family[-1 - _spread(len(family), step, number)]
                if first != last:
                    found[f"{first} {last}"] = None
    return tuple(found)


def _spread(size: int, step: int, shift: int) -> int:
    return (step * size // _POOL_NAMES_PER_CITY + shift) % size


def _some_dates() -> tuple[str, ...]:
    ages, year = pools().age, pools().reference_year
    days = [(month, day) for month in range(1, 13) for day in (1 + month % 3, 19 + month % 3)]
    return tuple(dates.printed(date(year - age, month, day)) for age in reversed(ages.values) for month, day in days)
