"""What making the data would ask of endpoints, without asking."""

from collections.abc import Sequence
from typing import NamedTuple

from mllmu.config.recipe import DataSection
from mllmu.core.errors import BudgetError, EndpointError
from mllmu.data.build import PeopleGroup, gather, sources
from mllmu.data.questions import QuestionOrder, QuestionWriter
from mllmu.data.sources import Source
from mllmu.data.sources.synthetic import Synthetic
from mllmu.llm import EndpointSettings, Preview


class PartPreview(NamedTuple):
    """The preview of one part of the data. ``known``: the prompts are those of the people; else only the count is."""

    part: str
    preview: Preview
    known: bool = True


def previews(section: DataSection, seed: int, num_prompts: int) -> list[PartPreview]:
    """What the source and the question writer would ask; nothing for parts that work offline.

    Questions about people whom a model has not invented yet cannot be shown, only counted.
    """
    people, _ = sources(section)
    preview = people.preview(seed, num_prompts)
    found = [PartPreview("data.source", preview)] if preview else []
    writer = section.questions.build("questions", "data.questions")
    groups = _offline(section, seed, people) if preview is None or preview.num_cached else None
    stand_ins = groups or _stand_ins(
        int(getattr(people, "num_people", 0)), section.splits.holdout + section.splits.calibration
    )
    questions = _questions(writer, stand_ins, QuestionOrder.of(section, seed), num_prompts if groups else 0)
    if questions:
        known = questions if groups else questions._replace(num_cached=0)
        found.append(PartPreview("data.questions", known, known=groups is not None))
    return found


def _offline(section: DataSection, seed: int, people: Source) -> list[PeopleGroup] | None:
    """The people, if no endpoint needs to be asked for them."""
    if isinstance(people, EndpointSettings):
        people = people.model_copy(update={"max_requests": 0})
    try:
        return gather(section, seed, instead=people)
    except (BudgetError, EndpointError):
        return None


def _stand_ins(num_people: int, num_holdout: int) -> list[PeopleGroup]:
    """As many people as there will be."""
    people = Synthetic(num_people=num_people + num_holdout).profiles(0)
    return [PeopleGroup("people", people[:num_people]), PeopleGroup("holdout", people[num_people:])]


def _questions(
    writer: QuestionWriter, groups: Sequence[PeopleGroup], order: QuestionOrder, num_prompts: int
) -> Preview | None:
    calls = cached = 0
    prompts: tuple[str, ...] = ()
    for group in groups:
        preview = group.profiles and writer.preview(group.profiles, group.order(order), num_prompts - len(prompts))
        if preview:
            calls, cached, prompts = calls + preview.num_calls, cached + preview.num_cached, prompts + preview.prompts
    return Preview(calls, cached, prompts) if calls else None
