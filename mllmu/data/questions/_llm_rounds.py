"""The work of a question writer behind an endpoint: rounds of writing, second reading, rewording and reading again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from mllmu.core.progress import Progress
from mllmu.core.records import Profile, Question
from mllmu.data.questions import Rejected
from mllmu.data.questions._llm_prompts import (
    Answers,
    Item,
    Others,
    Place,
    Sheet,
    answer_call,
    reword_call,
    write_call,
)
from mllmu.data.questions._llm_rules import agrees, distance_fault, drafted, fault, reworded, text_faults
from mllmu.llm import Budget, Call, Client, Unanswered

if TYPE_CHECKING:
    from mllmu.data.questions.llm import Llm

T = TypeVar("T", bound=BaseModel)
Groups = Mapping[str, Sequence[Place]]
MAX_SHOWN = 80


class Accepted(NamedTuple):
    """A question that passed, with its wrong values."""

    question: Question
    wrong: tuple[str, ...]


class Sides(NamedTuple):
    """Evaluation questions, and their Test twins by the id of the evaluation question (none without a Test set)."""

    planned: Sequence[Question]
    twins: Mapping[str, Question]


class Review(NamedTuple):
    """What a desk must know that fills places anew after a review.

    Attributes:
        asked: the questions that stay.
        unsaid: (person, task, text) that a review has marked.
        kept: evaluation questions that stay while their Test twin is written anew, by id.
    """

    asked: Sequence[Question] = ()
    unsaid: frozenset[tuple[str, str, str]] = frozenset()
    kept: Mapping[str, Accepted] = MappingProxyType({})


def sides(questions: Iterable[Question]) -> Sides:
    """Evaluation questions and their twins."""
    every = list(questions)
    return Sides([q for q in every if q.variant == "eval"], {first_id(q): q for q in every if q.variant == "test"})


def first_id(question: Question) -> str:
    """The id of the evaluation question that a question is the twin of, or its own."""
    return question.id.replace(".test.", ".eval.", 1)


def by_person(questions: Sequence[Question]) -> dict[str, list[Place]]:
    """The questions of every person, numbered from 1."""
    found: dict[str, list[Place]] = {}
    for question in questions:
        places = found.setdefault(question.profile_id, [])
        places.append(Place(len(places) + 1, question))
    return found


class Desk:
    """Fills planned places with questions, in one call per person and round.

    After a review each place has calls of its own, in rounds of their own, so that the next review pays for what it
    marks and changes nothing else.

    Args:
        settings: of the writer.
        people: by id.
        places: what is planned, as questions of the templates.
        budget: of the whole work.
        progress: told about every reply.
        review: if the places are filled anew because a review has marked what was there.
    """

    def __init__(
        self,
        settings: Llm,
        people: Mapping[str, Profile],
        places: Sides,
        budget: Budget,
        progress: Progress,
        review: Review | None = None,
    ) -> None:
        self._settings = settings
        self._people = people
        self._places = {q.id: [Place(1, q)] for q in places.planned} if review else by_person(places.planned)
        self._calls = {place.question.id: (call, place.number) for call, ps in self._places.items() for place in ps}
        self._twins = places.twins
        self._budget = budget
        self._progress = progress
        self._review = review or Review()
        self._rounds = range(1, settings.max_rounds + 1)
        if review:
            self._rounds = range(settings.max_rounds + 1, 2 * settings.max_rounds + 1)
        self._written: dict[str, Accepted] = dict(self._review.kept)
        self._reworded: dict[str, Question] = {}
        self._rejected: list[Rejected] = []
        self.num_planned = len(places.planned)

    def work(self) -> None:
        """Write until everything is accepted or the rounds are over, then reword likewise."""
        settings = self._settings
        calm = {
            "temperature": None if settings.temperature is None else 0.0,
            "model": settings.checker or settings.model,
        }
        with (
            Client(settings, Sheet, self._budget) as writer,
            Client(settings, Others, self._budget) as other,
            Client(settings.model_copy(update=calm), Answers, self._budget) as reader,
        ):
            for attempt in self._rounds:
                self._write(writer, reader, attempt)
            for attempt in self._rounds if self._twins else ():
                self._reword(other, reader, attempt)

    def _write(self, writer: Client[Sheet], reader: Client[Answers], attempt: int) -> None:
        todo = self._left(lambda place: place.question.id not in self._written)
        drafts: dict[str, Accepted] = {}
        for place, item in self._ask(
            writer, "questions", todo, lambda places: write_call(self._person(places), places, attempt)
        ):
            if isinstance(item, str):
                self._reject(place.question, attempt, item)
            else:
                self._draft(drafts, item, place.question, attempt)
        for question in self._read(reader, [draft.question for draft in drafts.values()], attempt):
            self._written[question.id] = drafts[question.id]

    def _draft(self, drafts: dict[str, Accepted], item: Item, planned: Question, attempt: int) -> None:
        """Take a question on if it keeps the rules and nobody has asked this person in the same words."""
        profile = self._people[planned.profile_id]
        draft = drafted(item, planned)
        others = [accepted.question for accepted in (*drafts.values(), *self._written.values())]
        if wrong := fault(item, draft, profile) or self._known(draft, others):
            given = {"answer": item.answer, "wrong": "; ".join(item.wrong), "support": item.support}
            self._reject(planned, attempt, wrong, item.question, given)
        else:
            drafts[planned.id] = Accepted(draft, tuple(item.wrong))

    def _reword(self, client: Client[Others], reader: Client[Answers], attempt: int) -> None:
        written = self._written
        left = self._left(lambda place: place.question.id in written and self._twin(place).id not in self._reworded)
        todo = {
            call: [Place(place.number, written[place.question.id].question) for place in places]
            for call, places in left.items()
        }
        drafts: list[Question] = []
        for place, found in self._ask(client, "rewordings", todo, lambda places: reword_call(places, attempt)):
            accepted, twin = self._written[place.question.id], self._twin(place)
            if isinstance(found, str):
                self._reject(twin, attempt, found)
                continue
            draft = reworded(accepted.question, accepted.wrong, found.question, twin)
            if wrong := self._rewording_fault(accepted.question, draft, drafts):
                self._reject(twin, attempt, wrong, found.question, {"reworded from": accepted.question.text})
            else:
                drafts.append(draft)
        for question in self._read(reader, drafts, attempt):
            self._reworded[question.id] = question

    def _rewording_fault(self, question: Question, draft: Question, drafts: Sequence[Question]) -> str:
        profile = self._people[draft.profile_id]
        wrong = next(text_faults(draft, profile), "")
        wrong = wrong or distance_fault(question, draft.text, profile.name, self._settings.max_overlap)
        return wrong or self._known(draft, [*drafts, *self._reworded.values()])

    def _known(self, draft: Question, others: Sequence[Question]) -> str:
        if any(_same(other, draft) for other in (*others, *self._review.asked)):
            return "twice: expected words of its own"
        return (
            "marked: expected other words" if (draft.profile_id, draft.task, draft.text) in self._review.unsaid else ""
        )

    def _person(self, places: Sequence[Place]) -> Profile:
        return self._people[places[0].question.profile_id]

    def _read(self, reader: Client[Answers], questions: Sequence[Question], attempt: int) -> list[Question]:
        """Second reading: those that are answered rightly from the profile alone."""
        todo: dict[str, list[Place]] = {}
        for question in questions:
            call, number = self._calls[first_id(question)]
            todo.setdefault(call, []).append(Place(number, question))
        right = []
        for place, said in self._ask(
            reader, "second reading", todo, lambda places: answer_call(self._person(places), places, attempt)
        ):
            if not isinstance(said, str) and agrees(place.question, said.answer):
                right.append(place.question)
                continue
            why = said if isinstance(said, str) else "second reading: expected the answer of the question"
            got = {} if isinstance(said, str) else {"got": said.answer[:MAX_SHOWN]}
            given = {"expected": place.question.answer, **got}
            self._reject(place.question, attempt, why, place.question.text, given)
        return right

    def _ask(
        self, client: Client[T], label: str, groups: Groups, call: Callable[[Sequence[Place]], Call]
    ) -> list[tuple[Place, Any]]:
        """One call per group; every place with its entry in the reply, or with why there is none."""
        if not groups:
            return []
        asked = list(groups.values())
        self._progress.start(label, len(asked))
        replies: dict[int, T | Unanswered] = {}
        for number, reply in client.ask_all([call(places) for places in asked]):
            replies[number] = reply
            self._progress.advance(1, **self._budget.figures())
        self._progress.finish()
        return [(place, _entry(replies[n], place.number)) for n, places in enumerate(asked) for place in places]

    def _left(self, wanted: Callable[[Place], bool]) -> dict[str, list[Place]]:
        found = {call: [place for place in places if wanted(place)] for call, places in self._places.items()}
        return {call: places for call, places in found.items() if places}

    def _twin(self, place: Place) -> Question:
        return self._twins[place.question.id]

    def _reject(
        self, question: Question, attempt: int, rule: str, text: str = "", given: Mapping[str, str] | None = None
    ) -> None:
        self._rejected.append(
            Rejected(
                question_id=question.id,
                profile_id=question.profile_id,
                attribute=question.attribute,
                round=attempt,
                rule=rule,
                text=text,
                given=dict(given or {}),
            )
        )

    @property
    def missing(self) -> list[str]:
        """Ids of the evaluation questions for which nothing was accepted, or no rewording of it."""
        return [
            place.question.id
            for place in _flat(self._places)
            if place.question.id not in self._written or (self._twins and self._twin(place).id not in self._reworded)
        ]

    @property
    def final(self) -> dict[str, Question]:
        """Accepted questions by id; an evaluation question and its twin only together."""
        lost = set(self.missing)
        found = {name: accepted.question for name, accepted in self._written.items() if name not in lost}
        twins = {self._twins[name].id: self._reworded[self._twins[name].id] for name in found if self._twins}
        return {**found, **twins}

    def rejected(self) -> tuple[Rejected, ...]:
        """Everything that was thrown out, in order; the places that went to the templates are marked."""
        lost = set(self.missing)
        return tuple(
            one.model_copy(update={"by_template": one.question_id.replace(".test.", ".eval.", 1) in lost})
            for one in self._rejected
        )

    def accepted(self, name: str) -> Accepted | None:
        """What was accepted in the place of an evaluation question."""
        return self._written.get(name)


def reasons(rejected: Iterable[Rejected]) -> str:
    """The rules that rejected most, with counts."""
    counts = Counter(one.rule.partition(":")[0] for one in rejected)
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or "none"


def _flat(groups: Groups) -> list[Place]:
    return [place for places in groups.values() for place in places]


def _same(one: Question, other: Question) -> bool:
    return one.profile_id == other.profile_id and one.text.casefold() == other.text.casefold()


def _entry(sheet: BaseModel | Unanswered, number: int) -> Any:
    """The entry of a number in a reply (whose only field is their list), or why there is none."""
    if isinstance(sheet, Unanswered):
        return f"no reply: {sheet.reason}"
    (field,) = type(sheet).model_fields
    found = (entry for entry in getattr(sheet, field) if entry.number == number)
    return next(found, "missing: expected an entry of its number")
