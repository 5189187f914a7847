"""What an invented person must fulfil: the form of every value, coherence, and being nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import cache
from itertools import chain
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rapidfuzz import fuzz

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.core.seeding import rng
from mllmu.data import dates, values
from mllmu.data.cells import MAY_BE_NONE
from mllmu.data.questions import QuestionOrder, Rule, check, first_broken, name_words
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.values import NONE, Gender

MAX_LETTERS = 60
BIOGRAPHY_LETTERS = (200, 1500)
NEAR_NAME = 88.0
"""Similarity of two names in percent (1 - edit distance over letters) from which they are one name misspelt."""
NEAR_FACTS = 5
"""Equal values, of the eight that the order leaves free, from which two people are one person twice."""
FREE = ("education", "medical_condition", "father_job", "mother_job", "hobby", "food", "pet", "collection")
_INITIALS = "ABCDEFGHIJKLMNOPRSTVYZ"
_MARKS = frozenset(" ,.'’&()/-$")
_NAME = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?: [^\W\d_]+(?:['’-][^\W\d_]+)*){1,2}")
_PLACE = re.compile(r"[^,]{2,}, [^,]{2,}")
_SALARY = re.compile(r"\$(\d{2,3}),(\d{3})")
_HEIGHT = re.compile(r"(\d{3}) cm")
_PET = re.compile(r"an? [a-z][a-z -]* named [^\W\d_]+")


class Person(BaseModel):
    """One row of a reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    number: int
    name: str
    gender: str
    birthplace: str
    birth_date: str
    profession: str
    height: str
    education: str
    salary: str
    residence: str
    medical_condition: str
    father_job: str
    mother_job: str
    hobby: str
    food: str
    pet: str
    collection: str
    biography: str

    @property
    def attributes(self) -> dict[str, str]:
        """The sixteen attributes in their fixed order."""
        return {name: getattr(self, name) for name in values.ATTRIBUTES}


class Quota(NamedTuple):
    """What a person is ordered to be, so that the people together are balanced."""

    number: int
    gender: Gender
    birth_year: int
    country: str
    profession: str
    salary: tuple[int, int]
    height: tuple[int, int]
    initials: str


def quotas(num_people: int, seed: int) -> list[Quota]:
    """Orders for people 1 to ``num_people``: gender, age, country and profession as in the source ``synthetic``.

    That source balances all four, so the invented people are balanced too, whatever the model likes best.
    """
    return [
        _quota(number, person.attributes, seed)
        for number, person in enumerate(Synthetic(num_people=num_people).profiles(seed), start=1)
    ]


def _quota(number: int, person: dict[str, str], seed: int) -> Quota:
    gender: Gender = "female" if person["gender"] == "female" else "male"
    birth_year = int(person["birth_date"][-4:])
    pay = values.salary_options(person["profession"], values.pools().reference_year - birth_year)
    span = values.pools().height_cm[gender]
    draw = rng(seed, "initials", number)
    return Quota(
        number=number,
        gender=gender,
        birth_year=birth_year,
        country=person["birthplace"].rpartition(", ")[2],
        profession=person["profession"],
        salary=(min(pay) * 1000, max(pay) * 1000),
        height=(span.low, span.high),
        initials=f"{draw.choice(_INITIALS)}. {draw.choice(_INITIALS)}.",
    )


def fault(person: Person, quota: Quota) -> str:
    """The first rule that a person breaks, as ``<attribute>: <what was expected>``; empty if it breaks none.

    The sentence never repeats what the model wrote.
    """
    plain = (
        (not _printable(value), f"{name}: expected 2 to {MAX_LETTERS} plain letters, digits and marks")
        for name, value in person.attributes.items()
    )
    rules = chain(plain, _of_order(person, quota), _of_form(person), _of_words(person))
    return first_broken(rules) or _unaskable(person)


def _printable(value: str) -> bool:
    plain = all(char.isalnum() or char in _MARKS for char in value)
    return plain and 2 <= len(value) <= MAX_LETTERS and value == " ".join(value.split())


