"""Questions written by a language model behind an endpoint, grounded in the profile and read twice.

The rounds: writing and second reading, then rewording and reading. After a review only the slots of what is marked are
filled anew, each by calls and rounds of its own, so that the next review pays for what it marks and changes nothing
else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field

from mllmu.core.errors import DataError
from mllmu.core.process import Progress
from mllmu.core.records import Profile, Question
from mllmu.data.questions import QuestionOrder, QuestionWriter, Rejected, Written
from mllmu.data.questions import _llm_prompts as prompts
from mllmu.data.questions._llm_prompts import Answers, Item, Other, Prompt, Slot
from mllmu.data.questions._rules import evaluation_id, first_broken
from mllmu.data.questions.template import build
from mllmu.llm import Budget, Client, EndpointSettings, Preview, Unanswered

T = TypeVar("T", bound=BaseModel)
Draft = Callable[[Question, Any], tuple[Question, str, dict[str, str]]]
"""Makes of a planned question and an entry of a reply the new question, the rule that it breaks, and what was given."""
MAX_SHOWN = 80


class LlmQuestions(EndpointSettings, QuestionWriter):
    """The 18 questions per person and their rewordings for the Test set, in a model's words, checked twice.

    Code decides what is asked: which attributes, the right value, and the letter it stands under, as the templates do.
    The model writes the question, the wrong answers, the sentences, and quotes the passage of the profile that proves
    the answer. Code then checks what it can (:mod:`mllmu.data.questions._llm_prompts`), and a second reading, by
    ``checker`` or by the same model, answers every question from the profile alone; where it answers otherwise, the
    question goes. Rewordings for the Test set are made of accepted questions without the profile, and checked alike.
    What was thrown out is written again, up to ``max_rounds`` times, and is kept in ``data/rejected.jsonl``.

    Training questions, and people of other kinds than ``kinds``, stay with the templates. At least four calls per
    person with a Test set and two without.

    Source: the construction of MLLMU-Bench, arXiv:2410.22108 (a model writes and paraphrases questions); the plan, the
    rules, the second reading and the prompts are ours.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    kinds: tuple[Literal["fictitious", "celebrity"], ...] = Field(("fictitious",), min_length=1)
    """whom the model asks about; the others are asked by template"""
    checker: str = Field("", description="model of the second reading, at the same endpoint; empty: the same model")
    max_rounds: int = Field(3, ge=1, le=20)
    """how often a rejected question is written again, first included"""
    max_overlap: float = Field(0.7, gt=0, le=1, description="most words a rewording may share with its question")
    fallback: Literal["template", "stop"] = "template"
    """what happens to a question that is still rejected after the last round"""
    temperature: float | None = Field(0.7, ge=0, le=2, description="null: not sent, for models that refuse it")
    max_tokens: int | None = Field(6000, ge=1, le=10**6, description="most tokens of a reply; about 150 per question")

    def write(self, people: Sequence[Profile], order: QuestionOrder, progress: Progress) -> Written:
        """Write, check, reword and check; see the class.

        Raises:
            DataError: ``fallback: stop``, and some questions were still rejected after the last round.
            EndpointError, BudgetError: the endpoint cannot be used, or the budget is reached; replies are kept.
        """
        plan = build(people, order)
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        if not any(q.variant == "eval" and q.profile_id in chosen for q in plan):
            return Written(plan)
        # what a review has marked is planned at first, so that all the rest is what it was and is not paid again
        before = [q for q in build(people, order._replace(marked=frozenset())) if q.profile_id in chosen]
        budget = Budget(self)
        rounds = QuestionRounds(self, chosen, budget, progress)
        asked = rounds.fill(before)
        slots = reopen(asked.values(), plan, order)
        if slots:
            asked |= rounds.fill_anew(slots, asked, order)
        supported = [bool(asked[q.id].support) for q in before if q.variant == "eval"]
        written, num, anew = sum(supported), len(supported), sum(q.variant == "eval" for q in slots)
        parts = [f"{written} of {num} written by the model, {num - written} by template"]
        parts += [f"{len(rounds.rejected)} rejected ({reasons(rounds.rejected)})"]
        parts += [f"{anew} anew after a review"] if slots else []
        progress.note(f"questions: {', '.join(parts)}; {budget.spent()}")
        facts = {"written": written, "by_template": num - written, "rejected": len(rounds.rejected), **budget.facts()}
        return Written([asked.get(q.id, q) for q in plan], tuple(rounds.rejected), facts)

    def preview(self, people: Sequence[Profile], order: QuestionOrder, num_prompts: int) -> Preview:
        """The first prompts, and how many calls there would be if nothing had to be written again."""
        chosen = {profile.id: profile for profile in people if profile.kind in self.kinds}
        planned = (q for q in build(people, order) if q.profile_id in chosen and q.variant == "eval")
        calls = [prompts.write_call(chosen[slots[0].call], slots, 1) for slots in by_person(planned)]
        found = Preview.of(self, prompts.Sheet, calls, num_prompts)
        return found._replace(num_calls=len(calls) * (4 if "test" in order.variants else 2))


