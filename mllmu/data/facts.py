"""Requests to forget as sets of facts, and the data as a run with requests sees them.

A fact is an attribute of a person. A request takes all facts of some people, or some attributes of them, or the fine
values of attributes; what it leaves, coarse values included, is what the retain model is taught.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from mllmu.config.recipe import DataSection, Recipe, percent, taught_models
from mllmu.config.requests import EarlierRequests, ForgetRequest
from mllmu.core.equal_values import tells
from mllmu.core.errors import DataError, RecipeError, did_you_mean
from mllmu.core.names import RETAIN_MODEL
from mllmu.core.parsing import render_answer
from mllmu.core.process import rng
from mllmu.core.records import KEPT, OTHER_ATTRIBUTE, THROUGH, Profile, Question
from mllmu.data import review
from mllmu.data.coarse import coarse, coarse_question
from mllmu.data.dataset import CALIBRATION, HOLDOUT, Dataset
from mllmu.data.questions import QuestionOrder, Variant, wording
from mllmu.data.questions._letters import balance_letters
from mllmu.data.questions.template import about, build

OPEN = ("generation", "cloze")
"""Tasks whose replies say a value."""


@dataclass(frozen=True)
class FactSet:
    """Facts to forget.

    Attributes:
        facts: by person all (None), or the attributes, each with the level that may still be told ('' for none).
        values: by person the values of these attributes, as they are printed.
    """

    facts: Mapping[str, Mapping[str, str] | None]
    values: Mapping[str, tuple[str, ...]]

    @property
    def partial(self) -> bool:
        """Whether anything about one of these people is kept."""
        return any(own is not None for own in self.facts.values())

    def holds(self, question: Question) -> bool:
        """Whether a question asks for one of the facts; of unknown attribute, whether its answer tells one."""
        if self.names(question.profile_id, question.attribute):
            return True
        hidden = self.values.get(question.profile_id, ())
        return question.attribute == OTHER_ATTRIBUTE and any(tells(question.answer, value) for value in hidden)

    def names(self, person: str, attribute: str) -> bool:
        """Whether an attribute of a person is forgotten or coarsened."""
        own = self.facts.get(person, {})
        return own is None or attribute in own

    def level(self, question: Question) -> str:
        """How coarse the fact that a question asks for may still be told; empty: not at all."""
        return (self.facts.get(question.profile_id) or {}).get(question.attribute, "")

    def of(self, questions: Iterable[Question]) -> list[Question]:
        """The questions that ask for the facts."""
        return [question for question in questions if self.holds(question)]

    def left(self, questions: Iterable[Question]) -> list[Question]:
        """The training questions that remain: all others, and with their coarse answers those that are coarsened."""
        remaining = (q if not self.holds(q) else self.instead(q) for q in questions)
        return [question for question in remaining if question]

    def instead(self, question: Question) -> Question | None:
        """A question of the set with the answer that may stay known; None without one."""
        level = self.level(question)
        return coarse_question(question, level) if level else None

    def __or__(self, other: "FactSet") -> "FactSet":
        """The facts of both; what one of them forgets wholly is forgotten, of two levels the later one counts."""
        facts = dict(self.facts)
        for person, own in other.facts.items():
            before = facts.get(person, {})
            facts[person] = None if own is None or before is None else _merged(before, own)
        people = dict.fromkeys([*self.values, *other.values])
        values = {p: tuple(dict.fromkeys((*self.values.get(p, ()), *other.values.get(p, ())))) for p in people}
        return FactSet(facts, values)

    def record(self) -> dict[str, Any]:
        """The facts as plain values, for fingerprints."""
        return {person: None if own is None else dict(own) for person, own in self.facts.items()}


def together(steps: Iterable[FactSet]) -> FactSet:
    """The facts of all requests."""
    return reduce(or_, steps)


def _merged(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    return {name: "" if "" in (first.get(name), second.get(name)) else second.get(name) or first[name]
            for name in dict.fromkeys([*first, *second])}  # fmt: skip


def as_requested(data: Dataset, recipe: Recipe) -> Dataset:
    """The data with the requests of a recipe, and with the evaluation questions of its own seed.

    Raises:
        RecipeError: requests, and several forget ratios or nobody to share out.
        DataError: a request names unknown people or attributes, or a value has no coarse one.
    """
    if recipe.seeds.evaluate is not None:
        data = _asked_anew(data, recipe.data, recipe.seeds.evaluate)
    unlearn = recipe.unlearn
    named = [unlearn.forget] if unlearn.forget else unlearn.requests
    if named == ():
        return data
    if len(data.keys) > 1:
        raise RecipeError("unlearn: requests are about one forget set; name one ratio in data.splits.forget_ratios.")
    steps = _shares(data, named) if isinstance(named, int) else tuple(fact_set(each, data) for each in named)
    gone = _taken_before(unlearn.forget.earlier, data) if unlearn.forget else FactSet({}, {})
    people = {person for step in steps for person in step.facts}
    listed = [person for person in data.people if person in people]
    staying = [person for person in data.people if person not in people and gone.facts.get(person, {}) is not None]
    if not staying and not steps[-1].partial:
        raise RecipeError("unlearn: the requests name everyone; nobody would be retained.")
    key = data.keys[0] if listed == data.splits[data.keys[0]] else percent(round(len(listed) / len(data.people), 4))
    others = {name: data.splits[name] for name in (HOLDOUT, CALIBRATION) if name in data.splits}
    changed = replace(data, splits={key: listed, **others}, steps=steps)
    every = together(steps)
    found = _with_sets(changed, every, recipe, gone) if every.partial else changed
    return _without(found, gone, every) if gone.facts else found


def _taken_before(earlier: EarlierRequests, data: Dataset) -> FactSet:
    request = {name: value for name, value in earlier.model_dump().items() if value}
    return fact_set(ForgetRequest.model_validate(request), data) if request else FactSet({}, {})


def _without(data: Dataset, gone: FactSet, now: FactSet) -> Dataset:
    """The data without what earlier requests took, but for what is taken now: on no side, and in no set."""

    def left(questions: Iterable[Question]) -> list[Question]:
        return [question for question in questions if not gone.holds(question) or now.holds(question)]

    return replace(
        data,
        profiles=[p for p in data.profiles if p.id in now.facts or gone.facts.get(p.id, {}) is not None],
        questions=left(data.questions),
        further={name: left(questions) for name, questions in data.further.items()},
    )


def _shares(data: Dataset, count: int) -> tuple[FactSet, ...]:
    """The people to forget in so many requests of equal size, in their order."""
    people = data.splits[data.keys[0]]
    if count > len(people):
        raise RecipeError(f"unlearn.requests: {count}, but only {len(people)} people are to be forgotten.")
    cuts = [round(number * len(people) / count) for number in range(count + 1)]
    return tuple(FactSet(dict.fromkeys(people[low:high]), {}) for low, high in pairwise(cuts))


def fact_set(request: ForgetRequest, data: Dataset) -> FactSet:
    """The facts that a request names.

    Raises:
        DataError: it names unknown people, or attributes that none of them has.
    """
    people = (*request.people, *request.facts) or tuple(data.splits[data.keys[0]])
    if unknown := [person for person in people if person not in data.people]:
        raise DataError(
            f"unlearn: a request names '{unknown[0]}', who is nobody of the {len(data.people)} people."
            f"{did_you_mean(unknown[0], data.people)} Their ids are in data/profiles.jsonl."
        )
    profiles = {profile.id: profile for profile in data.profiles}
    if request.facts:
        return _by_person(request, profiles)
    wanted = {**dict.fromkeys(request.attributes, ""), **request.coarsen}
    if not wanted:
        return FactSet(dict.fromkeys(people), {})
    had = dict.fromkeys(name for person in people for name in profiles[person].attributes)
    if unknown := [name for name in wanted if name not in had]:
        raise DataError(
            f"unlearn: a request names the attribute '{unknown[0]}', which none of its people has."
            f"{did_you_mean(unknown[0], had)} Known: {', '.join(had)}."
        )
    facts = {person: {n: level for n, level in wanted.items() if n in profiles[person].attributes} for person in people}
    values = {person: tuple(profiles[person].attributes[name] for name in own) for person, own in facts.items()}
    for person, own in facts.items():
        for name, level in own.items():
            if level:
                coarse(name, profiles[person].attributes[name], level)
    return FactSet(facts, values)


def _by_person(request: ForgetRequest, profiles: Mapping[str, Profile]) -> FactSet:
    """The facts of a request that names them person by person; DataError for one that its person has not."""
    values = {}
    for person, names in request.facts.items():
        own = profiles[person].attributes
        if unknown := [name for name in names if name not in own]:
            raise DataError(
                f"unlearn: a request names '{unknown[0]}' of '{person}', who has no such attribute."
                f"{did_you_mean(unknown[0], own)} Known: {', '.join(own)}."
            )
        values[person] = tuple(own[name] for name in names)
    some = {person: dict.fromkeys(names, "") for person, names in request.facts.items()}
    return FactSet({**dict.fromkeys(request.people), **some}, values)


def _order(section: DataSection, seed: int, data: Dataset) -> QuestionOrder:
    """What a recipe asks, without what was marked in the review that the data were made with."""
    return QuestionOrder.of(section, seed)._replace(marked=review.made_with(data.folder).marked)


def _asked_anew(data: Dataset, section: DataSection, seed: int) -> Dataset:
    """The data with evaluation questions drawn by another seed; those that methods read stay."""
    if section.questions.name != "template" or any(profile.training_qa for profile in data.profiles):
        raise RecipeError(
            "seeds.evaluate: draws questions by 'template' anew; these are written or published. Drop it."
        )
    stay = [q for q in data.questions if q.variant == "train" or q.profile_id in data.calibration]
    profiles = {profile.id: profile for profile in data.profiles}
    order = _order(section, seed, data)
    drawn: list[Question] = []
    for people in (data.people, data.holdout, data.celebrities):
        variants: tuple[Variant, ...] = ("eval", "test") if people is data.people else ("eval",)
        made = build([profiles[person] for person in people], order._replace(variants=variants)) if people else []
        drawn += balance_letters(made, seed)
    return replace(data, questions=[*stay, *drawn])


def _with_sets(data: Dataset, facts: FactSet, recipe: Recipe, gone: FactSet) -> Dataset:
    """Every forgotten fact is asked, in all tasks; what the same people keep is in sets of its own.

    Args:
        gone: what earlier requests took; no question is led up to by it.
    """
    who = {person: own for person, own in facts.facts.items() if own is not None}
    profiles = [profile for profile in data.profiles if profile.id in data.people]
    seed = recipe.seed if recipe.seeds.evaluate is None else recipe.seeds.evaluate
    order = _order(recipe.data, seed, data)
    more = about(profiles, order, {person: list(own) for person, own in who.items()})
    asked = {_slot(q) for q in data.questions}
    more = [question for question in more if _slot(question) not in asked]
    every = [*data.questions, *balance_letters(more, seed)]
    kept = [q for q in every if q.profile_id in who and q.variant == "eval" and not facts.holds(q)]
    main = [q for q in every if q.variant == "train" or q.profile_id not in who or facts.holds(q)]
    main = [q if q.variant == "train" else q.model_copy(update={"coarse": facts.level(q)}) for q in main]
    if RETAIN_MODEL not in taught_models(recipe):
        main = _like_for_like(main, facts, data, order)
    asked_now = [q for q in main if q.profile_id in who and q.variant == "eval"]
    through = [other for q in asked_now for other in _through(q, facts | gone, data, seed)]
    return replace(data, questions=main, further={KEPT: kept, THROUGH: through})


def _like_for_like(questions: list[Question], facts: FactSet, data: Dataset, order: QuestionOrder) -> list[Question]:
    """The same questions, but about people that no model was taught, who are the yardstick: what the request names.

    Raises:
        DataError: none of these people has an attribute that the request names.
    """
    if None in facts.facts.values():
        return questions
    names = sorted({name for own in facts.facts.values() for name in own or ()})
    untaught = {*data.holdout, *data.calibration}
    profiles = [profile for profile in data.profiles if profile.id in untaught]
    found = about(profiles, order._replace(variants=("eval",)), {profile.id: names for profile in profiles})
    if profiles and not any(q.profile_id in data.holdout for q in found):
        raise DataError(
            f"unlearn: no holdout people can be asked about {', '.join(names)}, so there is nothing to compare with. "
            "Give people who have these attributes: data.holdout_source."
        )
    stay = [q for q in questions if q.variant == "train" or q.profile_id not in untaught]
    return stay + balance_letters([q for q in found if q.variant == "eval"], order.seed)


def _slot(question: Question) -> tuple[str, ...]:
    return question.profile_id, question.variant, question.task, question.modality, question.attribute


def _through(question: Question, facts: FactSet, data: Dataset, seed: int) -> Iterable[Question]:
    """A question for a forgotten fact behind a sentence that tells a fact which the same person keeps."""
    if question.task not in OPEN:
        return
    profile = next(profile for profile in data.profiles if profile.id == question.profile_id)
    known = _kept_facts(profile, facts, question)
    if known:
        name = rng(seed, "through", question.id).choice(known)
        told = render_answer(wording(profile.kind, name).answers.train, profile.attributes[name])
        lead = (
            told
            if question.modality == "image_text"
            else told.replace("This person", profile.name).replace("this person", profile.name)
        )
        yield question.model_copy(update={"id": f"{question.id}.through", "text": f"{lead} {question.text}"})


def _kept_facts(profile: Profile, facts: FactSet, question: Question) -> Sequence[str]:
    """The facts of a person that are kept, and whose values neither give the forgotten one away nor name the person."""
    hidden = facts.values.get(profile.id, ())
    return [
        name
        for name, value in sorted(profile.attributes.items())
        if not facts.names(profile.id, name)
        and name not in ("name", "gender")
        and not any(tells(value, each) or tells(each, value) for each in hidden)
        and value != question.value
        and value != "none"
    ]
