"""Which places a question writer behind an endpoint fills anew after a review, and with what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mllmu.core.records import Question
from mllmu.data.questions import Order
from mllmu.data.questions._llm_rounds import Desk, Review, sides


class _Kind(NamedTuple):
    """Places that draw their attributes from one list."""

    person: str
    task: str
    modality: str


def unmarked(order: Order) -> Order:
    """The order as it was before any review."""
    return order._replace(banned=frozenset(), unsaid=frozenset())


def opened(asked: Collection[Question], plan: Sequence[Question], order: Order) -> list[Question]:
    """The places whose question, or Test twin, is marked, with what the templates ask there now.

    Whose attribute is marked gets the next one of the person that is not asked yet; the others keep theirs.

    Args:
        asked: the questions as they were before any review.
        plan: what the templates ask after it.
        order: with the marks.
    """
    before, after = sides(asked), sides(plan)
    found: list[Question] = []
    asks = _by_kind(after.planned)
    for kind, here in _by_kind(before.planned).items():
        planned = {q.attribute: q for q in asks[kind]}
        left = [q for q in here if q.attribute in planned]
        marked = [q for q in left if _unsaid(q, order) or (q.id in before.twins and _unsaid(before.twins[q.id], order))]
        gone = [q for q in here if q not in left]
        others = [q for name, q in planned.items() if name not in {one.attribute for one in left}]
        for place, new in (*((q, planned[q.attribute]) for q in marked), *zip(gone, others, strict=True)):
            found.append(new.model_copy(update={"id": place.id}))
            if place.id in before.twins:
                found.append(after.twins[new.id].model_copy(update={"id": before.twins[place.id].id}))
    return found


def reviewed(desk: Desk, asked: Mapping[str, Question], places: Sequence[Question], order: Order) -> Review:
    """What the second desk must know: a question of which only the Test twin is marked stays."""
    new = {q.id: q for q in places}
    kept = {
        name: accepted
        for name, q in new.items()
        if (accepted := desk.accepted(name))
        and accepted.question.attribute == q.attribute
        and not _unsaid(accepted.question, order)
    }
    return Review([q for q in asked.values() if q.id not in new], order.unsaid, kept)


def _by_kind(questions: Sequence[Question]) -> dict[_Kind, list[Question]]:
    found: dict[_Kind, list[Question]] = {}
    for q in questions:
        found.setdefault(_Kind(q.profile_id, q.task, q.modality), []).append(q)
    return found


def _unsaid(question: Question, order: Order) -> bool:
    return (question.profile_id, question.task, question.text) in order.unsaid