def by_person(questions: Iterable[Question]) -> list[list[Slot]]:
    """One call for every person, with its slots numbered from 1; the questions of a person follow each other."""
    people = groupby(questions, key=lambda question: question.profile_id)
    return [[Slot(person, n, q) for n, q in enumerate(asked, start=1)] for person, asked in people]


class QuestionRounds:
    """Fills slots with questions, in one call per person and round.

    Args:
        settings: of the writer.
        people: by id.
        budget: of the whole work.
        progress: told about every reply.

    Attributes:
        rejected: all questions that were thrown out, in order; the slots that went to the templates are marked.
    """

    def __init__(
        self, settings: LlmQuestions, people: Mapping[str, Profile], budget: Budget, progress: Progress
    ) -> None:
        self._settings, self._people, self._budget, self._progress = settings, people, budget, progress
        self.rejected: list[Rejected] = []
        self._rejected: list[Rejected] = []
        self._attempt = 0
        self._written: dict[str, Question] = {}
        self._reworded: dict[str, Question] = {}
        """Accepted evaluation questions, and accepted paired test questions, by the id of the evaluation question."""
        self._others: set[tuple[str, str]] = set()
        self._marked: frozenset[tuple[str, ...]] = frozenset()

    def fill(self, planned: Sequence[Question]) -> dict[str, Question]:
        """The planned questions of the templates by id, with the accepted ones of the model in their place.

        Raises:
            DataError: ``fallback: stop``, and some were still rejected after the last round.
        """
        slots = [slot for call in by_person(q for q in planned if q.variant == "eval") for slot in call]
        return self._fill(planned, slots, first=1)

    def fill_anew(
        self, planned: Sequence[Question], asked: Mapping[str, Question], order: QuestionOrder
    ) -> dict[str, Question]:
        """The same for slots that a review has reopened, when all other questions stay as they were asked.

        A question of which only the paired test question is marked stays.
        """
        new = {q.id: q for q in planned}
        self._others = {_words(q) for q in asked.values() if q.id not in new}
        self._marked, self._reworded = order.marked, {}
        self._written = {
            name: question
            for name, question in self._written.items()
            if name in new and question.attribute == new[name].attribute and _says(question) not in order.marked
        }
        slots = [Slot(q.id, 1, q) for q in planned if q.variant == "eval"]
        return self._fill(planned, slots, first=self._settings.max_rounds + 1)

    def _fill(self, planned: Sequence[Question], slots: Sequence[Slot], first: int) -> dict[str, Question]:
        """Write until all questions are accepted or the rounds are over, then reword likewise."""
        settings, paired = self._settings, _paired(planned)
        temperature = None if settings.temperature is None else 0.0
        checker = settings.model_copy(update={"temperature": temperature, "model": settings.checker or settings.model})
        with (
            Client(settings, prompts.Sheet, self._budget) as writer,
            Client(settings, prompts.Others, self._budget) as rewriter,
            Client(checker, Answers, self._budget) as reader,
        ):
            rounds = range(first, first + settings.max_rounds)
            for self._attempt in rounds:
                left = [slot for slot in slots if slot.question.id not in self._written]
                replies = self._ask(writer, "questions", left, prompts.write_call)
                self._accept(replies, self._draft, self._written, reader)
            for self._attempt in rounds if paired else ():
                left = [
                    slot._replace(question=self._written[slot.question.id])
                    for slot in slots
                    if slot.question.id in self._written and slot.question.id not in self._reworded
                ]
                replies = self._ask(rewriter, "rewordings", left, prompts.reword_call)
                replies = [(slot._replace(question=paired[slot.question.id]), entry) for slot, entry in replies]
                self._accept(replies, self._redraft, self._reworded, reader)
        return {q.id: q for q in (*planned, *self._done(slots, reworded=bool(paired)))}

    def _done(self, slots: Sequence[Slot], *, reworded: bool) -> list[Question]:
        """The accepted questions; an evaluation question and its paired test question only together."""
        done = self._written.keys() & self._reworded.keys() if reworded else self._written.keys()
        lost = {slot.question.id for slot in slots} - done
        rejected, self._rejected = self._rejected, []
        for one in rejected:
            self.rejected.append(one.model_copy(update={"by_template": evaluation_id(one.question_id) in lost}))
        if lost and self._settings.fallback == "stop":
            raise DataError(
                f"data.questions: {len(lost)} of {len(slots)} questions are still rejected after "
                f"{self._settings.max_rounds} rounds ({reasons(rejected)}). All replies are kept in "
                f"{self._settings.cache_folder()}; raise max_rounds, use another model, or set fallback: template to "
                "ask these in the words of the templates."
            )
        return [accepted[name] for accepted in (self._written, self._reworded) for name in done if name in accepted]

    def _accept(
        self, replies: Iterable[tuple[Slot, Any]], draft: Draft, accepted: dict[str, Question], reader: Client[Answers]
    ) -> None:
        """Take on what keeps the rules, has words of its own, and is answered rightly by the second reading."""
        drafts: list[Slot] = []
        taken = self._others | {_words(question) for question in accepted.values()}
        for slot, entry in replies:
            if isinstance(entry, str):
                self._reject(slot.question, entry)
                continue
            question, wrong, given = draft(slot.question, entry)
            repeated = _words(question) in taken, "twice: expected words of its own"
            marked = _says(question) in self._marked, "marked: expected other words"
            wrong = wrong or first_broken((repeated, marked))
            if wrong:
                self._reject(question, wrong, entry.question, given)
            else:
                drafts.append(slot._replace(question=question))
                taken.add(_words(question))
        for question in self._read(reader, drafts):
            accepted[evaluation_id(question.id)] = question

    def _draft(self, planned: Question, item: Item) -> tuple[Question, str, dict[str, str]]:
        """A written question, the rule that it breaks, and what was written with it."""
        question = prompts.drafted(item, planned)
        given = {"answer": item.answer, "wrong": "; ".join(item.wrong), "support": item.support}
        return question, prompts.fault(item, question, self._people[planned.profile_id]), given

    def _redraft(self, planned: Question, item: Other) -> tuple[Question, str, dict[str, str]]:
        """A reworded question, the rule that it breaks, and what it was made of."""
        profile, first = self._people[planned.profile_id], self._written[evaluation_id(planned.id)]
        question = prompts.reworded(first, item.question, planned)
        wrong = prompts.text_fault(question, profile)
        wrong = wrong or prompts.distance_fault(first, question.text, profile.name, self._settings.max_overlap)
        return question, wrong, {"reworded from": first.text}

    def _read(self, reader: Client[Answers], drafts: Sequence[Slot]) -> Iterator[Question]:
        """Second reading: those that are answered rightly from the profile alone."""
        for (_, _, question), said in self._ask(reader, "second reading", drafts, prompts.answer_call):
            given = {"expected": question.answer}
            if isinstance(said, str):
                self._reject(question, said, question.text, given)
            elif prompts.agrees(question, said.answer):
                yield question
            else:
                why = "second reading: expected the answer of the question"
                self._reject(question, why, question.text, {**given, "got": said.answer[:MAX_SHOWN]})

    def _ask(self, client: Client[T], label: str, slots: Sequence[Slot], prompt: Prompt) -> list[tuple[Slot, Any]]:
        """Every slot with its entry in the reply to its call, or with why there is none."""
        calls = [list(call) for _, call in groupby(slots, key=lambda slot: slot.call)]
        if not calls:
            return []
        self._progress.start(label, len(calls))
        people = [self._people[call[0].question.profile_id] for call in calls]
        asked = [prompt(person, call, self._attempt) for person, call in zip(people, calls, strict=True)]
        replies: dict[int, T | Unanswered] = {}
        for number, reply in client.ask_all(asked):
            replies[number] = reply
            self._progress.advance(1, **self._budget.figures())
        self._progress.finish()
        return [(slot, _entry(replies[n], slot.number)) for n, call in enumerate(calls) for slot in call]

    def _reject(self, question: Question, rule: str, text: str = "", given: dict[str, str] | None = None) -> None:
        about = {"question_id": question.id, "profile_id": question.profile_id, "attribute": question.attribute}
        self._rejected.append(Rejected(**about, round=self._attempt, rule=rule, text=text, given=given or {}))


