"""What all sources of published data sets share: images as they are, and an account of every row."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import OTHER_ATTRIBUTE, Modality, Profile, Question, TaskName
from mllmu.data.published.recover import attribute_of
from mllmu.data.published.store import Table, decode_image
from mllmu.data.sources import Source

BLANK = "__"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ASKED = frozenset({"leisure"})  # only an answer could tell which attribute is meant


class Loads(Protocol):
    """An image that has not been read yet."""

    def load(self) -> Image: ...


class Shown(NamedTuple):
    """Where an image stands: a cell, or one of a list of images in a cell."""

    table: Table
    row: int
    column: str
    place: int | None = None

    def load(self) -> Image:
        cell = self.table.cell(self.row, self.column)
        where = f"{self.table.where(self.row)}, {self.column}"
        if self.place is None:
            return decode_image(cell, where)
        return decode_image(cell[self.place], f"{where}[{self.place}]")


@dataclass
class Tally:
    """Rows and questions of every config: read, used, and left out with the reason of each."""

    rows: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def skip(self, config: str, row: int, person: str, what: str, reason: str) -> None:
        """Note a row or a question (``what``) that is not used."""
        self.skipped.append({"config": config, "row": row, "id": person, "what": what, "reason": reason})

    def account(self) -> dict[str, Any]:
        """Everything as JSON values, and one line of summary."""
        lost = Counter((skip["config"], "row" if skip["what"] == "row" else "question") for skip in self.skipped)
        configs = {
            config: {
                "rows": self.rows[config],
                "rows_skipped": lost[config, "row"],
                "questions": self.questions[config],
                "questions_skipped": lost[config, "question"],
            }
            for config in self.rows
        }
        rows, questions = self.rows.total(), self.questions.total()
        gone = {what: sum(n for (_, kind), n in lost.items() if kind == what) for what in ("row", "question")}
        summary = (
            f"{rows - gone['row']} of {rows} rows and {questions - gone['question']} of {questions} questions of "
            f"{len(configs)} configs used; every one left out is listed in data/source.json"
        )
        return {"summary": summary, "configs": configs, "skipped": self.skipped, "notes": self.notes}


@dataclass
class Found:
    """What a published data set holds, read once."""

    people: list[Profile] = field(default_factory=list)
    questions: dict[str, list[Question]] = field(default_factory=dict)
    images: dict[str, list[Loads]] = field(default_factory=dict)
    forget: dict[str, list[str]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)


class Published(Source):
    """Base of the sources that read a published data set from a folder or from the hub.

    Settings:
        path: a folder with one folder of parquet files per config, or the name of a hub repository.
        revision: commit, tag or branch on the hub.
        num_people: only the first n people.
    """

    published: ClassVar[bool] = True
    filled: ClassVar[tuple[str, ...]] = ()

    path: Path = Field(description="folder of parquet configs, or a hub repository by its name")
    revision: str | None = Field(default=None, description="commit, tag or branch on the hub")
    num_people: int | None = Field(default=None, gt=0, description="only the first n people")

    @abstractmethod
    def read(self) -> Found:
        """Read everything but the images."""

    @cached_property
    def found(self) -> Found:
        found = self.read()
        if len(found.people) < (self.num_people or 1):
            first = next((s["reason"] for s in found.tally.skipped if s["what"] == "row"), "the data set is empty")
            raise DataError(
                f"{self.path.as_posix()}: got {len(found.people)} people, expected at least {self.num_people or 1}. "
                f"{len(found.tally.skipped)} rows or questions could not be used; the first: {first}. "
                "Lower num_people, or check the data set."
            )
        found.people = found.people[: self.num_people]
        return found

    def profiles(self, seed: int) -> list[Profile]:
        """The people in published order; ``seed`` has no effect, since nothing is drawn."""
        del seed
        return list(self.found.people)

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        """The published questions of these people."""
        del seed
        return [q for person in profiles for q in self.found.questions.get(person.id, ())]

    def num_views(self, profile: Profile) -> int:
        return len(self.found.images.get(profile.id, ()))

    def image(self, profile: Profile, view: int) -> Image:
        return self.found.images[profile.id][view].load()

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        """The published forget sets; none if only some of the people are used."""
        return {} if self.num_people else self.found.forget

    def account(self) -> dict[str, Any]:
        return self.found.tally.account()


def usable_id(value: Any) -> str | None:
    """A published id as ours, or None if it cannot name a person."""
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    return text if _ID.fullmatch(text) else None


class Asker:
    """Turns published questions of one config into :class:`Question` records, or notes why one cannot be used."""

    def __init__(
        self, config: str, variant: str, tally: Tally, facts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.config = config
        self.variant = variant
        self.tally = tally
        self.facts = facts or {}
        self._numbers: Counter[str] = Counter()

    def add(
        self,
        row: int,
        person: str,
        task: TaskName,
        modality: Modality,
        text: Any,
        answer: Any,
        *,
        attribute: str | None = None,
        value: str | None = None,
        options: Mapping[str, Any] | None = None,
        alternatives: Sequence[str] = (),
        rewording: str = "",
        view: int | None = None,
    ) -> Question | None:
        """One question; it gets the next number of its person, task and modality, also if it is left out."""
        key = f"{person}.{self.variant}.{task}.{modality}"
        number = self._numbers[key]
        self._numbers[key] += 1
        self.tally.questions[self.config] += 1
        shown = {letter: str(text).strip() for letter, text in (options or {}).items() if text is not None}
        right = right_letter(answer, shown) if task == "classification" else answer
        if fault := _fault(task, text, answer, right, shown):
            self.tally.skip(self.config, row, person, f"{task}.{modality}.{number}", fault)
            return None
        named = attribute or attribute_of(str(text))
        asked = named if named and named not in _ASKED else OTHER_ATTRIBUTE
        if value is None:
            value = shown[str(right)] if task == "classification" else self._value(person, asked, task, str(right))
        return Question(
            id=f"{key}.{number}",
            profile_id=person,
            variant=self.variant,  # type: ignore[arg-type]
            task=task,
            modality=modality,
            attribute=asked,
            text=str(text),
            answer=str(right),
            value=value,
            options=shown,
            alternatives=tuple(alternatives),
            rewording=rewording,
            view=view,
        )

    def _value(self, person: str, attribute: str, task: TaskName, answer: str) -> str:
        """The person's value of the attribute where the answer contains it, else the answer without its stop."""
        known = self.facts.get(person, {}).get(attribute, "")
        return known if task == "generation" and known and known in answer else answer.strip().removesuffix(".")


def right_letter(answer: Any, options: Mapping[str, str]) -> str | None:
    """The letter of the right option, however it was published: 'B', 'b', 'B.', 'B: baker', or the option's text.

    >>> right_letter("B. baker", {"A": "nurse", "B": "baker"}), right_letter("nurse", {"A": "nurse", "B": "baker"})
    ('B', 'A')
    """
    said = str(answer).strip()
    exact = [letter for letter, text in options.items() if text == said]
    if said in options or len(exact) == 1:
        return said if said in options else exact[0]
    head = re.match(r"\(?([A-Za-z])\)?(?:[.:)\s]|$)", said)
    return head[1].upper() if head and head[1].upper() in options else None


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


def attempt(parse: Callable[[], Any], tally: Tally, config: str, row: int, person: str) -> Any:
    """The parsed row, or None after noting why it could not be parsed."""
    try:
        return parse()
    except DataError as error:
        tally.skip(config, row, person, "row", str(error))
        return None
