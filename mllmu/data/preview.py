"""What making the data would ask of endpoints, without asking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mllmu.config.recipe import DataSection
from mllmu.core.errors import BudgetError, EndpointError
from mllmu.core.records import Profile
from mllmu.data.build import gather, makers
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.writers import Order, Questions
from mllmu.llm import EndpointSettings, Preview


class Asked(NamedTuple):
    """The preview of one part of the data. ``known``: the prompts are those of the people; else only the count is."""

    part: str
    preview: Preview
    known: bool = True


def previews(section: DataSection, seed: int, num_prompts: int) -> list[Asked]:
    """What the source and the question writer would ask; nothing for parts that work offline.

    Questions about people whom a model has not invented yet cannot be shown, only counted.
    """
    sources = makers(section)
    found = []
    preview = sources.people.preview(seed, num_prompts)
    if preview:
        found.append(Asked("data.source", preview))
    writer = section.questions.build("questions", "data.questions")
    people = _offline(section, seed) if preview is None or preview.num_cached else None
    stand_ins = people or _stand_ins(int(getattr(sources.people, "num_people", 0)), section.splits.holdout)
    asked = _questions(writer, stand_ins, section, seed, num_prompts if people else 0)
    if asked:
        known = asked if people else asked._replace(num_cached=0)
        found.append(Asked("data.questions", known, known=people is not None))
    return found


Groups = Sequence[Sequence[Profile]]


def _offline(section: DataSection, seed: int) -> Groups | None:
    """The people, if nothing needs to be asked for them."""
    sources = makers(section)
    people = sources.people
    if isinstance(people, EndpointSettings):
        sources = sources._replace(people=people.model_copy(update={"max_requests": 0}))
    try:
        return gather(section, seed, sources)
    except (BudgetError, EndpointError):
        return None


def _stand_ins(num_people: int, num_holdout: int) -> Groups:
    """As many people as there will be."""
    people = Synthetic(num_people=num_people + num_holdout).profiles(0)
    return [people[:num_people], people[num_people:], []]


def _questions(writer: Questions, groups: Groups, section: DataSection, seed: int, num_prompts: int) -> Preview | None:
    order = Order(seed, train_wordings=section.train_wordings, train_formats=section.train_formats)
    calls = cached = 0
    prompts: tuple[str, ...] = ()
    for number, group in enumerate(groups):
        wanted = order if number == 0 else order._replace(variants=("eval",))
        preview = writer.preview(group, wanted, num_prompts - len(prompts)) if group else None
        if preview is None:
            continue
        calls, cached, prompts = calls + preview.num_calls, cached + preview.num_cached, prompts + preview.prompts
    return Preview(calls, cached, prompts) if calls else None