def reopen(asked: Collection[Question], plan: Sequence[Question], order: QuestionOrder) -> list[Question]:
    """The slots whose question, or paired test question, is marked, with what the templates ask there now.

    A slot whose attribute is marked gets the next one of the person that is not asked yet; the others keep theirs.

    Args:
        asked: the questions as they were before any review.
        plan: what the templates ask after it.
        order: with the marks.
    """
    found: list[Question] = []
    paired, paired_now, asks = _paired(asked), _paired(plan), _by_list(plan)
    for key, here in _by_list(asked).items():
        planned = {q.attribute: q for q in asks[key]}
        left = [q for q in here if q.attribute in planned]
        marked = [q for q in left if any(_says(one) in order.marked for one in (q, paired.get(q.id, q)))]
        gone = [q for q in here if q not in left]
        others = [q for name, q in planned.items() if name not in {one.attribute for one in left}]
        for slot, new in (*((q, planned[q.attribute]) for q in marked), *zip(gone, others, strict=True)):
            found.append(new.model_copy(update={"id": slot.id}))
            if slot.id in paired:
                found.append(paired_now[new.id].model_copy(update={"id": paired[slot.id].id}))
    return found


def _words(question: Question) -> tuple[str, str]:
    """What two questions must not have in common: the person and, without case, the text."""
    return question.profile_id, question.text.casefold()


