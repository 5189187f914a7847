"""Fictitious people, made up from closed pools so that every value is about equally common."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data import dates, values
from mllmu.data.sources import Source
from mllmu.data.values import NONE, City, Gender

NO_CONDITION_SHARE = 0.25
NO_PET_SHARE = 0.15
STAYED_SHARE = 0.5
MAX_NAME_ATTEMPTS = 1000

# Shares counted in the published 500 profiles (``skewed=True``).
SKEWED_PROFESSION = ("software engineer", 117 / 500)
SKEWED_SALARY = (85, 102 / 500)
SKEWED_NO_CONDITION_SHARE = 397 / 500
SKEWED_RESIDENCE = (("Canada", 137 / 500), ("USA", 124 / 500))


class Synthetic(Source):
    """Fictitious people with sixteen coherent, balanced attributes; no two share a name.

    A seed fixes one endless series of people, and a person is known by the number in it: asking for more people never
    changes the earlier ones, and ``first_id=501`` continues where 500 people ended, without a person in common. The
    prefix is only a label. Each value is drawn as the least used so far among those that fit the person (age, gender,
    profession), ties broken by the person's number.

    Attributes:
        num_people: how many people.
        skewed: imitate the shares of the published profiles (software engineer 23 %, $85,000 20 %, no medical
            condition 79 %, residence in Canada 27 % or the USA 25 %) instead of balancing these four.
        id_prefix: put in front of the number; ids are ``<prefix><number>``, padded with zeros to three digits.
        first_id: number of the first person, from 1.
    """

    source = (
        "Attributes and shares: MLLMU-Bench, Liu et al. 2024, arXiv:2410.22108; names: https://github.com/joke2k/faker"
    )
    invented = True

    num_people: int = Field(500, ge=1, le=100_000, description="number of people")
    skewed: bool = Field(False, description="imitate how often values occur among the published profiles")
    id_prefix: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,32}$", description="put in front of the number in an id")
    first_id: int = Field(1, ge=1, le=100_000, description="number of the first person")

    def profiles(self, seed: int) -> list[Profile]:
        """Make the people numbered ``first_id`` to ``first_id + num_people - 1`` of this seed's series.

        Raises:
            DataError: so many people were asked for that the names of a birthplace have run out.
        """
        series = _Series(seed, skewed=self.skewed)
        people = [series.person(number) for number in range(1, self.first_id + self.num_people)]
        return [
            Profile(
                id=f"{self.id_prefix}{number:03d}",
                kind="fictitious",
                attributes=person,
                biography=biography(person, seed=seed, number=number),
            )
            for number, person in enumerate(people[self.first_id - 1 :], start=self.first_id)
        ]


class _Series:
    """The people of one seed, to be asked for in order from number 1."""

    def __init__(self, seed: int, *, skewed: bool) -> None:
        self._seed = seed
        self._skewed = skewed
        self._pools = values.pools()
        self._cities = {city.label: city for city in self._pools.cities}
        self._used: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._names: set[str] = set()
        self._salary_share = _share_among_fitting() if skewed else 0.0

    def person(self, number: int) -> dict[str, str]:
        """All attributes of a person, in the order of ``values.ATTRIBUTES``."""
        gender = values.GENDERS[self._draw("gender", values.GENDERS, number) == "male"]
        birthplace = self._draw("birthplace", values.value_pool("birthplace"), number)
        age = int(self._draw("age", [str(age) for age in self._pools.age.values], number))
        profession = self._profession(age, number)
        heights = [f"{cm} cm" for cm in self._pools.height_cm[gender].values]
        jobs, father_job = self._pools.parent_jobs, self._draw("father_job", self._pools.parent_jobs, number)
        return {
            "name": self._name(gender, self._cities[birthplace], number),
            "gender": gender,
            "birthplace": birthplace,
            "birth_date": self._birth_date(age, number),
            "profession": profession,
            "height": self._draw(f"height {gender}", heights, number),
            "education": self._draw("education", values.school_options(profession), number),
            "salary": self._salary(profession, age, number),
            "residence": self._residence(birthplace, number),
            "medical_condition": self._condition(number),
            "father_job": father_job,
            "mother_job": self._draw("mother_job", [job for job in jobs if job != father_job], number),
            "hobby": self._draw("hobby", self._pools.hobbies, number),
            "food": self._draw("food", self._pools.foods, number),
            "pet": self._pet(number),
            "collection": self._draw("collection", self._pools.collections, number),
        }

    def _draw(self, attribute: str, options: Sequence[str], number: int) -> str:
        """The least used option so far; ties are broken by the person's number."""
        used = self._used[attribute]
        fewest = min(used[option] for option in options)
        ties = [option for option in options if used[option] == fewest]
        choice = rng(self._seed, "draw", attribute, number).choice(ties)
        used[choice] += 1
        return choice

    def _chance(self, what: str, number: int) -> float:
        return rng(self._seed, "chance", what, number).random()

    def _name(self, gender: Gender, city: City, number: int) -> str:
        given, family = values.given_names(city.locale, gender), values.family_names(city.locale, gender)
        for attempt in range(MAX_NAME_ATTEMPTS):
            draw = rng(self._seed, "name", number, attempt)
            first, last = draw.choice(given), draw.choice(family)
            name = f"{first} {last}"
            if first != last and name not in self._names:
                self._names.add(name)
                return name
        raise DataError(
            f"sources.synthetic: person {number}: no unused {gender} name for {city.label} "
            f"in {MAX_NAME_ATTEMPTS} draws ({len(given)} given x {len(family)} family names). "
            "Ask for fewer people (num_people, first_id)."
        )

    def _birth_date(self, age: int, number: int) -> str:
        draw = rng(self._seed, "birth_date", number)
        # Day 28 at most: valid in every month and year.
        return dates.printed(date(self._pools.reference_year - age, draw.randint(1, 12), draw.randint(1, 28)))

    def _profession(self, age: int, number: int) -> str:
        options = [name for name, rule in self._pools.professions.items() if rule.min_age <= age]
        if self._skewed:
            common, share = SKEWED_PROFESSION
            if self._chance("profession", number) < share:
                return common
            options.remove(common)
        return self._draw("profession", options, number)

    def _salary(self, profession: str, age: int, number: int) -> str:
        options = values.salary_options(profession, age)
        if self._skewed:
            common, _ = SKEWED_SALARY
            if _pays(profession, common) and self._chance("salary", number) < self._salary_share:
                return values.dollars(common)
            options = tuple(value for value in options if value != common)
        return self._draw("salary", [values.dollars(value) for value in options], number)

    def _residence(self, birthplace: str, number: int) -> str:
        options = [label for label in self._cities if self._may_live_in(label, number)]
        if birthplace in options and self._chance("stayed", number) < STAYED_SHARE:
            self._used["residence"][birthplace] += 1
            return birthplace
        return self._draw("residence", [label for label in options if label != birthplace], number)

    def _may_live_in(self, label: str, number: int) -> bool:
        """Everywhere if balanced; if skewed, only the country that fell to this person, or outside the skewed ones."""
        if not self._skewed:
            return True
        country, point = self._cities[label].country, self._chance("country", number)
        for common, share in SKEWED_RESIDENCE:
            if point < share:
                return country == common
            point -= share
        return country not in dict(SKEWED_RESIDENCE)

    def _condition(self, number: int) -> str:
        share = SKEWED_NO_CONDITION_SHARE if self._skewed else NO_CONDITION_SHARE
        if self._chance("medical_condition", number) < share:
            return NONE
        return self._draw("medical_condition", self._pools.medical_conditions, number)

    def _pet(self, number: int) -> str:
        if self._chance("pet", number) < NO_PET_SHARE:
            return NONE
        animal = self._draw("animal", self._pools.animals, number)
        return f"{animal} named {self._draw('pet_name', self._pools.pet_names, number)}"


