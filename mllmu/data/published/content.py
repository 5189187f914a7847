"""What a published data set holds: people, questions, images and forget sets, with an account of every row."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from mllmu.core.equal_values import same
from mllmu.core.errors import DataError
from mllmu.core.records import OTHER_ATTRIBUTE, Modality, Profile, Question, TaskName
from mllmu.data.published.ids import PersonIds, as_id, usable_id
from mllmu.data.published.recover import attribute_of
from mllmu.data.published.store import Store, Table
from mllmu.data.questions import BLANK

_FORGET = re.compile(r"forget_?0*(\d+)")
_ANSWER_DECIDES = "leisure"
"""Only an answer could tell which attribute such a question asks for."""


@dataclass
class RowAccount:
    """Rows and questions of every config: read, used, and left out with the reason of each."""

    rows: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def skip(self, config: str, row: int, person: str, reason: str, what: str = "row") -> None:
        """Note a row or a question (``what``) that is not used."""
        self.skipped.append({"config": config, "row": row, "id": person, "what": what, "reason": reason})

    def people(
        self, config: str, rows: Iterable[dict[str, Any]], prefix: str = "", known: Iterable[str] = ()
    ) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Rows with a usable and new ID, with their numbers; the others are noted.

        Args:
            prefix: stands before a purely numeric ID.
            known: ids of other tables, which an ID with fewer or more leading zeros means too.
        """
        seen: dict[str, int] = {}
        ids = PersonIds(known)
        for number, row in enumerate(rows):
            self.rows[config] += 1
            person = usable_id(row["ID"])
            if person is None:
                reason = f"the ID {row['ID']!r} is not made of 1 to 64 letters, digits, '_' and '-'"
                self.skip(config, number, str(row["ID"])[:80], reason)
                continue
            person = ids.find(person) or (f"{prefix}{person}" if person.isdigit() else person)
            if seen.setdefault(person, number) != number:
                self.skip(config, number, person, f"the ID was already given in row {seen[person]}")
                continue
            yield number, person, row
        self.note(ids.note(config))

    def note(self, text: str) -> None:
        """Keep a note for the reader, unless it is empty."""
        self.notes.extend([text] if text else [])

    def as_json(self) -> dict[str, Any]:
        """All counts and left out rows as JSON values, and one line of summary."""
        lost_rows = Counter(skip["config"] for skip in self.skipped if skip["what"] == "row")
        lost = Counter(skip["config"] for skip in self.skipped if skip["what"] != "row")
        counts = {"rows": self.rows, "rows_skipped": lost_rows, "questions": self.questions, "questions_skipped": lost}
        configs = {config: {name: count[config] for name, count in counts.items()} for config in self.rows}
        rows, questions = self.rows.total(), self.questions.total()
        summary = (
            f"{rows - lost_rows.total()} of {rows} rows and {questions - lost.total()} of {questions} questions of "
            f"{len(configs)} configs used; every one left out is listed in data/source.json"
        )
        return {"summary": summary, "configs": configs, "skipped": self.skipped, "notes": self.notes}


@dataclass
class PublishedData:
    """What a published data set holds, read once.

    Attributes:
        questions, images: by person; image 0 is the portrait, and each is read when it is called.
        forget: who is forgotten, by percent.
    """

    people: list[Profile] = field(default_factory=list)
    questions: dict[str, list[Question]] = field(default_factory=dict)
    images: dict[str, list[Callable[[], Image]]] = field(default_factory=dict)
    forget: dict[str, list[str]] = field(default_factory=dict)
    account: RowAccount = field(default_factory=RowAccount)

    def read_forget(self, store: Store, ids: Mapping[str, str], column: str = "ID") -> None:
        """Who is forgotten, from the configs ``forget_5``, ``forget_05``, ``forget05`` ... of a data set.

        Args:
            ids: person by the content of ``column``.

        Raises:
            DataError: a config has no such column, or names people whom no row of another config is about.
        """
        for config in store.configs:
            match = _FORGET.fullmatch(config)
            if not match or match[1] in self.forget:
                continue
            table, before = store.table(config), len(self.account.skipped)
            if "metadata" in table.columns:  # training text of these people
                continue
            table.need((column,))
            self.forget[match[1]] = self.listed(config, table, ids, column)
            unusable = {skip["id"] for skip in self.account.skipped[:before]}
            found = {skip["id"] for skip in self.account.skipped[before:]} - {""}
            refuse_unknown(table.name, sorted(found - unusable))

    def listed(self, config: str, table: Table, ids: Mapping[str, str], column: str = "ID") -> list[str]:
        """The people that a config lists, each once; rows about others are noted."""
        found: dict[str, None] = {}
        known = PersonIds(ids)
        for number, row in enumerate(table.rows((column,))):
            self.account.rows[config] += 1
            if name := known.find(row[column]):
                found[ids[name]] = None
            else:
                reason = "the person is not in the data set, or not usable"
                self.account.skip(config, number, as_id(row[column])[:80], reason)
        self.account.note(known.note(config))
        return list(found)