def reasons(rejected: Iterable[Rejected]) -> str:
    """The rules that rejected most, with counts."""
    counts = Counter(one.rule.partition(":")[0] for one in rejected)
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) or "none"


def _paired(questions: Iterable[Question]) -> dict[str, Question]:
    """The test questions by the id of the evaluation question that each is paired with."""
    return {evaluation_id(q.id): q for q in questions if q.variant == "test"}


def _by_list(questions: Iterable[Question]) -> dict[tuple[str, str, str], list[Question]]:
    """Evaluation questions by person, task and modality: those draw their attributes from one list."""
    found: defaultdict[tuple[str, str, str], list[Question]] = defaultdict(list)
    for q in questions:
        if q.variant == "eval":
            found[q.profile_id, q.task, q.modality].append(q)
    return found


def _says(question: Question) -> tuple[str, str, str]:
    """As a review marks words in which a question is not asked."""
    return question.profile_id, question.task, question.text


def _entry(sheet: BaseModel | Unanswered, number: int) -> Any:
    """The entry of a number in a reply (whose only field is their list), or why there is none."""
    if isinstance(sheet, Unanswered):
        return f"no reply: {sheet.reason}"
    (field,) = type(sheet).model_fields
    found = (entry for entry in getattr(sheet, field) if entry.number == number)
    return next(found, "missing: expected an entry of its number")
