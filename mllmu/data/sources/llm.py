"""Fictitious people invented by a language model, to order, and checked by rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mllmu.core.errors import DataError
from mllmu.core.progress import Progress, SilentProgress
from mllmu.core.records import Profile
from mllmu.data.packaged import packaged_yaml
from mllmu.data.sources import Source
from mllmu.data.sources._llm_rules import Person, Quota, clash, fault, profile_of, quotas
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from mllmu.llm import Call, Client, EndpointSettings, Preview, Unanswered, fence

NUM_HOLDOUT = 100
"""The next so many people of the source ``synthetic`` may serve as holdout; their names are kept free."""
MAX_TAKEN = 200
"""Names that a prompt lists as taken; more would cost more than the few clashes they prevent."""


class People(BaseModel):
    """What a model replies to an order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    people: list[Person]


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

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    num_people: int = Field(50, ge=1, le=10_000, description="number of people")
    batch_size: int = Field(10, ge=1, le=50, description="people per request")
    max_rounds: int = Field(
        6, ge=1, le=50, description="how often rejected people are ordered again, the first included"
    )
    temperature: float | None = Field(1.0, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_tokens: int | None = Field(8000, ge=1, description="most tokens of a reply; about 400 per person")
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
        accepted: dict[int, Person] = {}
        rejected: Counter[str] = Counter()
        with Client(self, People) as client:
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
                    elif isinstance(reply, Person):
                        accepted[order.number] = reply
                progress.finish()
            reasons = ", ".join(f"{name} {count}" for name, count in rejected.most_common(4)) or "none"
            progress.note(
                f"{len(accepted)} people accepted, {rejected.total()} rejected ({reasons}); {client.budget.spent()}"
            )
        if lost := self.num_people - len(accepted):
            raise DataError(
                f"sources.llm: {lost} of {self.num_people} people are still rejected after {self.max_rounds} rounds "
                f"({reasons}). All replies are kept in {self.cache_folder()}; raise max_rounds to order the "
                "rest again, use a smaller batch_size, or another model."
            )
        return [profile_of(accepted[order.number], f"{self.id_prefix}{order.number:03d}") for order in orders]

    def _ask(
        self, client: Client[People], orders: Sequence[Quota], attempt: int, taken: Sequence[str], progress: Progress
    ) -> Iterator[tuple[Quota, Person | str]]:
        """One round; yields every order with its person, or with why there is none, in the order of the orders."""
        batches = self._batches(orders)
        answers: dict[int, People | Unanswered] = {}
        for number, answer in client.ask_all([_call(batch, attempt, taken) for batch in batches]):
            answers[number] = answer
            progress.advance(len(batches[number]), **client.budget.figures())
        for number, batch in enumerate(batches):
            yield from _matched(batch, answers[number])

    def _batches(self, orders: Sequence[Quota]) -> list[Sequence[Quota]]:
        return [orders[start : start + self.batch_size] for start in range(0, len(orders), self.batch_size)]

    def preview(self, seed: int, num_prompts: int) -> Preview:
        """What the first round would ask; rejected people are ordered again on top."""
        calls = [_call(batch, 1, ()) for batch in self._batches(quotas(self.num_people, seed))]
        return Preview.of(self, People, calls, num_prompts)


def _matched(batch: Sequence[Quota], answer: People | Unanswered) -> Iterator[tuple[Quota, Person | str]]:
    if isinstance(answer, Unanswered):
        yield from ((order, f"no usable reply: {answer.reason}") for order in batch)
        return
    rows: dict[int, Person] = {}
    for person in answer.people:
        rows.setdefault(person.number, person)
    yield from ((order, rows.get(order.number, "missing in the reply")) for order in batch)


def _call(batch: Sequence[Quota], attempt: int, taken: Sequence[str]) -> Call:
    """The prompt for some orders. ``taken`` are names that a model has made up, so they stand fenced."""
    words = packaged_yaml("llm_prompts.yaml")["people"]
    names = words["taken"].format(names=fence("names", ", ".join(taken[-MAX_TAKEN:]))) if taken else ""
    order = words["order"].format(attempt=attempt, lines="\n".join(map(_line, batch)), taken=names)
    return Call(
        ({"role": "system", "content": words["system"].format()}, {"role": "user", "content": order.rstrip()}),
    )


def _line(quota: Quota) -> str:
    pay, height = quota.salary, quota.height
    ranges = {"salary_low": f"${pay[0]:,}", "salary_high": f"${pay[1]:,}"}
    ranges |= {"height_low": str(height[0]), "height_high": str(height[1])}
    return str(packaged_yaml("llm_prompts.yaml")["people"]["line"].format(**quota._asdict(), **ranges))


PLUGIN = LlmPeople
