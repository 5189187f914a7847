"""The work of a question writer behind an endpoint: rounds of writing, second reading, rewording and reading again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from mllmu.data.writers import Rejected
from mllmu.data.writers._llm_rules import agrees, distance_fault, drafted, fault, reworded, text_faults
from mllmu.data.writers._llm_talk import (
    Answers,
    Item,
    Others,
    Place,
    Sheet,
    answer_call,
    reword_call,
    write_call,
)
from mllmu.llm import Budget, Call, Client, Unanswered
from mllmu.progress import Progress
from mllmu.records import Profile, Question

if TYPE_CHECKING:
    from mllmu.data.writers.llm import Llm

T = TypeVar("T", bound=BaseModel)
Groups = Mapping[str, Sequence[Place]]
MAX_SHOWN = 80


class Accepted(NamedTuple):
    """A question that passed, with its wrong values."""

    question: Question
    wrong: tuple[str, ...]


def by_person(questions: Sequence[Question]) -> dict[str, list[Place]]:
    """The questions of every person, numbered from 1."""
    found: dict[str, list[Place]] = {}
    for question in questions:
        places = found.setdefault(question.profile_id, [])
        places.append(Place(len(places) + 1, question))
    return found


class Desk:
    """Fills planned places with questions.

    Args:
        settings: of the writer.
        people: by id.
        planned: the places, as evaluation questions of the templates.
        twins: the Test questions of the templates, by the id of the evaluation question; empty without a Test set.
        budget: of the whole work.
        progress: told about every reply.
    """

    def __init__(
        self,
        settings: Llm,
        people: Mapping[str, Profile],
        planned: Sequence[Question],
        twins: Mapping[str, Question],
        budget: Budget,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._people = people
        self._places = by_person(planned)
        self._numbers = {place.question.id: place.number for place in _flat(self._places)}
        self._twins = twins
        self._budget = budget
        self._progress = progress
        self._written: dict[str, Accepted] = {}
        self._reworded: dict[str, Question] = {}
        self._rejected: list[Rejected] = []
        self.num_planned = len(planned)

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
            for attempt in range(1, settings.max_rounds + 1):
                self._write(writer, reader, attempt)
            for attempt in range(1, settings.max_rounds + 1) if self._twins else ():
                self._reword(other, reader, attempt)

    def _write(self, writer: Client[Sheet], reader: Client[Answers], attempt: int) -> None:
        todo = self._left(lambda place: place.question.id not in self._written)
        people = self._people
        sheets = self._ask(
            writer, "questions", todo, lambda person, places: write_call(people[person], places, attempt)
        )
        drafts: dict[str, Accepted] = {}
        for place in _flat(todo):
            item = _entry(sheets[place.question.profile_id], "questions", place.number)
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
        others = [*drafts.values(), *self._written.values()]
        wrong = fault(item, draft, profile)
        if not wrong and any(_same(other.question, draft) for other in others):
            wrong = "twice: expected words of its own"
        if wrong:
            given = {"answer": item.answer, "wrong": "; ".join(item.wrong), "support": item.support}
            self._reject(planned, attempt, wrong, item.question, given)
        else:
            drafts[planned.id] = Accepted(draft, tuple(item.wrong))

    def _reword(self, client: Client[Others], reader: Client[Answers], attempt: int) -> None:
        written = self._written
        left = self._left(lambda place: place.question.id in written and self._twin(place).id not in self._reworded)
        todo = {
            person: [Place(place.number, written[place.question.id].question) for place in places]
            for person, places in left.items()
        }
        sheets = self._ask(client, "rewordings", todo, lambda _, places: reword_call(places, attempt))
        drafts: list[Question] = []
        for place in _flat(todo):
            found = _entry(sheets[place.question.profile_id], "questions", place.number)
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
        if not wrong and any(_same(other, draft) for other in [*drafts, *self._reworded.values()]):
            wrong = "twice: expected words of its own"
        return wrong

    def _read(self, reader: Client[Answers], questions: Sequence[Question], attempt: int) -> list[Question]:
        """Second reading: those that are answered rightly from the profile alone."""
        todo: dict[str, list[Place]] = {}
        for question in questions:
            first = question.id.replace(".test.", ".eval.", 1)
            todo.setdefault(question.profile_id, []).append(Place(self._numbers[first], question))
        sheets = self._ask(
            reader, "second reading", todo, lambda person, places: answer_call(self._people[person], places, attempt)
        )
        right = []
        for place in _flat(todo):
            said = _entry(sheets[place.question.profile_id], "answers", place.number)
            if not isinstance(said, str) and agrees(place.question, said.answer):
                right.append(place.question)
                continue
            why = said if isinstance(said, str) else "second reading: expected the answer of the question"
            got = {} if isinstance(said, str) else {"got": said.answer[:MAX_SHOWN]}
            given = {"expected": place.question.answer, **got}
            self._reject(place.question, attempt, why, place.question.text, given)
        return right

    def _ask(
        self, client: Client[T], label: str, groups: Groups, call: Callable[[str, Sequence[Place]], Call]
    ) -> dict[str, T | Unanswered]:
        """One call per person; the replies by person."""
        if not groups:
            return {}
        people = list(groups)
        self._progress.start(label, len(people))
        found: dict[str, T | Unanswered] = {}
        for number, reply in client.ask_all([call(person, groups[person]) for person in people]):
            found[people[number]] = reply
            self._progress.advance(1, **self._budget.figures())
        self._progress.finish()
        return found

    def _left(self, wanted: Callable[[Place], bool]) -> dict[str, list[Place]]:
        found = {person: [place for place in places if wanted(place)] for person, places in self._places.items()}
        return {person: places for person, places in found.items() if places}

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
        lost = {name.replace(".test.", ".eval.", 1) for name in self.missing}
        return tuple(
            one.model_copy(update={"by_template": one.question_id.replace(".test.", ".eval.", 1) in lost})
            for one in self._rejected
        )

    def facts(self) -> dict[str, float]:
        """Counts that can be added up."""
        left = len(self.missing)
        return {"written": self.num_planned - left, "by_template": left, "rejected": len(self._rejected)}

    def reasons(self) -> str:
        """The rules that rejected most, with counts."""
        counts = Counter(one.rule.partition(":")[0] for one in self._rejected)
        return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or "none"

    def summary(self) -> str:
        """One line for the log."""
        facts = self.facts()
        return (
            f"{facts['written']:g} of {self.num_planned} written by the model, {facts['by_template']:g} by template, "
            f"{facts['rejected']:g} rejected ({self.reasons()})"
        )


def _flat(groups: Groups) -> list[Place]:
    return [place for places in groups.values() for place in places]


def _same(one: Question, other: Question) -> bool:
    return one.profile_id == other.profile_id and one.text.casefold() == other.text.casefold()


def _entry(sheet: BaseModel | Unanswered, field: str, number: int) -> Any:
    """The entry of a number in a reply, or why there is none."""
    if isinstance(sheet, Unanswered):
        return f"no reply: {sheet.reason}"
    found = (entry for entry in getattr(sheet, field) if entry.number == number)
    return next(found, "missing: expected an entry of its number")