def _pays(profession: str, thousands: int) -> bool:
    band = values.pools().professions[profession]
    return band.low <= thousands <= band.high


def _share_among_fitting() -> float:
    """Probability of the common salary given a profession that can pay it, so that its share overall is as published.

    overall = P(common | fits) * P(fits);  P(fits) = p + (1 - p) * (share of the other professions that fit),
    where p is the share of the common profession, which fits.
    """
    common_job, p = SKEWED_PROFESSION
    salary, overall = SKEWED_SALARY
    others = [name for name in values.pools().professions if name != common_job]
    fitting = sum(_pays(name, salary) for name in others) / len(others)
    return overall / (p + (1 - p) * fitting)


def biography(person: dict[str, str], *, seed: int, number: int) -> str:
    """Seven English sentences that hold all sixteen attributes; the wording depends on seed and number."""
    table, draw = values.pools(), rng(seed, "biography", number)
    they, their = ("she", "her") if person["gender"] == "female" else ("he", "his")
    words = person | {"they": they, "their": their, "They": they.capitalize(), "Their": their.capitalize()}
    words["the_education"] = "the " * person["education"].startswith("University") + person["education"]
    words |= {f"a_{job}": values.with_article(person[job]) for job in ("profession", "father_job", "mother_job")}
    for key, attribute, choices in (("health", "medical_condition", table.health), ("company", "pet", table.company)):
        words[key] = draw.choice(choices[NONE if person[attribute] == NONE else "some"]).format_map(words)
    return " ".join(draw.choice(sentences).format_map(words) for sentences in table.biography.values())