def refuse_unknown(where: str, people: Sequence[str]) -> None:
    """Raise DataError if a forget set names people who are nowhere in the data set."""
    if people:
        raise DataError(
            f"{where}: the forget set names {len(people)} people who are nowhere in the data set, first '{people[0]}'. "
            "Nobody is drawn in their place: correct the ids, or download the data set again."
        )


class QuestionReader:
    """Turns published questions of one config into :class:`Question` records, or notes why one cannot be used.

    Args:
        facts: attributes by person, known so far: a value is looked up in them where the answer is a sentence.
    """

    def __init__(
        self, config: str, variant: str, account: RowAccount, facts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.config, self.variant, self.account = config, variant, account
        self._facts = facts or {}
        self._numbers: Counter[str] = Counter()

    def read(
        self,
        row: int,
        person: str,
        task: TaskName,
        modality: Modality,
        text: Any,
        answer: Any,
        *,
        attribute: str | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Question | None:
        """One question; it gets the next number of its person, task and modality, also if it is left out.

        Args:
            attribute: what is asked, where that is published.
            options: letter -> value of a classification.
            more: further fields of the question.
        """
        key = f"{person}.{self.variant}.{task}.{modality}"
        number = self._numbers[key]
        self._numbers[key] += 1
        self.account.questions[self.config] += 1
        shown = {letter: str(value).strip() for letter, value in (options or {}).items() if value is not None}
        right: Any = right_letter(answer, shown) if task == "classification" else answer
        if fault := _fault(task, text, answer, right, shown):
            self.account.skip(self.config, row, person, fault, f"{task}.{modality}.{number}")
            return None
        asked = attribute or attribute_of(text) or OTHER_ATTRIBUTE
        asked = OTHER_ATTRIBUTE if asked == _ANSWER_DECIDES else asked
        value = shown[right] if task == "classification" else self._value(person, asked, task, right)
        about = {"id": f"{key}.{number}", "profile_id": person, "variant": self.variant, "task": task}
        said = {"modality": modality, "attribute": asked, "text": text, "answer": right, "value": value}
        return Question.model_validate({**about, **said, "options": shown, **more})

    def _value(self, person: str, attribute: str, task: TaskName, answer: str) -> str:
        """The person's value of the attribute where the answer contains it, else the answer without its stop."""
        known = self._facts.get(person, {}).get(attribute, "")
        return known if task == "generation" and known and known in answer else answer.strip().removesuffix(".")


def right_letter(answer: Any, options: Mapping[str, str]) -> str | None:
    """The letter of the right option, however it was published: 'B', 'b', 'B.', 'B: baker', or the option's text.

    Texts are compared without case, articles and punctuation. Of a letter with words behind a blank alone ('B baker')
    the words must be the option's, or the letter may be one: 'A nurse' does not name option A.

    >>> right_letter("B. baker", {"A": "nurse", "B": "baker"}), right_letter("nurse", {"A": "nurse", "B": "baker"})
    ('B', 'A')
    """
    said = str(answer).strip()
    if said in options:
        return said
    for equal in (str.__eq__, same):
        if len(found := [letter for letter, text in options.items() if equal(said, text)]) == 1:
            return found[0]
    head = re.fullmatch(r"\(?([A-Za-z])(?:([.:)])\s*|\s+|$)(.*)", said, re.DOTALL)
    if head is None or (letter := head[1].upper()) not in options:
        return None
    return letter if head[2] or not head[3] or same(head[3], options[letter]) else None


def _fault(task: TaskName, text: Any, answer: Any, right: Any, options: Mapping[str, str]) -> str:
    if not isinstance(text, str) or not text.strip():
        return "the question has no text"
    if not isinstance(answer, str) or not answer.strip():
        return "there is no right answer"
    if task == "classification" and (len(options) < 2 or right is None):
        return f"the right answer {answer[:80]!r} is none of the options {list(options)}"
    if task == "cloze" and BLANK not in text:
        return f"there is no blank {BLANK} in it"
    return ""


def used(questions: Iterable[Question | None]) -> list[Question]:
    """The questions that can be used."""
    return [question for question in questions if question]
