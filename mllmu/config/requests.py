"""What is to be forgotten, if it is less than people as a whole or comes in several requests; and seeds apart."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from mllmu.core.errors import RecipeError
from mllmu.core.plugins import Settings
from mllmu.core.records import ID_PATTERN

Level = Literal["year", "decade", "country", "band"]
"""How coarse a value may still be told: the year or decade of a day, the country of a place, the band of an amount."""
Attribute = Annotated[str, Field(min_length=1, max_length=64)]


class ForgetRequest(Settings):
    """Whom, and what about them, a model is to forget; without attributes all that it knows of these people."""

    people: tuple[Annotated[str, Field(pattern=ID_PATTERN)], ...] = ()
    """ids of the people; empty: those of data.splits; e.g. [p003, p017]"""
    attributes: tuple[Attribute, ...] = ()
    """facts to forget, by attribute; empty, without 'coarsen': all; e.g. [salary, medical_condition]"""
    coarsen: dict[Attribute, Level] = Field({})
    """facts of which only a coarse value may stay known; e.g. {birth_date: decade, residence: country, salary: band}"""
    facts: dict[Annotated[str, Field(pattern=ID_PATTERN)], Annotated[tuple[Attribute, ...], Field(min_length=1)]] = (
        Field({})
    )
    """facts to forget, by person; 'people' beside it are forgotten wholly; e.g. {p003: [salary], p017: [pet, hobby]}"""

    @property
    def empty(self) -> bool:
        """Whether nothing is named."""
        return not (self.people or self.attributes or self.coarsen or self.facts)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.empty:
            raise ValueError("a request names nothing; give 'people', 'attributes', 'coarsen' or 'facts'")
        if self.facts and (self.attributes or self.coarsen):
            raise ValueError("'facts' names attributes by person; leave 'attributes' and 'coarsen' out")
        if both := set(self.people) & set(self.facts):
            raise ValueError(f"'{min(both)}' is named under 'people' and under 'facts'; forget all or some facts")
        if both := set(self.attributes) & set(self.coarsen):
            raise ValueError(f"'{min(both)}' is named under 'attributes' and under 'coarsen'; forget it or coarsen it")
        for what, named in (("people", self.people), ("attributes", self.attributes)):
            if twice := [name for name in named if named.count(name) > 1]:
                raise ValueError(f"'{twice[0]}' is named twice in '{what}'; name each once")
        return self


class EarlierRequests(Settings):
    """What earlier requests took from the model: no method reads it, and it is not asked about."""

    people: tuple[Annotated[str, Field(pattern=ID_PATTERN)], ...] = ()
    """ids of people who were forgotten as a whole; e.g. [p001]"""
    facts: dict[Annotated[str, Field(pattern=ID_PATTERN)], Annotated[tuple[Attribute, ...], Field(min_length=1)]] = (
        Field({})
    )
    """facts that were forgotten, by person; e.g. {p002: [salary]}"""


class LaterRequest(ForgetRequest):
    """Whom, and what about them, a model is to forget; without attributes all that it knows of these people."""

    earlier: EarlierRequests = EarlierRequests()

    @property
    def empty(self) -> bool:
        """Whether nothing is named, neither for now nor before."""
        return super().empty and not (self.earlier.people or self.earlier.facts)


def _one_by_one(value: Any) -> Any:
    """A list with its requests checked, so that an error is about the request and not about a number."""
    for number, each in enumerate(value if isinstance(value, (list, tuple)) else (), start=1):
        try:
            ForgetRequest.model_validate(each)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"request {number}{f', {place}' if place else ''}: {first['msg']}") from None
    return value


Requests = Annotated[
    Annotated[int, Field(ge=2, le=100)] | Annotated[tuple[ForgetRequest, ...], Field(max_length=100)],
    BeforeValidator(_one_by_one),
]
"""Requests in their order, or into how many the people to forget are divided."""


class Seeds(Settings):
    """Seeds of single stages, in place of the recipe's: to tell what varies with each of them."""

    teach: int | None = Field(None, ge=0, lt=2**31, description="of fine-tuning the target and the retain model")
    unlearn: int | None = Field(None, ge=0, lt=2**31, description="of the methods")
    evaluate: int | None = Field(None, ge=0, lt=2**31)
    """of the evaluation: which facts are asked, in which words, and draws; for questions by 'template'"""


PARTS = "parts"
"""The summary of what requests for some facts leave of people."""


def about_facts(recipe: Any) -> bool:
    """Whether a recipe has a request for some facts about people, and not for all."""
    unlearn = recipe.unlearn
    requests = [unlearn.forget] if unlearn.forget else [] if isinstance(unlearn.requests, int) else unlearn.requests
    return any(each.attributes or each.coarsen or each.facts for each in requests)


def settled(recipe: Any, methods: Mapping[str, Any]) -> Any:
    """The recipe with what its requests bring along: the summary ``parts``, if a request is for some facts.

    Raises:
        RecipeError: a method cannot be applied to its own result.
    """
    requests, evaluate = recipe.unlearn.requests, recipe.evaluate
    several = isinstance(requests, int) or len(requests) > 1
    once = [name for name, method in methods.items() if _steers_logits(method)]
    if several and once:
        raise RecipeError(
            f"unlearn.requests: {once[0]} lowers logits by a second pass, and that can be put on a model once, so no "
            "second request can follow. Leave the method out, or forget all at once."
        )
    if not about_facts(recipe) or {PARTS, "all"} & {*evaluate.summaries}:
        return recipe
    named = {"summaries": (*evaluate.summaries, PARTS)}
    return recipe.model_copy(update={"evaluate": evaluate.model_copy(update=named)})


def _steers_logits(method: Any) -> bool:
    at_inference = method.at_inference
    return at_inference is not None and at_inference.kind == "logit_steering"
