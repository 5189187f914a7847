"""Fictitious people invented by a language model, to order, and checked by rules.

The rules: the form of every value, coherence, and a distance from all other people.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model
from rapidfuzz import fuzz

from mllmu.core.errors import DataError
from mllmu.core.process import Progress, SilentProgress, rng
from mllmu.core.records import Profile
from mllmu.data import dates, values
from mllmu.data.cells import MAY_BE_NONE
from mllmu.data.files import packaged_yaml
from mllmu.data.questions import QuestionOrder, Rule, check, first_broken, name_words
from mllmu.data.questions.template import build
from mllmu.data.sources import Source
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.values import NONE, Gender
from mllmu.llm import Call, Client, EndpointSettings, Preview, Unanswered, fence

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


_STRICT = ConfigDict(extra="forbid", strict=True)
_FIELDS: dict[str, Any] = {"number": (int, ...), **dict.fromkeys((*values.ATTRIBUTES, "biography"), (str, ...))}
_PERSON = create_model("Person", __config__=_STRICT, __doc__="One row of a reply.", **_FIELDS)
InventedPeople = create_model(  # the docstrings are part of the schema that the model gets
    "InventedPeople",
    __config__=_STRICT,
    __doc__="What a model replies to an order.",
    people=(list[_PERSON], ...),  # type: ignore[valid-type]
)


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
    people = Synthetic(num_people=num_people).profiles(seed)
    return [_quota(number, person, seed) for number, person in enumerate(people, start=1)]


def _quota(number: int, person: Profile, seed: int) -> Quota:
    known, draw = person.attributes, rng(seed, "initials", number)
    gender: Gender = "female" if known["gender"] == "female" else "male"
    birth_year, span = int(known["birth_date"][-4:]), values.pools().height_cm[gender]
    pay = values.salary_options(known["profession"], values.pools().reference_year - birth_year)
    return Quota(
        number=number,
        gender=gender,
        birth_year=birth_year,
        country=known["birthplace"].rpartition(", ")[2],
        profession=known["profession"],
        salary=(min(pay) * 1000, max(pay) * 1000),
        height=(span.low, span.high),
        initials=f"{draw.choice(_INITIALS)}. {draw.choice(_INITIALS)}.",
    )


def fault(person: Profile, quota: Quota) -> str:
    """The first rule that a person breaks, as ``<attribute>: <what was expected>``; empty if it breaks none.

    The sentence never repeats what the model wrote.
    """
    plain = (
        (not _printable(value), f"{name}: expected 2 to {MAX_LETTERS} plain letters, digits and marks")
        for name, value in person.attributes.items()
    )
    rules = chain(plain, _of_order(person.attributes, quota), _of_form(person.attributes), _of_words(person))
    return first_broken(rules) or _unaskable(person)


def _printable(value: str) -> bool:
    plain = all(char.isalnum() or char in _MARKS for char in value)
    return plain and 2 <= len(value) <= MAX_LETTERS and value == " ".join(value.split())


def _of_order(known: Mapping[str, str], quota: Quota) -> Iterator[Rule]:
    """Values that the order decides."""
    born, (low, high), (least, most) = dates.parse(known["birth_date"]), quota.height, quota.salary
    pay, height = _SALARY.fullmatch(known["salary"]), _HEIGHT.fullmatch(known["height"])
    in_year = born and born.year == quota.birth_year and dates.printed(born) == known["birth_date"]
    in_country = known["birthplace"].rpartition(", ")[2] == quota.country
    yield known["gender"] != quota.gender, f"gender: expected {quota.gender}"
    yield known["profession"] != quota.profession, f"profession: expected {quota.profession}"
    yield not in_country, f"birthplace: expected a city, and behind a comma {quota.country}"
    yield not in_year, f"birth_date: expected a day of {quota.birth_year}, printed like May 14, 1988"
    earns = pay and least <= int(pay[1] + pay[2]) <= most
    yield not earns, f"salary: expected ${least:,} to ${most:,} for this job at this age"
    yield not (height and low <= int(height[1]) <= high), f"height: expected {low} cm to {high} cm"


def _of_form(known: Mapping[str, str]) -> Iterator[Rule]:
    words = known["name"].split()
    named = _NAME.fullmatch(known["name"]) and all(word[0].isupper() for word in words) and words[0] != words[-1]
    yield not named, "name: expected a given and a family name, two or three words"
    for place in ("birthplace", "residence"):
        yield not _PLACE.fullmatch(known[place]), f"{place}: expected a city and a country with a comma between"
    yield not (known["pet"] == NONE or _PET.fullmatch(known["pet"])), "pet: expected none, or the form a cat named Luna"
    for parent in ("father_job", "mother_job"):
        plain = known[parent][0].islower() and not known[parent].startswith(("a ", "an ", "the "))
        yield not plain, f"{parent}: expected lower case without an article"
    yield known["father_job"] == known["mother_job"], "mother_job: expected another one than the father's"
    for name, value in known.items():
        allowed = value == NONE and name in MAY_BE_NONE
        yield value.casefold() == NONE and not allowed, f"{name}: expected a value"


def _of_words(person: Profile) -> Iterator[Rule]:
    """The name must not leak through another value, and the biography must tell the same life."""
    pattern, text, (low, high) = name_words(person.name), person.biography, BIOGRAPHY_LETTERS
    for name, value in person.attributes.items():
        yield name != "name" and pattern.search(value), f"{name}: expected no part of the person's name in it"
    plain = low <= len(text) <= high and all(char.isprintable() and char not in "<>{}" for char in text)
    yield not plain, f"biography: expected {low} to {high} letters of plain text"
    cities = (person.attributes[place].partition(",")[0] for place in ("birthplace", "residence"))
    facts = (person.name, person.attributes["profession"], person.attributes["birth_date"][-4:], *cities)
    tells = all(fact.casefold() in text.casefold() for fact in facts)
    yield not tells, "biography: expected name, profession, year and city of birth, and city of residence in it"


def _unaskable(person: Profile) -> str:
    """Values that no fair question can be asked about, e.g. because the wording of the question holds them."""
    try:
        check(build([person], QuestionOrder(seed=0, train_wordings=1)), [person])
    except DataError as error:
        found = re.search(r"\((\w+)\)", str(error))
        return f"{found[1] if found else 'questions'}: expected values that fair questions can be asked about"
    return ""


def clash(person: Profile, reserved: Iterable[str], others: Iterable[Profile]) -> str:
    """Why a person is too much like another one; empty if it is not.

    Args:
        reserved: names that are kept free: of celebrities, and of the holdout people of the same seed.
        others: the people so far.
    """
    name = person.name.casefold()
    if any(fuzz.ratio(name, other.casefold()) >= NEAR_NAME for other in reserved):
        return "name: expected nobody known"
    for other in others:
        if fuzz.ratio(name, other.name.casefold()) >= NEAR_NAME:
            return "name: expected one that is not taken"
        if sum(person.attributes[free] == other.attributes[free] != NONE for free in FREE) >= NEAR_FACTS:
            return "near-duplicate: expected other facts than another person's"
    return ""


NUM_HOLDOUT = 100
"""The next so many people of the source ``synthetic`` may serve as holdout; their names are kept free."""
MAX_TAKEN = 200
"""Names that a prompt lists as taken; more would cost more than the few clashes they prevent."""


class LlmPeople(EndpointSettings, Source):
    """Fictitious people with sixteen attributes and a biography, invented by a model behind an endpoint.

    Every person is ordered: gender, age, country of birth and profession come from the balanced series of the source
    ``synthetic``, and with them the ranges of salary and height. Whatever the model replies is checked by code: form
    of every value, agreement with the order, salary against job and age, biography against values, name neither
    taken nor a celebrity's, and not a near-duplicate. A person who fails is ordered again in the next round, up to
    ``max_rounds``; rejections are counted and shown.

    Replies come from the cache where there are any, so the same settings and seed give the same people again; on
    another machine they do so only with the same cache. See docs/how-to/llm.md.

    Source: the construction of MLLMU-Bench, arXiv:2410.22108 (a model invents profiles in batches); the orders, the
    rules and the prompts are ours.
    """

    source = "https://arxiv.org/abs/2410.22108"
    invented = True

    num_people: int = Field(50, ge=1, le=10_000, description="number of people")
    batch_size: int = Field(10, ge=1, le=50, description="people per request")
    max_rounds: int = Field(6, ge=1, le=50)
    """how often rejected people are ordered again, the first included"""
    temperature: float | None = Field(1.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_tokens: int | None = Field(8000, ge=1, le=10**6, description="most tokens of a reply; about 400 per person")
    id_prefix: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,32}$", description="put in front of the number in an id")

    def profiles(self, seed: int) -> list[Profile]:
        """Order the people of a seed, without showing progress; see :meth:`generate`."""
        return self.generate(seed, SilentProgress())

    def generate(self, seed: int, progress: Progress) -> list[Profile]:
        """Order people until all are there.

        Raises:
            DataError: some were still rejected after the last round; says how many and why.
            EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; replies are kept.
        """
        orders = quotas(self.num_people, seed)
        series = Synthetic(num_people=NUM_HOLDOUT, first_id=self.num_people + 1).profiles(seed)
        reserved = [person.name for person in (*Celebrities().profiles(seed), *series)]
        accepted: dict[int, Profile] = {}
        rejected: Counter[str] = Counter()
        with Client(self, InventedPeople) as client:
            for attempt in range(1, self.max_rounds + 1):
                missing = [order for order in orders if order.number not in accepted]
                if not missing:
                    break
                progress.start(f"people, round {attempt}", len(missing))
                taken = [person.name for person in accepted.values()]
                for order, reply in self._ask(client, missing, attempt, taken, progress):
                    # the earlier order wins where two are alike
                    known = accepted.values()
                    wrong = reply if isinstance(reply, str) else fault(reply, order) or clash(reply, reserved, known)
                    if wrong:
                        rejected[wrong.partition(":")[0]] += 1
                    elif isinstance(reply, Profile):
                        accepted[order.number] = reply
                progress.finish()
            reasons = ", ".join(f"{name} {count}" for name, count in rejected.most_common(4)) or "none"
            counts = f"{len(accepted)} people accepted, {rejected.total()} rejected"
            progress.note(f"{counts} ({reasons}); {client.budget.spent()}")
        if lost := self.num_people - len(accepted):
            raise DataError(
                f"sources.llm: {lost} of {self.num_people} people are still rejected after {self.max_rounds} rounds "
                f"({reasons}). All replies are kept in {self.cache_folder()}; raise max_rounds to order the "
                "rest again, use a smaller batch_size, or another model."
            )
        ids = {number: f"{self.id_prefix}{number:03d}" for number in sorted(accepted)}
        return [accepted[number].model_copy(update={"id": name}) for number, name in ids.items()]

    def _ask(
        self, client: Client[Any], orders: Sequence[Quota], attempt: int, taken: Sequence[str], progress: Progress
    ) -> Iterator[tuple[Quota, Profile | str]]:
        """One round; yields every order with its person, or with why there is none, in the order of the orders."""
        batches, replies = self._batches(orders), dict[int, Profile | str]()
        for index, answer in client.ask_all([_call(batch, attempt, taken) for batch in batches]):
            replies |= _matched(batches[index], answer)
            progress.advance(len(batches[index]), **client.budget.figures())
        yield from ((order, replies[order.number]) for order in orders)

    def _batches(self, orders: Sequence[Quota]) -> list[Sequence[Quota]]:
        return [orders[start : start + self.batch_size] for start in range(0, len(orders), self.batch_size)]

    def preview(self, seed: int, num_prompts: int) -> Preview:
        """What the first round would ask; rejected people are ordered again on top."""
        calls = [_call(batch, 1, ()) for batch in self._batches(quotas(self.num_people, seed))]
        return Preview.of(self, InventedPeople, calls, num_prompts)


def _matched(batch: Sequence[Quota], answer: BaseModel | Unanswered) -> dict[int, Profile | str]:
    """The person of every ordered number, or why there is none; of two with one number the first counts."""
    numbers = [order.number for order in batch]
    if isinstance(answer, Unanswered):
        return dict.fromkeys(numbers, f"no usable reply: {answer.reason}")
    rows = {row["number"]: draft(row) for row in reversed(answer.model_dump()["people"])}
    return {number: rows.get(number, "missing in the reply") for number in numbers}


def draft(row: Mapping[str, Any]) -> Profile:
    """A person as a model replies it, as a record without an id of its own."""
    attributes = {name: row[name] for name in values.ATTRIBUTES}
    return Profile(id="check", kind="fictitious", attributes=attributes, biography=row["biography"])


def _call(batch: Sequence[Quota], attempt: int, taken: Sequence[str]) -> Call:
    """The prompt for some orders. ``taken`` are names that a model has made up, so they stand fenced."""
    words = packaged_yaml("llm_prompts.yaml")["people"]
    names = words["taken"].format(names=fence("names", ", ".join(taken[-MAX_TAKEN:]))) if taken else ""
    lines = "\n".join(words["line"].format(**order._asdict()) for order in batch)
    order = words["order"].format(attempt=attempt, lines=lines, taken=names)
    system = {"role": "system", "content": words["system"].format()}
    return Call((system, {"role": "user", "content": order.rstrip()}))
