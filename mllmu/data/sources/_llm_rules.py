"""What an invented person must fulfil: the form of every value, coherence, and being nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import cache
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rapidfuzz import fuzz

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.core.seeding import rng
from mllmu.data import dates, values
from mllmu.data.questions import QuestionOrder, check, name_words
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
    return next(_faults(person, quota), "")


def _faults(person: Person, quota: Quota) -> Iterator[str]:
    for name, value in person.attributes.items():
        if not _printable(value):
            yield f"{name}: expected 2 to {MAX_LETTERS} plain letters, digits and marks"
    yield from _wrong_order(person, quota)
    yield from _wrong_form(person)
    yield from _wrong_words(person)
    yield from _unaskable(person)


def _printable(value: str) -> bool:
    plain = all(char.isalnum() or char in _MARKS for char in value)
    return plain and 2 <= len(value) <= MAX_LETTERS and value == " ".join(value.split())


def _wrong_order(person: Person, quota: Quota) -> Iterator[str]:
    """Values that the order decides."""
    if person.gender != quota.gender:
        yield f"gender: expected {quota.gender}"
    if person.profession != quota.profession:
        yield f"profession: expected {quota.profession}"
    if person.birthplace.rpartition(", ")[2] != quota.country:
        yield f"birthplace: expected a city, and behind a comma {quota.country}"
    if person.birth_date not in dates_of(quota.birth_year):
        yield f"birth_date: expected a day of {quota.birth_year}, printed like May 14, 1988"
    pay = _SALARY.fullmatch(person.salary)
    if not pay or not quota.salary[0] <= int(pay[1] + pay[2]) <= quota.salary[1]:
        yield f"salary: expected ${quota.salary[0]:,} to ${quota.salary[1]:,} for this job at this age"
    height = _HEIGHT.fullmatch(person.height)
    if not height or not quota.height[0] <= int(height[1]) <= quota.height[1]:
        yield f"height: expected {quota.height[0]} cm to {quota.height[1]} cm"


@cache
def dates_of(year: int) -> frozenset[str]:
    """All days of a year, printed."""
    days = [date(year, 1, 1) + timedelta(days=number) for number in range(366)]
    return frozenset(dates.printed(day) for day in days if day.year == year)


def _wrong_form(person: Person) -> Iterator[str]:
    words = person.name.split()
    if not _NAME.fullmatch(person.name) or not all(word[0].isupper() for word in words) or words[0] == words[-1]:
        yield "name: expected a given and a family name, two or three words"
    for place in ("birthplace", "residence"):
        if not _PLACE.fullmatch(getattr(person, place)):
            yield f"{place}: expected a city and a country with a comma between"
    if person.pet != NONE and not _PET.fullmatch(person.pet):
        yield "pet: expected none, or the form a cat named Luna"
    for job in ("father_job", "mother_job"):
        if not person.attributes[job][0].islower() or person.attributes[job].startswith(("a ", "an ", "the ")):
            yield f"{job}: expected lower case without an article"
    if person.father_job == person.mother_job:
        yield "mother_job: expected another one than the father's"
    for name, value in person.attributes.items():
        if value.casefold() == NONE and (name not in ("medical_condition", "pet") or value != NONE):
            yield f"{name}: expected a value"


def _wrong_words(person: Person) -> Iterator[str]:
    """The name must not leak through another value, and the biography must tell the same life."""
    pattern = name_words(person.name)
    for name, value in person.attributes.items():
        if name != "name" and pattern.search(value):
            yield f"{name}: expected no part of the person's name in it"
    text, (low, high) = person.biography, BIOGRAPHY_LETTERS
    if not low <= len(text) <= high or not all(char.isprintable() and char not in "<>{}" for char in text):
        yield f"biography: expected {low} to {high} letters of plain text"
    told = [person.name, person.profession, person.birth_date[-4:], _city(person.birthplace), _city(person.residence)]
    if not all(value.casefold() in text.casefold() for value in told):
        yield "biography: expected name, profession, year and city of birth, and city of residence in it"


def _city(place: str) -> str:
    return place.partition(",")[0]


def _unaskable(person: Person) -> Iterator[str]:
    """Values that no fair question can be asked about, e.g. because the wording of the question holds them."""
    profile = profile_of(person, "check")
    try:
        check(build([profile], QuestionOrder(seed=0, train_wordings=1)), [profile])
    except DataError as error:
        found = re.search(r"\((\w+)\)", str(error))
        yield f"{found[1] if found else 'questions'}: expected values that fair questions can be asked about"


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
