"""The rounds of a question writer behind an endpoint: writing and second reading, then rewording and reading.

After a review only the slots of what is marked are filled anew, each by calls and rounds of its own, so that the next
review pays for what it marks and changes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from mllmu.core.process import Progress
from mllmu.core.records import Profile, Question
from mllmu.data.questions import QuestionOrder, Rejected
from mllmu.data.questions import _llm_prompts as prompts
from mllmu.data.questions._llm_prompts import Answers, Item, Other, Prompt, Slot
from mllmu.data.questions._rules import evaluation_id
from mllmu.llm import Budget, Client, Unanswered

if TYPE_CHECKING:
    from mllmu.data.questions.llm import LlmQuestions

T = TypeVar("T", bound=BaseModel)
Groups = Mapping[str, Sequence[Slot]]
"""The slots of each call, by a name of the call."""
MAX_SHOWN = 80


class Accepted(NamedTuple):
    """A question that passed, with its wrong values."""

    question: Question
    wrong: tuple[str, ...] = ()


class PlannedQuestions(NamedTuple):
    """Evaluation questions, and their paired test questions by the id of the evaluation question (none without any)."""

    evaluation: Sequence[Question]
    paired: Mapping[str, Question]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> PlannedQuestions:
        every = list(questions)
        paired = {evaluation_id(q.id): q for q in every if q.variant == "test"}
        return cls([q for q in every if q.variant == "eval"], paired)


class Reopened(NamedTuple):
    """What rounds must know that fill slots anew after a review.

    Attributes:
        asked: the questions that stay.
        unsaid: (person, task, text) that a review has marked.
        kept: evaluation questions that stay while their paired test question is written anew, by id.
    """

    asked: Sequence[Question] = ()
    unsaid: frozenset[tuple[str, str, str]] = frozenset()
    kept: Mapping[str, Accepted] = MappingProxyType({})


def by_person(questions: Sequence[Question]) -> dict[str, list[Slot]]:
    """The questions of every person, numbered from 1."""
    found: dict[str, list[Slot]] = {}
    for question in questions:
        slots = found.setdefault(question.profile_id, [])
        slots.append(Slot(len(slots) + 1, question))
    return found


class QuestionRounds:
    """Fills planned slots with questions, in one call per person and round.

    Args:
        settings: of the writer.
        people: by id.
        planned: what is asked, as questions of the templates.
        budget: of the whole work.
        progress: told about every reply.
        reopened: if the slots are filled anew because a review has marked what was there.
    """

    def __init__(
        self,
        settings: LlmQuestions,
        people: Mapping[str, Profile],
        planned: PlannedQuestions,
        budget: Budget,
        progress: Progress,
        reopened: Reopened | None = None,
    ) -> None:
        self._settings, self._people, self._budget, self._progress = settings, people, budget, progress
        self.planned = planned
        self._reopened = reopened or Reopened()
        self._slots: Groups = by_person(planned.evaluation)
        if reopened:
            self._slots = {q.id: [Slot(1, q)] for q in planned.evaluation}
        self._calls = {slot.question.id: (call, slot.number) for call, ss in self._slots.items() for slot in ss}
        first = settings.max_rounds + 1 if reopened else 1
        self._rounds = range(first, first + settings.max_rounds)
        self._written: dict[str, Accepted] = dict(self._reopened.kept)
        self._reworded: dict[str, Accepted] = {}
        self._rejected: list[Rejected] = []

    def run(self) -> None:
        """Write until everything is accepted or the rounds are over, then reword likewise."""
        settings = self._settings
        temperature = None if settings.temperature is None else 0.0
        checker = settings.model_copy(update={"temperature": temperature, "model": settings.checker or settings.model})
        with (
            Client(settings, prompts.Sheet, self._budget) as writer,
            Client(settings, prompts.Others, self._budget) as rewriter,
            Client(checker, Answers, self._budget) as reader,
        ):
            for attempt in self._rounds:
                unwritten = self._left(lambda question: None if question.id in self._written else question)
                replies = self._ask(writer, "questions", unwritten, prompts.write_call, attempt)
                self._accept(replies, self._draft, self._written, reader, attempt)
            for attempt in self._rounds if self.planned.paired else ():
                replies = self._ask(rewriter, "rewordings", self._unreworded(), prompts.reword_call, attempt)
                paired = [(Slot(slot.number, self._paired(slot.question)), entry) for slot, entry in replies]
                self._accept(paired, self._redraft, self._reworded, reader, attempt)

    def _unreworded(self) -> Groups:
        """The accepted questions without an accepted rewording, in the slots of their evaluation questions."""

        def wanted(question: Question) -> Question | None:
            done = self._paired(question).id in self._reworded or question.id not in self._written
            return None if done else self._written[question.id].question

        return self._left(wanted)

    def _left(self, wanted: Callable[[Question], Question | None]) -> Groups:
        found = {
            call: [Slot(slot.number, question) for slot in slots if (question := wanted(slot.question))]
            for call, slots in self._slots.items()
        }
        return {call: slots for call, slots in found.items() if slots}

    def _accept(
        self,
        replies: Iterable[tuple[Slot, Any]],
        draft: Callable[[Question, Any], tuple[Accepted, str, dict[str, str]]],
        accepted: dict[str, Accepted],
        reader: Client[Answers],
        attempt: int,
    ) -> None:
        """Take on what keeps the rules, has words of its own, and is answered rightly by the second reading."""
        drafts: dict[str, Accepted] = {}
        taken = {_words(q) for q in (*(each.question for each in accepted.values()), *self._reopened.asked)}
        for (_, planned), entry in replies:
            if isinstance(entry, str):
                self._reject(planned, attempt, entry)
                continue
            new, wrong, given = draft(planned, entry)
            wrong = wrong or self._repeated(new.question, taken)
            if wrong:
                self._reject(planned, attempt, wrong, entry.question, given)
            else:
                drafts[planned.id] = new
                taken.add(_words(new.question))
        for question in self._read(reader, [new.question for new in drafts.values()], attempt):
            accepted[question.id] = drafts[question.id]

    def _draft(self, planned: Question, item: Item) -> tuple[Accepted, str, dict[str, str]]:
        """A written question, the rule that it breaks, and what was written with it."""
        question = prompts.drafted(item, planned)
        given = {"answer": item.answer, "wrong": "; ".join(item.wrong), "support": item.support}
        return (
            Accepted(question, tuple(item.wrong)),
            prompts.fault(item, question, self._people[planned.profile_id]),
            given,
        )

    def _redraft(self, planned: Question, item: Other) -> tuple[Accepted, str, dict[str, str]]:
        """A reworded question, the rule that it breaks, and what it was made of."""
        profile, first = self._people[planned.profile_id], self._written[evaluation_id(planned.id)]
        question = prompts.reworded(first.question, first.wrong, item.question, planned)
        wrong = prompts.text_fault(question, profile)
        wrong = wrong or prompts.distance_fault(first.question, question.text, profile.name, self._settings.max_overlap)
        return Accepted(question), wrong, {"reworded from": first.question.text}

    def _repeated(self, draft: Question, taken: Collection[tuple[str, str]]) -> str:
        if _words(draft) in taken:
            return "twice: expected words of its own"
        marked = (draft.profile_id, draft.task, draft.text) in self._reopened.unsaid
        return "marked: expected other words" if marked else ""

    def _read(self, reader: Client[Answers], questions: Sequence[Question], attempt: int) -> list[Question]:
        """Second reading: those that are answered rightly from the profile alone."""
        groups: dict[str, list[Slot]] = {}
        for question in questions:
            call, number = self._calls[evaluation_id(question.id)]
            groups.setdefault(call, []).append(Slot(number, question))
        right = []
        for (_, question), said in self._ask(reader, "second reading", groups, prompts.answer_call, attempt):
            given = {"expected": question.answer}
            if isinstance(said, str):
                self._reject(question, attempt, said, question.text, given)
            elif prompts.agrees(question, said.answer):
                right.append(question)
            else:
                why = "second reading: expected the answer of the question"
                self._reject(question, attempt, why, question.text, {**given, "got": said.answer[:MAX_SHOWN]})
        return right

    def _ask(
        self, client: Client[T], label: str, groups: Groups, prompt: Prompt, attempt: int
    ) -> list[tuple[Slot, Any]]:
        """One call per group; every slot with its entry in the reply, or with why there is none."""
        if not groups:
            return []
        asked = list(groups.values())
        self._progress.start(label, len(asked))
        calls = [prompt(self._people[slots[0].question.profile_id], slots, attempt) for slots in asked]
        replies: dict[int, T | Unanswered] = {}
        for number, reply in client.ask_all(calls):
            replies[number] = reply
            self._progress.advance(1, **self._budget.figures())
        self._progress.finish()
        return [(slot, _entry(replies[n], slot.number)) for n, slots in enumerate(asked) for slot in slots]

    def _paired(self, question: Question) -> Question:
        return self.planned.paired[question.id]

    def _reject(
        self, question: Question, attempt: int, rule: str, text: str = "", given: dict[str, str] | None = None
    ) -> None:
        about = {"question_id": question.id, "profile_id": question.profile_id, "attribute": question.attribute}
        self._rejected.append(Rejected(**about, round=attempt, rule=rule, text=text, given=given or {}))

    @property
    def missing(self) -> list[str]:
        """Ids of the evaluation questions for which nothing was accepted, or no rewording of it."""
        paired = self.planned.paired
        return [
            q.id
            for q in self.planned.evaluation
            if q.id not in self._written or (paired and paired[q.id].id not in self._reworded)
        ]

    @property
    def final(self) -> dict[str, Question]:
        """Accepted questions by id; an evaluation question and its paired test question only together."""
        lost, paired = set(self.missing), self.planned.paired
        found = {name: accepted.question for name, accepted in self._written.items() if name not in lost}
        names = [paired[name].id for name in found] if paired else []
        return {**found, **{name: self._reworded[name].question for name in names}}

    def rejected(self) -> tuple[Rejected, ...]:
        """Everything that was thrown out, in order; the slots that went to the templates are marked."""
        lost = set(self.missing)
        return tuple(
            one.model_copy(update={"by_template": evaluation_id(one.question_id) in lost}) for one in self._rejected
        )

    def reopened(self, asked: Mapping[str, Question], slots: Sequence[Question], order: QuestionOrder) -> Reopened:
        """What further rounds must know that fill ``slots`` anew, when everything else stays as it was asked.

        A question of which only the paired test question is marked stays.
        """
        new = {q.id: q for q in slots}
        kept = {
            name: accepted
            for name, accepted in self._written.items()
            if name in new and accepted.question.attribute == new[name].attribute
            if not _unsaid(accepted.question, order)
        }
        return Reopened([q for q in asked.values() if q.id not in new], order.unsaid, kept)


def reopen(asked: Collection[Question], plan: Sequence[Question], order: QuestionOrder) -> list[Question]:
    """The slots whose question, or paired test question, is marked, with what the templates ask there now.

    A slot whose attribute is marked gets the next one of the person that is not asked yet; the others keep theirs.

    Args:
        asked: the questions as they were before any review.
        plan: what the templates ask after it.
        order: with the marks.
    """
    before, after = PlannedQuestions.of(asked), PlannedQuestions.of(plan)
    found: list[Question] = []
    asks = _by_list(after.evaluation)
    for key, here in _by_list(before.evaluation).items():
        planned = {q.attribute: q for q in asks[key]}
        left = [q for q in here if q.attribute in planned]
        marked = [q for q in left if any(_unsaid(p, order) for p in (q, before.paired.get(q.id)) if p)]
        gone = [q for q in here if q not in left]
        others = [q for name, q in planned.items() if name not in {one.attribute for one in left}]
        for slot, new in (*((q, planned[q.attribute]) for q in marked), *zip(gone, others, strict=True)):
            found.append(new.model_copy(update={"id": slot.id}))
            if slot.id in before.paired:
                found.append(after.paired[new.id].model_copy(update={"id": before.paired[slot.id].id}))
    return found


def _words(question: Question) -> tuple[str, str]:
    """What two questions must not have in common: the person and, without case, the text."""
    return question.profile_id, question.text.casefold()


def reasons(rejected: Iterable[Rejected]) -> str:
    """The rules that rejected most, with counts."""
    counts = Counter(one.rule.partition(":")[0] for one in rejected)
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or "none"


def _by_list(questions: Sequence[Question]) -> dict[tuple[str, str, str], list[Question]]:
    """Questions by person, task and modality: those draw their attributes from one list."""
    found: dict[tuple[str, str, str], list[Question]] = {}
    for q in questions:
        found.setdefault((q.profile_id, q.task, q.modality), []).append(q)
    return found


def _unsaid(question: Question, order: QuestionOrder) -> bool:
    return (question.profile_id, question.task, question.text) in order.unsaid


def _entry(sheet: BaseModel | Unanswered, number: int) -> Any:
    """The entry of a number in a reply (whose only field is their list), or why there is none."""
    if isinstance(sheet, Unanswered):
        return f"no reply: {sheet.reason}"
    (field,) = type(sheet).model_fields
    found = (entry for entry in getattr(sheet, field) if entry.number == number)
    return next(found, "missing: expected an entry of its number")