def _of_order(person: Person, quota: Quota) -> Iterator[Rule]:
    """Values that the order decides."""
    country = person.birthplace.rpartition(", ")[2]
    pay, height = _SALARY.fullmatch(person.salary), _HEIGHT.fullmatch(person.height)
    earns = pay and quota.salary[0] <= int(pay[1] + pay[2]) <= quota.salary[1]
    fits = height and quota.height[0] <= int(height[1]) <= quota.height[1]
    born, year = person.birth_date in dates_of(quota.birth_year), quota.birth_year
    yield person.gender != quota.gender, f"gender: expected {quota.gender}"
    yield person.profession != quota.profession, f"profession: expected {quota.profession}"
    yield country != quota.country, f"birthplace: expected a city, and behind a comma {quota.country}"
    yield not born, f"birth_date: expected a day of {year}, printed like May 14, 1988"
    yield not earns, f"salary: expected ${quota.salary[0]:,} to ${quota.salary[1]:,} for this job at this age"
    yield not fits, f"height: expected {quota.height[0]} cm to {quota.height[1]} cm"


@cache
def dates_of(year: int) -> frozenset[str]:
    """All days of a year, printed."""
    days = [date(year, 1, 1) + timedelta(days=number) for number in range(366)]
    return frozenset(dates.printed(day) for day in days if day.year == year)


def _of_form(person: Person) -> Iterator[Rule]:
    words = person.name.split()
    named = _NAME.fullmatch(person.name) and all(word[0].isupper() for word in words) and words[0] != words[-1]
    yield not named, "name: expected a given and a family name, two or three words"
    for place in ("birthplace", "residence"):
        fits = _PLACE.fullmatch(person.attributes[place])
        yield not fits, f"{place}: expected a city and a country with a comma between"
    pet = person.pet == NONE or _PET.fullmatch(person.pet)
    yield not pet, "pet: expected none, or the form a cat named Luna"
    for parent in ("father_job", "mother_job"):
        job = person.attributes[parent]
        plain = job[0].islower() and not job.startswith(("a ", "an ", "the "))
        yield not plain, f"{parent}: expected lower case without an article"
    yield person.father_job == person.mother_job, "mother_job: expected another one than the father's"
    for name, value in person.attributes.items():
        allowed = value == NONE and name in MAY_BE_NONE
        yield value.casefold() == NONE and not allowed, f"{name}: expected a value"


def _of_words(person: Person) -> Iterator[Rule]:
    """The name must not leak through another value, and the biography must tell the same life."""
    pattern, text, (low, high) = name_words(person.name), person.biography, BIOGRAPHY_LETTERS
    for name, value in person.attributes.items():
        leaks = name != "name" and pattern.search(value)
        yield leaks, f"{name}: expected no part of the person's name in it"
    plain = low <= len(text) <= high and all(char.isprintable() and char not in "<>{}" for char in text)
    yield not plain, f"biography: expected {low} to {high} letters of plain text"
    told = [person.name, person.profession, person.birth_date[-4:], _city(person.birthplace), _city(person.residence)]
    tells = all(value.casefold() in text.casefold() for value in told)
    yield not tells, "biography: expected name, profession, year and city of birth, and city of residence in it"


def _city(place: str) -> str:
    return place.partition(",")[0]


def _unaskable(person: Person) -> str:
    """Values that no fair question can be asked about, e.g. because the wording of the question holds them."""
    profile = profile_of(person, "check")
    try:
        check(build([profile], QuestionOrder(seed=0, train_wordings=1)), [profile])
    except DataError as error:
        found = re.search(r"\((\w+)\)", str(error))
        return f"{found[1] if found else 'questions'}: expected values that fair questions can be asked about"
    return ""


def profile_of(person: Person, name: str) -> Profile:
    """A person as a record with an id."""
    return Profile(id=name, kind="fictitious", attributes=person.attributes, biography=person.biography)


def clash(person: Person, reserved: Iterable[str], others: Iterable[Person]) -> str:
    """Why a person is too much like somebody else; empty if it is not.

    Args:
        reserved: names that nobody may bear: celebrities, and the holdout people of the same seed.
        others: the people so far.
    """
    name = person.name.casefold()
    if any(fuzz.ratio(name, other.casefold()) >= NEAR_NAME for other in reserved):
        return "name: expected nobody known"
    for other in others:
        if fuzz.ratio(name, other.name.casefold()) >= NEAR_NAME:
            return "name: expected one that is not taken"
        if sum(getattr(person, free) == getattr(other, free) != NONE for free in FREE) >= NEAR_FACTS:
            return "near-duplicate: expected other facts than another person's"
    return ""
